//! What a sidecar counts and measures, for Prometheus. Per operation a few atomics; per block nothing but the bytes.

mod names;
pub(crate) mod serve;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_collective::identity::PeerName;
use atoll_collective::lane::Lanes;
use atoll_collective::operation;
use atoll_collective::v1::{AbortReason, EpochRecord, Member, Operation};
use prometheus::core::Collector;
use prometheus::{
    CounterVec, Error, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::{ARBITER, report};
use names::Metric;

/// Upper bounds of durations: from a small operation in one machine to a round's timeout.
const SECONDS: [f64; 21] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0,
    250.0, 600.0,
];
/// Upper bounds of relative errors: bf16 is at .002, u8 at .004, u4 at .07.
const ERRORS: [f64; 12] = [0.0005, 0.001, 0.002, 0.004, 0.006, 0.01, 0.02, 0.04, 0.06, 0.08, 0.15, 0.5];
/// The peer of connections that show no certificate.
const UNKNOWN: &str = "unknown";

/// A part of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Vote,
    ReduceScatter,
    AllGather,
    Commit,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Vote => "vote",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllGather => "all_gather",
            Self::Commit => "commit",
        }
    }
}

/// How an operation ended for its trainer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Committed,
    Aborted,
    InDoubt,
}

impl Ended {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::InDoubt => "in_doubt",
        }
    }
}

/// Everything that one sidecar tells Prometheus.
pub(crate) struct Metrics {
    registry: Registry,
    lane_bytes: IntCounterVec,
    wire_bytes: IntCounterVec,
    pub(crate) payload_bytes: IntCounter,
    pub(crate) control_messages: IntCounter,
    connections_refused: IntCounter,
    phase_seconds: HistogramVec,
    operation_seconds: HistogramVec,
    pub(crate) in_flight: IntGauge,
    pub(crate) retries: IntCounter,
    aborts: IntCounterVec,
    pub(crate) rounds_committed: IntCounter,
    pub(crate) round: IntGauge,
    epoch: IntGauge,
    term: IntGauge,
    world_size: IntGauge,
    member: IntGauge,
    pub(crate) coordinator: IntGauge,
    evictions: IntCounterVec,
    straggler: IntCounterVec,
    straggler_seconds: CounterVec,
    quantisation_error: HistogramVec,
    /// Name and island of each peer that has values of its own.
    peers: Mutex<BTreeSet<(String, String)>>,
}

impl Metrics {
    /// Those of the sidecar of `worker` in `run`; nothing has happened yet.
    pub(crate) fn new(run: &str, worker: &str) -> Result<Self, Error> {
        let registry = Registry::new();
        let info = add(&registry, IntGaugeVec::new(options(&names::SIDECAR), names::SIDECAR.labels)?)?;
        info.with_label_values(&[run, worker, env!("CARGO_PKG_VERSION")]).set(1);
        let counter = |metric: &Metric| add(&registry, IntCounter::with_opts(options(metric))?);
        let counters = |metric: &Metric| add(&registry, IntCounterVec::new(options(metric), metric.labels)?);
        let gauge = |metric: &Metric| add(&registry, IntGauge::with_opts(options(metric))?);
        let histogram = |metric: &Metric, bounds: &[f64]| {
            let options = HistogramOpts::new(metric.name, metric.help).buckets(bounds.to_vec());
            add(&registry, HistogramVec::new(options, metric.labels)?)
        };
        Ok(Self {
            lane_bytes: counters(&names::LANE_BYTES)?,
            wire_bytes: counters(&names::WIRE_BYTES)?,
            payload_bytes: counter(&names::PAYLOAD_BYTES)?,
            control_messages: counter(&names::CONTROL_MESSAGES)?,
            connections_refused: counter(&names::CONNECTIONS_REFUSED)?,
            phase_seconds: histogram(&names::PHASE_SECONDS, &SECONDS)?,
            operation_seconds: histogram(&names::OPERATION_SECONDS, &SECONDS)?,
            in_flight: gauge(&names::IN_FLIGHT)?,
            retries: counter(&names::RETRIES)?,
            aborts: counters(&names::ABORTS)?,
            rounds_committed: counter(&names::ROUNDS_COMMITTED)?,
            round: gauge(&names::ROUND)?,
            epoch: gauge(&names::EPOCH)?,
            term: gauge(&names::TERM)?,
            world_size: gauge(&names::WORLD_SIZE)?,
            member: gauge(&names::MEMBER)?,
            coordinator: gauge(&names::COORDINATOR)?,
            evictions: counters(&names::EVICTIONS)?,
            straggler: counters(&names::STRAGGLER)?,
            straggler_seconds: add(
                &registry,
                CounterVec::new(options(&names::STRAGGLER_SECONDS), names::STRAGGLER_SECONDS.labels)?,
            )?,
            quantisation_error: histogram(&names::QUANTISATION_ERROR, &ERRORS)?,
            peers: Mutex::default(),
            registry,
        })
    }

