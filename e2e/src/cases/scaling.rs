//! Growing and shrinking.

use anyhow::{Result, ensure};
use kube::ResourceExt;
use serde_json::json;

use super::BEGINNING;
use crate::run::{Run, kjv, with};
use crate::suite::Ground;

/// Two workers become four and then one; nobody is restarted for it.
pub(crate) async fn two_to_four_to_one(ground: &Ground) -> Result<()> {
    let spec = json!({ "spec": { "workers": { "min": 1, "target": 2, "max": 4 }, "rounds": { "quorum": { "min": 1 } } } });
    let run = Run::start(&ground.cluster, &ground.namespace, with(kjv(20_000), &spec)).await?;
    run.trained_by(2, BEGINNING).await?;
    let first = run.pod(0).await?;
    run.change(json!({ "spec": { "workers": { "target": 4 } } })).await?;
    run.trained_by(4, BEGINNING).await?;
    run.change(json!({ "spec": { "workers": { "target": 1 } } })).await?;
    run.trained_by(1, BEGINNING).await?;
    run.goes_on(2, BEGINNING).await?;
    let last = run.pod(0).await?;
    ensure!(first.uid() == last.uid(), "w0 was replaced");
    let restarts = |pod: &k8s_openapi::api::core::v1::Pod| {
        let status = pod.status.clone().unwrap_or_default();
        let all = status.container_statuses.into_iter().flatten().chain(status.init_container_statuses.into_iter().flatten());
        all.map(|container| container.restart_count).sum::<i32>()
    };
    ensure!(restarts(&last) == 0, "w0 was restarted");
    Ok(())
}
