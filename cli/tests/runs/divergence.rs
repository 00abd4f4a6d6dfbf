//! What becomes of a run whose loss leaps.

use std::fs;

use serde_json::Value;

use crate::checkpoints::{DILOCO, FOLDER, event};
use crate::laboratory::Laboratory;

/// A learning rate at which a tiny model's loss rises from the first rounds on.
const WILD: [&str; 2] = ["--set", "optimizer={adamW: {learningRate: 10}}"];

fn policy(name: &str) -> String {
    format!("divergence={{policy: {name}, spikeFactor: 1.05, windowRounds: 3}}")
}

#[test]
fn a_round_in_which_training_diverges_is_skipped_and_the_run_ends_well() {
    let laboratory = Laboratory::new(DILOCO, 100);
    let output = laboratory.run(&[&WILD[..], &["--set", policy("SkipRound").as_str()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events = laboratory.events();
    let diverged = event(&events, "Diverged").unwrap();
    assert_eq!((diverged["policy"].as_str(), diverged["spikeFactor"].as_f64()), (Some("SkipRound"), Some(1.05)));
    assert!(diverged["loss"].is_string(), "{diverged}");
    assert_eq!(laboratory.report()["steps"], 100);
}

#[test]
fn a_run_that_diverges_is_suspended_or_goes_back_behind_the_samples_that_led_there() {
    let laboratory = Laboratory::new(DILOCO, 100);
    let suspend = policy("Suspend");
    let output = laboratory.run(&[&WILD[..], &["--set", suspend.as_str(), "--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["state"], "Suspended");
    assert!(report["failure"].as_str().unwrap().contains("diverged in round"), "{report}");
    fs::rename(laboratory.out(), laboratory.path().join("suspended")).unwrap();
    // It goes back until there is nowhere else to go, and says so.
    let rollback = policy("Rollback");
    laboratory.run(&[&WILD[..], &["--set", FOLDER, "--set", rollback.as_str()]].concat());
    let events = laboratory.events();
    let at = |name: &str| events.iter().position(|event| event["event"] == name).unwrap();
    let diverged = &events[at("Diverged")];
    let resumed = &events[at("Resumed")];
    assert!(resumed["round"].as_u64() < diverged["round"].as_u64(), "{resumed} after {diverged}");
    let next = events[at("Resumed")..].iter().find(|event| event["event"] == "Committed");
    if let Some(next) = next {
        let first = next["committedSamples"][0][0].as_u64().unwrap();
        assert!(first >= diverged["samplesEnd"].as_u64().unwrap(), "{next}");
    }
}
