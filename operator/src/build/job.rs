//! The Job of an island: one index for each worker.

use atoll_crds::spec::{FailureAction, TrainingRun};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{Object, Snapshot, Surroundings, pod};
use crate::names;

/// Exit code of a container that was killed for its memory.
const OUT_OF_MEMORY: i32 = 137;

/// The Job with a pod for each of `workers`; without any pods while it is `suspended`.
#[must_use]
pub fn job(run: &TrainingRun, snapshot: &Snapshot, around: &Surroundings, state: &JobState) -> Object {
    let mut labels = json!({});
    for label in [names::QUEUE, names::PRIORITY] {
        if let Some(value) = run.labels().get(label) {
            labels[label] = json!(value);
        }
    }
    let failure = snapshot.failure_policy(&run.spec);
    let template = pod::template(run, snapshot, around);
    let hash = blake3::hash(template.to_string().as_bytes()).to_hex()[..16].to_owned();
    let mut content = json!({
        "metadata": {
            "labels": labels,
            "annotations": { names::TEMPLATE: hash },
        },
        "spec": {
            "completionMode": "Indexed",
            "backoffLimitPerIndex": failure.max_restarts_per_worker,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": { "rules": failure_rules(&failure.rules) },
            "template": template,
        },
    });
    super::merge(&mut content, &changed_job(state));
    Object::of(run, ("batch", "v1", "Job", "jobs"), names::job(&run.name_any()), &content)
}

/// What of a Job changes while it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobState {
    /// Its workers.
    pub workers: u32,
    /// It has no pods for the time being.
    pub suspended: bool,
    /// The attempt that its pods belong to.
    pub attempt: u64,
}

/// A merge patch that brings a Job into `state`.
#[must_use]
pub fn changed_job(state: &JobState) -> Value {
    json!({
        "metadata": { "annotations": { names::ATTEMPT: state.attempt.to_string() } },
        "spec": { "completions": state.workers, "parallelism": state.workers, "suspend": state.suspended },
    })
}

/// Whoever is evicted or loses its node is replaced and not counted; then come the run's own rules.
fn failure_rules(rules: &[atoll_crds::spec::FailureRule]) -> Vec<Value> {
    let disrupted = json!({ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] });
    let own = rules.iter().filter_map(|rule| {
        let codes = rule
            .on_exit_codes
            .clone()
            .or_else(|| (rule.on_reason.as_deref() == Some("OOMKilled")).then(|| vec![OUT_OF_MEMORY]))?;
        let action = match rule.action {
            FailureAction::RestartWorker | FailureAction::SuspendRun => "Count",
            FailureAction::Ignore => "Ignore",
            FailureAction::EvictWorker => "FailIndex",
            FailureAction::FailRun => "FailJob",
        };
        Some(json!({ "action": action, "onExitCodes": { "containerName": "trainer", "operator": "In", "values": codes } }))
    });
    std::iter::once(disrupted).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use atoll_crds::spec::FailureRule;

    use super::super::tests::{run, snapshot, surroundings};
    use super::*;

    const STATE: JobState = JobState { workers: 4, suspended: false, attempt: 1 };

    #[test]
    fn a_job_has_one_index_for_each_worker_and_names_its_attempt() {
        let job = job(&run(), &snapshot(), &surroundings(), &STATE).value;
        assert_eq!((job["spec"]["completions"].as_u64(), job["spec"]["parallelism"].as_u64()), (Some(4), Some(4)));
        assert_eq!(job["metadata"]["annotations"][names::ATTEMPT], "1");
        assert_eq!(job["metadata"]["ownerReferences"][0]["controller"], true);
    }

    #[test]
    fn the_template_does_not_change_with_the_state() {
        let other = JobState { workers: 2, suspended: true, attempt: 7 };
        let template = |state| job(&run(), &snapshot(), &surroundings(), state).value["spec"]["template"].clone();
        assert_eq!(template(&STATE), template(&other));
    }

    #[test]
    fn kueues_labels_are_handed_on() {
        let mut run = run();
        run.labels_mut().insert(names::QUEUE.into(), "gpu".into());
        let job = job(&run, &snapshot(), &surroundings(), &STATE).value;
        assert_eq!(job["metadata"]["labels"][names::QUEUE], "gpu");
    }

    #[test]
    fn disruptions_are_not_counted_and_rules_come_in_their_order() {
        let rule = |on_exit_codes: Option<Vec<i32>>, on_reason: Option<&str>, action| FailureRule {
            on_exit_codes,
            on_reason: on_reason.map(str::to_owned),
            action,
        };
        let rules = failure_rules(&[
            rule(Some(vec![3]), None, FailureAction::FailRun),
            rule(None, Some("OOMKilled"), FailureAction::EvictWorker),
            rule(None, Some("Evicted"), FailureAction::FailRun),
        ]);
        let actions: Vec<_> = rules.iter().map(|rule| rule["action"].as_str().unwrap()).collect();
        assert_eq!(actions, ["Ignore", "FailJob", "FailIndex"]);
        assert_eq!(rules[2]["onExitCodes"]["values"], json!([137]));
    }
}
