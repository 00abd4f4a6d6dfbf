//! Bad input ends in exit code 2, says where and what would be right, and leaves nothing.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use crate::laboratory::Laboratory;

/// Runs with arguments that must be refused; returns what was said.
fn refused(laboratory: &Laboratory, arguments: &[&str]) -> String {
    let output = laboratory.run(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(!laboratory.out().exists(), "nothing is left behind: {text}");
    text
}

fn laboratory() -> Laboratory {
    Laboratory::new("{diLoCo: {innerSteps: 10}}", 20)
}

#[test]
fn mistakes_in_the_file_are_named_with_line_and_field() {
    let cases = [
        ("{diLoCo: {innerSteps: 10}, fedAvg: {innerSteps: 10}}", "spec.method"),
        ("{}", "spec.method"),
        ("{diLoCo: {innerSteps: many}}", "spec.method.diLoCo.innerSteps"),
        ("{diLoCo: {innersteps: 10}}", "innerSteps"),
    ];
    for (method, expected) in cases {
        let text = refused(&Laboratory::new(method, 20), &[]);
        assert!(text.starts_with("run.yaml:8:"), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    let text = refused(&laboratory(), &["--set", "workers.min=5"]);
    assert!(text.contains("spec.workers") && text.contains("workers.target"), "{text}");
}

#[test]
fn data_that_cannot_be_used_is_named() {
    let laboratory = laboratory();
    let cases: [(&str, Option<&[u8]>, &str); 4] = [
        ("missing.txt", None, "no such file"),
        ("empty.txt", Some(b""), "no text"),
        ("latin.txt", Some(b"a caf\xe9"), "UTF-8"),
        ("short.txt", Some(b"abc"), "tokens"),
    ];
    for (name, content, expected) in cases {
        if let Some(content) = content {
            fs::write(laboratory.path().join(name), content).unwrap();
        }
        let text = refused(&laboratory, &["--set", &format!("dataset.source.uri={name}")]);
        assert!(text.contains("spec.dataset.source.uri") && text.contains(expected), "{text}");
    }
    let text = refused(&laboratory, &["--set", "model.architecture.llama.contextLength=4096"]);
    assert!(text.contains("tokens") && text.contains("contextLength"), "{text}");
}

#[test]
fn a_port_or_socket_in_use_is_named() {
    let laboratory = laboratory();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    assert!(refused(&laboratory, &["--port", &port]).contains(&port));
    let beyond = refused(&laboratory, &["--port", "65535"]);
    assert!(beyond.contains("port 65536 of worker w1: the last port there is is 65535"), "{beyond}");
    let _socket = UnixListener::bind(laboratory.path().join("w1.sock")).unwrap();
    let text = refused(&laboratory, &["--socket-dir", "."]);
    assert!(text.contains("w1.sock: in use"), "{text}");
}

#[test]
fn an_output_that_is_no_folder_is_refused() {
    let laboratory = laboratory();
    fs::write(laboratory.out(), "").unwrap();
    let output = laboratory.run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a folder"));
}

#[test]
fn a_missing_run_file_is_named() {
    let laboratory = laboratory();
    fs::remove_file(laboratory.path().join("run.yaml")).unwrap();
    assert!(refused(&laboratory, &[]).starts_with("run.yaml: cannot be read"));
}

#[test]
fn a_name_a_socket_and_a_recording_that_are_none_are_named() {
    let cases: [(&[&str], &str); 3] = [
        (&["sidecars", "--run", "BAD"], "--run: the run name \"BAD\" is not a DNS label"),
        (&["recover", "nope.sock"], "nope.sock: no sidecar listens there: No such file"),
        (&["replay", "nope.jsonl"], "nope.jsonl: cannot be read: No such file"),
    ];
    for (arguments, expected) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_atoll")).args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.starts_with(expected) && text.matches("os error").count() <= 1, "{text}");
    }
}
