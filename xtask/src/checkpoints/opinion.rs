//! The contract of a store, tried on servers that others wrote: moto for S3, in Python, and Azurite for Azure, in JavaScript.

use std::{
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    figures::{Figure, Figures},
    paths,
    process::{Process, cargo, output, tail},
    python,
    tally::Tally,
};

const REQUIREMENTS: &str = "xtask/reference/store/requirements.txt";
/// Azurite, and the client that makes a container in it.
const PACKAGES: [&str; 2] = ["azurite@3.35.0", "@azure/storage-blob@12.32.0"];
const BUCKET: &str = "bucket";
const STARTING: Duration = Duration::from_secs(30);
const INSTALLING: Duration = Duration::from_mins(5);
const LIMIT: Duration = Duration::from_mins(20);
/// Tests of the contract that reach a store.
const FEWEST: f64 = 15.0;
/// Makes the bucket, with the client that comes along.
const MAKE_BUCKET: &str = "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1]).create_bucket(Bucket=sys.argv[2])";
const MAKE_CONTAINER: &str = "const { BlobServiceClient } = require('@azure/storage-blob');
BlobServiceClient.fromConnectionString('UseDevelopmentStorage=true').getContainerClient(process.argv[1]).create()
    .catch(error => { console.error(error); process.exit(1); });";
/// Where clients look for Azurite.
const AZURITE_PORT: u16 = 10_000;

/// A server, and what its clients need.
struct Server {
    _process: Process,
    /// Where the contract's tests may write.
    address: String,
    environment: Vec<(&'static str, String)>,
}

/// Starts each, and runs the contract's tests on it too.
pub(crate) fn perform() -> Result<Tally> {
    let folder = super::folder("opinion-")?;
    let mut figures = Vec::new();
    for (name, start) in [("moto", moto as fn(&Path) -> Result<Server>), ("Azurite", azurite)] {
        let server = start(folder.path())?;
        let mut tests = cargo();
        tests.args(["test", "--workspace", "--test", "contract"]).envs(server.environment.iter().cloned());
        let said = output("contract", tests.env("ATOLL_TEST_STORE", &server.address), LIMIT)?;
        figures.push(Figure::at_least(format!("tests of the contract that passed on {name}"), passed(&said), FEWEST));
    }
    Ok(Figures(figures).conclude("second opinion"))
}

fn moto(folder: &Path) -> Result<Server> {
    let python = python::environment("moto", REQUIREMENTS)?;
    let port = free_port()?;
    let mut command = Command::new(&python);
    command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
    let process = started("moto", &mut command, port, folder)?;
    let endpoint = format!("http://127.0.0.1:{port}");
    let environment = vec![
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret-of-moto".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
        ("AWS_ENDPOINT_URL", endpoint.clone()),
    ];
    let mut bucket = Command::new(&python);
    output("bucket", bucket.args(["-c", MAKE_BUCKET, &endpoint, BUCKET]).envs(environment.iter().cloned()), STARTING)?;
    Ok(Server { _process: process, address: format!("s3://{BUCKET}/contract"), environment })
}

fn azurite(folder: &Path) -> Result<Server> {
    let packages = packages()?;
    let mut command = Command::new("node");
    command.arg(packages.join("node_modules/azurite/dist/src/blob/main.js"));
    command.args(["--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]);
    command.args(["--blobHost", "127.0.0.1", "--blobPort", &AZURITE_PORT.to_string()]).current_dir(folder);
    let process = started("azurite", &mut command, AZURITE_PORT, folder)?;
    let mut container = Command::new("node");
    output("container", container.args(["-e", MAKE_CONTAINER, BUCKET]).current_dir(&packages), STARTING)?;
    let environment =
        vec![("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()), ("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1".to_owned())];
    Ok(Server { _process: process, address: format!("az://{BUCKET}/contract"), environment })
}

/// The folder of the packages, which are installed where they are not there yet.
fn packages() -> Result<PathBuf> {
    let folder = paths::target().join("azurite");
    let (installed, wanted) = (folder.join("installed"), PACKAGES.join("\n"));
    if fs::read_to_string(&installed).is_ok_and(|before| before == wanted) {
        return Ok(folder);
    }
    fs::create_dir_all(&folder)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(&folder).args(PACKAGES);
    output("npm", &mut npm, INSTALLING)?;
    fs::write(installed, wanted)?;
    Ok(folder)
}

/// Starts a server, and waits until it listens.
fn started(name: &str, command: &mut Command, port: u16, folder: &Path) -> Result<Process> {
    let log = folder.join(format!("{name}.log"));
    let errors = File::create(folder.join(format!("{name}.errors")))?;
    let mut process = Process::start(name, command.stdin(Stdio::null()).stdout(File::create(&log)?).stderr(errors))?;
    let listens = || Ok(TcpStream::connect(("127.0.0.1", port)).ok());
    process.until(STARTING, listens).with_context(|| tail(&log, 20))?;
    Ok(process)
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
