//! Commands that only look.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::api_server::{ApiServer, PODS, RUNS, command, list, refusal, run, running};

const LOG: &str = "{\"time\":\"t\",\"worker\":\"w0\",\"event\":\"SyncEnd\",\"round\":2,\"loss\":3.5}\n\
    {\"time\":\"t\",\"worker\":\"w0\",\"event\":\"SyncEnd\",\"round\":3,\"loss\":2.5}\n";

fn with_log() -> ApiServer {
    let server = ApiServer::new();
    server.answer_text(&format!("GET {PODS}/kjv-local-0-abcde/log?"), 200, LOG);
    server
}

#[test]
fn runs_of_the_contexts_namespace_or_of_all_are_listed() {
    let server = ApiServer::new();
    let text = server.prints(&["status"]);
    assert!(text.starts_with("NAME   STATE     WORKERS   ROUND"), "{text}");
    assert!(text.contains("\nkjv    Running   1/1       3       2.5000   60%"), "{text}");
    server.answer("GET /apis/atoll.dev/v1alpha1/trainingruns?", 200, &list(&[run(&running())]));
    assert!(server.prints(&["status", "-A"]).contains("\nresearch    kjv"));
    server.answer("GET /apis/atoll.dev/v1alpha1/namespaces/other/trainingruns?", 200, &list(&[]));
    assert_eq!(server.prints(&["status", "-n", "other"]), "there are no runs in the namespace other\n");
}

#[test]
fn one_run_is_shown_with_its_losses_and_its_worker() {
    let text = with_log().prints(&["status", "kjv"]);
    assert!(text.starts_with("kjv in research: Running, attempt 1"), "{text}");
    assert!(text.contains("2.5000  \u{2588}\u{2581}  rounds 2 to 3"), "{text}");
    assert!(text.contains("w0*      kjv-local-0-abcde   node-1   Running   0"), "{text}");
}

#[test]
fn a_log_that_may_not_be_read_leaves_the_sparkline_out() {
    let server = ApiServer::new();
    server.answer(&format!("GET {PODS}/kjv-local-0-abcde/log?"), 403, &refusal(403, "Forbidden", "no logs"));
    let text = server.prints(&["status", "kjv"]);
    assert!(text.contains("  loss        2.5000\n"), "{text}");
}

#[test]
fn programs_are_given_json() {
    let value: Value = serde_json::from_str(&with_log().prints(&["status", "kjv", "--json"])).unwrap();
    assert_eq!(value["losses"], json!([{ "round": 2, "loss": 3.5 }, { "round": 3, "loss": 2.5 }]));
    assert_eq!((value["phase"].as_str(), value["workers"][0]["name"].as_str()), (Some("Running"), Some("w0")));
    let value: Value = serde_json::from_str(&with_log().prints(&["status", "--json"])).unwrap();
    assert_eq!((value[0]["name"].as_str(), value[0]["progress"]["round"].as_i64()), (Some("kjv"), Some(3)));
}

#[test]
fn a_watch_ends_with_the_run() {
    let server = with_log();
    let mut over = running();
    over["phase"] = json!("Complete");
    over["result"] = json!({ "weightsHash": "ab12" });
    server.answer(&format!("GET {RUNS}/kjv"), 200, &run(&over));
    assert!(server.prints(&["status", "kjv", "--watch"]).contains("result      weightsHash ab12"));
}

#[test]
fn an_interrupted_watch_ends_with_its_own_code() {
    let server = with_log();
    let mut watch = command(server.folder()).args(["status", "kjv", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(watch.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("kjv in research: Running"), "{line}");
    let process = rustix::process::Pid::from_child(&watch);
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(130));
}

#[test]
fn a_run_without_pods_has_no_logs() {
    let server = ApiServer::new();
    let mut over = running();
    over["phase"] = json!("Complete");
    server.answer(&format!("GET {RUNS}/kjv"), 200, &run(&over));
    server.answer(&format!("GET {PODS}?"), 200, &list(&[]));
    let said = server.says(&["logs", "kjv"], 1);
    assert_eq!(said, "error: no logs of the run kjv: it is Complete and has no pods, and what its pods said went with them\n");
}

#[test]
fn logs_are_prefixed_where_several_workers_may_speak() {
    let server = with_log();
    let text = server.prints(&["logs", "kjv"]);
    assert!(text.lines().count() == 2 && text.lines().all(|line| line.starts_with("[w0] {")), "{text}");
    assert_eq!(server.prints(&["logs", "kjv", "--worker", "w0", "--container", "sidecar"]), LOG);
    let said = server.says(&["logs", "kjv", "--worker", "w7"], 2);
    assert_eq!(said, "the run kjv has no worker w7; there are: w0\n");
}

#[test]
fn following_ends_when_the_run_is_over_and_all_was_read() {
    let server = with_log();
    let mut over = running();
    over["phase"] = json!("Complete");
    server.answer(&format!("GET {RUNS}/kjv"), 200, &run(&over));
    assert_eq!(server.prints(&["logs", "kjv", "--worker", "w0", "--follow"]), LOG);
}

#[test]
fn events_of_the_run_are_printed() {
    let text = ApiServer::new().prints(&["events", "kjv"]);
    assert!(text.contains("Normal   Admitted   TrainingRun/kjv   the runtime was kept"), "{text}");
}

#[test]
fn top_says_which_source_is_missing_and_shows_the_other() {
    let server = ApiServer::new();
    let page = "atoll_round 3\natoll_rounds_committed_total 2\natoll_wire_bytes_total{direction=\"sent\"} 4096\n";
    server.answer_text(&format!("GET {PODS}/kjv-local-0-abcde:7472/proxy/metrics"), 200, page);
    let output = server.atoll(&["top", "kjv"]);
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(said, "no processor and memory: this cluster serves no metrics.k8s.io; metrics-server does\n");
    assert!(
        text.contains("w0       kjv-local-0-abcde   -         -        -         -        3       2.0 KiB      0 B"),
        "{text}"
    );
    server.answer_text(&format!("GET {PODS}/kjv-local-0-abcde:7472/proxy/metrics"), 503, "no route");
    let used = json!({ "items": [{ "metadata": { "name": "kjv-local-0-abcde" }, "containers": [
        { "name": "trainer", "usage": { "cpu": "300m", "memory": "64Mi" } },
    ] }] });
    server.answer("GET /apis/metrics.k8s.io/v1beta1/namespaces/research/pods?labelSelector=atoll.dev%2Frun%3Dkjv", 200, &used);
    let output = server.atoll(&["top", "kjv"]);
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(said.starts_with("no bytes of w0: ") && said.contains("network policies"), "{said}");
    assert!(text.contains("300m      64.0 MiB"), "{text}");
}

#[test]
fn a_report_is_one_document() {
    let server = with_log();
    let text = server.prints(&["report", "kjv"]);
    assert!(text.starts_with("# Run kjv in research\n"), "{text}");
    assert!(text.contains("| `checkpoint.uri` | s3://models/kjv |"), "{text}");
    assert!(text.contains("| TrainingRun/kjv Admitted | the runtime was kept |"), "{text}");
    let value: Value = serde_json::from_str(&server.prints(&["report", "kjv", "--json"])).unwrap();
    assert_eq!(value["spec"]["stop"]["steps"], 100);
    assert_eq!(value["timeline"].as_array().unwrap().len(), 3);
}
