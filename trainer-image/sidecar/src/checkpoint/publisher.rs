//! The coordinator's part of a checkpoint: its manifest, and what is removed after it.

use std::collections::BTreeMap;
use std::fmt::Write;

use atoll_checkpoint::manifest::{Manifest, PrivateState, VERSION};
use atoll_checkpoint::share::{Share, assemble};
use atoll_checkpoint::sweep::Sweeper;
use atoll_checkpoint::{Folder, Place};
use atoll_collective::coordinator::Complete;
use atoll_collective::v1::KeptCheckpoint;
use prost::Message;

use super::Keeping;
use crate::report::{Reporter, loss, samples};

pub(super) struct Publisher {
    keeping: Keeping,
    folder: Folder,
    sweeper: Sweeper,
    /// The last one that this process published.
    last: Option<Manifest>,
    report: Reporter,
}

impl Publisher {
    pub(super) fn new(name: &str, keeping: Keeping, folder: Folder, report: Reporter) -> Self {
        let sweeper = Sweeper::new(folder.clone(), name);
        Self { keeping, folder, sweeper, last: None, report }
    }

    /// Publishes, then removes what is kept no longer; what cannot be removed is no fault of the checkpoint.
    pub(super) async fn publish(&mut self, complete: Complete) -> Result<(), String> {
        let manifest = self.manifest(&complete)?;
        self.folder.publish(&manifest).await.map_err(|error| error.to_string())?;
        self.report.published(kept(&manifest)?);
        self.last = Some(manifest);
        match self.sweeper.sweep(&self.keeping.retention()).await {
            Ok(swept) if swept.checkpoints.is_empty() && swept.shards.is_empty() => {}
            Ok(swept) => self.report.swept(complete.committed.round, &swept),
            Err(error) => self.report.not_swept(complete.committed.round, &error),
        }
        Ok(())
    }

    fn manifest(&self, complete: &Complete) -> Result<Manifest, String> {
        let Complete { committed, record, shares } = complete;
        let read = |(slot, share): (&u32, &Vec<u8>)| {
            serde_json::from_slice::<Share>(share).map_err(|error| format!("the share of slot {slot} cannot be read: {error}"))
        };
        let shares = shares.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let whole = assemble(shares).map_err(|error| error.to_string())?;
        let place = Place { lineage: self.keeping.lineage, term: record.term, epoch: record.epoch, round: committed.round };
        let members = record.members.iter().map(|member| member.slot);
        // What was published in an earlier term may have been removed since.
        let last = self.last.as_ref().filter(|last| last.place.term == record.term);
        let private = with_late(whole.private, last, members);
        Ok(Manifest {
            version: VERSION,
            written_by: concat!("atoll ", env!("CARGO_PKG_VERSION")).to_owned(),
            run: self.keeping.run.clone(),
            place,
            from: self.keeping.from.clone(),
            step: whole.steps,
            tokens: samples(committed).saturating_mul(whole.tokens_per_sample),
            loss: loss(committed),
            seed: self.keeping.seed,
            record: digits(&committed.encode_to_vec()),
            replicated: whole.replicated,
            private,
            files: whole.files,
        })
    }
}

/// What an operator is told of a checkpoint.
fn kept(manifest: &Manifest) -> Result<KeptCheckpoint, String> {
    let content = manifest.to_json().map_err(|error| error.to_string())?;
    Ok(KeptCheckpoint {
        place: manifest.place.to_string(),
        round: manifest.place.round,
        step: manifest.step,
        tokens: manifest.tokens,
        loss: manifest.loss,
        digest: blake3::hash(&content).to_string(),
        bytes: manifest.bytes().saturating_add(content.len() as u64),
        seconds: 0.0,
    })
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _never_fails = write!(digits, "{byte:02x}");
        digits
    })
}

/// The private state of `members`; of one whose upload did not come, that of the last checkpoint, if it came then.
fn with_late(private: Vec<PrivateState>, last: Option<&Manifest>, members: impl Iterator<Item = u32>) -> Vec<PrivateState> {
    let mut by_slot: BTreeMap<u32, PrivateState> = private.into_iter().map(|state| (state.slot, state)).collect();
    for slot in members {
        let late =
            |last: &Manifest| last.private.iter().find(|state| state.slot == slot && state.round == last.place.round).cloned();
        if !by_slot.contains_key(&slot)
            && let Some(state) = last.and_then(late)
        {
            by_slot.insert(slot, state);
        }
    }
    by_slot.into_values().collect()
}
