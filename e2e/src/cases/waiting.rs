//! What keeps a run from beginning, and that it begins when that is mended.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use super::{BEGINNING, SOON};
use crate::run::{Run, condition, kjv, with};
use crate::suite::Ground;

/// A run that names a runtime which is not there says so, and begins when there is one.
pub(crate) async fn no_runtime_then_one(ground: &Ground) -> Result<()> {
    let spec = json!({ "spec": { "runtimeRef": { "kind": "TrainingRuntime", "name": "own" } } });
    let run = Run::start(&ground.cluster, &ground.namespace, with(kjv(100_000), &spec)).await?;
    let admitted = run.until("it is not admitted", SOON, |run| condition(run, "Admitted")).await?;
    ensure!(admitted.0 == "False" && admitted.1 == "RuntimeNotFound" && admitted.2.contains("own"), "{admitted:?}");
    let runtimes = kube::Api::<atoll_crds::runtime::ClusterTrainingRuntime>::all(ground.cluster.client.clone());
    let template = runtimes.get("candle-cpu").await?.spec;
    let broken = with(json!(template), &json!({ "pod": { "tolerations": [{ "tolerationSeconds": "soon" }] } }));
    let make = |spec| json!({ "apiVersion": "atoll.dev/v1alpha1", "kind": "TrainingRuntime", "metadata": { "name": "own" }, "spec": spec });
    let own = ground.cluster.api::<atoll_crds::runtime::TrainingRuntime>(&ground.namespace);
    own.create(&PostParams::default(), &serde_json::from_value(make(broken))?).await?;
    let invalid = |run: &_| condition(run, "Admitted").filter(|(_, reason, _)| reason == "RuntimeInvalid");
    let invalid = run.until("the runtime is invalid", SOON, invalid).await?;
    ensure!(invalid.2.contains("pod.tolerations"), "{invalid:?}");
    ground
        .cluster
        .change::<atoll_crds::runtime::TrainingRuntime>(
            &ground.namespace,
            "own",
            json!({ "spec": { "pod": { "tolerations": null } } }),
        )
        .await?;
    run.round(1, BEGINNING).await
}

/// A pod whose image is nowhere waits, and the run says for what.
pub(crate) async fn image_that_cannot_be_pulled(ground: &Ground) -> Result<()> {
    let runtimes = kube::Api::<atoll_crds::runtime::ClusterTrainingRuntime>::all(ground.cluster.client.clone());
    let template = runtimes.get("candle-cpu").await?.spec;
    let spec =
        with(json!(template), &json!({ "images": { "trainer": "registry.invalid/nothing:1", "pullPolicy": "IfNotPresent" } }));
    let runtime =
        json!({ "apiVersion": "atoll.dev/v1alpha1", "kind": "TrainingRuntime", "metadata": { "name": "own" }, "spec": spec });
    let own = ground.cluster.api::<atoll_crds::runtime::TrainingRuntime>(&ground.namespace);
    own.create(&PostParams::default(), &serde_json::from_value(runtime)?).await?;
    let spec = json!({ "spec": { "runtimeRef": { "kind": "TrainingRuntime", "name": "own" } } });
    let run = Run::start(&ground.cluster, &ground.namespace, with(kjv(1000), &spec)).await?;
    let waits = |run: &_| condition(run, "QuorumReached").filter(|(_, reason, _)| reason == "ImageUnavailable");
    let waits = run.until("the image is missing", BEGINNING, waits).await?;
    ensure!(waits.2.contains("trainer"), "{waits:?}");
    Ok(())
}

/// A quota refuses pods: the run says that they were not made, and begins when there is room.
pub(crate) async fn quota_refuses(ground: &Ground) -> Result<()> {
    let quotas = ground.cluster.api::<ResourceQuota>(&ground.namespace);
    let quota = json!({ "metadata": { "name": "few" }, "spec": { "hard": { "pods": "2" } } });
    quotas.create(&PostParams::default(), &serde_json::from_value(quota)?).await?;
    let run = Run::start(&ground.cluster, &ground.namespace, kjv(100_000)).await?;
    let waits = |run: &_| condition(run, "QuorumReached").filter(|(_, _, message)| message.contains("2 of 4 workers are ready"));
    let waits = run.until("two pods are refused", BEGINNING, waits).await?;
    ensure!(waits.2.contains("2 pods were not made yet"), "{waits:?}");
    quotas.delete("few", &DeleteParams::default()).await?;
    run.round(1, 2 * BEGINNING).await
}