    /// A phase of an attempt took so long.
    pub(crate) fn phase(&self, phase: Phase, took: Duration) {
        self.phase_seconds.with_label_values(&[phase.name()]).observe(took.as_secs_f64());
    }

    /// An operation was answered after so long.
    pub(crate) fn operation(&self, ended: Ended, took: Duration) {
        self.operation_seconds.with_label_values(&[ended.name()]).observe(took.as_secs_f64());
    }

    /// An attempt ended without a result.
    pub(crate) fn aborted(&self, reason: AbortReason) {
        self.aborts.with_label_values(&[report::name(reason)]).inc();
    }

    /// This sidecar evicted a member.
    pub(crate) fn evicted(&self, reason: AbortReason) {
        self.evictions.with_label_values(&[report::name(reason)]).inc();
    }

    /// `peer` came last, and was waited for alone for so long.
    pub(crate) fn straggler(&self, peer: &Member, phase: Phase, alone: Duration) {
        self.lock().insert((peer.worker.clone(), peer.island.clone()));
        let labels = [peer.worker.as_str(), peer.island.as_str(), phase.name()];
        self.straggler.with_label_values(&labels).inc();
        self.straggler_seconds.with_label_values(&labels).inc_by(alone.as_secs_f64());
    }

    /// Coding this worker's contribution to `operation` lost so much of it.
    pub(crate) fn coded(&self, operation: &Operation, lost: f64) {
        use atoll_collective::codec::Codec;
        let codec = match operation::codec(operation) {
            Some(Codec::Bf16) => "bf16",
            Some(Codec::UInt8) => "uint8",
            Some(Codec::UInt4) => "uint4",
            Some(Codec::F32) | None => return,
        };
        self.quantisation_error.with_label_values(&[codec]).observe(lost);
    }

    /// The membership is `record`'s as far as this sidecar knows: values of those who left are forgotten.
    pub(crate) fn membership(&self, record: &EpochRecord, me: &Member, lanes: &Lanes) {
        self.epoch.set(record.epoch as i64);
        self.term.set(record.term as i64);
        self.world_size.set(record.members.len() as i64);
        self.member.set(i64::from(record.members.contains(me)));
        let wanted = |worker: &str, island: &str| {
            worker == ARBITER
                || record.members.iter().any(|member| (member.worker.as_str(), member.island.as_str()) == (worker, island))
        };
        lanes.traffic().keep(|peer| peer.is_none_or(|peer| wanted(peer.worker(), peer.island())));
        let mut peers = self.lock();
        peers.retain(|(worker, island)| {
            let stays = wanted(worker, island);
            if !stays {
                for phase in [Phase::Vote, Phase::ReduceScatter, Phase::AllGather] {
                    let labels = [worker.as_str(), island.as_str(), phase.name()];
                    let _never_was_last = self.straggler.remove_label_values(&labels);
                    let _never_was_last = self.straggler_seconds.remove_label_values(&labels);
                }
            }
            stays
        });
    }

