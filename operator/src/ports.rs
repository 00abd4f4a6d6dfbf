//! Who listens where, and who dials: the network policies of the chart and of each run are held against this table.

/// One port, and one party that dials it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Who dials.
    pub from: Party,
    /// Who listens.
    pub to: Party,
    /// The port; 0 where any may be needed.
    pub port: u16,
    /// What for.
    pub purpose: &'static str,
}

/// A party of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// Pods of the operator.
    Operator,
    /// Pods of the workers of a run.
    Worker,
    /// The cluster's API server.
    ApiServer,
    /// The cluster's DNS.
    Dns,
    /// Whoever scrapes metrics.
    Monitoring,
    /// The node's own kubelet, for probes; network policies do not apply to it.
    Kubelet,
    /// Stores of data and checkpoints, inside and outside of the cluster.
    Store,
}

/// The hub of the operator: gRPC with TLS.
pub const HUB: u16 = 7470;
/// Lanes and control sessions of a sidecar: gRPC with mutual TLS.
pub const LANES: u16 = 7471;
/// Metrics and probes of a sidecar: HTTP.
pub const WORKER_METRICS: u16 = 7472;
/// Metrics and probes of the operator: HTTP.
pub const OPERATOR_METRICS: u16 = 8080;

/// Every flow that Atoll needs in one cluster.
pub const FLOWS: [Flow; 11] = [
    Flow { from: Party::Worker, to: Party::Operator, port: HUB, purpose: "identities, terms, progress" },
    Flow { from: Party::Worker, to: Party::Worker, port: LANES, purpose: "lanes and control sessions" },
    Flow { from: Party::Worker, to: Party::Dns, port: 53, purpose: "names" },
    Flow { from: Party::Worker, to: Party::Store, port: 0, purpose: "data and checkpoints" },
    Flow { from: Party::Monitoring, to: Party::Worker, port: WORKER_METRICS, purpose: "metrics" },
    Flow { from: Party::Kubelet, to: Party::Worker, port: WORKER_METRICS, purpose: "probes" },
    Flow { from: Party::Operator, to: Party::ApiServer, port: 443, purpose: "watches and writes" },
    Flow { from: Party::Operator, to: Party::ApiServer, port: 6443, purpose: "the same, where the address is not translated" },
    Flow { from: Party::Operator, to: Party::Dns, port: 53, purpose: "names" },
    Flow { from: Party::Monitoring, to: Party::Operator, port: OPERATOR_METRICS, purpose: "metrics" },
    Flow { from: Party::Kubelet, to: Party::Operator, port: OPERATOR_METRICS, purpose: "probes" },
];
