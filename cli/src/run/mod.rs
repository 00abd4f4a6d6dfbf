//! `atoll run FILE`: the whole of a run on this machine.
//!
//! Everything wrong with the input is found before a process starts. Then this process is the run's supervisor, arbiter
//! and authority; sidecars and trainers are its children.

mod chaos;
mod checkpoints;
mod curve;
mod output;
mod preflight;
mod progress;
mod report;
mod supervisor;
mod view;

use std::path::PathBuf;

use atoll_crds::RunFile;
use clap::Args;

use crate::commands::assignment;
use crate::supervision::arbiter::Wanted;
use crate::supervision::interrupts::Interrupts;
use crate::{Ending, print, read_file, say};
use output::Output;
use report::Report;

/// Arguments of `atoll run`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The TrainingRun file
    file: PathBuf,
    /// Folder for the results; a new one under atoll-out if not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Override a field, as in `--set workers.target=2`
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = assignment)]
    overrides: Vec<(String, String)>,
    /// Print the report as JSON, and nothing else
    #[arg(long)]
    json: bool,
    /// First of the workers' lane ports; free ones if not given
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Record what each sidecar's protocol hears and does, in the folder for the results; `atoll replay` reads it
    #[arg(long)]
    record: bool,
    /// Folder for the workers' Unix sockets; a temporary one if not given
    #[arg(long, value_name = "DIR")]
    socket_dir: Option<PathBuf>,
    /// Go on from the newest checkpoint in the run's folder that is whole, if there is any
    #[arg(long)]
    resume: bool,
    /// A file of what is to befall the run: processes killed and stopped, workers that join and leave, links cut and slowed
    #[arg(long, value_name = "FILE")]
    chaos: Option<PathBuf>,
    /// Who grants terms and changes of membership
    #[arg(long, value_enum, default_value = "single")]
    arbiter: Wanted,
}

pub(crate) fn run(arguments: &Arguments) -> Ending {
    let text = match read_file(&arguments.file) {
        Ok(text) => text,
        Err(ending) => return ending,
    };
    let file = match atoll_crds::load(&arguments.file, &text, &arguments.overrides) {
        Ok(file) => file,
        Err(problems) => return Ending::bad_input(&problems),
    };
    // One thread: children ask to be told when the thread that started them ends.
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(claim_and_train(arguments, &file)),
        Err(error) => Ending::failed(&error.into()),
    }
}

async fn claim_and_train(arguments: &Arguments, file: &RunFile) -> Ending {
    // Before there is anything that an interrupt could leave behind.
    let mut interrupts = match Interrupts::new() {
        Ok(interrupts) => interrupts,
        Err(error) => return Ending::failed(&error),
    };
    match Output::claim(arguments.out.as_deref(), &file.name) {
        Ok(mut output) => train(arguments, file, &mut output, &mut interrupts).await,
        Err(error) => Ending::bad_input(&error),
    }
}

async fn train(arguments: &Arguments, file: &RunFile, output: &mut Output, interrupts: &mut Interrupts) -> Ending {
    let ready = tokio::select! {
        ready = preflight::check(arguments, file, output) => ready,
        () = interrupts.next() => return Ending::Interrupted,
    };
    let ready = match ready {
        Ok(ready) => ready,
        Err(ending) => return ending,
    };
    if !arguments.json {
        for path in &file.unused {
            say(&format!("{path}: used on a cluster only"));
        }
        let workers = file.spec.workers.target;
        say(&format!("{}: {workers} workers, results in {}", file.name, output.path().display()));
        for (place, why) in &ready.checkpoints.skipped {
            say(&format!("checkpoint {place} is passed over: {why}"));
        }
        if let Some(resume) = &ready.checkpoints.resume {
            say(&format!("goes on from checkpoint {} of {}", resume.manifest.place, resume.location.uri));
        }
    }
    output.keep();
    match supervisor::supervise(&ready, file, output, arguments, interrupts).await {
        Ok(report) => finish(&report, output, arguments.json),
        Err(error) => Ending::failed(&error),
    }
}

/// Writes what remains to be written, and shows it.
fn finish(report: &Report, output: &Output, json: bool) -> Ending {
    if let Err(error) = report.write(output) {
        return Ending::failed(&error);
    }
    let text = if json { report.json() + "\n" } else { report.text(output.path()) };
    if let Err(ending) = print(&text) {
        return ending;
    }
    match &report.failure {
        _ if report.state == report::State::Interrupted => Ending::Interrupted,
        Some(failure) => Ending::Failed(failure.clone()),
        None => Ending::Done,
    }
}
