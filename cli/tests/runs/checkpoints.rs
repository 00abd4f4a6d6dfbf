//! Checkpoints of a run: it goes on from them as if it had never ended, and no store stops its training.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use atoll_test_store::{BUCKET, KEY, Server, Verdict};
use rustix::process::Signal;
use serde_json::Value;

use crate::laboratory::{Laboratory, code, signal};
use crate::training::hashes;

pub(crate) const DILOCO: &str = "{diLoCo: {innerSteps: 10, outerLearningRate: 0.7, outerMomentum: 0.5}}";
pub(crate) const FOLDER: &str = "checkpoint={uri: kept, everyRounds: 1, keep: 3}";
/// All take part in every round, or none does.
const FULL: &str = "rounds.quorum.min=2";
const STEPS: u32 = 300;

pub(crate) fn event<'a>(events: &'a [Value], name: &str) -> Option<&'a Value> {
    events.iter().find(|event| event["event"] == name)
}

/// Runs until the checkpoint of this round is there, then kills all of it.
fn killed_after(laboratory: &Laboratory, round: u64, arguments: &[&str]) {
    let mut run = laboratory.start(arguments);
    laboratory.wait_for(|event| event["event"] == "Checkpointed" && event["round"].as_u64() >= Some(round));
    signal(run.id() as i32, Signal::KILL);
    code(&mut run);
    laboratory.assert_nothing_is_left();
    fs::rename(laboratory.out(), laboratory.path().join("killed")).unwrap();
}

fn stderr(laboratory: &Laboratory, arguments: &[&str], expected: i32) -> String {
    let output = laboratory.run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(expected), "{said}");
    said
}

