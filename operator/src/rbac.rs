//! What the operator may do, verb by verb: the chart's roles are held equal to this table, and so is the code.

/// Verbs on one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resource, with its subresource.
    pub resource: &'static str,
    /// Verbs that the code uses.
    pub verbs: &'static [&'static str],
    /// Where it is needed.
    pub scope: Scope,
}

/// Where a rule is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In every namespace that is watched.
    Watched,
    /// In the cluster: only where the whole cluster is watched.
    Cluster,
    /// In the operator's own namespace.
    Own,
}

const ATOLL: &str = "atoll.dev";

const fn rule(group: &'static str, resource: &'static str, verbs: &'static [&'static str], scope: Scope) -> Rule {
    Rule { group, resource, verbs, scope }
}

/// All rules.
pub const RULES: [Rule; 22] = [
    rule(ATOLL, "trainingruns", &["get", "list", "watch", "patch", "delete"], Scope::Watched),
    rule(ATOLL, "trainingruns/status", &["patch"], Scope::Watched),
    rule(ATOLL, "trainingruns/finalizers", &["update"], Scope::Watched),
    rule(ATOLL, "trainingislands", &["create", "patch"], Scope::Watched),
    rule(ATOLL, "trainingislands/status", &["patch"], Scope::Watched),
    rule(ATOLL, "trainingcheckpoints", &["create", "patch", "delete"], Scope::Watched),
    rule(ATOLL, "trainingcheckpoints/status", &["patch"], Scope::Watched),
    rule(ATOLL, "trainingruntimes", &["get", "list", "watch"], Scope::Watched),
    rule(ATOLL, "clustertrainingruntimes", &["get", "list", "watch"], Scope::Cluster),
    rule("batch", "jobs", &["list", "watch", "create", "patch", "delete"], Scope::Watched),
    rule("", "pods", &["list", "watch", "delete"], Scope::Watched),
    rule("", "pods/status", &["patch"], Scope::Watched),
    rule("", "services", &["patch", "create"], Scope::Watched),
    rule("", "configmaps", &["get", "create", "update", "patch"], Scope::Watched),
    rule("policy", "poddisruptionbudgets", &["patch", "create"], Scope::Watched),
    rule("networking.k8s.io", "networkpolicies", &["patch", "create"], Scope::Watched),
    rule("events.k8s.io", "events", &["create", "patch"], Scope::Watched),
    rule("coordination.k8s.io", "leases", &["get", "create", "update"], Scope::Own),
    rule("discovery.k8s.io", "endpointslices", &["create", "patch"], Scope::Own),
    rule("", "secrets", &["get", "create"], Scope::Own),
    rule("", "nonresource:/.well-known/openid-configuration", &["get"], Scope::Cluster),
    rule("", "nonresource:/openid/v1/jwks", &["get"], Scope::Cluster),
];
