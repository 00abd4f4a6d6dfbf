//! The contract of a store, tried on a server that others wrote: moto, in Python.

use std::{
    fs::File,
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    figures::{Figure, Figures},
    process::{Process, cargo, output, tail},
    python,
    tally::Tally,
};

const REQUIREMENTS: &str = "xtask/reference/store/requirements.txt";
const BUCKET: &str = "bucket";
const STARTING: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_mins(20);
/// Tests of the contract that reach a store.
const FEWEST: f64 = 15.0;
/// Makes the bucket, with the client that comes along.
const MAKE_BUCKET: &str = "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1]).create_bucket(Bucket=sys.argv[2])";

/// Starts moto, and runs the contract's tests on it too.
pub(crate) fn perform() -> Result<Tally> {
    let python = python::environment("moto", REQUIREMENTS)?;
    let folder = super::folder("moto-")?;
    let log = folder.path().join("log");
    let port = free_port()?;
    let mut command = Command::new(&python);
    command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]).stdin(Stdio::null());
    let mut server =
        Process::start("moto", command.stdout(File::create(&log)?).stderr(File::create(folder.path().join("errors"))?))?;
    let listens = || Ok(TcpStream::connect(("127.0.0.1", port)).ok());
    server.until(STARTING, listens).with_context(|| tail(&log, 20))?;
    let endpoint = format!("http://127.0.0.1:{port}");
    let environment = [
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret-of-moto"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
    ];
    let mut bucket = Command::new(&python);
    output("bucket", bucket.args(["-c", MAKE_BUCKET, &endpoint, BUCKET]).envs(environment), STARTING)?;
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--test", "contract"]).envs(environment);
    let said = output("contract", tests.env("ATOLL_TEST_STORE", format!("s3://{BUCKET}/contract")), LIMIT)?;
    Ok(Figures(vec![Figure::at_least("tests of the contract that passed", passed(&said), FEWEST)]).conclude("second opinion"))
}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no port is free")?;
    Ok(listener.local_addr()?.port())
}

/// `test result: ok. 26 passed; 0 failed; ...`; not a number where it says nothing like it.
fn passed(said: &str) -> f64 {
    let line = said.lines().rfind(|line| line.starts_with("test result: ok. "));
    line.and_then(|line| line.split(' ').nth(3)?.parse().ok()).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_is_read_and_what_failed_is_no_number() {
        assert_eq!(passed("running 3 tests\ntest result: ok. 3 passed; 0 failed; 0 ignored\n") as u64, 3);
        assert!(passed("test result: FAILED. 2 passed; 1 failed").is_nan() && passed("").is_nan());
    }
}
