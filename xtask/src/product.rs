//! The release build of `atoll`, as a user runs it.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::{
    paths,
    process::{Process, cargo, children_cpu_seconds, tail},
    report::Report,
};

/// Longest time for a build; a cold one on a busy machine takes many minutes.
const BUILD_LIMIT: Duration = Duration::from_hours(1);

/// Builds release programs; does nothing where they are newer than their sources.
pub(crate) fn build(packages: &[&str]) -> Result<()> {
    release(packages.iter().flat_map(|package| ["--package", *package]))
}

/// The same, with an example of another package.
pub(crate) fn build_with_example(program: &str, (package, example): (&str, &str)) -> Result<()> {
    // One after the other: an example has what only tests need of every package that is built with it, the program too.
    build(&[program])?;
    release(["--package", package, "--example", example].into_iter())
}

fn release<'a>(arguments: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--release", "--quiet"]).args(arguments);
    let status = Process::start("release build", command.stdin(Stdio::null()))?.wait(BUILD_LIMIT, || Ok(()))?;
    if !status.success() {
        bail!("release build: {status}");
    }
    Ok(())
}

/// One `atoll run`.
#[derive(Debug)]
pub(crate) struct Run {
    /// How it is called in messages.
    pub(crate) name: String,
    file: PathBuf,
    /// Its output folder, which it makes.
    pub(crate) output: PathBuf,
    settings: Vec<String>,
    environment: Vec<(String, String)>,
    resumes: bool,
    script: Option<PathBuf>,
    /// Its folder for temporary files: sockets have short names only.
    temporary: TempDir,
}

/// A run that ended with exit code 0.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finished {
    pub(crate) report: Report,
    pub(crate) wall_seconds: f64,
    /// Of all processes of the run.
    pub(crate) cpu_seconds: f64,
}

impl Run {
    /// A run of `file` whose output goes to a folder called `name` in `folder`.
    pub(crate) fn new(name: &str, file: &Path, folder: &Path) -> Result<Self> {
        Ok(Self {
            name: name.into(),
            file: file.into(),
            output: folder.join(name.replace(' ', "-")),
            settings: Vec::new(),
            environment: Vec::new(),
            resumes: false,
            script: None,
            temporary: tempfile::tempdir()?,
        })
    }

    /// Puts values over fields of the file, as `path=value`.
    pub(crate) fn set(mut self, settings: &[&str]) -> Self {
        self.settings.extend(settings.iter().map(|setting| (*setting).to_owned()));
        self
    }

    /// Puts variables into its environment.
    pub(crate) fn with_environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Has it go on from its newest checkpoint.
    pub(crate) fn resuming(mut self) -> Self {
        self.resumes = true;
        self
    }

    /// Has it suffer what a script of chaos says.
    pub(crate) fn befallen_by(mut self, script: &Path) -> Self {
        self.script = Some(script.to_owned());
        self
    }

    /// Starts it. What it prints goes to files beside the output folder.
    pub(crate) fn start(&self) -> Result<Process> {
        let mut command = Command::new(paths::release("atoll"));
        command.arg("run").arg(&self.file).arg("--out").arg(&self.output).arg("--json");
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        if self.resumes {
            command.arg("--resume");
        }
        if let Some(script) = &self.script {
            command.arg("--chaos").arg(script);
        }
        command.current_dir(paths::root()).stdin(Stdio::null());
        command.env("TMPDIR", self.temporary.path()).envs(self.environment.iter().cloned());
        command.stdout(File::create(self.beside(".json"))?).stderr(File::create(self.beside(".log"))?);
        Process::start(&self.name, &mut command)
    }

    /// Runs it to its end, within `limit`.
    pub(crate) fn perform(&self, limit: Duration) -> Result<Finished> {
        let before = children_cpu_seconds()?;
        let mut process = self.start()?;
        let status = process.wait(limit, || Ok(()))?;
        let wall_seconds = process.elapsed().as_secs_f64();
        if !status.success() {
            bail!("{}: {status}\n{}", self.name, self.said());
        }
        let cpu_seconds = children_cpu_seconds()? - before;
        Ok(Finished { report: Report::read(&self.output)?, wall_seconds, cpu_seconds })
    }

    /// Its folder for temporary files.
    pub(crate) fn temporary(&self) -> &Path {
        self.temporary.path()
    }

    /// Names of the temporary files that are there now.
    pub(crate) fn temporary_files(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(self.temporary.path())?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// The last that it said on standard error.
    pub(crate) fn said(&self) -> String {
        tail(&self.beside(".log"), 20)
    }

    fn beside(&self, extension: &str) -> PathBuf {
        let mut path = OsString::from(&self.output);
        path.push(extension);
        path.into()
    }
}
