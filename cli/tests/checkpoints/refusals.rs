use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;

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
        let said = Laboratory::said(laboratory.command(&[&[command, uri], needed, more].concat()));
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
    refused(&laboratory, "s3://bucket/run", &["--endpoint", &endpoint], &["must not hold a user, a password"]);
}

#[test]
fn what_is_no_endpoint_is_told_wherever_it_was_given() {
    let laboratory = Laboratory::local();
    let help = "; give http:// or https:// and a host, as in http://minio:9000";
    for endpoint in ["", "http://", "http:///", "http://[::1", "http://a b", "http://127.0.0.1:99999", "https://", "ftp://x"] {
        let said = Laboratory::said(laboratory.command(&["list", "s3://b/p", "--endpoint", endpoint]));
        told(&said, &[&format!("--endpoint: cannot open s3://b/p: the endpoint {endpoint:?} "), help]);
    }
    refused(&laboratory, "s3://b/p", &["--endpoint", "notaurl"], &["the endpoint \"notaurl\" is no URL: ", help]);
    for name in ["AWS_ENDPOINT", "AWS_ENDPOINT_URL"] {
        let mut command = laboratory.command(&["list", "s3://b/p"]);
        command.env(name, "notaurl");
        told(&Laboratory::said(command), &[&format!("{name} \"notaurl\" is no URL: "), help]);
    }
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
        let said = Laboratory::said(command);
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
    let said = Laboratory::said(command);
    assert_eq!((said.code, said.out.contains("newest")), (Some(0), true), "{said:?}");
    let missing = laboratory.run("list", &["--credentials", "nowhere"]);
    told(&missing, &["cannot read credentials of nowhere"]);
}

#[test]
fn over_http_the_newest_is_found_older_ones_by_name_and_nothing_is_removed() {
    let laboratory = Laboratory::local();
    laboratory.three();
    let uri = pages(laboratory.objects.clone());
    let on = |command: &str, more: &[&str]| Laboratory::said(laboratory.command(&[&[command, uri.as_str()], more].concat()));
    let list = on("list", &[]);
    assert!(list.out.ends_with("this is the newest: over HTTP older ones are not listed\n"), "{list:?}");
    assert!(on("show", &[]).out.starts_with("checkpoint 1-1-2-3 of http://"));
    let verified = on("verify", &["1-1-2-1"]).out;
    assert!(verified.contains(": 1 checkpoint is whole; 2 shards, "), "{verified}");
    assert!(on("verify", &[]).out.contains(": 1 checkpoint is whole; 5 shards, "));
    told(&on("show", &["1"]), &["no checkpoint of round 1", "by its name alone, as in 1-1-2-40"]);
    told(&on("prune", &["--keep", "1"]), &["over HTTP checkpoints are read only"]);
}

/// A plain web server of a folder: it knows GET, and no lists. It ends with the test's process.
fn pages(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut connection, _)) = listener.accept() {
            let lines = BufReader::new(connection.try_clone().unwrap()).lines().map(Result::unwrap_or_default);
            let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
            let path = head.first().and_then(|line| line.strip_prefix("GET /")?.split(' ').next());
            let (status, body) = match path.map(|path| fs::read(folder.join(path))) {
                Some(Ok(body)) => ("200 OK", body),
                Some(Err(_)) => ("404 Not Found", Vec::new()),
                None => ("501 Not Implemented", Vec::new()),
            };
            let when = "Thu, 01 Jan 2026 00:00:00 GMT";
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nlast-modified: {when}\r\n", body.len());
            let _gone = connection.write_all(&[head.as_bytes(), b"connection: close\r\n\r\n", &body].concat());
        }
    });
    format!("http://{address}")
}
