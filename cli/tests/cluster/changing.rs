//! Commands that ask something of a run.

use serde_json::{Value, json};

use crate::api_server::{ApiServer, RUNS, condition, run, running};

fn suspended() -> Value {
    let mut status = running();
    status["phase"] = json!("Suspended");
    status["conditions"] = json!([condition("Suspended", "True", "Suspended", "it goes on from the checkpoint of round 3")]);
    status
}

#[test]
fn suspension_changes_one_field_and_is_waited_for() {
    let server = ApiServer::new();
    assert_eq!(server.prints(&["suspend", "kjv"]), "kjv: to be suspended\n");
    assert_eq!(server.patches(), [json!({ "spec": { "suspend": true } })]);
    server.answer_after_patch(&format!("GET {RUNS}/kjv"), &run(&suspended()));
    let text = server.prints(&["suspend", "kjv", "--wait"]);
    assert_eq!(text, "kjv: suspended; it goes on from the checkpoint of round 3\n");
}

#[test]
fn a_suspended_run_goes_on() {
    let server = ApiServer::new();
    let mut stopped = run(&suspended());
    stopped["spec"]["suspend"] = json!(true);
    server.answer(&format!("GET {RUNS}/kjv"), 200, &stopped);
    server.answer_after_patch(&format!("GET {RUNS}/kjv"), &run(&running()));
    let text = server.prints(&["resume", "kjv", "--wait"]);
    assert_eq!(text, "kjv: going on; Running, 1 of 1 workers ready, round 3\n");
    assert_eq!(server.patches(), [json!({ "spec": { "suspend": false } })]);
}

#[test]
fn a_wait_that_takes_too_long_fails_and_says_what_the_run_does() {
    let server = ApiServer::new();
    let said = server.says(&["suspend", "kjv", "--wait", "--timeout", "0"], 1);
    assert_eq!(said, "error: kjv: not after 0 seconds: Running, 1 of 1 workers ready, round 3\n");
}

#[test]
fn a_checkpoint_of_the_present_round_is_asked_for_and_waited_for() {
    let server = ApiServer::new();
    let mut kept = running();
    kept["lastCheckpoint"] = json!({ "place": "e1-r4", "round": 4 });
    server.answer_after_patch(&format!("GET {RUNS}/kjv"), &run(&kept));
    assert_eq!(server.prints(&["checkpoint", "kjv", "--wait"]), "kjv: checkpoint of round 4, e1-r4\n");
    assert_eq!(server.patches(), [json!({ "metadata": { "annotations": { "atoll.dev/checkpoint-round": "3" } } })]);
}

#[test]
fn a_run_that_is_over_is_not_changed() {
    let server = ApiServer::new();
    let mut over = running();
    over["phase"] = json!("Complete");
    server.answer(&format!("GET {RUNS}/kjv"), 200, &run(&over));
    assert_eq!(server.says(&["suspend", "kjv"], 2), "the run kjv is over: Complete\n");
    let said = server.says(&["checkpoint", "kjv"], 2);
    assert_eq!(said, "the run kjv makes no checkpoint now: it is Complete; the last is of round 2\n");
    assert!(server.patches().is_empty());
}
