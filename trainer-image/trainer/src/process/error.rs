//! Why a trainer ends before its run.

/// Why a run cannot go on from a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The folder cannot be opened.
    #[error(transparent)]
    Location(#[from] atoll_checkpoint::location::LocationError),
    /// A shard cannot be read, or is damaged.
    #[error(transparent)]
    Store(#[from] atoll_checkpoint::StoreError),
    /// A vector that this run has is not in the checkpoint.
    #[error("there is no {field} vector {name} in the checkpoint: it is of another method, optimizer or codec")]
    Missing {
        /// Which part of the manifest.
        field: &'static str,
        /// The vector.
        name: String,
    },
    /// The checkpoint has a vector that this run has not.
    #[error("this run has no {field} vector {name}: the checkpoint is of another method, optimizer or codec")]
    Unknown {
        /// Which part of the manifest.
        field: &'static str,
        /// The vector.
        name: String,
    },
    /// A vector has another length.
    #[error("{name} has {kept} elements in the checkpoint and {wanted} in this run: it is of another model")]
    Shape {
        /// The vector.
        name: String,
        /// Elements in the checkpoint.
        kept: u64,
        /// Elements in the run.
        wanted: u64,
    },
    /// The asynchronous runtime could not be set up.
    #[error("cannot set up the process: {0}")]
    Runtime(#[source] std::io::Error),
}

/// Errors of the trainer's process.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// The tokenizer's file cannot be used.
    #[error(transparent)]
    Tokenizer(crate::data::DataError),
    /// The workers' models do not fit into this machine's memory.
    #[error(
        "{workers} workers need about {needed} MiB of memory for a model of {parameters} parameters, this machine has {total} MiB"
    )]
    Memory {
        /// Workers of the run.
        workers: u32,
        /// Parameters of the model.
        parameters: usize,
        /// Least memory for all, in MiB.
        needed: u64,
        /// Memory of the machine, in MiB.
        total: u64,
    },
    /// The model cannot be built or run.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    /// A model folder cannot be read or written.
    #[error(transparent)]
    Export(#[from] crate::export::ExportError),
    /// The sidecar cannot be reached, or memory to share with it is short.
    #[error(transparent)]
    Session(#[from] atoll_sdk::SdkError),
    /// The checkpoint that the run goes on from.
    #[error("cannot go on from the checkpoint: {0}")]
    Restore(#[from] RestoreError),
    /// A round was aborted: the worker begins it again.
    #[error("the round was aborted, {reason:?}: {detail}")]
    Aborted {
        /// What kind.
        reason: atoll_sdk::AbortReason,
        /// The facts; they name the worker that caused it, where another did.
        detail: String,
    },
    /// A vector of the method has the wrong length.
    #[error(transparent)]
    Method(#[from] atoll_methods::MethodError),
    /// The model that the run starts from knows fewer tokens than the tokenizer has.
    #[error("the model knows {model} tokens, the tokenizer has {tokenizer}")]
    Vocabulary {
        /// Tokens of the model.
        model: usize,
        /// Tokens of the tokenizer.
        tokenizer: u32,
    },
    /// The loss is no longer a number.
    #[error("the loss at step {step} is {loss}: training diverged; a lower learning rate or a shorter gradientClip may help")]
    Diverged {
        /// The inner step.
        step: u64,
        /// The loss.
        loss: f32,
    },
    /// The loss leapt, and the run's policy is not to go on.
    #[error("the mean loss of the round that ends at step {step} is {loss}, that of the rounds before {mean}: training diverged")]
    Leapt {
        /// The last inner step of the round.
        step: u64,
        /// Mean loss of the round.
        loss: f64,
        /// Mean loss of the rounds before.
        mean: f64,
    },
    /// The gradient or the weights are no longer numbers.
    #[error(
        "the weights at step {step} are not finite: training diverged; a lower learning rate or a shorter gradientClip may help"
    )]
    NotFinite {
        /// The last inner step of the round.
        step: u64,
    },
    /// A region does not hold what was put there.
    #[error("the shared region {0} has another size than this trainer made")]
    Region(&'static str),
    /// A rank's thread ended.
    #[error("a rank of the trainer ended unexpectedly")]
    Rank,
}
