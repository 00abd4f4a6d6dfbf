//! Training in a pod: from what the sidecar and the operator have left in files, to the result as the container's last words.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_checkpoint::Resume;
use atoll_crds::spec::TrainingRunSpec;
use atoll_sdk::assignment::{self, Assignment};
use serde::Serialize;

use super::PodError;
use crate::numerics;
use crate::process::{self, Job, Trained, prepare_for};

/// How long the sidecar may take to leave the assignment.
const PATIENCE: Duration = Duration::from_mins(10);
/// Pause between two looks for it.
const LOOK: Duration = Duration::from_millis(50);

/// What a pod's environment says to a trainer.
struct Places {
    /// The run's specification, as JSON.
    spec: PathBuf,
    /// Where relative paths in it begin.
    data: PathBuf,
    /// Where the tokens are kept while it trains.
    scratch: PathBuf,
    /// The folder that it shares with its sidecar.
    shared: PathBuf,
}

impl Places {
    fn of(variable: impl Fn(&'static str) -> Option<String>) -> Self {
        let place = |name, default: &str| PathBuf::from(variable(name).unwrap_or_else(|| default.to_owned()));
        Self {
            spec: place("ATOLL_SPEC", "/etc/atoll/spec.json"),
            data: place("ATOLL_DATA", "/data"),
            scratch: place("ATOLL_SCRATCH", "/scratch"),
            shared: place("ATOLL_SHARED", "/run/atoll"),
        }
    }
}

/// What becomes the last words of a container that has done all.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    weights_hash: String,
    step: u64,
    samples: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out_loss: Option<f64>,
    numerics_class: String,
}

/// Trains to the run's last step; the result, as JSON.
///
/// # Errors
/// [`PodError`].
pub(super) fn train(variable: impl Fn(&'static str) -> Option<String>) -> Result<Option<String>, PodError> {
    let places = Places::of(variable);
    let spec = read_spec(&places.spec)?;
    let prepared = prepare_for(&spec, 1, &places.data, &places.scratch)?;
    let Assignment { run, name, worker, slot, resume, after } = assigned(&places.shared)?;
    tracing::info!(run, name, worker, slot, resumes = resume.is_some(), "the trainer begins");
    let job = Job {
        run,
        worker,
        slot,
        incarnation: incarnation(),
        socket: assignment::socket(&places.shared),
        tokens: PathBuf::new(),
        base: places.data,
        spec,
        resume,
        after,
    };
    let trained = process::train(&job, prepared)?;
    Ok(serde_json::to_string(&outcome(trained, rayon::current_num_threads())).ok())
}

fn outcome(trained: Trained, threads: usize) -> Outcome {
    let Trained { weights_hash, steps, samples, held_out_loss } = trained;
    Outcome { weights_hash, step: steps, samples, held_out_loss, numerics_class: numerics::class(threads) }
}

fn read_spec(path: &Path) -> Result<TrainingRunSpec, PodError> {
    let unreadable = |source| PodError::Unreadable { what: "run's specification", path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(unreadable)?;
    serde_json::from_slice(&text).map_err(|source| PodError::Spec { path: path.to_owned(), source })
}

/// Waits for what the sidecar leaves.
fn assigned(shared: &Path) -> Result<Assignment<Resume>, PodError> {
    let since = Instant::now();
    loop {
        let read = Assignment::read(shared);
        let unreadable = |source| PodError::Unreadable { what: "assignment in", path: shared.to_owned(), source };
        if let Some(assignment) = read.map_err(unreadable)? {
            return Ok(assignment);
        }
        if since.elapsed() > PATIENCE {
            return Err(PodError::NoAssignment { folder: shared.to_owned(), seconds: since.elapsed().as_secs() });
        }
        std::thread::sleep(LOOK);
    }
}

/// A number that no earlier start of this trainer had: it and its sidecar are on one machine.
fn incarnation() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a number that no earlier start had")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_one_object_that_an_operator_reads() {
        let trained = Trained { weights_hash: "ab".into(), steps: 40, samples: 320, held_out_loss: Some(2.5) };
        let text = serde_json::to_string(&outcome(trained.clone(), 2)).unwrap();
        assert!(
            text.starts_with(r#"{"weightsHash":"ab","step":40,"samples":320,"heldOutLoss":2.5,"numericsClass":"atoll "#),
            "{text}"
        );
        let text = serde_json::to_string(&outcome(Trained { held_out_loss: None, ..trained }, 2)).unwrap();
        assert!(!text.contains("heldOutLoss"));
    }

    #[test]
    fn a_specification_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spec.json");
        assert!(read_spec(&path).unwrap_err().message().contains("spec.json"));
        std::fs::write(&path, "{\"model\": 3}").unwrap();
        let error = read_spec(&path).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
