//! A trained model as a folder that other tools read: `config.json` and `model.safetensors` as Hugging Face transformers
//! write them for `LlamaForCausalLM`, and the way back.

mod config;
mod tensors;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::model::{Config, Llama, ModelError};
use config::HuggingFace;

/// Why a model folder cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// A `config.json` that is no such file, or describes a model that this decoder is not.
    #[error("{}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A `model.safetensors` whose header cannot be read.
    #[error("{}: {problem}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A tensor that is missing, of another shape or type than `config.json` says, too long for the file, or not expected.
    #[error("{}: tensor {tensor}: {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Hugging Face's name of the tensor.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// The tensors could not be serialised.
    #[error("{}: {source}", path.display())]
    Serialize {
        /// The file.
        path: PathBuf,
        /// What the serialiser said.
        source: safetensors::SafeTensorError,
    },
    /// The model could not be read out or built.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl ExportError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

const CONFIG: &str = "config.json";
const TENSORS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
/// Makes transformers read `tokenizer.json` as it is, and not take Llama's own tokenizer for it.
const TOKENIZER_CONFIG: (&str, &[u8]) = (
    "tokenizer_config.json",
    b"{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  \"clean_up_tokenization_spaces\": false\n}\n",
);

/// Largest `config.json` that is read, in bytes.
const LARGEST_CONFIG: u64 = 1 << 20;

/// Writes `model` to `folder`, which is made if it does not exist, and waits until the bytes are on disk.
///
/// The files come into being one after the other: write to a folder of a temporary name and rename it when this returns.
///
/// # Errors
/// [`ExportError::Io`] or [`ExportError::Serialize`] with the path, [`ExportError::Model`].
pub fn save(model: &Llama, folder: &Path) -> Result<(), ExportError> {
    let mut flat = vec![0.0; model.config().parameters()];
    model.flatten_into(&mut flat)?;
    write(folder, CONFIG, config_json(model.config()).as_bytes())?;
    tensors::write(model.config(), &flat, &folder.join(TENSORS))
}

/// Writes the tokenizer of a model to `folder`, so that transformers reads it as it is.
///
/// # Errors
/// [`ExportError::Io`].
pub fn save_tokenizer(json: &[u8], folder: &Path) -> Result<(), ExportError> {
    write(folder, TOKENIZER, json)?;
    write(folder, TOKENIZER_CONFIG.0, TOKENIZER_CONFIG.1)
}

/// A model that nobody has built: what a checkpoint holds of it.
#[derive(Debug)]
pub struct Unbuilt {
    text: String,
    config: Config,
}

impl Unbuilt {
    /// A model of these sizes: the bytes of a `config.json`.
    ///
    /// # Errors
    /// What is wrong with them, for people.
    pub fn new(config_json: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(config_json).map_err(|error| error.to_string())?.to_owned();
        Ok(Self { config: HuggingFace::parse(&text)?, text })
    }

    /// Numbers in it.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.config.parameters()
    }

    /// Writes the folder that [`save`] and [`save_tokenizer`] write where the model's flat vector is `flat`.
    ///
    /// # Errors
    /// Those of [`save`]; [`ModelError::Length`] where `flat` is not [`Self::parameters`] long.
    pub fn save(&self, flat: &[f32], tokenizer_json: &[u8], folder: &Path) -> Result<(), ExportError> {
        if flat.len() != self.parameters() {
            return Err(ModelError::Length { expected: self.parameters(), found: flat.len() }.into());
        }
        write(folder, CONFIG, self.text.as_bytes())?;
        tensors::write(&self.config, flat, &folder.join(TENSORS))?;
        save_tokenizer(tokenizer_json, folder)
    }
}

/// Writes one file of the folder and waits until it is on disk.
fn write(folder: &Path, name: &str, content: &[u8]) -> Result<(), ExportError> {
    fs::create_dir_all(folder).map_err(ExportError::io(folder))?;
    let path = folder.join(name);
    let mut file = File::create(&path).map_err(ExportError::io(&path))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(ExportError::io(&path))
}

/// The `config.json` of a model with these sizes.
#[must_use]
pub fn config_json(config: &Config) -> String {
    HuggingFace::new(config).to_json()
}

/// Reads the folder that [`save`] wrote, or that transformers wrote for such a model.
///
/// Sizes are checked before memory is taken for them: no more than the files' own lengths.
///
/// # Errors
/// Each variant of [`ExportError`] but [`ExportError::Serialize`].
pub fn load(folder: &Path, device: &Device) -> Result<(Config, Llama), ExportError> {
    let path = folder.join(CONFIG);
    let length = fs::metadata(&path).map_err(ExportError::io(&path))?.len();
    if length > LARGEST_CONFIG {
        return Err(ExportError::Config { path, problem: format!("{length} bytes; at most {LARGEST_CONFIG} are read") });
    }
    let text = fs::read_to_string(&path).map_err(ExportError::io(&path))?;
    let config = HuggingFace::parse(&text).map_err(|problem| ExportError::Config { path, problem })?;
    let mut tensors = tensors::Reader::open(&folder.join(TENSORS), &config)?;
    let model = Llama::with_values(config.clone(), device, |parameter| tensors.read(parameter))?;
    Ok((config, model))
}

#[cfg(test)]
mod tests;
