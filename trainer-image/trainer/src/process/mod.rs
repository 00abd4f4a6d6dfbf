//! The trainer's process: rounds of inner steps on the worker's own samples, and one synchronisation after each.
//!
//! Standard output carries the events of the run, one JSON object per line. When the last round is done the process waits
//! for commands on standard input: `save FOLDER` evaluates the model and writes it, the end of input ends the process.

mod divergence;
mod error;
mod job;
mod restore;
mod rounds;
mod state;
mod steps;

use std::io::BufRead;
use std::path::Path;
use std::time::Duration;

pub use atoll_checkpoint::Resume;
use atoll_sdk::events::Event;
use atoll_sdk::{Options, Session};

use crate::data::Corpus;
use crate::{evaluate, export};
pub use error::{RestoreError, TrainerError};
pub use job::{Job, Prepared, prepare, prepare_for, vectors};
pub use restore::check;
use rounds::{Finished, Rounds};
pub use state::Vectors;

/// How long a trainer waits for a sidecar that is being started again.
const PATIENCE: Duration = Duration::from_mins(1);

/// Held-out windows that are evaluated at a time.
const EVALUATED_TOGETHER: usize = 16;

/// Trains as `job` says, until the run's last step.
///
/// # Errors
/// [`TrainerError`]: data or model cannot be used, there is no sidecar, or training diverged.
pub fn run(job: &Job) -> Result<(), TrainerError> {
    let mut rounds = begin(job, job.open()?)?;
    rounds.train()?;
    finish(job, &mut rounds);
    for line in std::io::stdin().lock().lines() {
        let Some(folder) = line.as_deref().ok().and_then(|line| line.strip_prefix("save ")) else { break };
        Event::now(&job.worker, "Saving").emit();
        save(&rounds, Path::new(folder))?;
        let held_out_loss = rounds.held_out_loss()?;
        Event::now(&job.worker, "Saved").with("heldOutLoss", held_out_loss).emit();
    }
    Ok(())
}

/// What a worker ends with.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// BLAKE3 of the weights, in hexadecimal digits.
    pub weights_hash: String,
    /// Inner steps in all committed rounds.
    pub steps: u64,
    /// Samples of this worker that were committed.
    pub samples: u64,
    /// Mean loss over the held-out windows, nats per token; of the one worker that measures it.
    pub held_out_loss: Option<f64>,
}

/// Trains with what is `prepared`, until the run's last step; then the first worker of the last round measures the model.
///
/// # Errors
/// As [`run`].
pub fn train(job: &Job, prepared: Prepared) -> Result<Trained, TrainerError> {
    let mut rounds = begin(job, prepared)?;
    rounds.train()?;
    let Finished { steps, samples, weights_hash } = finish(job, &mut rounds);
    let held_out_loss = rounds.is_first().then(|| rounds.held_out_loss()).transpose()?;
    if let Some(loss) = held_out_loss {
        Event::now(&job.worker, "Evaluated").step(steps).with("heldOutLoss", loss).emit();
    }
    Ok(Trained { weights_hash, steps, samples, held_out_loss })
}

fn begin(job: &Job, prepared: Prepared) -> Result<Rounds<'_>, TrainerError> {
    let options = Options {
        run: job.run.clone(),
        socket: job.socket.clone(),
        incarnation: job.incarnation,
        rank: 0,
        ranks: 1,
        patience: PATIENCE,
    };
    Rounds::new(job, prepared, Session::new(options)?)
}

fn finish(job: &Job, rounds: &mut Rounds<'_>) -> Finished {
    let finished = rounds.finish();
    Event::now(&job.worker, "Finished")
        .step(finished.steps)
        .with("weightsHash", finished.weights_hash.as_str())
        .with("samples", finished.samples)
        .emit();
    finished
}

/// Writes the model and its tokenizer into `folder`, as other tools read them.
fn save(rounds: &Rounds<'_>, folder: &Path) -> Result<(), TrainerError> {
    export::save(rounds.model(), folder)?;
    Ok(export::save_tokenizer(rounds.corpus().store().tokenizer_json(), folder)?)
}

/// Mean loss over the held-out windows, nats per token.
fn held_out_loss(model: &crate::model::Llama, corpus: &Corpus) -> Result<f64, TrainerError> {
    let windows = (0..corpus.split().held_out_windows().get()).map(|window| {
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        corpus.held_out_window(window, &mut inputs, &mut targets);
        inputs.extend(targets.last());
        inputs
    });
    Ok(evaluate::mean_loss(model, windows, EVALUATED_TOGETHER)?)
}
