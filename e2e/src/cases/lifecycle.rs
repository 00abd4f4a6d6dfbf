//! Beginnings and ends.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use atoll_crds::spec::TrainingRun;
use serde_json::json;

use super::{BEGINNING, ENDING, SOON};
use crate::run::{Run, condition, kjv, with};
use crate::suite::Ground;
use crate::wait::{Look, wait};

fn is(run: &TrainingRun, kind: &str) -> Option<(String, String, String)> {
    condition(run, kind).filter(|(status, ..)| status == "True")
}

/// A run without checkpoints that is suspended begins anew and ends as one that was not.
pub(crate) async fn suspended_and_resumed(ground: &Ground) -> Result<()> {
    let undisturbed =
        Run::start(&ground.cluster, &ground.namespace, with(kjv(600), &json!({ "metadata": { "name": "whole" } }))).await?;
    let expected = undisturbed.complete(ENDING).await?;
    let run = Run::start(&ground.cluster, &ground.namespace, kjv(600)).await?;
    run.round(3, BEGINNING).await?;
    run.change(json!({ "spec": { "suspend": true } })).await?;
    run.until("it is suspended", SOON, |run| is(run, "Suspended")).await?;
    wait("no pod is left", SOON, async || {
        let left = run.pods().await?.len();
        Ok(if left == 0 { Look::Yes(()) } else { Look::NotYet(format!("{left} pods")) })
    })
    .await?;
    run.change(json!({ "spec": { "suspend": false } })).await?;
    let result = run.complete(ENDING).await?;
    ensure!(result.weights_hash == expected.weights_hash, "{} and not {}", result.weights_hash, expected.weights_hash);
    let status = run.get().await?.status.unwrap_or_default();
    ensure!(status.attempt == Some(2), "attempt {:?}", status.attempt);
    Ok(())
}

/// A run that takes too long fails, and its pods go.
pub(crate) async fn deadline(ground: &Ground) -> Result<()> {
    let spec = json!({ "spec": { "runPolicy": { "activeDeadlineSeconds": 20 } } });
    let run = Run::start(&ground.cluster, &ground.namespace, with(kjv(100_000), &spec)).await?;
    let since = Instant::now();
    let failed = run.until("it has failed", Duration::from_secs(40), |run| is(run, "Failed")).await?;
    ensure!(failed.1 == "DeadlineExceeded" && since.elapsed() >= Duration::from_secs(19), "{failed:?}");
    wait("no pod is left", BEGINNING, async || {
        let left = run.pods().await?.len();
        Ok(if left == 0 { Look::Yes(()) } else { Look::NotYet(format!("{left} pods")) })
    })
    .await
}

/// A run that has ended is deleted when its time has come, with all that was made for it.
pub(crate) async fn time_to_live(ground: &Ground) -> Result<()> {
    let spec = json!({ "spec": { "runPolicy": { "ttlSecondsAfterFinished": 3 } } });
    let run = Run::start(&ground.cluster, &ground.namespace, with(kjv(40), &spec)).await?;
    wait("the run and its pods are gone", ENDING, async || {
        let api = ground.cluster.api::<TrainingRun>(&ground.namespace);
        let (there, pods) = (api.get_opt(&run.name).await?.is_some(), run.pods().await?.len());
        Ok(if !there && pods == 0 { Look::Yes(()) } else { Look::NotYet(format!("run: {there}, {pods} pods")) })
    })
    .await
}

/// A run that is deleted leaves nothing behind.
pub(crate) async fn deleted_in_the_middle(ground: &Ground) -> Result<()> {
    let run = Run::start(&ground.cluster, &ground.namespace, kjv(100_000)).await?;
    run.round(2, BEGINNING).await?;
    run.delete().await?;
    wait("its pods are gone", BEGINNING, async || {
        let left = run.pods().await?.len();
        Ok(if left == 0 { Look::Yes(()) } else { Look::NotYet(format!("{left} pods")) })
    })
    .await
}

/// The namespace of a run is deleted: nothing keeps it.
pub(crate) async fn its_namespace_is_deleted(ground: &Ground) -> Result<()> {
    let run = Run::start(&ground.cluster, &ground.namespace, kjv(100_000)).await?;
    run.round(2, BEGINNING).await?;
    let since = Instant::now();
    ground.cluster.remove_only_namespace(&ground.namespace).await?;
    println!("  gone after {:.1} s", since.elapsed().as_secs_f64());
    if since.elapsed() > Duration::from_secs(90) {
        bail!("it took {} s", since.elapsed().as_secs());
    }
    Ok(())
}
