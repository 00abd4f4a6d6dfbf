//! What surrounds the pods of a run: names, drains, and who may talk to them.

use atoll_crds::spec::TrainingRun;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{Object, Surroundings};
use crate::{names, ports};

/// The headless Service: each worker has a name in the cluster's DNS.
#[must_use]
pub fn service(run: &TrainingRun) -> Object {
    let name = run.name_any();
    let content = json!({
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": { names::RUN: name },
            "ports": [
                { "name": "lanes", "port": ports::LANES, "targetPort": "lanes", "protocol": "TCP" },
                { "name": "metrics", "port": ports::WORKER_METRICS, "targetPort": "metrics", "protocol": "TCP" },
            ],
        },
    });
    Object::of(run, ("", "v1", "Service", "services"), name, &content)
}

/// Keeps drains from taking more workers at once than the run can do without, and never from taking one.
#[must_use]
pub fn disruption_budget(run: &TrainingRun) -> Object {
    let target = run.spec.workers.target;
    let kept = run.spec.rounds.quorum.min.min(target.saturating_sub(1));
    let content = json!({
        "spec": {
            "minAvailable": kept,
            "selector": { "matchLabels": { names::RUN: run.name_any() } },
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    });
    Object::of(run, ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"), run.name_any(), &content)
}

/// Closes the pods of a run but to each other, the hub, names, stores, and whoever scrapes them.
#[must_use]
pub fn network_policy(run: &TrainingRun, around: &Surroundings) -> Object {
    let workers = json!({ "podSelector": { "matchLabels": { names::RUN: run.name_any() } } });
    let tcp = |port: u16| json!({ "protocol": "TCP", "port": port });
    let scraping: Vec<Value> = around
        .monitoring_namespace
        .iter()
        .map(|namespace| json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } } }))
        .collect();
    let mut scraped = json!({ "ports": [tcp(ports::WORKER_METRICS)] });
    if !scraping.is_empty() {
        scraped["from"] = json!(scraping);
    }
    let content = json!({
        "spec": {
            "podSelector": { "matchLabels": { names::RUN: run.name_any() } },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": [workers], "ports": [tcp(ports::LANES)] }, scraped],
            "egress": egress(run, &workers, &tcp, around),
        },
    });
    Object::of(run, ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"), run.name_any(), &content)
}

fn egress(run: &TrainingRun, workers: &Value, tcp: &dyn Fn(u16) -> Value, around: &Surroundings) -> Vec<Value> {
    let operator = json!({
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": around.namespace } },
        "podSelector": { "matchLabels": { "app.kubernetes.io/name": "atoll", "app.kubernetes.io/component": "operator" } },
    });
    let names = json!({ "ports": [{ "protocol": "UDP", "port": 53 }, { "protocol": "TCP", "port": 53 }] });
    let mut egress = vec![
        json!({ "to": [workers], "ports": [tcp(ports::LANES)] }),
        json!({ "to": [operator], "ports": [tcp(ports::HUB)] }),
        names,
    ];
    if reaches_stores(run) {
        // Nobody but the store knows at which addresses it is.
        egress.push(json!({ "to": [{ "ipBlock": { "cidr": "0.0.0.0/0" } }, { "ipBlock": { "cidr": "::/0" } }] }));
    }
    egress
}

/// Whether the pods dial anything but each other and the hub.
fn reaches_stores(run: &TrainingRun) -> bool {
    let spec = &run.spec;
    let remote = |uri: &str| uri.contains("://") && !uri.starts_with("pvc:") && !uri.starts_with("configmap:");
    let model = matches!(&spec.model, atoll_crds::spec::Model::Source { uri, .. } if remote(uri));
    let tokenizer = matches!(&spec.dataset.tokenizer, atoll_crds::spec::Tokenizer::File { uri, .. } if remote(uri));
    model || tokenizer || remote(&spec.dataset.source.uri) || spec.checkpoint.as_ref().is_some_and(|kept| remote(&kept.uri))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{run, surroundings};
    use super::*;

    #[test]
    fn a_budget_lets_at_least_one_worker_go() {
        let mut run = run();
        for (target, quorum, kept) in [(4, 2, 2), (4, 4, 3), (1, 1, 0)] {
            run.spec.workers.target = target;
            run.spec.rounds.quorum.min = quorum;
            assert_eq!(disruption_budget(&run).value["spec"]["minAvailable"], kept);
        }
    }

    #[test]
    fn a_run_that_reads_no_store_may_dial_none() {
        let mut run = run();
        assert!(!network_policy(&run, &surroundings()).value.to_string().contains("0.0.0.0/0"));
        run.spec.dataset.source.uri = "https://example.org/kjv.txt".into();
        assert!(network_policy(&run, &surroundings()).value.to_string().contains("0.0.0.0/0"));
    }
}
