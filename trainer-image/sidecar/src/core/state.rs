//! The replicated state: hashed when the trainer begins a round, offered to others, and repaired where it is not the round's.

use std::sync::{Arc, PoisonError};

use atoll_collective::peer;
use atoll_collective::state::HASHED_AT_ONCE;
use atoll_collective::state::manifest::{Manifest, ManifestError};
use atoll_collective::v1::{Arrive, Start, StateStrategy};
use tonic::Status;

use super::{Core, Input};
use crate::state::{Repair, State};

impl Core {
    /// Hashes the states of all ranks, large ones on a thread of its own.
    pub(super) fn hash(&mut self, states: Vec<State>) {
        self.stop_hashing();
        self.hashing = true;
        // The trainer may have changed what was offered, and has given up what was being repaired.
        self.shared.offer.send_replace(None);
        self.stop_fetching();
        let (number, inbox, copying) = (self.hashes, self.inbox.clone(), Arc::clone(&self.copying));
        let small = states.iter().map(State::len).sum::<usize>() < HASHED_AT_ONCE;
        if small {
            return self.hashed(number, states.iter().map(State::manifest).collect());
        }
        tokio::task::spawn_blocking(move || {
            // A copy that an earlier start of the round has begun may still write to what is hashed.
            drop(copying.lock().unwrap_or_else(PoisonError::into_inner));
            let manifests = states.iter().map(State::manifest).collect();
            let _stopping = inbox.blocking_send(Input::Hashed(number, manifests));
        });
    }

    /// What is being hashed is of no use any more.
    pub(super) fn stop_hashing(&mut self) {
        self.hashes += 1;
        self.hashing = false;
    }

    /// The trainer stands at the round's start.
    pub(super) fn hashed(&mut self, number: u64, manifests: Result<Vec<Manifest>, ManifestError>) {
        if number != self.hashes {
            return;
        }
        self.hashing = false;
        let Some(trainer) = &mut self.trainer else { return };
        let manifests = match manifests {
            Ok(manifests) => manifests,
            Err(error) => return trainer.refuse(&Status::invalid_argument(error.to_string())),
        };
        let Some((asked, mixture)) = trainer.hashed(manifests) else { return };
        let Some(manifest) = trainer.manifest.clone() else { return };
        // It takes no part any more: the trainer waits for the sidecar that takes this one's place.
        if self.petition.is_leaving() {
            return;
        }
        // What a trainer that begins a round still waited for, it has given up.
        let given_up = std::mem::take(&mut self.calls);
        // The peer counts the attempts.
        let arrive = Arrive {
            round: asked.round,
            state_root: manifest.root().to_vec(),
            samples_wanted: asked.samples_wanted,
            attempt: 0,
            state_shape: manifest.shape().to_vec(),
            strategy: asked.strategy.into(),
            mixture,
            last: asked.last,
        };
        if !mixture {
            self.offer();
        }
        self.peer_event(peer::Event::Arrived(arrive, asked.committed));
        self.forget(given_up);
    }

    /// Offers the trainer's state to others, as it was hashed.
    fn offer(&self) {
        let gives = |trainer: &&super::Trainer| trainer.strategy != StateStrategy::ReceiveOnly;
        let offer = self.trainer.as_ref().filter(gives).and_then(|trainer| trainer.state()?.offer(trainer.manifest.clone()?));
        self.shared.offer.send_replace(offer);
    }

    /// Ends a repair, if there is one; from here on the state is not written.
    pub(super) fn stop_fetching(&mut self) {
        self.fetches += 1;
        if let Some(fetching) = self.fetching.take() {
            fetching.abort();
        }
    }

    pub(super) fn fetch(&mut self, start: Start) {
        self.stop_fetching();
        // Whoever asked for it meanwhile must not get half of the old and half of the new.
        self.shared.offer.send_replace(None);
        let held = self.trainer.as_mut().and_then(|trainer| Some((trainer.state()?.clone(), trainer.manifest.take()?)));
        let Some((state, held)) = held else {
            return self.peer_event(peer::Event::Fetched(Err("what the trainer holds is not known".to_owned())));
        };
        let (report, patience) = (self.shared.report.clone(), self.config.progress);
        let repair = Repair { number: self.fetches, report, start, state, held, patience, record: self.record.subscribe() };
        self.fetching = Some(repair.start(self.lanes.clone(), self.inbox.clone()));
    }

    pub(super) fn fetched(&mut self, number: u64, result: Result<Manifest, String>) {
        if number != self.fetches {
            return;
        }
        let result = result.map(|manifest| {
            if let Some(trainer) = &mut self.trainer {
                trainer.manifest = Some(manifest);
            }
            self.offer();
        });
        self.peer_event(peer::Event::Fetched(result));
    }
}
