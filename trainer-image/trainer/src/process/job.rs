//! What a trainer is started with, and how its data and model are found.

use std::fs::File;
use std::io;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use atoll_crds::spec::{
    Algorithm, Architecture, Codec as CodecSpec, Method as MethodSpec, Model as ModelSpec, Tokenizer as TokenizerSpec,
    TrainingRunSpec,
};
use atoll_methods::Method;
use atoll_sdk::Codec;
use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::{Resume, TrainerError, Vectors};
use crate::data::{Corpus, DataError, SampleOrder, Source, TokenStore, Tokenizer};
use crate::export;
use crate::model::{Config, Llama};
use crate::optimizer::{AdamW, Schedule};
use crate::seed::{Purpose, seed};

/// One trainer of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Name of the run.
    pub run: String,
    /// Name of the worker.
    pub worker: String,
    /// Index of the worker.
    pub slot: u32,
    /// Counts the starts of this worker's trainer.
    pub incarnation: u64,
    /// Path of the sidecar's socket.
    pub socket: PathBuf,
    /// The prepared tokens: a file that [`prepare`] made, perhaps through another process's descriptor.
    pub tokens: PathBuf,
    /// Folder of the run file, to which its paths are relative.
    pub base: PathBuf,
    /// What to train.
    pub spec: TrainingRunSpec,
    /// The checkpoint that it goes on from, as long as nobody else holds its state.
    #[serde(default)]
    pub resume: Option<Resume>,
    /// The last round of the checkpoint that the run goes on from, and the inner steps by then: its last round may have had fewer.
    #[serde(default)]
    pub after: (u64, u64),
}

/// A model with its data, ready to train.
pub struct Prepared {
    /// The model: from scratch, or from a folder.
    pub model: Llama,
    /// The data.
    pub corpus: Corpus,
}

/// Reads the dataset once, and makes the model once, so that everything wrong with either is found before a process starts.
///
/// The tokens stay in an anonymous file in `folder`, which is gone when the value and all its users are.
///
/// # Errors
/// [`TrainerError`] naming the file or the field.
pub fn prepare(spec: &TrainingRunSpec, base: &Path, folder: &Path) -> Result<Prepared, TrainerError> {
    prepare_for(spec, spec.workers.target, base, folder)
}

/// The same on a machine of so many of its workers.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_for(spec: &TrainingRunSpec, workers: u32, base: &Path, folder: &Path) -> Result<Prepared, TrainerError> {
    let source = Source::locate(&spec.dataset.source.uri, base, &spec.dataset.source.text_field)?;
    let tokenizer = match &spec.dataset.tokenizer {
        TokenizerSpec::Characters {} => Tokenizer::Characters,
        TokenizerSpec::File { uri, .. } => Tokenizer::File(base.join(uri.strip_prefix("file://").unwrap_or(uri))),
    };
    if let Tokenizer::File(path) = &tokenizer {
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => DataError::Missing { path: path.clone() },
            _ => DataError::Unreadable { path: path.clone(), source },
        };
        File::open(path).map_err(|error| TrainerError::Tokenizer(unreadable(error)))?;
    }
    open(spec, workers, base, TokenStore::prepare(&source, &tokenizer, folder)?)
}

/// Vectors as long as the model that a worker holds at least: weights, gradient, the replicated state, and what it gives
/// and gets.
const VECTORS: u64 = 5;

/// Refuses a model of which this machine cannot hold one copy per worker: better than to be ended in the middle.
fn check_memory(workers: u32, config: &Config) -> Result<(), TrainerError> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    let Some(total) = kibibytes.map(|total| total / 1024) else { return Ok(()) };
    let parameters = config.parameters();
    let needed = (parameters as u64 * 4 * VECTORS).saturating_mul(u64::from(workers)) >> 20;
    if needed > total {
        return Err(TrainerError::Memory { workers, parameters, needed, total });
    }
    Ok(())
}

fn open(spec: &TrainingRunSpec, workers: u32, base: &Path, store: TokenStore) -> Result<Prepared, TrainerError> {
    let vocabulary = store.padded_vocabulary();
    let model = model(spec, workers, base, vocabulary)?;
    let known = model.config().vocabulary_size;
    if known < store.vocabulary() as usize {
        return Err(TrainerError::Vocabulary { model: known, tokenizer: store.vocabulary() });
    }
    let context = NonZeroU32::try_from(model.config().context_length as u32).unwrap_or(NonZeroU32::MIN);
    let windows = NonZeroU32::new(spec.evaluation.windows).unwrap_or(NonZeroU32::MIN);
    let corpus = Corpus::new(store, context, spec.dataset.held_out_fraction, windows)?;
    Ok(Prepared { model, corpus })
}