fn resumed(laboratory: &Laboratory, arguments: &[&str]) -> Value {
    let output = laboratory.run(&[&["--resume"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    laboratory.report()
}

#[test]
fn a_run_that_was_killed_goes_on_and_ends_with_the_same_weights() {
    for codec in ["reduction.codec=Float32", "reduction.codec=UInt8"] {
        let arguments = ["--set", FOLDER, "--set", FULL, "--set", codec];
        let laboratory = Laboratory::new(DILOCO, STEPS);
        killed_after(&laboratory, 5, &arguments);
        let report = resumed(&laboratory, &arguments);
        let events = laboratory.events();
        let from = event(&events, "Resumed").unwrap()["round"].as_u64().unwrap();
        assert!(from >= 5 && report["steps"].as_u64() == Some(u64::from(STEPS)), "{report}");
        assert_eq!(event(&events, "Committed").unwrap()["round"].as_u64(), Some(from + 1), "it does not begin again");
        let whole = Laboratory::new(DILOCO, STEPS);
        assert!(whole.run(&["--set", FULL, "--set", codec]).status.success());
        let whole = whole.report();
        assert_eq!((hashes(&report), &report["samples"]), (hashes(&whole), &whole["samples"]), "{codec}");
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_workers() {
    let laboratory = Laboratory::new(DILOCO, STEPS);
    let arguments = ["--set", FOLDER];
    killed_after(&laboratory, 2, &arguments);
    let three = ["--set", FOLDER, "--set", "workers.target=3", "--set", "workers.min=3", "--set", "stop.steps=310"];
    resumed(&laboratory, &three);
    let events = laboratory.events();
    let lost = event(&events, "PrivateStateLost").unwrap();
    assert_eq!((lost["worker"].as_str(), lost["donor"].as_u64()), (Some("w2"), Some(0)));
    let first = events.iter().find(|event| event["event"] == "Committed").unwrap();
    assert_eq!(first["slots"], serde_json::json!([0, 1]), "it is not counted before it has trained with them");
    fs::rename(laboratory.out(), laboratory.path().join("three")).unwrap();
    resumed(&laboratory, &["--set", FOLDER, "--set", "workers.target=1", "--set", "workers.min=1", "--set", "stop.steps=350"]);
    let events = laboratory.events();
    assert_eq!(event(&events, "PrivateStateDropped").unwrap()["slots"], serde_json::json!([1, 2]));
}

#[test]
fn another_run_begins_from_the_checkpoints_of_one() {
    let laboratory = Laboratory::new(DILOCO, STEPS);
    killed_after(&laboratory, 2, &["--set", FOLDER]);
    let fork = "checkpoint={uri: forked, everyRounds: 1, resumeFrom: kept}";
    let before = fs::read_dir(laboratory.path().join("kept/checkpoints")).unwrap().count();
    assert!(laboratory.run(&["--set", fork]).status.success());
    assert_eq!(fs::read_dir(laboratory.path().join("kept/checkpoints")).unwrap().count(), before);
    let events = laboratory.events();
    assert_eq!(event(&events, "Resumed").unwrap()["from"], "kept");
    let manifest = newest_manifest(&laboratory.path().join("forked"));
    assert_eq!(manifest["from"]["uri"], "kept");
}

fn newest_manifest(folder: &Path) -> Value {
    let mut manifests: Vec<_> = fs::read_dir(folder.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    manifests.sort();
    serde_json::from_slice(&fs::read(manifests.last().unwrap()).unwrap()).unwrap()
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_said() {
    let laboratory = Laboratory::new(DILOCO, STEPS);
    killed_after(&laboratory, 4, &["--set", FOLDER]);
    let kept = laboratory.path().join("kept");
    let manifest = newest_manifest(&kept);
    let shard = manifest["replicated"][0]["pieces"][0]["shard"].as_str().unwrap();
    let file = kept.join("shards").join(&shard[..2]).join(format!("{shard}.safetensors"));
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    resumed(&laboratory, &["--set", FOLDER]);
    let events = laboratory.events();
    let skipped = event(&events, "CheckpointSkipped").unwrap();
    assert_eq!(skipped["checkpoint"], manifest["place"]);
    assert!(skipped["reason"].as_str().unwrap().contains(shard), "{skipped}");
    assert!(
        event(&events, "Resumed").unwrap()["round"].as_u64().unwrap()
            < manifest["place"].as_str().unwrap()[63..].parse().unwrap()
    );
}

#[test]
fn what_the_user_has_to_correct_is_said_before_anything_starts() {
    let laboratory = Laboratory::new(DILOCO, STEPS);
    killed_after(&laboratory, 2, &["--set", FOLDER]);
    let said = stderr(&laboratory, &["--set", FOLDER], 2);
    assert!(said.contains("kept holds checkpoints of an earlier run") && said.contains("--resume"), "{said}");
    let model = "model={architecture: {llama: {layers: 1, hiddenSize: 32, heads: 2, intermediateSize: 32, contextLength: 16}}}";
    let said = stderr(&laboratory, &["--resume", "--set", FOLDER, "--set", model], 2);
    assert!(said.contains("elements in the checkpoint") && said.contains("of another model"), "{said}");
    let said = stderr(&laboratory, &["--resume", "--set", FOLDER, "--set", "method={dataParallel: {}}"], 2);
    assert!(said.contains("of another method, optimizer or codec"), "{said}");
    let said = stderr(&laboratory, &["--set", "checkpoint={uri: \"ftp://host/x\"}"], 2);
    assert!(said.contains("spec.checkpoint.uri") && said.contains("ftp:// is no kind of store"), "{said}");
    assert_eq!(said.matches("give a folder").count(), 1, "{said}");
    for (checkpoint, expected) in [
        ("{uri: \"http://127.0.0.1:1/x\"}", "spec.checkpoint.uri: a web server can only be read: http://127.0.0.1:1/x; give a"),
        ("{uri: \"s3://b/p\", endpoint: \"http://127.0.0.1:99999\"}", "spec.checkpoint.endpoint: the endpoint \"http://127."),
        ("{uri: \"http://127.0.0.1:1/x\", resumeFrom: \"ftp://h/x\"}", "spec.checkpoint.resumeFrom: ftp:// is no kind of store"),
        (
            "{uri: empty, resumeFrom: \"gs://\"}",
            "spec.checkpoint.resumeFrom: it names no bucket; give an address as in gs://BUCKET",
        ),
    ] {
        let said = stderr(&laboratory, &["--set", &format!("checkpoint={checkpoint}")], 2);
        assert!(said.contains(expected), "{said}");
    }
    let said = stderr(&laboratory, &["--resume"], 2);
    assert!(said.contains("keeps no checkpoints"), "{said}");
    let said = stderr(&laboratory, &["--set", "checkpoint={uri: empty, resumeFrom: nowhere}"], 2);
    assert!(said.contains("no checkpoint in nowhere is whole"), "{said}");
    assert!(!laboratory.out().exists(), "nothing was begun");
}

#[test]
fn a_run_whose_folder_has_no_number_left_is_refused() {
    let laboratory = Laboratory::new(DILOCO, STEPS);
    let lineages = laboratory.path().join("kept/lineages");
    fs::create_dir_all(&lineages).unwrap();
    fs::write(lineages.join("18446744073709551615.json"), "{}").unwrap();
    let said = stderr(&laboratory, &["--set", FOLDER], 2);
    assert!(said.contains("kept/lineages/18446744073709551615.json: no lineage can begin after it"), "{said}");
}

#[test]
fn a_store_that_fails_stops_no_training_and_nothing_tells_its_secret() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let laboratory = Laboratory::new(DILOCO, STEPS);
    let server = runtime.block_on(Server::start(&laboratory.path().join("store"))).unwrap();
    let keeps = format!("checkpoint={{uri: \"s3://{BUCKET}/run\", endpoint: \"{}\", everyRounds: 1}}", server.endpoint());
    let command = |more: &[&str]| {
        let mut command: Command = laboratory.command(&[&["--set", keeps.as_str()], more].concat());
        command.envs(server.environment()).env("RUST_LOG", "debug");
        command
    };
    let said = command(&[]).env("AWS_SECRET_ACCESS_KEY", "another-secret/+").output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("access is denied") && !said.contains("another-secret"), "{said}");
    // The store is well when the run begins; soon one request in three is refused for good.
    let mut count = 0;
    server.judge(move |seen| {
        count += usize::from(seen.key.starts_with("run/shards/"));
        if count > 20 && seen.key.starts_with("run/checkpoints/") { Verdict::Answer(403) } else { Verdict::Pass }
    });
    let output = command(&[]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events = laboratory.events();
    let failed = event(&events, "CheckpointFailed").unwrap();
    assert!(failed["reason"].as_str().unwrap().contains("check the credentials"), "{failed}");
    assert!(event(&events, "Checkpointed").is_some());
    let mut texts = vec![String::from_utf8_lossy(&output.stderr).into_owned()];
    let folders = [laboratory.out(), laboratory.out().join("logs")];
    for file in folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path()) {
        texts.extend(fs::read(&file).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
    }
    assert!(texts.len() > 6 && texts.iter().all(|text| !text.contains(KEY.1) && !text.contains("secret%2Ffor")));
    server.pass();
}

#[test]
fn when_nobody_is_left_all_of_it_begins_again_from_the_newest_checkpoint() {
    for process in ["trainer", "sidecar"] {
        let laboratory = Laboratory::new(DILOCO, STEPS);
        let arguments = ["--set", FOLDER, "--set", FULL];
        let mut run = laboratory.start(&arguments);
        laboratory.wait_for(|event| event["event"] == "Checkpointed" && event["round"].as_u64() >= Some(3));
        let lost = ["w0", "w1"].map(|worker| laboratory.pid(worker, process));
        for pid in lost {
            signal(pid, Signal::KILL);
        }
        assert_eq!(code(&mut run), Some(0), "{process}");
        let events = laboratory.events();
        let from = event(&events, "Resumed").unwrap()["round"].as_u64().unwrap();
        assert!(event(&events, "StateLost").is_some() && from >= 3, "{process}");
        let whole = Laboratory::new(DILOCO, STEPS);
        assert!(whole.run(&["--set", FULL]).status.success());
        assert_eq!(hashes(&laboratory.report()), hashes(&whole.report()), "{process}");
        laboratory.assert_nothing_is_left();
    }
}

#[test]
fn the_last_round_is_kept_whatever_is_due_and_a_longer_run_goes_on_from_it() {
    let laboratory = Laboratory::new(DILOCO, 65);
    let keeps = "checkpoint={uri: kept, everyRounds: 5}";
    assert!(laboratory.run(&["--set", keeps]).status.success());
    let kept = |laboratory: &Laboratory| -> Vec<u64> {
        let events = laboratory.events();
        events.iter().filter(|event| event["event"] == "Checkpointed").map(|event| event["round"].as_u64().unwrap()).collect()
    };
    assert_eq!(kept(&laboratory), [5, 7]);
    fs::rename(laboratory.out(), laboratory.path().join("short")).unwrap();
    let report = resumed(&laboratory, &["--set", keeps, "--set", "stop.steps=90"]);
    assert_eq!((report["steps"].as_u64(), kept(&laboratory)), (Some(90), vec![10]));
    fs::rename(laboratory.out(), laboratory.path().join("long")).unwrap();
    let report = resumed(&laboratory, &["--set", keeps, "--set", "stop.steps=90"]);
    assert_eq!((report["state"].as_str(), report["steps"].as_u64()), (Some("Complete"), Some(90)), "there is nothing left to do");
}

#[test]
fn one_survivor_of_four_is_enough_and_nothing_is_read_from_the_store() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let laboratory = Laboratory::new(DILOCO, STEPS);
    let server = runtime.block_on(Server::start(&laboratory.path().join("store"))).unwrap();
    let keeps = format!("checkpoint={{uri: \"s3://{BUCKET}/run\", endpoint: \"{}\", everyRounds: 1}}", server.endpoint());
    let four = ["--set", "workers.min=4", "--set", "workers.target=4"];
    let mut command = laboratory.command(&[&four[..], &["--set", keeps.as_str()]].concat());
    let mut run = command.envs(server.environment()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let kept = |event: &Value| event["event"] == "Checkpointed" && event["round"].as_u64() >= Some(3);
    laboratory.wait_for(kept);
    let lost = ["w1", "w2", "w3"].iter().flat_map(|worker| ["sidecar", "trainer"].map(|process| laboratory.pid(worker, process)));
    for pid in lost.collect::<Vec<_>>() {
        signal(pid, Signal::KILL);
    }
    assert_eq!(code(&mut run), Some(0));
    let events = laboratory.events();
    assert_eq!(event(&events, "StateLost"), None);
    let rounds: Vec<_> =
        events.iter().filter(|event| event["event"] == "Committed").map(|event| event["round"].as_u64()).collect();
    assert_eq!(rounds, (1..=u64::from(STEPS) / 10).map(Some).collect::<Vec<_>>(), "no committed round is lost");
    // Files that never change are read once by whoever names them without having written them; of the state nothing is read.
    let manifest = newest_manifest(&laboratory.path().join("store").join(BUCKET).join("run"));
    let files = manifest["files"].as_array().unwrap().iter().map(|file| file["pieces"][0]["shard"].as_str().unwrap());
    let files: Vec<_> = files.collect();
    let read = |seen: &atoll_test_store::Seen| seen.method == "GET" && seen.key.ends_with(".safetensors");
    let state = server.seen().into_iter().filter(read).find(|seen| !files.iter().any(|file| seen.key.contains(file)));
    assert_eq!(state, None);
    let hashes = hashes(&laboratory.report());
    assert!(hashes.len() == 4 && hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}

#[test]
fn who_still_reads_a_checkpoint_that_is_collected_takes_the_newer_state_from_the_others() {
    let laboratory = Laboratory::new(&DILOCO.replace("innerSteps: 10", "innerSteps: 60"), 3_000);
    let keeps = ["--set", "checkpoint={uri: kept, everyRounds: 1, keep: 1}", "--set", "workers.min=1"];
    killed_after(&laboratory, 3, &keeps);
    let mut run = laboratory.start(&[&keeps[..], &["--set", "rounds.joinWindowSeconds=1", "--resume"]].concat());
    let started = laboratory
        .wait_for(|event| event["event"] == "ProcessStarted" && event["worker"] == "w1" && event["process"] == "trainer");
    let slow = started["pid"].as_i64().unwrap() as i32;
    signal(slow, Signal::STOP);
    // The one that it was to read is removed with the first one after it.
    let resumed = laboratory.wait_for(|event| event["event"] == "Resumed")["round"].as_u64();
    laboratory.wait_for(|event| event["event"] == "Checkpointed" && event["round"].as_u64() > resumed.map(|round| round + 1));
    signal(slow, Signal::CONT);
    assert_eq!(code(&mut run), Some(0));
    let (events, hashes) = (laboratory.events(), hashes(&laboratory.report()));
    assert!(events.iter().any(|event| event["event"] == "ProcessRestarted" && event["worker"] == "w1"));
    assert!(hashes.len() == 2 && hashes[0] == hashes[1], "{hashes:?}");
    laboratory.assert_nothing_is_left();
}
