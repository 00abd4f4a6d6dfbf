//! What is planned for a run in each of its situations.

use atoll_proto::v1::{EpochRecord, Member, Occurrence, Progress};
use serde_json::json;

use super::*;
use crate::build::tests::{run, snapshot, surroundings};

const START: i64 = 1_800_000_000;

/// A run and what is observed of it, changed by each test.
struct Situation {
    run: TrainingRun,
    job: Option<IslandJob>,
    pods: Vec<Arc<WorkerPod>>,
    heard: Heard,
    runtime: RuntimeFound,
    memory: Memory,
    around: Surroundings,
    seconds: i64,
}

impl Situation {
    fn new() -> Self {
        Self {
            run: run(),
            job: None,
            pods: Vec::new(),
            heard: Heard::default(),
            runtime: RuntimeFound::Known(Box::new(snapshot())),
            memory: Memory::default(),
            around: surroundings(),
            seconds: 0,
        }
    }

    /// It has a Job whose pods are ready.
    fn started() -> Self {
        let mut situation = Self::new();
        let plan = situation.plan();
        situation.take(&plan);
        situation.job = Some(job(false, 4, 1));
        situation.runtime = RuntimeFound::Unneeded;
        situation.pods = (0..4).map(|slot| pod(slot, "Running", json!({}))).collect();
        situation
    }

    /// It trains.
    fn training() -> Self {
        let mut situation = Self::started();
        situation.commits(1);
        let plan = situation.plan();
        situation.take(&plan);
        situation
    }

    fn commits(&mut self, round: u64) {
        let members = (0..4).map(|slot| Member { slot, worker: format!("w{slot}"), ..Member::default() }).collect();
        self.heard.record = EpochRecord {
            term: 1,
            epoch: 1,
            members,
            coordinator: Some(Member { worker: "w0".into(), ..Member::default() }),
            ..EpochRecord::default()
        };
        let progress = Progress {
            epoch: 1,
            round,
            step: 20 * round,
            tokens: 1000 * round,
            loss: 2.5,
            slots: vec![0, 1, 2, 3],
            ..Progress::default()
        };
        self.heard.progress = Some((progress, std::time::Instant::now()));
    }

    fn keeps_checkpoints(&mut self) {
        self.run.spec.checkpoint = serde_json::from_value(json!({ "uri": "s3://bucket/kjv" })).unwrap();
        self.run.metadata.finalizers = Some(vec![names::FINALIZER.to_owned()]);
    }

    fn kept(&mut self, round: u64) {
        self.heard.kept =
            vec![KeptCheckpoint { place: format!("{round:06}"), round, digest: "d".into(), ..KeptCheckpoint::default() }];
    }

    fn plan(&self) -> Plan {
        plan(&Observed {
            run: &self.run,
            job: self.job.as_ref(),
            pods: &self.pods,
            heard: self.heard.clone(),
            silence: BTreeMap::new(),
            runtime: self.runtime.clone(),
            around: &self.around,
            memory: self.memory.clone(),
            now: Timestamp::from_second(START + self.seconds).unwrap(),
        })
    }

    /// The plan was carried out.
    fn take(&mut self, plan: &Plan) {
        self.run.status = Some(plan.status.clone());
        self.memory = plan.memory.clone();
        self.heard.occurrences.clear();
        self.heard.kept.clear();
    }
}

fn job(suspended: bool, workers: i32, attempt: u64) -> IslandJob {
    let job = json!({
        "metadata": { "name": "kjv-local", "annotations": { names::ATTEMPT: attempt.to_string(), names::TEMPLATE: "t" } },
        "spec": { "suspend": suspended, "completions": workers },
        "status": { "active": if suspended { 0 } else { workers } },
    });
    serde_json::from_value(job).unwrap()
}

