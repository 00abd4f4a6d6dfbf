//! What a run asks of its membership, as its spec says it.

use atoll_crds::spec::{Checkpoint, StragglerPolicy, TrainingRunSpec};
use atoll_proto::v1::{CheckpointFolder, RunSettings};

/// `livenessSeconds` of a run in a cluster that does not say.
const LIVENESS_SECONDS: u32 = 10;

/// The settings of a run with this spec.
#[must_use]
pub(crate) fn run_settings(spec: &TrainingRunSpec) -> RunSettings {
    let milliseconds = |seconds: u32| u64::from(seconds) * 1000;
    let rounds = &spec.rounds;
    RunSettings {
        minimum: spec.workers.min,
        target: spec.workers.target,
        quorum: rounds.quorum.min,
        join_window_milliseconds: milliseconds(rounds.join_window_seconds),
        liveness_milliseconds: milliseconds(rounds.liveness_seconds.unwrap_or(LIVENESS_SECONDS)),
        progress_milliseconds: milliseconds(rounds.progress_seconds),
        round_timeout_milliseconds: milliseconds(rounds.round_timeout_seconds),
        drop_stragglers: rounds.straggler_policy == StragglerPolicy::Drop,
        checkpoints: spec.checkpoint.as_ref().map(|checkpoint| folder(checkpoint, spec.seed)),
    }
}

fn folder(checkpoint: &Checkpoint, seed: u64) -> CheckpointFolder {
    CheckpointFolder {
        uri: checkpoint.uri.clone(),
        endpoint: checkpoint.endpoint.clone(),
        region: checkpoint.region.clone(),
        path_style: checkpoint.path_style,
        most_mbps: checkpoint.max_mbps,
        every_rounds: checkpoint.rounds_between(),
        every_milliseconds: checkpoint.every_seconds.map(|seconds| u64::from(seconds) * 1000),
        keep: checkpoint.keep,
        keep_every: checkpoint.keep_every,
        resume_from: checkpoint.resume_from.clone(),
        seed,
    }
}
