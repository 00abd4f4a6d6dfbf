//! Metrics of the operator, in the text format of Prometheus.

use std::time::Duration;

use prometheus::{Encoder, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::controller::ReconcileError;

/// Counters of one operator.
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    seconds: Histogram,
    leader: IntGauge,
    runs: IntGaugeVec,
    stale: IntGauge,
}

impl Metrics {
    /// All of them, at zero.
    ///
    /// # Errors
    /// A name is taken twice.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let buckets = vec![0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
        let metrics = Self {
            reconciles: IntCounterVec::new(
                Opts::new("atoll_operator_reconciles_total", "Reconciliations of runs, by outcome"),
                &["outcome"],
            )?,
            seconds: Histogram::with_opts(
                HistogramOpts::new("atoll_operator_reconcile_seconds", "Seconds that a reconciliation took").buckets(buckets),
            )?,
            leader: IntGauge::new("atoll_operator_leader", "1 where this operator leads")?,
            runs: IntGaugeVec::new(Opts::new("atoll_operator_runs", "Runs, by phase"), &["phase"])?,
            stale: IntGauge::new(
                "atoll_operator_runs_checkpoint_stale",
                "Runs that go on and whose newest checkpoint is not as new as it is to be",
            )?,
            registry,
        };
        metrics.registry.register(Box::new(metrics.reconciles.clone()))?;
        metrics.registry.register(Box::new(metrics.seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.leader.clone()))?;
        metrics.registry.register(Box::new(metrics.runs.clone()))?;
        metrics.registry.register(Box::new(metrics.stale.clone()))?;
        Ok(metrics)
    }

    /// Where others register theirs.
    #[must_use]
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn reconciled(&self, took: Duration, error: Option<&ReconcileError>) {
        let outcome = match error {
            None => "done",
            Some(ReconcileError::Api(kube::Error::Api(status))) if status.is_conflict() => "conflict",
            Some(ReconcileError::Api(kube::Error::Api(_))) => "refused",
            Some(ReconcileError::Api(_)) => "unavailable",
        };
        self.reconciles.with_label_values(&[outcome]).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Whether this operator leads.
    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// How many runs are in each phase.
    pub(crate) fn phases<'a>(&self, phases: impl Iterator<Item = &'a str>) {
        self.runs.reset();
        phases.for_each(|phase| self.runs.with_label_values(&[phase]).inc());
    }

    /// How many runs have checkpoints that are too old.
    pub(crate) fn stale(&self, count: usize) {
        self.stale.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// All of them as text.
    #[must_use]
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let _writes_to_memory = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}
