//! What is checked before the first process starts: data, model, ports and sockets.

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use atoll_crds::{Problems, RunFile};
use atoll_trainer::data::DataError;
use atoll_trainer::process::{Prepared, TrainerError, prepare};
use tokio::sync::oneshot;

use super::Arguments;
use super::chaos::Chaos;
use super::checkpoints::{self, Checkpoints, Own};
use super::output::Output;
use super::view::PLAIN;
use crate::supervision::loopback;
use crate::supervision::sockets::Sockets;
use crate::{Ending, read_file, say};

/// Everything that was checked and is ready to use.
pub(crate) struct Ready {
    /// Holds the prepared tokens; trainers open them through this process's descriptor.
    prepared: Prepared,
    /// Folder of the run file.
    pub(crate) base: PathBuf,
    /// Where the workers' sockets go.
    pub(crate) sockets: Sockets,
    /// First lane port.
    pub(crate) port: Option<u16>,
    /// Whether the sidecars record what their state machines hear and do.
    pub(crate) record: bool,
    /// What it does with checkpoints.
    pub(crate) checkpoints: Checkpoints,
    /// What is to befall it.
    pub(crate) chaos: Chaos,
}

impl Ready {
    /// A path under which other processes of this user open the tokens, as long as this process lives.
    pub(crate) fn tokens(&self) -> PathBuf {
        let descriptor = self.prepared.corpus.store().as_fd().as_raw_fd();
        PathBuf::from(format!("/proc/{}/fd/{descriptor}", std::process::id()))
    }

    /// What its checkpoints are of.
    pub(crate) fn own(&self) -> Own {
        own(&self.prepared)
    }

    /// Tokens of one sample.
    pub(crate) fn context_length(&self) -> u64 {
        u64::from(self.prepared.corpus.split().context_length().get())
    }
}

fn own(prepared: &Prepared) -> Own {
    let config = prepared.model.config();
    Own {
        parameters: config.parameters() as u64,
        config: atoll_trainer::export::config_json(config),
        tokenizer: prepared.corpus.store().tokenizer_json().to_vec(),
    }
}

pub(crate) async fn check(arguments: &Arguments, file: &RunFile, output: &Output) -> Result<Ready, Ending> {
    let base = arguments.file.parent().map(Path::to_owned).unwrap_or_default();
    let base = if base.as_os_str().is_empty() { PathBuf::from(".") } else { base };
    let base = base.canonicalize().map_err(|error| Ending::BadInput(format!("{}: {error}", base.display())))?;
    let chaos = chaos(arguments.chaos.as_ref(), file)?;
    let far = file.needs_cluster();
    if !far.is_empty() {
        return Err(Ending::bad_input(&Problems(far)));
    }
    let prepared = prepared(file, &base, output, arguments.json).await?;
    let slots = file.spec.workers.target + chaos.joins() as u32;
    let sockets = Sockets::new(arguments.socket_dir.as_deref(), slots).map_err(Ending::BadInput)?;
    if let Some(port) = arguments.port {
        for slot in 0..slots {
            let wanted = u32::from(port) + slot;
            let free = u16::try_from(wanted)
                .map_err(|_| "the last port there is is 65535".to_owned())
                .and_then(|port| TcpListener::bind(loopback(port)).map(drop).map_err(|error| error.to_string()));
            free.map_err(|error| {
                Ending::BadInput(format!("--port {port}: port {wanted} of worker w{slot}: {error}; give another port, or none"))
            })?;
        }
    }
    let own = own(&prepared);
    let checkpoints = checkpoints::prepare(file, &base, arguments.resume, &own, arguments.json).await?;
    Ok(Ready { prepared, base, sockets, port: arguments.port, record: arguments.record, checkpoints, chaos })
}

fn chaos(path: Option<&PathBuf>, file: &RunFile) -> Result<Chaos, Ending> {
    let Some(path) = path else { return Ok(Chaos::default()) };
    Chaos::load(path, &read_file(path)?, &file.spec.workers).map_err(|problems| Ending::bad_input(&problems))
}

/// Reads the data in a thread of its own: an interrupt is heard meanwhile, and does not wait for it.
async fn prepared(file: &RunFile, base: &Path, output: &Output, silent: bool) -> Result<Prepared, Ending> {
    let (done, mut prepared) = oneshot::channel();
    let (spec, base, folder) = (file.spec.clone(), base.to_owned(), output.path().to_owned());
    std::thread::spawn(move || {
        let _interrupted = done.send(prepare(&spec, &base, &folder));
    });
    let started = Instant::now();
    loop {
        match tokio::time::timeout(PLAIN, &mut prepared).await {
            Ok(Ok(prepared)) => return prepared.map_err(|error| unusable(file, &error)),
            Ok(Err(_)) => return Err(Ending::Failed("the data could not be prepared; the messages above say why".into())),
            Err(_) if silent => {}
            Err(_) => say(&format!("preparing the data and the model, {} s so far", started.elapsed().as_secs())),
        }
    }
}

/// Says at which field of the run file the data or the model is named that cannot be used.
fn unusable(file: &RunFile, error: &TrainerError) -> Ending {
    let (path, help) = match error {
        TrainerError::Data(DataError::DiskFull { .. } | DataError::Write { .. }) => {
            return Ending::Failed(format!(
                "{error}; the tokens are kept in the output folder while the run goes: give another --out"
            ));
        }
        TrainerError::Tokenizer(_) | TrainerError::Data(DataError::Tokenizer { .. }) => {
            ("spec.dataset.tokenizer", "give characters, or a Hugging Face tokenizer.json")
        }
        TrainerError::Memory { .. } => ("spec.model", "give a smaller model, fewer workers, or a larger machine"),
        TrainerError::Data(DataError::FieldMissing { .. } | DataError::FieldNotText { .. }) => {
            ("spec.dataset.source.textField", "give the name of the field that holds the text")
        }
        TrainerError::Data(DataError::TooShort { .. }) => {
            ("spec.dataset.source.uri", "give more text, or a shorter contextLength")
        }
        TrainerError::Data(_) => ("spec.dataset.source.uri", "give builtin:kjv, or UTF-8 text or JSON lines that can be read"),
        TrainerError::Vocabulary { .. } => ("spec.dataset.tokenizer", "give the tokenizer that the model was trained with"),
        _ => ("spec.model", "give sizes of a model that fits this machine, or a folder that a run has written"),
    };
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !message.ends_with(&cause_text) {
            message = format!("{message}: {cause_text}");
        }
        source = cause.source();
    }
    Ending::bad_input(&file.problem(path, message, help))
}
