//! Frames of each release, recorded in `fuzz/frames`: understood by today's code, and recorded once for a new release.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    paths,
    process::{Process, cargo, run_lines},
    tally::{Tally, TestOutput},
};

/// Longest time for a build and the check.
const LIMIT: Duration = Duration::from_hours(1);

/// Records the frames of `release`, where one is given, and checks those of all.
pub(crate) fn perform(release: Option<&str>) -> Result<Tally> {
    let folder = paths::root().join("fuzz/frames");
    if let Some(release) = release {
        record(release)?;
    }
    let mut command = cargo();
    command.args(["test", "--quiet", "--package", "atoll-fuzz", "--test", "frames"]);
    let mut said = TestOutput::default();
    let status = run_lines("frames", &mut command, LIMIT, |line| said.take(line))?;
    let releases = folder.read_dir().with_context(|| format!("cannot list {}", folder.display()))?.count();
    println!(
        "frames: {releases} releases recorded, {}, {}",
        said.tally,
        if status.success() { "all hold" } else { "FALLS SHORT" }
    );
    Ok(Tally::of(status.success()))
}

fn record(release: &str) -> Result<()> {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    ensure!(release.split('.').count() == 3 && release.split('.').all(number), "{release} is not a release such as 0.1.0");
    let folder = paths::root().join("fuzz/frames").join(release);
    ensure!(!folder.exists(), "{release} is recorded already: what was sent does not change");
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "atoll-fuzz", "--example", "record", "--"]).arg(&folder);
    let status = Process::start("record", command.stdin(Stdio::null()))?.wait(LIMIT, || Ok(()))?;
    ensure!(status.success(), "record: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_releases_that_are_none_yet_are_recorded() {
        for wrong in ["", "1", "0.1", "v0.1.0", "0.1.", "../../x"] {
            assert!(record(wrong).unwrap_err().to_string().contains("is not a release"), "{wrong}");
        }
        assert!(record("0.1.0").unwrap_err().to_string().contains("recorded already"));
    }
}
