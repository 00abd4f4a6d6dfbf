//! The laboratory that made a cluster: power over its nodes, links, and API server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// The laboratory's script, and the number of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Lab {
    script: PathBuf,
    number: u32,
}

impl Lab {
    pub(crate) fn new(script: &Path, number: u32) -> Self {
        Self { script: script.to_owned(), number }
    }

    /// A command of the laboratory.
    pub(crate) fn order(&self, words: &[&str]) -> Result<String> {
        let output = Command::new(&self.script).args(words).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run {}", self.script.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {}: {}: {said}", self.script.display(), words.join(" "), output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Ends the API server alone.
    pub(crate) fn stop_api(&self) -> Result<()> {
        self.order(&["stop-api", &self.number.to_string()]).map(drop)
    }

    /// Starts it again.
    pub(crate) fn start_api(&self) -> Result<()> {
        self.order(&["start-api", &self.number.to_string()]).map(drop)
    }

    /// Kills the process of one container of a pod on its node.
    pub(crate) fn kill_container(&self, node: &str, pod: &str, container: &str) -> Result<()> {
        self.order(&["kill-container", node, pod, container]).map(drop)
    }
}
