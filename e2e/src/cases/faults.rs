//! Faults that a run survives.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use atoll_crds::spec::TrainingRun;
use kube::ResourceExt;

use super::{BEGINNING, ENDING, SOON};
use crate::run::{Run, kjv, round_of};
use crate::suite::Ground;

/// Steps of a run that is still going on when a fault comes.
const LONG: u64 = 4000;

async fn training(ground: &Ground) -> Result<Run<'_>> {
    let run = Run::start(&ground.cluster, &ground.namespace, kjv(LONG)).await?;
    run.round(3, BEGINNING).await?;
    Ok(run)
}

/// A worker's pod is deleted: the others go on, and another one takes its place.
pub(crate) async fn a_pod_is_deleted(ground: &Ground) -> Result<()> {
    let run = training(ground).await?;
    let pod = run.pod(2).await?;
    ground.cluster.delete_pod(&ground.namespace, &pod.name_any(), None).await?;
    run.goes_on(2, SOON).await?;
    run.trained_by(4, BEGINNING).await?;
    let replaced = run.pod(2).await?;
    ensure!(replaced.uid() != pod.uid(), "w2 has the pod that it had");
    run.complete(ENDING).await.map(drop)
}

/// The sidecar that coordinates is killed alone: another one coordinates, and the same pods are there in the end.
pub(crate) async fn the_coordinators_sidecar_is_killed(ground: &Ground) -> Result<()> {
    let lab = ground.lab.as_ref().context("no laboratory")?;
    let run = training(ground).await?;
    let before = run.get().await?;
    let coordinator = before.status.and_then(|status| status.progress).map(|progress| progress.coordinator).unwrap_or_default();
    let slot: u32 = coordinator.trim_start_matches('w').parse().with_context(|| format!("no coordinator: {coordinator:?}"))?;
    let pod = run.pod(slot).await?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("the pod has no node")?;
    lab.kill_container(&node, &pod.name_any(), "sidecar")?;
    run.goes_on(2, SOON).await?;
    run.trained_by(4, BEGINNING).await?;
    ensure!(run.pod(slot).await?.uid() == pod.uid(), "the pod was replaced, though only its sidecar was killed");
    run.complete(ENDING).await.map(drop)
}

/// The operator that leads is killed: training does not notice.
pub(crate) async fn the_operator_is_killed(ground: &Ground) -> Result<()> {
    let run = training(ground).await?;
    let attempt = run.get().await?.status.and_then(|status| status.attempt);
    let leader = ground.cluster.leader().await?;
    ground.cluster.delete_pod(&ground.cluster.system, &leader, Some(0)).await?;
    let since = Instant::now();
    run.goes_on(5, BEGINNING).await?;
    println!("  progress was written again {:.1} s after the operator was killed", since.elapsed().as_secs_f64());
    run.complete(ENDING).await?;
    let after = run.get().await?.status.context("no status")?;
    ensure!(after.attempt == attempt, "it began again: attempt {:?}", after.attempt);
    ensure!(after.workers.failed == 0, "{} workers failed", after.workers.failed);
    Ok(())
}

/// The API server is away for half a minute: training does not notice.
pub(crate) async fn the_api_server_is_away(ground: &Ground) -> Result<()> {
    let lab = ground.lab.as_ref().context("no laboratory")?;
    let run = Run::start(&ground.cluster, &ground.namespace, kjv(4 * LONG)).await?;
    run.round(3, BEGINNING).await?;
    let before = round_of(&run.get().await?);
    lab.stop_api()?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    lab.start_api()?;
    let after = run
        .until("progress after the API server is back", BEGINNING, |run| Some(round_of(run)).filter(|round| *round > before))
        .await?;
    ensure!(after - before >= 5, "only {} rounds while the API server was away", after - before);
    let status = run.get().await?.status.context("no status")?;
    ensure!(status.workers.failed == 0 && status.attempt == Some(1), "{status:?}");
    Ok(())
}

/// A node loses its power: the others go on within `livenessSeconds` and a little, and replacements join.
pub(crate) async fn a_node_loses_its_power(ground: &Ground) -> Result<()> {
    let lab = ground.lab.as_ref().context("no laboratory")?;
    let run = Run::start(&ground.cluster, &ground.namespace, kjv(4 * LONG)).await?;
    run.round(3, BEGINNING).await?;
    let leader = ground.cluster.leader().await?;
    let operator = ground.cluster.api::<k8s_openapi::api::core::v1::Pod>(&ground.cluster.system).get(&leader).await?;
    let spared = operator.spec.and_then(|spec| spec.node_name);
    let pods = run.pods().await?;
    let nodes: Vec<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    let node = nodes.iter().find(|node| Some(*node) != spared.as_ref()).context("all workers are beside the operator")?;
    lab.order(&["kill", node])?;
    let since = Instant::now();
    let fewer = |run: &TrainingRun| {
        let training = run.status.as_ref()?.workers.training;
        (training < 4).then_some(training)
    };
    // `livenessSeconds` is 10, and progress is written every 5 seconds.
    let left = run.until("the others go on alone", Duration::from_secs(20), fewer).await?;
    println!("  {left} went on {:.1} s after the loss", since.elapsed().as_secs_f64());
    let joined = run.trained_by(4, Duration::from_mins(2)).await;
    println!("  all four again {:.1} s after the loss", since.elapsed().as_secs_f64());
    lab.order(&["start", node])?;
    joined
}
