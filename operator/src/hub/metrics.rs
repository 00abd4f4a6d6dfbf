//! What the hub counts, for Prometheus.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Counters of the hub.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Enrolments, by `outcome`.
    pub(super) enrolments: IntCounterVec,
    /// Terms and epochs that were stored and granted, by `kind`.
    pub(super) grants: IntCounterVec,
    /// Writes of a record that somebody else was before.
    pub(super) conflicts: IntCounter,
    /// Reads and writes of a record that failed otherwise.
    pub(super) failures: IntCounter,
    /// Connections that are open.
    pub(super) connections: IntGauge,
}

impl Metrics {
    /// All at zero.
    ///
    /// # Errors
    /// [`prometheus::Error`] where a name is none.
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let enrolments = Opts::new("atoll_hub_enrolments_total", "Requests of pods for a certificate, by outcome.");
        let grants = Opts::new("atoll_hub_grants_total", "Terms and changes of membership that were stored and granted.");
        Ok(Self {
            enrolments: IntCounterVec::new(enrolments, &["outcome"])?,
            grants: IntCounterVec::new(grants, &["kind"])?,
            conflicts: IntCounter::new("atoll_hub_conflicts_total", "Writes of a record that somebody else had changed.")?,
            failures: IntCounter::new("atoll_hub_store_failures_total", "Reads and writes of a record that failed.")?,
            connections: IntGauge::new("atoll_hub_connections", "Connections with workers that are open.")?,
        })
    }

    /// Has `registry` show them.
    ///
    /// # Errors
    /// [`prometheus::Error`] where it shows others of these names.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.enrolments.clone()))?;
        registry.register(Box::new(self.grants.clone()))?;
        registry.register(Box::new(self.conflicts.clone()))?;
        registry.register(Box::new(self.failures.clone()))?;
        registry.register(Box::new(self.connections.clone()))
    }
}
