//! A trainer in a worker's pod, and the container before it that fetches what it reads.
//!
//! Exit codes: 0 done, 1 failed, 2 bad input, 3 refused by the sidecar, which is of another run or attempt; 143 told to end (SIGTERM).

mod digest;
mod error;
mod fetch;
mod train;

use std::io::Write;
use std::process::ExitCode;

use atoll_sdk::process::{begin_logging, leave_last_words};
use tokio::signal::unix::{SignalKind, signal};

pub use error::PodError;

/// 128 and the number of SIGTERM: what a shell says of who was ended by it.
const TERMINATED: i32 = 143;

/// What the process is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Train to the run's last step.
    Train,
    /// Fetch what the trainer will read.
    Fetch,
}

/// Does what a container is for.
#[must_use]
pub fn process(task: Task) -> ExitCode {
    begin_logging();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        leave_last_words(&panic.to_string());
    }));
    let done = end_when_told().and_then(|()| match task {
        Task::Train => train::train(variable),
        Task::Fetch => fetch::fetch(variable).map(|()| None),
    });
    match done {
        Ok(result) => {
            if let Some(result) = result {
                leave_last_words(&result);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            let message = error.message();
            let _nobody_reads = writeln!(std::io::stderr().lock(), "{message}");
            leave_last_words(&message);
            ExitCode::from(error.exit_code())
        }
    }
}

fn variable(name: &'static str) -> Option<String> {
    std::env::var(name).ok()
}

/// Has SIGTERM end this process: the first of a container ends by no signal unless it says so.
fn end_when_told() -> Result<(), PodError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PodError::Process)?;
    let mut told = {
        let _inside = runtime.enter();
        signal(SignalKind::terminate()).map_err(PodError::Process)?
    };
    std::thread::spawn(move || {
        runtime.block_on(told.recv());
        std::process::exit(TERMINATED);
    });
    Ok(())
}