fn pod(slot: u32, phase: &str, more: serde_json::Value) -> Arc<WorkerPod> {
    let ready = if phase == "Running" { "True" } else { "False" };
    let mut pod = json!({
        "metadata": {
            "name": format!("kjv-local-{slot}-x"),
            "uid": format!("uid-{slot}"),
            "annotations": { names::COMPLETION_INDEX: slot.to_string() },
        },
        "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] },
    });
    let more: serde_json::Value = more;
    for (name, value) in more.as_object().unwrap() {
        pod["status"][name] = value.clone();
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn ended(slot: u32, code: i32, message: &str) -> Arc<WorkerPod> {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let state = json!({ "terminated": { "exitCode": code, "reason": "Error", "message": message, "finishedAt": "2027-01-15T08:00:00Z" } });
    pod(slot, phase, json!({ "containerStatuses": [{ "name": "trainer", "state": state }] }))
}

fn finished(slot: u32, hash: &str) -> Arc<WorkerPod> {
    ended(slot, 0, &json!({ "weightsHash": hash, "step": 100, "heldOutLoss": 1.5 }).to_string())
}

fn condition<'a>(plan: &'a Plan, kind: &str) -> (&'a str, &'a str, &'a str) {
    let found = plan.status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    (&found.status, &found.reason, &found.message)
}

fn suspends(plan: &Plan) -> Option<bool> {
    match plan.job.as_ref()? {
        JobChange::Change(patch) => patch["spec"]["suspend"].as_bool(),
        JobChange::Create(_) => None,
    }
}

#[test]
fn a_new_run_is_admitted_with_its_runtime_and_given_its_objects() {
    let plan = Situation::new().plan();
    assert_eq!(condition(&plan, types::ADMITTED).0, "True");
    let kinds: Vec<_> = plan.objects.iter().map(|object| object.resource.kind.as_str()).collect();
    assert_eq!(kinds, ["ConfigMap", "Service", "PodDisruptionBudget", "TrainingIsland", "NetworkPolicy"]);
    assert!(matches!(plan.job, Some(JobChange::Create(_))));
    assert_eq!((plan.status.attempt, plan.served.unwrap().attempt), (Some(1), 1));
    assert_eq!(plan.status.phase, "Pending");
}

#[test]
fn a_run_without_runtime_waits_for_one_and_says_so_once() {
    let mut situation = Situation::new();
    situation.runtime = RuntimeFound::Missing("there is no ClusterTrainingRuntime called candle-cpu".into());
    let first = situation.plan();
    assert_eq!(
        condition(&first, types::ADMITTED),
        ("False", reasons::RUNTIME_NOT_FOUND, "there is no ClusterTrainingRuntime called candle-cpu")
    );
    assert!(first.job.is_none() && first.again.is_some());
    assert_eq!(first.events.len(), 1);
    situation.take(&first);
    let second = situation.plan();
    assert!(second.events.is_empty());
    assert_eq!(second.status, first.status, "nothing to write");
}

#[test]
fn a_settled_run_plans_nothing() {
    let mut situation = Situation::training();
    situation.seconds = 30;
    let plan = situation.plan();
    assert_eq!(Some(&plan.status), situation.run.status.as_ref());
    assert_eq!((plan.job, plan.objects.len(), plan.events.len()), (None, 0, 0));
}

#[test]
fn progress_is_written_at_most_every_five_seconds() {
    let mut situation = Situation::training();
    situation.seconds = 2;
    situation.commits(2);
    let early = situation.plan();
    assert_eq!(early.status.progress.as_ref().unwrap().round, 1);
    assert_eq!(early.again, Some(Duration::from_secs(5)));
    situation.take(&early);
    situation.seconds = 7;
    situation.commits(3);
    let due = situation.plan();
    let progress = due.status.progress.unwrap();
    assert_eq!((progress.round, progress.step, progress.percent), (3, 60, 60));
    assert!(progress.tokens_per_second > 0.0 && progress.remaining_seconds.is_some());
}

#[test]
fn suspension_waits_for_a_checkpoint_of_what_was_trained() {
    let mut situation = Situation::training();
    situation.keeps_checkpoints();
    situation.run.spec.suspend = true;
    let asked = situation.plan();
    assert_eq!((suspends(&asked), asked.served.unwrap().keep_round), (None, Some(1)));
    assert_eq!(asked.status.phase, "Suspending");
    situation.take(&asked);
    situation.commits(5);
    situation.kept(1);
    let kept = situation.plan();
    assert_eq!(suspends(&kept), Some(true));
    assert_eq!(kept.kept.len(), 1);
}

#[test]
fn suspension_does_not_wait_for_ever_and_not_where_nothing_is_kept() {
    let mut situation = Situation::training();
    situation.run.spec.suspend = true;
    assert_eq!(suspends(&situation.plan()), Some(true), "it keeps no checkpoints");
    situation.keeps_checkpoints();
    let asked = situation.plan();
    assert_eq!(suspends(&asked), None);
    situation.take(&asked);
    situation.seconds = 301;
    assert_eq!(suspends(&situation.plan()), Some(true));
}

#[test]
fn a_resumed_run_begins_its_next_attempt_when_all_pods_are_gone() {
    let mut situation = Situation::training();
    situation.job = Some(job(true, 4, 1));
    let waits = situation.plan();
    assert_eq!((waits.job, waits.status.attempt), (None, Some(1)));
    situation.pods.clear();
    let begins = situation.plan();
    assert_eq!((suspends(&begins), begins.status.attempt, begins.served.unwrap().attempt), (Some(false), Some(2), 2));
}

#[test]
fn a_run_is_complete_when_all_have_finished_with_one_hash() {
    let mut situation = Situation::training();
    situation.pods = (0..4).map(|slot| finished(slot, "abc")).collect();
    let plan = situation.plan();
    assert_eq!(condition(&plan, types::COMPLETE).0, "True");
    let result = plan.status.result.clone().unwrap();
    assert_eq!((result.weights_hash.as_str(), result.held_out_loss), ("abc", Some(1.5)));
    assert_eq!(suspends(&plan), None);
    situation.take(&plan);
    let after = situation.plan();
    assert_eq!((Some(&after.status), suspends(&after)), (situation.run.status.as_ref(), None), "its Job ends by itself");
    situation.seconds = 90;
    assert_eq!(suspends(&situation.plan()), Some(true), "it has not");
}

#[test]
fn different_weights_are_no_result() {
    let mut situation = Situation::training();
    situation.pods = (0..4).map(|slot| finished(slot, if slot == 2 { "def" } else { "abc" })).collect();
    let plan = situation.plan();
    assert_eq!(condition(&plan, types::FAILED).1, reasons::WEIGHTS_DIFFER);
    assert!(plan.status.result.is_none());
}

#[test]
fn too_few_workers_fail_the_run_and_the_message_names_the_worker_its_code_and_its_words() {
    let mut situation = Situation::training();
    situation.job.as_mut().unwrap().status.failed_indexes = Some("0,2-3".into());
    situation.run.spec.rounds.quorum.min = 2;
    situation.pods = vec![ended(3, 1, "thread panicked\nthe loss is no number\n")];
    let plan = situation.plan();
    let (_, reason, message) = condition(&plan, types::FAILED);
    assert_eq!(reason, reasons::WORKERS_FAILED);
    assert!(message.contains("w3 (pod kjv-local-3-x) ended with exit code 1: the loss is no number"), "{message}");
}

#[test]
fn whoever_lost_its_node_did_not_fail() {
    let mut situation = Situation::training();
    let conditions = json!([{ "type": "DisruptionTarget", "status": "True" }]);
    situation.pods[3] = pod(3, "Failed", json!({ "conditions": conditions }));
    assert_eq!(situation.plan().status.workers.failed, 0);
}

#[test]
fn a_deadline_and_a_time_to_live_hold() {
    let mut situation = Situation::training();
    situation.run.spec.run_policy =
        serde_json::from_value(json!({ "activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 10 })).unwrap();
    situation.seconds = 59;
    assert!(!situation.plan().status.conditions.iter().any(|condition| condition.type_ == types::FAILED));
    situation.seconds = 60;
    let late = situation.plan();
    assert_eq!(condition(&late, types::FAILED).1, reasons::DEADLINE_EXCEEDED);
    assert_eq!(suspends(&late), Some(true), "its pods go");
    situation.take(&late);
    assert!(!situation.plan().delete);
    situation.seconds = 70;
    assert!(situation.plan().delete);
}

#[test]
fn a_run_ends_once() {
    let mut situation = Situation::training();
    situation.run.spec.run_policy = serde_json::from_value(json!({ "activeDeadlineSeconds": 60 })).unwrap();
    situation.pods = (0..4).map(|slot| finished(slot, "abc")).collect();
    situation.seconds = 60;
    let plan = situation.plan();
    assert_eq!((plan.status.is(types::FAILED), plan.status.is(types::COMPLETE)), (true, false));
}

#[test]
fn lost_state_brings_a_new_attempt_and_a_moment_of_it_does_not() {
    let mut situation = Situation::training();
    situation.heard.occurrences.push_back(Occurrence { event: "HistoryMissing".into(), round: 1, ..Occurrence::default() });
    let first = situation.plan();
    assert_eq!(suspends(&first), None);
    situation.take(&first);
    situation.seconds = 61;
    let again = situation.plan();
    assert_eq!(suspends(&again), Some(true));
    assert_eq!(condition(&again, types::PROGRESSING).1, reasons::RESTARTING);
    situation.commits(2);
    let back = situation.plan();
    assert_eq!(suspends(&back), None, "somebody had it after all");
}

#[test]
fn a_deleted_run_is_kept_once_more_but_not_for_long() {
    let mut situation = Situation::training();
    situation.keeps_checkpoints();
    situation.run.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(START).unwrap()));
    let asked = situation.plan();
    assert_eq!((asked.finalizer, asked.served.unwrap().keep_round), (None, Some(1)));
    situation.take(&asked);
    situation.kept(1);
    assert_eq!(situation.plan().finalizer, Some(false));
    situation.heard.kept.clear();
    situation.seconds = 25;
    assert_eq!(situation.plan().finalizer, Some(false));
    situation.seconds = 0;
    situation.run.annotations_mut().insert(names::SKIP_CHECKPOINT.into(), "true".into());
    assert_eq!(situation.plan().finalizer, Some(false));
}

#[test]
fn scaling_changes_the_job_and_restarts_nobody() {
    let mut situation = Situation::training();
    situation.run.spec.workers.target = 6;
    let plan = situation.plan();
    let Some(JobChange::Change(patch)) = &plan.job else { panic!("{:?}", plan.job) };
    assert_eq!((patch["spec"]["completions"].as_u64(), patch["spec"]["suspend"].as_bool()), (Some(6), Some(false)));
    assert_eq!(plan.served.unwrap().attempt, 1);
}

#[test]
fn what_keeps_pods_waiting_is_said() {
    let mut situation = Situation::started();
    let waiting = json!({ "waiting": { "reason": "ErrImagePull", "message": "no such image" } });
    situation.pods[1] = pod(1, "Pending", json!({ "initContainerStatuses": [{ "name": "sidecar", "state": waiting }] }));
    let plan = situation.plan();
    let (_, reason, message) = condition(&plan, types::QUORUM_REACHED);
    assert_eq!(reason, reasons::IMAGE_UNAVAILABLE);
    assert!(message.contains("3 of 4 workers are ready") && message.contains("no such image"), "{message}");
}

#[test]
fn a_pod_that_goes_with_a_silent_node_is_deleted_at_once() {
    let mut situation = Situation::training();
    let mut going = (*pod(2, "Running", json!({ "conditions": [{ "type": "DisruptionTarget", "status": "True" }] }))).clone();
    going.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(START).unwrap()));
    situation.pods[2] = Arc::new(going);
    assert_eq!(situation.plan().lost_pods, ["kjv-local-2-x"]);
}