fn model(spec: &TrainingRunSpec, workers: u32, base: &Path, vocabulary: u32) -> Result<Llama, TrainerError> {
    match &spec.model {
        ModelSpec::Source { uri, .. } => {
            let folder = base.join(uri.strip_prefix("file://").unwrap_or(uri));
            Ok(export::load(&folder, &Device::Cpu)?.1)
        }
        ModelSpec::Architecture(Architecture::Llama(llama)) => {
            let config = Config {
                layers: llama.layers as usize,
                hidden_size: llama.hidden_size as usize,
                heads: llama.heads as usize,
                intermediate_size: llama.intermediate_size as usize,
                context_length: llama.context_length as usize,
                vocabulary_size: vocabulary as usize,
                rms_epsilon: Config::RMS_EPSILON,
                rope_theta: Config::ROPE_THETA,
            };
            check_memory(workers, &config)?;
            Ok(Llama::new(config, &Device::Cpu, seed(&run_id(spec), Purpose::InitialWeights, 0))?)
        }
    }
}

/// What seeds everything pseudo-random: the file's seed alone, so that the same file gives the same run under any name.
fn run_id(spec: &TrainingRunSpec) -> String {
    format!("seed {}", spec.seed)
}

impl Job {
    pub(super) fn open(&self) -> Result<Prepared, TrainerError> {
        open(&self.spec, self.spec.workers.target, &self.base, TokenStore::open(&self.tokens)?)
    }

    pub(super) fn order(&self, samples: NonZeroU64) -> SampleOrder {
        SampleOrder::new(run_id(&self.spec), samples)
    }

    pub(super) fn method(&self) -> Method {
        method(&self.spec.method)
    }

    /// How contributions are coded.
    pub(super) fn codec(&self) -> Codec {
        match self.spec.reduction.codec {
            CodecSpec::Float32 => Codec::None,
            CodecSpec::Bfloat16 => Codec::Bf16,
            CodecSpec::UInt8 => Codec::Uint8,
            CodecSpec::UInt4 => Codec::Uint4,
        }
    }

    pub(super) fn schedule(&self) -> Schedule {
        let peak = match &self.spec.optimizer.algorithm {
            Algorithm::AdamW(adam) => adam.learning_rate,
            Algorithm::Sgd(sgd) => sgd.learning_rate,
        };
        let schedule = &self.spec.optimizer.schedule;
        Schedule {
            peak,
            warmup_steps: schedule.warmup_steps,
            total_steps: self.spec.stop.steps,
            final_fraction: schedule.final_fraction,
        }
    }

    /// The constants of AdamW; none for plain gradient descent.
    pub(super) fn adam(&self) -> Option<AdamW> {
        match &self.spec.optimizer.algorithm {
            Algorithm::AdamW(adam) => {
                Some(AdamW { beta1: adam.beta1, beta2: adam.beta2, epsilon: adam.epsilon, weight_decay: adam.weight_decay })
            }
            Algorithm::Sgd(_) => None,
        }
    }
}

/// The vectors of a worker of such a run.
#[must_use]
pub fn vectors(spec: &TrainingRunSpec) -> Vectors {
    let moments = matches!(spec.optimizer.algorithm, Algorithm::AdamW(_));
    // Where groups add up before they code, no worker knows what of its own was lost.
    let residual = matches!(spec.reduction.codec, CodecSpec::UInt8 | CodecSpec::UInt4) && spec.reduction.group_size <= 1;
    Vectors::new(&method(&spec.method), moments, residual)
}

fn method(spec: &MethodSpec) -> Method {
    match spec {
        MethodSpec::DataParallel {} => Method::DataParallel,
        MethodSpec::DiLoCo(diloco) => Method::DiLoCo {
            inner_steps: diloco.inner_steps,
            outer_learning_rate: diloco.outer_learning_rate,
            outer_momentum: diloco.outer_momentum,
        },
        MethodSpec::FedAvg(fedavg) => Method::FedAvg { inner_steps: fedavg.inner_steps },
    }
}
