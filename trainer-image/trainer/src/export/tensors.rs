//! `model.safetensors` with the tensor names of Hugging Face Llama.
//!
//! What the model packs into one matrix, the file holds as several, each a range of its rows; so the file's tensors, in
//! order, are the model's flat vector. Format: 8 bytes of header length, little-endian, a JSON header, the values.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, View};
use serde::Deserialize;

use super::ExportError;
use crate::model::{Config, Parameter, parameters};

/// Longest header that is read, in bytes.
const LONGEST_HEADER: u64 = 16 << 20;

/// Bytes of one number.
const SIZE: usize = size_of::<f32>();

/// One tensor of the file: its name and shape.
struct Part {
    name: String,
    shape: Vec<usize>,
}

/// The tensors that one parameter of the model becomes, in the order of its rows.
fn parts(parameter: &Parameter) -> Vec<Part> {
    let packed = [("qkv_proj", &["q_proj", "k_proj", "v_proj"][..]), ("gate_up_proj", &["gate_proj", "up_proj"])];
    let Some((whole, names)) = packed.iter().find(|(whole, _)| parameter.name.contains(whole)) else {
        return vec![Part { name: parameter.name.clone(), shape: parameter.shape.clone() }];
    };
    let mut shape = parameter.shape.clone();
    shape[0] /= names.len();
    names.iter().map(|name| Part { name: parameter.name.replace(whole, name), shape: shape.clone() }).collect()
}

/// Numbers of one tensor on their way to the file.
struct Values<'a> {
    shape: Vec<usize>,
    values: &'a [f32],
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        self.values.len() * SIZE
    }
}

/// Writes all weights, as long as a model of these sizes has them, to `path` and waits until they are on disk.
pub(super) fn write(config: &Config, flat: &[f32], path: &Path) -> Result<(), ExportError> {
    let mut rest = flat;
    let mut tensors = Vec::new();
    for Part { name, shape } in parameters(config).iter().flat_map(parts) {
        let (values, after) = rest.split_at(shape.iter().product());
        rest = after;
        tensors.push((name, Values { shape, values }));
    }
    // transformers refuses files that do not say which framework their layout is of.
    let about = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    let failed = |source| ExportError::Serialize { path: path.to_owned(), source };
    safetensors::serialize_to_file(tensors, Some(about), path).map_err(failed)?;
    let file = File::open(path).map_err(ExportError::io(path))?;
    // The library makes a file for its owner alone; this one is for whoever serves the model.
    file.set_permissions(PermissionsExt::from_mode(0o644)).and_then(|()| file.sync_all()).map_err(ExportError::io(path))
}

/// An entry of the header.
#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A file whose header is known to fit a model and the file's own length.
pub(super) struct Reader {
    path: PathBuf,
    file: File,
    /// Position of the first tensor's first byte.
    start: u64,
    entries: BTreeMap<String, Entry>,
}

impl Reader {
    /// Opens `path` and checks every tensor of a model of these sizes.
    pub(super) fn open(path: &Path, config: &Config) -> Result<Self, ExportError> {
        let mut file = File::open(path).map_err(ExportError::io(path))?;
        let length = file.metadata().map_err(ExportError::io(path))?.len();
        let header = read_header(&mut file, length, path)?;
        let start = header.len() as u64 + 8;
        let reader = Self { path: path.to_owned(), file, start, entries: parse_header(&header, path)? };
        reader.check(config, length - start)?;
        Ok(reader)
    }

    fn check(&self, config: &Config, available: u64) -> Result<(), ExportError> {
        let mut expected = 0;
        for part in parameters(config).iter().flat_map(parts) {
            expected += 1;
            let refuse = |problem: String| Err(self.refuse(&part.name, problem));
            let Some(entry) = self.entries.get(&part.name) else { return refuse("missing".into()) };
            let shape: Vec<u64> = part.shape.iter().map(|size| *size as u64).collect();
            if entry.dtype != "F32" || entry.shape != shape {
                return refuse(format!("{} of shape {:?}, expected F32 of {shape:?}", entry.dtype, entry.shape));
            }
            let [begin, end] = entry.data_offsets;
            let bytes = shape.iter().product::<u64>() * SIZE as u64;
            if end > available || begin.checked_add(bytes) != Some(end) {
                return refuse(format!("bytes {begin} to {end} of {available} are not its {bytes}"));
            }
        }
        if expected == self.entries.len() {
            return Ok(());
        }
        let known: Vec<String> = parameters(config).iter().flat_map(parts).map(|part| part.name).collect();
        let unknown = self.entries.keys().find(|name| !known.contains(name));
        unknown.map_or(Ok(()), |name| Err(self.refuse(name, "the model has no such tensor".into())))
    }

    fn refuse(&self, tensor: &str, problem: String) -> ExportError {
        ExportError::Tensor { path: self.path.clone(), tensor: tensor.to_owned(), problem }
    }

    /// The values of one parameter, its parts one after the other.
    pub(super) fn read(&mut self, parameter: &Parameter) -> Result<Vec<f32>, ExportError> {
        let mut values = Vec::with_capacity(parameter.elements());
        for part in parts(parameter) {
            let mut bytes = vec![0; part.shape.iter().product::<usize>() * SIZE];
            let position = SeekFrom::Start(self.start + self.entries[&part.name].data_offsets[0]);
            let read = self.file.seek(position).and_then(|_| self.file.read_exact(&mut bytes));
            read.map_err(ExportError::io(&self.path))?;
            values.extend(bytes.as_chunks::<SIZE>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        }
        Ok(values)
    }
}

fn read_header(file: &mut File, length: u64, path: &Path) -> Result<Vec<u8>, ExportError> {
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(ExportError::io(path))?;
    let size = u64::from_le_bytes(size);
    if size > LONGEST_HEADER || size + 8 > length {
        let problem = format!("a header of {size} bytes in a file of {length}; at most {LONGEST_HEADER} are read");
        return Err(ExportError::Header { path: path.to_owned(), problem });
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(ExportError::io(path))?;
    Ok(header)
}

fn parse_header(header: &[u8], path: &Path) -> Result<BTreeMap<String, Entry>, ExportError> {
    let mut values: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header)
        .map_err(|error| ExportError::Header { path: path.to_owned(), problem: error.to_string() })?;
    values.remove("__metadata__");
    let entry = |(tensor, value): (String, serde_json::Value)| match serde_json::from_value(value) {
        Ok(entry) => Ok((tensor, entry)),
        Err(error) => Err(ExportError::Tensor { path: path.to_owned(), tensor, problem: error.to_string() }),
    };
    values.into_iter().map(entry).collect()
}
