//! The task that writes this worker's share of a checkpoint, and holds the copy until the checkpoint has ended.

use std::sync::Arc;

use atoll_checkpoint::Folder;
use atoll_checkpoint::manifest::{Piece, PrivateState};
use atoll_checkpoint::share::{self, Part, Share};
use atoll_checkpoint::write::{Cut, Writer};
use atoll_collective::v1::{Upload, Uploaded};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::snapshot::Snapshot;
use super::{Order, failed};
use crate::core::Input;

/// Carries out orders until nobody gives any.
pub(super) async fn run(
    folder: Folder,
    name: String,
    slot: u32,
    mut orders: mpsc::UnboundedReceiver<Order>,
    inbox: mpsc::Sender<Input>,
) {
    let writer = Arc::new(Writer::new(folder.clone(), &name));
    let mut held: Option<(u64, Arc<Snapshot>)> = None;
    let mut writing: Option<JoinHandle<()>> = None;
    while let Some(order) = orders.recv().await {
        let upload = match order {
            Order::Keep(snapshot, upload) => {
                held = Some((upload.rounds, Arc::new(*snapshot)));
                upload
            }
            Order::Divide(upload) => upload,
            Order::End(rounds) => {
                if held.as_ref().is_some_and(|(held, _)| *held == rounds) {
                    held = None;
                    stop(&mut writing);
                    if let Err(error) = writer.end().await {
                        tracing::debug!(%error, "an intent stays until it is forgotten");
                    }
                }
                continue;
            }
        };
        stop(&mut writing);
        let Some(snapshot) = held.as_ref().filter(|(rounds, _)| *rounds == upload.rounds).map(|(_, held)| Arc::clone(held))
        else {
            let _ending = inbox.send(Input::Uploaded(failed(&upload, "it holds no copy of that state".to_owned()))).await;
            continue;
        };
        let (writer, inbox) = (Arc::clone(&writer), inbox.clone());
        let bytes = snapshot.bytes();
        writing = Some(tokio::spawn(folder.store().together(bytes, async move {
            let uploaded = match write(&writer, slot, &snapshot, &upload).await {
                Ok(share) => {
                    let Upload { rounds, division, term, .. } = upload;
                    Uploaded { rounds, division, share, failure: String::new(), term }
                }
                Err(why) => failed(&upload, why),
            };
            let _ending = inbox.send(Input::Uploaded(uploaded)).await;
        })));
    }
}

fn stop(writing: &mut Option<JoinHandle<()>>) {
    if let Some(writing) = writing.take() {
        writing.abort();
    }
}

/// Writes what is this worker's turn, and says what that is.
async fn write(writer: &Writer, slot: u32, snapshot: &Arc<Snapshot>, upload: &Upload) -> Result<Vec<u8>, String> {
    let turn = upload.slots.iter().position(|writes| *writes == slot).ok_or("it is not among those who write")?;
    let (rounds, writers) = (upload.rounds, upload.slots.len());
    let common: Vec<Cut> = snapshot.replicated.iter().chain(&snapshot.files).cloned().collect();
    let mine = share::own(&common, rounds, turn, writers);
    let shared = mine.iter().map(|(vector, piece)| (common[*vector].element_type, common[*vector].pieces()[*piece].clone()));
    let own = snapshot.private.iter().flat_map(|cut| cut.pieces().into_iter().map(|values| (cut.element_type, values)));
    let written = writer.write(shared.chain(own).collect()).await.map_err(|error| error.to_string())?;
    let mut pieces = written.into_iter();
    let mut parts: Vec<Part> = common.iter().map(part).collect();
    for ((vector, index), piece) in mine.into_iter().zip(pieces.by_ref()) {
        parts[vector].pieces.insert(index, piece);
    }
    let files = parts.split_off(snapshot.replicated.len());
    let private = private(slot, rounds, snapshot, &mut pieces);
    let Snapshot { steps, tokens_per_sample, .. } = **snapshot;
    let written = Share { replicated: parts, files, private, steps, tokens_per_sample };
    serde_json::to_vec(&written).map_err(|error| error.to_string())
}

fn part(cut: &Cut) -> Part {
    let elements = cut.values.len() as u64 / cut.element_type.size();
    Part { name: cut.name.clone(), element_type: cut.element_type, elements, pieces: std::collections::BTreeMap::new() }
}

fn private(slot: u32, round: u64, snapshot: &Snapshot, pieces: &mut impl Iterator<Item = Piece>) -> Option<PrivateState> {
    let vector = |cut: &Cut| cut.vector(pieces.by_ref().take(cut.pieces().len()).collect());
    let vectors: Vec<_> = snapshot.private.iter().map(vector).collect();
    (!vectors.is_empty()).then_some(PrivateState { slot, round, steps: snapshot.private_steps, vectors })
}
