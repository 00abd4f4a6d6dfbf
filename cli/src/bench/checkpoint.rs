//! `atoll bench checkpoint`: how fast a state is written and restored, beside a plain file of the same bytes in the same minute.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use atoll_checkpoint::manifest::{ElementType, Manifest, VERSION, Vector};
use atoll_checkpoint::write::{Cut, Writer};
use atoll_checkpoint::{Folder, Location, Place};
use atoll_sdk::Region;
use bytes::Bytes;
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use crate::units;
use crate::{Ending, printed};

/// Bytes that a plain copy reads or writes at once.
const BLOCK: usize = 1 << 20;
/// Shards that are restored at once, as a trainer does it.
const AT_ONCE: usize = 2;

/// Arguments of `atoll bench checkpoint`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Size of the state
    #[arg(long, default_value = "1GiB")]
    size: units::Bytes,
    /// Folder to write to; a new one in the temporary folder if not given
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Repeats, of which medians are taken
    #[arg(long, default_value_t = 5, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    repeats: usize,
    /// Print JSON alone
    #[arg(long)]
    json: bool,
}

/// Medians, in bytes per second.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    bytes: u64,
    /// A plain file, and until it is on the disk.
    plain_write: f64,
    write: f64,
    /// A plain file, through BLAKE3 on one thread.
    plain_read: f64,
    restore: f64,
    /// Most memory of this process above the state while it was written and restored.
    memory_bytes: u64,
}

pub(crate) fn bench(arguments: &Arguments) -> Ending {
    match measure(arguments) {
        Ok(report) if arguments.json => printed(&(serde_json::to_string(&report).unwrap_or_default() + "\n")),
        Ok(report) => printed(&text(&report)),
        Err(error) => Ending::failed(&error),
    }
}

fn text(report: &Report) -> String {
    let Report { bytes, plain_write, write, plain_read, restore, memory_bytes } = report;
    format!(
        "{} MiB: written at {:.0} MB/s, {:.2} of a plain file's {:.0}; restored at {:.0} MB/s, {:.2} of a plain read's {:.0}; {} MiB more memory\n",
        bytes >> 20,
        write / 1e6,
        write / plain_write,
        plain_write / 1e6,
        restore / 1e6,
        restore / plain_read,
        plain_read / 1e6,
        memory_bytes >> 20
    )
}

fn measure(arguments: &Arguments) -> Result<Report> {
    let made = tempfile::tempdir()?;
    let folder = arguments.folder.clone().unwrap_or_else(|| made.path().to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let elements = arguments.size.0 / 4;
    ensure!(elements > 0, "--size: give at least 4 bytes");
    // A worker has its state before it reads one.
    let mut region = Region::create("state", 4 * elements)?;
    region.values_mut(0..4 * elements as usize).context("the state has no values")?.fill(1.0);
    let before = peak_memory()?;
    let mut rows = Vec::new();
    for repeat in 0..arguments.repeats {
        let cut = Cut { name: "parameters".into(), element_type: ElementType::F32, values: values(elements, repeat as u64) };
        rows.push(once(&runtime, &folder, repeat as u64 + 1, &cut, &region)?);
        if !arguments.json {
            eprintln!("repeat {} of {}", repeat + 1, arguments.repeats);
        }
    }
    let rate = |index: usize| {
        let mut rates: Vec<f64> = rows.iter().map(|row| (4 * elements) as f64 / row[index]).collect();
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    Ok(Report {
        bytes: 4 * elements,
        plain_write: rate(0),
        write: rate(1),
        plain_read: rate(2),
        restore: rate(3),
        memory_bytes: (peak_memory()? - before).saturating_sub(4 * elements),
    })
}

/// Values that no repeat shares with another.
fn values(elements: u64, seed: u64) -> Bytes {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(4 * elements as usize);
    for _ in 0..elements {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&((state >> 33) as u32).to_le_bytes());
    }
    bytes.into()
}

/// Seconds of: a plain write, ours, a plain read through BLAKE3, our restoring.
fn once(runtime: &tokio::runtime::Runtime, folder: &Path, round: u64, cut: &Cut, region: &Region) -> Result<[f64; 4]> {
    let plain = folder.join("plain");
    let write_plain = timed(|| {
        let mut file = File::create(&plain).with_context(|| format!("cannot write {}", plain.display()))?;
        for block in cut.values.chunks(BLOCK) {
            file.write_all(block)?;
        }
        Ok(file.sync_all()?)
    })?;
    let kept = Location::at(&folder.join("kept").display().to_string(), PathBuf::from("/")).open()?;
    let mut vector = None;
    let write = timed(|| {
        vector = Some(runtime.block_on(write(&kept, round, cut))?);
        Ok(())
    })?;
    let read_plain = timed(|| {
        let (mut file, mut hasher, mut block) = (File::open(&plain)?, blake3::Hasher::new(), vec![0; BLOCK]);
        loop {
            let read = file.read(&mut block)?;
            if read == 0 {
                break;
            }
            hasher.update(&block[..read]);
        }
        std::hint::black_box(hasher.finalize());
        Ok(())
    })?;
    let vector = vector.context("nothing was written")?;
    let restore = timed(|| runtime.block_on(restore(&kept, &vector, region)))?;
    ensure!(region.bytes(0..cut.values.len()) == Some(&cut.values[..]), "another state was restored");
    std::fs::remove_file(&plain)?;
    std::fs::remove_dir_all(folder.join("kept"))?;
    Ok([write_plain, write, read_plain, restore])
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let since = Instant::now();
    work()?;
    Ok(since.elapsed().as_secs_f64())
}

/// As a sidecar writes its share: hashed, stored, published.
async fn write(folder: &Folder, round: u64, cut: &Cut) -> Result<Vector> {
    let (element_type, pieces) = (cut.element_type, cut.pieces());
    let writer = Writer::new(folder.clone(), "bench");
    let written = writer.write(pieces.into_iter().map(move |values| (element_type, values)).collect()).await?;
    let vector = cut.vector(written);
    let place = Place { lineage: 1, term: 1, epoch: 1, round };
    folder.publish(&manifest(place, vector.clone())).await?;
    writer.end().await?;
    Ok(vector)
}

fn manifest(place: Place, vector: Vector) -> Manifest {
    Manifest {
        version: VERSION,
        written_by: "atoll bench".into(),
        run: "bench".into(),
        place,
        from: None,
        step: 0,
        tokens: 0,
        loss: 0.0,
        seed: 0,
        record: "00".into(),
        replicated: vec![vector],
        private: Vec::new(),
        files: Vec::new(),
    }
}

/// As a trainer restores it: read, checked, and put in its place.
async fn restore(folder: &Folder, vector: &Vector, region: &Region) -> Result<()> {
    let mut next = 0;
    let reads = vector.pieces.iter().map(|piece| {
        let (region, offset) = (region.clone(), next);
        next += (piece.elements * vector.element_type.size()) as usize;
        folder.place(vector.element_type, piece, move |at, part| _ = region.write(offset + at as usize, part))
    });
    futures::stream::iter(reads).buffer_unordered(AT_ONCE).try_collect().await.map_err(Into::into)
}

/// Most memory that this process has held so far.
fn peak_memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
    Ok(peak.context("/proc/self/status has no VmHWM")? << 10)
}
