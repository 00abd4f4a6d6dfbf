//! The table of cases on a real API server, and what kubectl makes of the kinds. Needs no controller and no node:
//!
//! `KUBECONFIG=F cargo test -p atoll-crds --test api_server -- --ignored`, with kubectl in PATH or named by `KUBECTL`. Objects go to
//! the namespace `atoll-cases`, which stays, and are deleted again.

mod cases;

use std::{
    io::Write as _,
    process::{Command, Stdio},
    sync::LazyLock,
};

use atoll_crds::CRDS;
use serde_json::{Value, json};

use crate::cases::{CASES, Cases, patched};

const NAMESPACE: &str = "atoll-cases";

/// All kinds and the namespace are there from the first use on.
static SERVER: LazyLock<Kubectl> = LazyLock::new(|| {
    assert!(std::env::var_os("KUBECONFIG").is_some(), "set KUBECONFIG to a cluster for tests");
    let kubectl = Kubectl { program: std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into()) };
    for crd in CRDS {
        kubectl.must(&["apply", "-f", "-"], crd.text);
    }
    for crd in CRDS {
        kubectl.must(&["wait", "--for=condition=Established", "--timeout=30s", "-f", "-"], crd.text);
    }
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    kubectl.must(&["apply", "-f", "-"], &namespace.to_string());
    kubectl
});

struct Kubectl {
    program: String,
}

impl Kubectl {
    /// What it prints, or what it says is wrong.
    fn run(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new(&self.program)
            .args(["--namespace", NAMESPACE])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        child.stdin.take().expect("its input is a pipe").write_all(input.as_bytes()).expect("kubectl reads");
        let output = child.wait_with_output().expect("kubectl ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("kubectl writes UTF-8");
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn must(&self, arguments: &[&str], input: &str) -> String {
        self.run(arguments, input).unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}\n{input}"))
    }

    /// Applies an object as a user does; with `dry`, the server only says whether it would.
    fn apply(&self, object: &Value, dry: bool) -> Result<String, String> {
        let dry: &[&str] = if dry { &["--dry-run=server"] } else { &[] };
        self.run(&[&["apply", "-f", "-"], dry].concat(), &object.to_string())
    }

    fn delete(&self, object: &Value) {
        self.must(&["delete", "--ignore-not-found", "-f", "-"], &object.to_string());
    }
}

/// Whether the server refuses with the message of `rule`, and of no other.
fn is_refused_by(refusal: &Result<String, String>, rule: &str, cases: &Cases) -> bool {
    let Err(said) = refusal else { return false };
    said.contains(rule) && cases.rules().all(|other| rule.contains(other) || !said.contains(other))
}

#[test]
#[ignore = "needs an API server"]
fn it_decides_every_case_as_the_table_says() {
    new_objects();
    changes_of_stored_objects();
}

fn new_objects() {
    for cases in CASES.values() {
        for change in &cases.accepted {
            SERVER.apply(&cases.changed(change), true).unwrap_or_else(|error| panic!("{change}: {error}"));
        }
        for case in &cases.refused {
            let refusal = SERVER.apply(&cases.changed(&case.change), true);
            let rule = case.server.as_ref().unwrap_or(&case.rule);
            assert!(is_refused_by(&refusal, rule, cases), "{rule}\n{}\n{refusal:?}", case.change);
        }
        for case in &cases.refused_by_schema {
            let refusal = SERVER.apply(&cases.changed(&case.change), true);
            assert!(refusal.as_ref().is_err_and(|said| said.contains(&case.field)), "{}\n{refusal:?}", case.change);
        }
    }
}

fn changes_of_stored_objects() {
    for cases in CASES.values() {
        for case in cases.changes.accepted.iter().chain(&cases.changes.refused) {
            let (before, after) = cases.before_and_after(case);
            SERVER.apply(&before, false).unwrap_or_else(|error| panic!("{}: {error}", case.from));
            let answer = SERVER.apply(&after, false);
            let as_said = if case.rule.is_empty() { answer.is_ok() } else { is_refused_by(&answer, &case.rule, cases) };
            assert!(as_said, "{}\n{} to {}\n{answer:?}", case.rule, case.from, case.to);
            SERVER.delete(&before);
        }
    }
}

#[test]
#[ignore = "needs an API server"]
fn a_run_is_scaled_within_its_bounds() {
    let cases = &CASES["TrainingRun"];
    let run = cases.changed(&json!({ "metadata": { "name": "scaled" } }));
    SERVER.apply(&run, false).unwrap();
    SERVER.must(&["scale", "trun/scaled", "--replicas=3"], "");
    assert_eq!(SERVER.must(&["get", "trun", "scaled", "-o", "jsonpath={.spec.workers.target}"], ""), "3");
    let refused = SERVER.run(&["scale", "trun/scaled", "--replicas=1"], "");
    assert!(is_refused_by(&refused, "workers.min must be at most workers.target", cases), "{refused:?}");
    SERVER.delete(&run);
}

#[test]
#[ignore = "needs an API server"]
fn a_status_is_written_apart_shown_in_columns_and_selected_by_its_phase() {
    let run = CASES["TrainingRun"].changed(&json!({ "metadata": { "name": "shown" } }));
    let status = json!({
        "phase": "Running", "attempt": 2,
        "workers": { "ready": 3, "desired": 4, "summary": "3/4" },
        "progress": { "round": 17, "lossText": "2.345", "percent": 34 },
        "lastCheckpoint": { "round": 10 },
    });
    SERVER.apply(&patched(&run, &json!({ "status": status })), false).unwrap();
    assert_eq!(SERVER.must(&["get", "trun", "shown", "-o", "jsonpath={.status}"], ""), "", "apply does not write a status");
    let patch = json!({ "status": status }).to_string();
    SERVER.must(&["patch", "trun", "shown", "--subresource=status", "--type=merge", "-p", &patch], "");

    let selected = |phase: &str| SERVER.must(&["get", "trun", "-o", "wide", "--field-selector", phase], "");
    let table = selected("status.phase=Running,metadata.name=shown");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "STATE", "WORKERS", "ROUND", "LOSS", "DONE", "AGE", "CHECKPOINT", "ATTEMPT", "REASON"]);
    assert_eq!(rows[1][..6], ["shown", "Running", "3/4", "17", "2.345", "34"]);
    assert_eq!(rows[1][7..], ["10", "2"]);
    assert_eq!(selected("status.phase=Failed,metadata.name=shown"), "");
    SERVER.delete(&run);
}

#[test]
#[ignore = "needs an API server"]
fn explain_knows_every_kind_by_its_short_name() {
    let fields = SERVER.must(&["explain", "trainingrun.spec.rounds", "--recursive"], "");
    for words in ["joinWindowSeconds", "Who must take part in a round", "enum: Wait, Drop"] {
        assert!(fields.contains(words), "{fields}");
    }
    let words = SERVER.must(&["explain", "trun.spec.workers.min"], "");
    assert!(words.contains("Workers that must have joined before the first round begins."), "{words}");
    for kind in ["trun", "ctruntime", "truntime", "tisland", "tckpt"] {
        for part in ["spec", "status"] {
            let words = SERVER.must(&["explain", &format!("{kind}.{part}")], "");
            assert!(!words.contains("<empty>") && !words.contains("<no description>"), "{words}");
        }
    }
    assert!(SERVER.run(&["get", "training"], "").is_ok(), "all kinds are of one category");
}
