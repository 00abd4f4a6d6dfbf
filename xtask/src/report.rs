//! What `atoll run` writes about a run when it ends: `report.json`.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// The part of a report that the checks read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Inner steps that were committed.
    pub(crate) steps: u64,
    /// Nats per token, on text that was never trained on.
    pub(crate) held_out_loss: f64,
    /// Bytes handed to the collective, from its counters, mean over the workers.
    pub(crate) payload_bytes_per_worker: f64,
    /// All workers that ever were in the run.
    pub(crate) workers: Vec<Worker>,
}

/// One worker at the end of the run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Worker {
    pub(crate) name: String,
    /// BLAKE3 of its final weights; nothing for a worker that did not finish.
    pub(crate) weights_hash: Option<String>,
}

impl Report {
    /// Reads `report.json` in the output folder of a run.
    pub(crate) fn read(output: &Path) -> Result<Self> {
        let file = output.join("report.json");
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("cannot understand {}", file.display()))
    }

    /// Hashes of the final weights, of the workers that finished.
    pub(crate) fn hashes(&self) -> Vec<&str> {
        self.workers.iter().filter_map(|worker| worker.weights_hash.as_deref()).filter(|hash| !hash.is_empty()).collect()
    }

    /// The one hash that all finished workers share.
    pub(crate) fn shared_hash(&self) -> Option<&str> {
        let hashes = self.hashes();
        let first = *hashes.first()?;
        hashes.iter().all(|hash| *hash == first).then_some(first)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report of a 4-worker run in which every worker ended with `hashes`.
    pub(crate) fn report(hashes: &[&str]) -> Report {
        let workers: Vec<_> = hashes.iter().enumerate().map(|(slot, hash)| worker(slot, hash)).collect();
        Report { steps: 1000, held_out_loss: 1.69, payload_bytes_per_worker: 23e6, workers }
    }

    fn worker(slot: usize, hash: &str) -> Worker {
        Worker { name: format!("kjv-{slot}"), weights_hash: (hash != "lost").then(|| hash.to_owned()) }
    }

    #[test]
    fn fields_that_no_check_reads_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"run":"kjv","method":"diLoCo","steps":1000,"rounds":50,"heldOutLoss":1.691,"wallSeconds":20.5,
            "payloadBytesPerWorker":23001600,"workers":[
            {"name":"kjv-0","state":"Finished","samples":4000,"weightsHash":"ab"},
            {"name":"kjv-1","state":"Lost","samples":100,"weightsHash":null}]}"#;
        std::fs::write(folder.path().join("report.json"), text).unwrap();
        let report = Report::read(folder.path()).unwrap();
        assert_eq!((report.steps, report.hashes()), (1000, vec!["ab"]));
    }

    #[test]
    fn a_hash_is_shared_only_when_all_finished_workers_have_it() {
        assert_eq!(report(&["ab", "ab", "lost"]).shared_hash(), Some("ab"));
        assert_eq!(report(&["ab", "ab", "ac"]).shared_hash(), None);
        assert_eq!(report(&["lost"]).shared_hash(), None);
    }
}
