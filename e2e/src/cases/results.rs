//! What a run ends with.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::ENDING;
use crate::run::{Run, kjv};
use crate::suite::Ground;

/// The final weights are those of the same file on this machine.
pub(crate) async fn same_result_as_on_this_machine(ground: &Ground) -> Result<()> {
    let started = Instant::now();
    let run = Run::start(&ground.cluster, &ground.namespace, kjv(1000)).await?;
    let result = run.complete(ENDING).await?;
    println!("  complete after {:.1} s: {result:?}", started.elapsed().as_secs_f64());
    ensure!(result.weights_hash.len() == 64, "no hash of the weights: {result:?}");
    ensure!(result.held_out_loss.is_some_and(|loss| loss < 2.0), "it has not learned: {result:?}");
    let Some(atoll) = &ground.atoll else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let (file, out) = (folder.path().join("kjv.yaml"), folder.path().join("out"));
    std::fs::write(&file, kjv(1000).to_string())?;
    let output = Command::new(atoll).arg("run").arg(&file).arg("--out").arg(&out).arg("--json").stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "atoll run: {}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).context("no report")?)?;
    let local = report["weightsHash"]
        .as_str()
        .or_else(|| report["workers"][0]["weightsHash"].as_str())
        .context("no hash in the report")?;
    ensure!(local == result.weights_hash, "in the cluster {}, on this machine {local}", result.weights_hash);
    Ok(())
}