    /// All values as text, with the bytes that `lanes` carried until now.
    pub(crate) fn text(&self, lanes: &Lanes) -> Result<String, Error> {
        // One at a time: a counter is brought to what was counted elsewhere.
        let _one_at_a_time = self.lock();
        let meter = lanes.meter();
        catch_up(&self.wire_bytes.with_label_values(&["sent"]), meter.sent());
        catch_up(&self.wire_bytes.with_label_values(&["received"]), meter.received());
        catch_up(&self.connections_refused, lanes.turned_away());
        // Who is not counted any more has no line any more.
        self.lane_bytes.reset();
        for (peer, sent, received) in lanes.traffic().by_peer() {
            let (worker, island) = peer.as_ref().map_or((UNKNOWN, UNKNOWN), |peer: &PeerName| (peer.worker(), peer.island()));
            self.lane_bytes.with_label_values(&[worker, island, "sent"]).inc_by(sent);
            self.lane_bytes.with_label_values(&[worker, island, "received"]).inc_by(received);
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn options(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn catch_up(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use atoll_collective::lane::Meter;
    use atoll_collective::secret::Secret;
    use atoll_collective::transport::Transport;
    use atoll_collective::v1::Codec;

    use super::*;

    fn member(slot: u32) -> Member {
        Member { slot, worker: format!("w{slot}"), island: "here".into(), incarnation: 1, ..Member::default() }
    }

    fn record(epoch: u64, slots: &[u32]) -> EpochRecord {
        EpochRecord { term: 2, epoch, members: slots.iter().map(|slot| member(*slot)).collect(), ..EpochRecord::default() }
    }

    fn sidecar() -> (Metrics, Lanes) {
        let transport = Transport::new(None, Arc::new(Meter::default()));
        (Metrics::new("kjv", "w0").unwrap(), Lanes::new("kjv", 0, Secret::new("secret"), transport))
    }

    #[test]
    fn every_name_has_a_value_once_it_happened() {
        let (metrics, lanes) = sidecar();
        metrics.phase(Phase::Vote, Duration::from_millis(3));
        metrics.operation(Ended::InDoubt, Duration::from_millis(3));
        metrics.aborted(AbortReason::PeerLost);
        metrics.evicted(AbortReason::Straggler);
        metrics.straggler(&member(1), Phase::AllGather, Duration::from_millis(1500));
        let mut coded = operation::ends_round(1, 1, 8);
        coded.set_codec(Codec::Uint8);
        metrics.coded(&coded, 0.003);
        metrics.membership(&record(7, &[0, 1]), &member(0), &lanes);
        let text = metrics.text(&lanes).unwrap();
        for metric in names::ALL.iter().filter(|metric| **metric != names::LANE_BYTES) {
            assert!(text.contains(&format!("# HELP {} ", metric.name)), "{} in {text}", metric.name);
        }
        for line in [
            "atoll_sidecar_info{run=\"kjv\",version=\"0.1.0\",worker=\"w0\"} 1",
            "atoll_phase_seconds_bucket{phase=\"vote\",le=\"0.0025\"} 0",
            "atoll_phase_seconds_bucket{phase=\"vote\",le=\"0.005\"} 1",
            "atoll_aborts_total{reason=\"PeerLost\"} 1",
            "atoll_straggler_seconds_total{island=\"here\",peer=\"w1\",phase=\"all_gather\"} 1.5",
            "atoll_quantisation_relative_error_bucket{codec=\"uint8\",le=\"0.004\"} 1",
            "atoll_epoch 7",
            "atoll_world_size 2",
            "atoll_member 1",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} in {text}");
        }
    }

    #[test]
    fn who_left_is_forgotten() {
        let (metrics, lanes) = sidecar();
        for slot in [1, 2] {
            metrics.straggler(&member(slot), Phase::ReduceScatter, Duration::ZERO);
        }
        metrics.membership(&record(8, &[1, 2]), &member(0), &lanes);
        assert!(metrics.text(&lanes).unwrap().contains("peer=\"w2\""));
        metrics.membership(&record(9, &[1]), &member(0), &lanes);
        let text = metrics.text(&lanes).unwrap();
        assert!(text.contains("peer=\"w1\"") && !text.contains("peer=\"w2\""), "{text}");
        assert!(text.contains("atoll_member 0"));
    }

    #[test]
    fn exact_operations_have_no_error_of_coding() {
        let (metrics, lanes) = sidecar();
        metrics.coded(&operation::ends_round(1, 1, 8), 0.0);
        assert!(!metrics.text(&lanes).unwrap().contains("codec="));
    }
}
