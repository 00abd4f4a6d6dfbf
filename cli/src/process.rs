//! The processes of a run or a benchmark: `atoll sidecar`, `atoll trainer` and `atoll rank`, started by a supervisor.
//!
//! Their configuration is one line of JSON on standard input, so that the run's secret is in no argument and no
//! environment. They end when their supervisor does, however it ends.

use std::io::BufRead;
use std::time::Duration;

use atoll_sdk::regions_socket;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Ending, logging};

/// How long a sidecar whose supervisor is gone may take to end in good order.
const ORPHANED: Duration = Duration::from_secs(2);

/// What every process of a run is started with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Started<C> {
    /// Process id of the supervisor.
    pub(crate) supervisor: i32,
    /// Processors that the process keeps to; all when empty.
    pub(crate) processors: Vec<usize>,
    /// The process's own configuration.
    pub(crate) config: C,
}

pub(crate) fn sidecar() -> Ending {
    // Told to stop, it removes its sockets.
    match start::<atoll_sidecar::Config>(Signal::TERM) {
        Ok(config) => {
            end_with_supervisor(&config);
            atoll_sidecar::run(config).map_or_else(|error| Ending::Failed(error.to_string()), |()| Ending::Done)
        }
        Err(ending) => ending,
    }
}

/// Ends this sidecar soon after its supervisor. Where the links ended too, a coordinator would wait until the others are lost to
/// it, though nobody is left who could take over.
fn end_with_supervisor(config: &atoll_sidecar::Config) {
    let (sockets, folder) = ([config.socket.clone(), regions_socket(&config.socket)], config.temporary_folder.clone());
    let supervisor = getppid();
    std::thread::spawn(move || {
        // Supervisors write nothing more; the pipe ends with them.
        let _ended = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::thread::sleep(ORPHANED);
        if getppid() != supervisor {
            for socket in &sockets {
                let _gone_already = std::fs::remove_file(socket);
            }
            let _others_are_left = folder.map(std::fs::remove_dir);
            std::process::exit(1);
        }
    });
}

pub(crate) fn trainer() -> Ending {
    match start::<atoll_trainer::process::Job>(Signal::KILL) {
        Ok(job) => atoll_trainer::process::run(&job).map_or_else(|error| Ending::Failed(error.to_string()), |()| Ending::Done),
        Err(ending) => ending,
    }
}

/// Reads the configuration, and has the kernel end this process with its supervisor.
pub(crate) fn start<C: DeserializeOwned>(when_orphaned: Signal) -> Result<C, Ending> {
    let failed = |error: &dyn std::fmt::Display| Ending::Failed(format!("cannot start: {error}"));
    logging::begin();
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| failed(&error))?;
    let started: Started<C> = serde_json::from_str(&line).map_err(|error| {
        Ending::BadInput(format!("this command is for supervisors; standard input has no configuration: {error}"))
    })?;
    set_parent_process_death_signal(Some(when_orphaned)).map_err(|error| failed(&error))?;
    // It may have ended before the line above.
    if getppid().map(Pid::as_raw_nonzero).is_none_or(|parent| parent.get() != started.supervisor) {
        return Err(Ending::Failed("the supervisor is gone".into()));
    }
    if !started.processors.is_empty() {
        let mut set = CpuSet::new();
        started.processors.iter().for_each(|processor| set.set(*processor));
        // Only faster, never needed.
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::debug!(%error, "not pinned");
        }
    }
    Ok(started.config)
}
