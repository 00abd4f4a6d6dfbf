use std::fs;

use super::laboratory::{Laboratory, Said};
use atoll_test_store::KEY;

/// Every command, with the arguments that it needs beside the address.
const COMMANDS: [(&str, &[&str]); 6] = [
    ("list", &[]),
    ("show", &[]),
    ("verify", &[]),
    ("diff", &["1", "2"]),
    ("prune", &["--keep", "1"]),
    ("export", &["--out", "model"]),
];

/// Every command refuses this address, and says this.
fn refused(laboratory: &Laboratory, uri: &str, more: &[&str], expected: &[&str]) {
    for (command, needed) in COMMANDS {
        let said = laboratory.said(laboratory.command(&[&[command, uri], needed, more].concat()));
        told(&said, expected);
    }
}

fn told(said: &Said, expected: &[&str]) {
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
    for expected in expected {
        assert!(said.error.contains(expected), "{expected}: {said:?}");
    }
}

#[test]
fn what_is_no_address_is_told_and_a_password_in_it_is_not_repeated() {
    let laboratory = Laboratory::local();
    refused(&laboratory, "ftp://host/run", &[], &["URI: ftp:// is no kind of store; give a folder"]);
    refused(&laboratory, "s3:///run", &[], &["it names no bucket"]);
    let secret = format!("s3://{}:{}@bucket/run", KEY.0, KEY.1.replace('/', "%2F"));
    refused(&laboratory, &secret, &[], &["an address has no user, password"]);
    let endpoint = format!("http://{}:{}@host", KEY.0, KEY.1.replace('/', "%2F"));
    refused(&laboratory, "s3://bucket/run", &["--endpoint", &endpoint], &["--endpoint: it has no user or password"]);
}

#[test]
fn a_folder_that_is_not_there_is_no_empty_one() {
    let laboratory = Laboratory::local();
    refused(&laboratory, "nope", &[], &["there is no folder ", "/nope; give the one"]);
    let file = laboratory.path().join("file");
    fs::write(&file, "").unwrap();
    refused(&laboratory, "file", &[], &["/file is no folder"]);
    refused(&laboratory, &format!("file://{}", file.display()), &[], &["/file is no folder"]);
}

#[test]
fn a_folder_without_checkpoints_says_so() {
    for laboratory in [Laboratory::local(), Laboratory::s3()] {
        let nothing = format!("there are no checkpoints in {}\n", laboratory.uri);
        assert_eq!(laboratory.done("list", &[]).out, nothing);
        assert_eq!(laboratory.done("list", &["--json"]).json()["checkpoints"], serde_json::json!([]));
        assert!(laboratory.done("verify", &[]).out.contains(": no checkpoints; 0 shards"));
        told(&laboratory.run("show", &[]), &[nothing.trim()]);
        told(&laboratory.run("export", &["--out", "model"]), &[nothing.trim()]);
        told(&laboratory.run("diff", &["1", "latest"]), &["no checkpoint of round 1"]);
    }
}

#[test]
fn a_checkpoint_that_is_not_there_is_named() {
    let laboratory = Laboratory::s3();
    laboratory.three();
    told(&laboratory.run("show", &["40"]), &["there is no checkpoint of round 40 in s3://bucket/research/run"]);
    told(&laboratory.run("verify", &["1-1-2-9"]), &["there is no checkpoint 1-1-2-9 in", "`atoll checkpoint list` shows"]);
    told(&laboratory.run("show", &["1-1"]), &["give LINEAGE-TERM-EPOCH-ROUND as in 1-1-2-40"]);
}

#[test]
fn a_bucket_that_is_not_there_and_credentials_that_are_refused_are_told() {
    let laboratory = Laboratory::s3();
    laboratory.three();
    refused(&laboratory, "s3://nobodys/run", &[], &["there is no such bucket", "s3://nobodys/run"]);
    for (command, needed) in COMMANDS {
        let mut command = laboratory.command(&[&[command, laboratory.uri.as_str()], needed].concat());
        command.env("AWS_SECRET_ACCESS_KEY", "another-secret/+");
        let said = laboratory.said(command);
        told(&said, &["access is denied", "check the credentials"]);
        assert!(!said.error.contains("another-secret"), "{said:?}");
    }
}

#[test]
fn credentials_come_from_a_folder_and_the_endpoint_from_an_option() {
    let laboratory = Laboratory::s3();
    laboratory.three();
    let folder = laboratory.path().join("credentials");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("AWS_ACCESS_KEY_ID"), KEY.0).unwrap();
    fs::write(folder.join("AWS_SECRET_ACCESS_KEY"), format!("{}\n", KEY.1)).unwrap();
    let endpoint = laboratory.server.as_ref().unwrap().endpoint();
    let options = ["--endpoint", &endpoint, "--region", "us-east-1", "--path-style", "true", "--credentials", "credentials"];
    let mut command = laboratory.command(&[&["list", &laboratory.uri], &options[..]].concat());
    for (name, _) in laboratory.server.as_ref().unwrap().environment() {
        command.env_remove(name);
    }
    let said = laboratory.said(command);
    assert_eq!((said.code, said.out.contains("newest")), (Some(0), true), "{said:?}");
    let missing = laboratory.run("list", &["--credentials", "nowhere"]);
    told(&missing, &["cannot read credentials of nowhere"]);
}

#[test]
fn over_http_nothing_is_removed() {
    let laboratory = Laboratory::local();
    let said = laboratory.said(laboratory.command(&["prune", "http://127.0.0.1:1/run", "--keep", "1"]));
    told(&said, &["over HTTP checkpoints are read only"]);
}
