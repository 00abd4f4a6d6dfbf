//! `atoll checkpoint export`: the model of a checkpoint as a finished run writes it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use atoll_checkpoint::manifest::{ElementType, Manifest, Vector};
use atoll_checkpoint::{Folder, StoreError};
use atoll_trainer::export::Unbuilt;
use clap::Args;
use tempfile::TempDir;

use super::bar::Bar;
use super::ending;
use super::location::Location;
use super::shown::{count, short};
use super::which::Which;
use crate::{Ending, print};

/// Bytes of one number.
const SIZE: usize = size_of::<f32>();

/// Arguments of `atoll checkpoint export`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    location: Location,
    /// Which one: LINEAGE-TERM-EPOCH-ROUND as in 1-1-2-40, the newest of a round as in 40, or latest
    #[arg(value_name = "CHECKPOINT", default_value = "latest")]
    which: Which,
    /// Folder for the model: one that is empty, or that does not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) async fn export(arguments: &Arguments) -> Result<(), Ending> {
    let out = std::path::absolute(&arguments.out).map_err(|error| refused(&arguments.out, &error))?;
    check(&out)?;
    let folder = arguments.location.open()?;
    let manifest = arguments.which.read(&folder).await?;
    let name = short(manifest.place);
    let of_it = |problem: String| Ending::Failed(format!("checkpoint {name} cannot be exported: {problem}"));
    let store = |error: StoreError| ending(&error);
    let config = file(&folder, &manifest, "config.json").map_err(of_it)?.read().await.map_err(store)?;
    let tokenizer = file(&folder, &manifest, "tokenizer.json").map_err(of_it)?.read().await.map_err(store)?;
    let model = Unbuilt::new(&config).map_err(|problem| of_it(format!("its config.json: {problem}")))?;
    let parameters = parameters(&manifest, model.parameters() as u64).map_err(of_it)?;
    let partial = begin(&out).map_err(|error| refused(&out, &format!("cannot be written: {error}")))?;
    let flat = numbers(&folder, parameters).await.map_err(store)?;
    // Without a pause, so that no interrupt comes between.
    let written = model.save(&flat, &tokenizer, partial.path()).context("the model cannot be written");
    written.and_then(|()| end(partial, &out)).map_err(|error| Ending::failed(&error))?;
    print(&format!("{}: {} of checkpoint {name}\n", out.display(), count(flat.len() as u64, "parameter")))
}

fn refused(out: &Path, why: &dyn std::fmt::Display) -> Ending {
    Ending::BadInput(format!("--out {}: {why}", out.display()))
}

/// Nothing is there, or an empty folder.
fn check(out: &Path) -> Result<(), Ending> {
    match fs::read_dir(out).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(refused(out, &"not empty; give another folder or empty this one")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(refused(out, &"not a folder; give a folder, or one that does not exist yet"))
        }
        Err(error) => Err(refused(out, &error)),
    }
}

/// A file that a checkpoint holds.
struct Stored<'a> {
    folder: &'a Folder,
    vector: &'a Vector,
}

fn file<'a>(folder: &'a Folder, manifest: &'a Manifest, name: &str) -> Result<Stored<'a>, String> {
    let vector = manifest.files.iter().find(|file| file.name == name);
    vector.map(|vector| Stored { folder, vector }).ok_or_else(|| format!("it holds no {name}"))
}

impl Stored<'_> {
    async fn read(&self) -> Result<Vec<u8>, StoreError> {
        let mut content = Vec::new();
        for piece in &self.vector.pieces {
            content.extend(self.folder.values(self.vector.element_type, piece).await?);
        }
        Ok(content)
    }
}

/// The model's parameters, of which its config.json says that there are so many.
fn parameters(manifest: &Manifest, expected: u64) -> Result<&Vector, String> {
    let Some(vector) = manifest.replicated.iter().find(|vector| vector.name == "parameters") else {
        return Err("it holds no parameters".to_owned());
    };
    match vector {
        Vector { element_type: ElementType::F32, elements, .. } if *elements == expected => Ok(vector),
        Vector { element_type, elements, .. } => {
            Err(format!("it holds {elements} parameters of {element_type:?}, and its config.json is of {expected} of F32"))
        }
    }
}

async fn numbers(folder: &Folder, vector: &Vector) -> Result<Vec<f32>, StoreError> {
    let bar = Bar::new("", false);
    let total = vector.elements * SIZE as u64;
    let mut flat = Vec::new();
    for piece in &vector.pieces {
        let values = folder.values(vector.element_type, piece).await?;
        let (numbers, _whole) = values.as_chunks::<SIZE>();
        flat.extend(numbers.iter().map(|number| f32::from_le_bytes(*number)));
        bar.show((flat.len() * SIZE) as u64, total);
    }
    Ok(flat)
}

/// A folder beside `out`, or beside the first folder above it that is missing; it is removed with the value.
fn begin(out: &Path) -> std::io::Result<TempDir> {
    let beside = out.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    let permissions = Permissions::from_mode(0o777);
    tempfile::Builder::new().prefix(".export-").suffix(".partial").permissions(permissions).tempdir_in(beside)
}

/// Gives a folder that is complete the name `out`.
fn end(partial: TempDir, out: &Path) -> anyhow::Result<()> {
    let missing: Vec<_> = out.ancestors().skip(1).take_while(|folder| !folder.is_dir()).collect();
    let parent = out.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).and_then(|()| fs::rename(partial.path(), out)).with_context(|| {
        for folder in missing {
            let _not_made = fs::remove_dir(folder);
        }
        format!("cannot write {}", out.display())
    })?;
    // It has another name now; there is nothing to remove.
    let _renamed = partial.keep();
    Ok(())
}
