//! What a run promises: it trains, all workers agree, and losses of processes do not stop it.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;

use crate::laboratory::{Laboratory, code, signal};

const DILOCO: &str = "{diLoCo: {innerSteps: 10, outerLearningRate: 0.7, outerMomentum: 0.5}}";

pub(crate) fn hashes(report: &Value) -> Vec<String> {
    report["workers"].as_array().unwrap().iter().filter_map(|worker| worker["weightsHash"].as_str().map(str::to_owned)).collect()
}

#[test]
fn two_workers_train_and_hold_the_same_weights() {
    let laboratory = Laboratory::new(DILOCO, 60);
    let output = laboratory.run(&["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["state"], "Complete");
    assert_eq!((report["steps"].as_u64(), report["rounds"].as_u64()), (Some(60), Some(6)));
    let hashes = hashes(&report);
    assert_eq!(hashes.len(), 2);
    assert_eq!(hashes[0], hashes[1]);
    // 60 steps of 4 sequences of 16 tokens on each of two workers.
    assert_eq!(report["tokens"].as_u64(), Some(60 * 4 * 16 * 2));
    let curve = std::fs::read_to_string(laboratory.out().join("loss.csv")).unwrap();
    let losses: Vec<f64> = curve.lines().skip(1).map(|line| line.split(',').nth(2).unwrap().parse().unwrap()).collect();
    assert!(losses[losses.len() - 1] < losses[0], "it learns: {losses:?}");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(laboratory.out().join("model").join(file).exists(), "{file}");
    }
    laboratory.assert_nothing_is_left();
}

#[test]
fn the_same_file_gives_the_same_weights_and_another_seed_others() {
    let run = |arguments: &[&str]| {
        let laboratory = Laboratory::new(DILOCO, 20);
        assert!(laboratory.run(arguments).status.success());
        (hashes(&laboratory.report())[0].clone(), laboratory.report()["heldOutLoss"].clone())
    };
    let first = run(&[]);
    assert_eq!(first, run(&[]));
    assert_ne!(first, run(&["--set", "seed=1"]));
}

#[test]
fn data_parallel_and_fedavg_agree_too() {
    for method in ["{dataParallel: {}}", "{fedAvg: {innerSteps: 5}}"] {
        let laboratory = Laboratory::new(method, 20);
        assert!(laboratory.run(&[]).status.success(), "{method}");
        let hashes = hashes(&laboratory.report());
        assert_eq!((hashes.len(), &hashes[0]), (2, &hashes[1]), "{method}");
    }
}

#[test]
fn a_worker_with_two_ranks_takes_twice_the_samples() {
    let laboratory = Laboratory::new(DILOCO, 20);
    let output = laboratory.run(&["--set", "workers.ranks=2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(laboratory.report()["samples"].as_u64(), Some(20 * 4 * 2 * 2));
}

#[test]
fn bytes_come_from_counters_in_the_transport() {
    let laboratory = Laboratory::new(DILOCO, 40);
    assert!(laboratory.run(&[]).status.success());
    let report = laboratory.report();
    let parameters = report["payloadBytesPerWorker"].as_u64().unwrap() / 4 / 4;
    // Embeddings of 128 padded characters, one layer, one final norm.
    assert_eq!(parameters, 128 * 16 + (4 * 16 * 16 + 3 * 16 * 32 + 2 * 16) + 16);
    let wire = report["wireBytesPerWorker"].as_u64().unwrap() as f64;
    let theory = 4.0 * 4.0 * parameters as f64;
    assert!(wire > theory, "with two workers each sends its payload once: {wire} against {theory}");
}

/// Kills one process in the third round; the run must end well all the same.
fn survives(process: &str, of_the_coordinator: bool, arbiter: &str) -> (Laboratory, Value) {
    // Without a coordinator nobody gets to the end; a worker must have time to rejoin.
    let laboratory = Laboratory::new(DILOCO, if of_the_coordinator { 800 } else { 2000 });
    let mut run = laboratory.start(&["--set", "workers.min=3", "--set", "workers.target=3", "--arbiter", arbiter]);
    laboratory.wait_for(|event| event["event"] == "SyncEnd" && event["round"] == 3);
    let coordinator = laboratory.wait_for(|event| event["event"] == "Coordinator")["worker"].as_str().unwrap().to_owned();
    let victim = (0..3).map(|slot| format!("w{slot}")).find(|worker| (*worker == coordinator) == of_the_coordinator).unwrap();
    signal(laboratory.pid(&victim, process), Signal::KILL);
    assert_eq!(code(&mut run), Some(0));
    let report = laboratory.report();
    assert_eq!(report["state"], "Complete");
    let hashes: BTreeSet<_> = hashes(&report).into_iter().collect();
    assert_eq!(hashes.len(), 1, "all that finished hold the same weights");
    assert!(
        laboratory.events().iter().any(|event| event["event"] == "Evicted" && event["worker"] == victim.as_str()),
        "the event says who"
    );
    laboratory.assert_nothing_is_left();
    (laboratory, report)
}

#[test]
fn a_killed_sidecar_is_started_again_and_its_worker_rejoins() {
    let (_laboratory, report) = survives("sidecar", false, "single");
    assert_eq!(hashes(&report).len(), 3, "the worker rejoined and finished");
}

#[test]
fn a_killed_coordinator_is_replaced() {
    let (laboratory, _) = survives("sidecar", true, "single");
    assert!(laboratory.events().iter().filter(|event| event["event"] == "Coordinator").count() > 1);
}

#[test]
fn a_killed_coordinator_is_replaced_by_the_peers_where_they_are_the_arbiter() {
    let (laboratory, _) = survives("sidecar", true, "peers");
    let events = laboratory.events();
    assert!(events.iter().filter(|event| event["event"] == "Coordinator").count() > 1);
    let last = events.iter().rfind(|event| event["event"] == "Epoch").unwrap();
    assert_eq!(last["arbiter"], "Peers");
}

#[test]
fn a_killed_trainer_comes_back_as_a_joiner() {
    let (laboratory, report) = survives("trainer", false, "single");
    assert_eq!(hashes(&report).len(), 3, "the worker rejoined and finished");
    let events = laboratory.events();
    assert!(events.iter().any(|event| event["event"] == "Synchronised"));
    assert_prefix(&events);
}

/// Committed samples are a prefix of the permutation, each once, but for what the last round's loser held.
fn assert_prefix(events: &[Value]) {
    let mut rounds = BTreeSet::new();
    let mut committed = BTreeSet::new();
    for event in events.iter().filter(|event| event["event"] == "SyncEnd") {
        if rounds.insert(event["round"].as_u64()) {
            for range in event["committedSamples"].as_array().unwrap() {
                for position in range[0].as_u64().unwrap()..range[1].as_u64().unwrap() {
                    assert!(committed.insert(position), "sample {position} was committed twice");
                }
            }
        }
    }
    let end = committed.last().unwrap() + 1;
    assert_eq!(committed.len() as u64, end, "no hole is left in the prefix");
}