#[test]
fn a_queue_lets_a_job_go_and_the_operator_does_not() {
    let mut situation = Situation::new();
    situation.run.labels_mut().insert(names::QUEUE.into(), "gpu".into());
    let first = situation.plan();
    let Some(JobChange::Create(object)) = &first.job else { panic!("{:?}", first.job) };
    assert_eq!(object.value["spec"]["suspend"], true);
    situation.take(&first);
    situation.job = Some(job(true, 4, 1));
    let second = situation.plan();
    assert_eq!((second.job, second.status.attempt), (None, Some(1)));
}

#[test]
fn the_failure_policy_suspends_or_fails() {
    let mut situation = Situation::training();
    let policy = |action: &str| serde_json::from_value(json!({ "rules": [{ "onExitCodes": [3], "action": action }] })).unwrap();
    situation.pods[1] = ended(1, 3, "refused");
    situation.run.spec.failure_policy = Some(policy("SuspendRun"));
    assert!(situation.plan().suspend);
    situation.run.spec.failure_policy = Some(policy("FailRun"));
    assert_eq!(condition(&situation.plan(), types::FAILED).1, reasons::FAILURE_POLICY);
    situation.run.spec.failure_policy = Some(policy("RestartWorker"));
    assert!(!situation.plan().suspend);
}
