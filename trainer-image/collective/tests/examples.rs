//! The crate's examples, as processes.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Beside the tests, where cargo puts the examples that it builds with them.
fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(program.exists(), "{} is built by `cargo test --package atoll-collective`", program.display());
    program
}

#[test]
fn the_machines_commit_a_round() {
    let output = Command::new(example("one_round")).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    for slot in [0, 1] {
        assert!(printed.contains(&format!("w{slot}: round 1 was committed in epoch 1 by [0, 1]")), "{printed}");
    }
}

#[test]
fn two_processes_print_the_same_mean() {
    let program = example("two_terminals");
    let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = free.each_ref().map(|listener| listener.local_addr().unwrap().to_string());
    drop(free);
    let started = ["0", "1"].map(|slot| {
        let mut command = Command::new(&program);
        command.arg(slot).args(&addresses).stdout(Stdio::piped()).spawn().unwrap()
    });
    let printed = started.map(|process| {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", output.status);
        String::from_utf8(output.stdout).unwrap()
    });
    assert_eq!(printed[0], printed[1]);
    assert!(printed[0].starts_with("last element 149998.5, hash "), "{}", printed[0]);
}

#[test]
fn the_example_has_at_most_40_lines() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/two_terminals.rs");
    assert!(std::fs::read_to_string(source).unwrap().lines().count() <= 40);
}
