//! What is said where there is no cluster, no Atoll, no run, or no right.

use std::fs;
use std::net::TcpListener;

use crate::api_server::{ApiServer, PODS, RUNS, command, kubeconfig, refusal};

#[test]
fn an_unknown_run_is_bad_input_and_those_there_are_are_named() {
    let server = ApiServer::new();
    server.answer(&format!("GET {RUNS}/kjb"), 404, &refusal(404, "NotFound", "trainingruns \"kjb\" not found"));
    for command in ["status", "logs", "events", "top", "suspend", "resume", "checkpoint", "report"] {
        let said = server.says(&[command, "kjb"], 2);
        assert_eq!(said, "there is no run kjb in the namespace research; there are: kjv\n", "{command}");
    }
}

#[test]
fn a_cluster_without_atoll_is_told_from_one_without_the_run() {
    let server = ApiServer::new();
    for path in [format!("GET {RUNS}?"), format!("GET {RUNS}/kjv")] {
        server.answer_text(&path, 404, "404 page not found\n");
    }
    for arguments in [&["status"][..], &["status", "kjv"]] {
        let said = server.says(arguments, 1);
        assert!(said.starts_with("error: Atoll is not installed in the cluster at http://127.0.0.1:"), "{said}");
        assert!(said.contains("helm install"), "{said}");
    }
}

#[test]
fn a_missing_right_is_named_and_what_may_be_seen_is_shown() {
    let server = ApiServer::new();
    server.answer(&format!("GET {PODS}?"), 403, &refusal(403, "Forbidden", "pods is forbidden: User \"me\""));
    let text = server.prints(&["status", "kjv"]);
    assert!(text.contains("unread      you may not list the pods in the namespace research: pods is forbidden"), "{text}");
    let said = server.says(&["logs", "kjv"], 1);
    assert!(said.starts_with("error: you may not list the pods in the namespace research: "), "{said}");
    server.answer(&format!("GET {RUNS}?"), 403, &refusal(403, "Forbidden", "trainingruns is forbidden"));
    assert!(server.says(&["status"], 1).starts_with("error: you may not list the runs in the namespace research: "));
}

#[test]
fn a_cluster_that_does_not_answer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(folder.path().join("config"), kubeconfig(&format!("http://{address}"))).unwrap();
    let output = command(folder.path()).args(["status"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("http://{address}/ does not answer: Connection refused")), "{said}");
}

#[test]
fn a_kubeconfig_that_leads_nowhere_is_bad_input() {
    let server = ApiServer::new();
    let said = server.says(&["status", "--context", "prod"], 2);
    assert_eq!(said, "the kubeconfig has no context prod; it has: lab\n");
    let missing = server.folder().join("missing");
    let said = server.says(&["status", "--kubeconfig", missing.to_str().unwrap()], 2);
    assert!(said.starts_with("no cluster: ") && said.contains("cannot be read"), "{said}");
    fs::write(server.folder().join("config"), "contexts: 3").unwrap();
    let said = server.says(&["status"], 2);
    assert!(said.starts_with("no cluster: the kubeconfig cannot be used: "), "{said}");
}

#[test]
fn a_run_that_is_called_like_a_subcommand_is_meant_after_an_option() {
    let said = ApiServer::new().says(&["checkpoint", "-n", "research", "list"], 2);
    assert_eq!(said, "there is no run list in the namespace research; there are: kjv\n");
}

#[test]
fn neither_a_run_nor_a_folder_is_bad_input() {
    let said = ApiServer::new().says(&["checkpoint", "--namespace", "research"], 2);
    assert!(said.contains("give a run of a cluster, or what to do with a folder"), "{said}");
}
