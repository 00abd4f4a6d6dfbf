//! The repair of one state: which donor is asked for which dirty chunks, as a state machine.
//!
//! Donors are not given fixed shares: each owes at most a second of its bandwidth and is asked again as it delivers, so that
//! all finish together whatever their estimates were. What a donor did not deliver goes to the others, and it is blamed.
//! With one donor that is honest and alive a repair completes; no chunk moves that is not dirty.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;

use super::manifest::{CHUNK, DifferentShape, Manifest};
use super::receive::Assembly;
pub use super::receive::Fault;
use super::source::Source;
use crate::Millis;

/// Bytes of one request, at most: short enough that a donor's failure costs little.
const REQUEST: u64 = 8 * CHUNK as u64;
/// Requests that one donor may owe at a time, however small they are.
const REQUESTS: usize = 16;

/// A peer that holds the wanted state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Donor {
    /// Its slot.
    pub slot: u32,
    /// Bytes per second, where anything is known.
    pub bandwidth: Option<u64>,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The next bytes of an answer.
    Delivered {
        /// The request that they answer.
        request: u64,
        /// As many as came.
        bytes: Bytes,
    },
    /// An answer ended, well or with an error in words.
    Ended {
        /// The request.
        request: u64,
        /// How.
        result: Result<(), String>,
    },
    /// Time has passed: the first event, and one at least every eighth of the patience.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask a donor for chunks.
    Request {
        /// Number of the request.
        request: u64,
        /// The donor's slot.
        donor: u32,
        /// In the wanted manifest's numbers.
        chunks: Range<usize>,
    },
    /// The rest of an answer is not wanted.
    Cancel {
        /// The request.
        request: u64,
    },
    /// A chunk came whole and has the hash of the manifest: write it.
    Accept {
        /// Who gave it.
        donor: u32,
        /// In the wanted manifest's numbers.
        chunk: usize,
        /// All of it.
        bytes: Bytes,
    },
    /// A donor is not asked again in this repair.
    Blame(Blame),
    /// No dirty chunk is left; the last action.
    Complete,
    /// No donor is left, but dirty chunks are; the last action.
    Exhausted,
}

/// Why a donor is not asked again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("slot {donor}: {fault}")]
pub struct Blame {
    /// Its slot.
    pub donor: u32,
    /// What it did.
    pub fault: Fault,
}

/// Bounds of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes that may be asked for and not accepted, all donors together; one chunk at least.
    pub in_flight: u64,
    /// Within it a donor that owes bytes delivers a block (256 KiB), or all it owes.
    pub patience: Millis,
}

/// A repair that is under way.
#[derive(Debug)]
pub struct Repair {
    wanted: Manifest,
    bounds: Bounds,
    /// Dirty chunks that nobody is asked for.
    queue: VecDeque<Range<usize>>,
    /// Bytes of the queue.
    queued: u64,
    requests: BTreeMap<u64, (u32, Assembly)>,
    next_request: u64,
    sources: BTreeMap<u32, Source>,
    last_tick: Option<Millis>,
    ended: bool,
}

impl Repair {
    /// Turns the state of `held` into that of `wanted`.
    ///
    /// # Errors
    /// [`DifferentShape`].
    pub fn new(held: &Manifest, wanted: Manifest, donors: &[Donor], bounds: Bounds) -> Result<Self, DifferentShape> {
        let queue = VecDeque::from(held.dirty(&wanted)?);
        let bounds = Bounds { in_flight: bounds.in_flight.max(CHUNK as u64), ..bounds };
        Ok(Self {
            queued: queue.iter().map(|chunks| wanted.span(chunks)).sum(),
            wanted,
            bounds,
            queue,
            requests: BTreeMap::new(),
            next_request: 0,
            sources: donors.iter().map(|donor| (donor.slot, Source::new(donor.bandwidth))).collect(),
            last_tick: None,
            ended: false,
        })
    }

    /// The state that it makes.
    #[must_use]
    pub fn wanted(&self) -> &Manifest {
        &self.wanted
    }

    /// Takes one event at time `now` and says what to do about it.
    pub fn tick(&mut self, event: Event, now: Millis) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.ended {
            return actions;
        }
        let passed = matches!(event, Event::Tick);
        match event {
            Event::Delivered { request, bytes } => self.delivered(request, bytes, now, &mut actions),
            Event::Ended { request, result } => self.answer_ended(request, result, &mut actions),
            Event::Tick => self.watch(now, &mut actions),
        }
        // Bytes that completed no chunk leave no donor more to be asked for.
        if passed || !actions.is_empty() {
            self.ask(now, &mut actions);
        }
        self.ended = self.requests.is_empty() && (self.queue.is_empty() || self.sources.is_empty());
        if self.ended {
            actions.push(if self.queue.is_empty() { Action::Complete } else { Action::Exhausted });
        }
        actions
    }

    fn delivered(&mut self, request: u64, mut bytes: Bytes, now: Millis, actions: &mut Vec<Action>) {
        let Some((donor, assembly)) = self.requests.get_mut(&request) else { return };
        let donor = *donor;
        let Some(source) = self.sources.get_mut(&donor) else { return };
        source.delivered(bytes.len() as u64, now);
        while !bytes.is_empty() {
            match assembly.take(&self.wanted, &mut bytes) {
                Ok(None) => {}
                Ok(Some((chunk, bytes))) => {
                    source.in_flight -= bytes.len() as u64;
                    actions.push(Action::Accept { donor, chunk, bytes });
                }
                Err(fault) => return self.blame(donor, fault, actions),
            }
        }
        if assembly.left().is_empty() {
            source.requests -= 1;
            self.requests.remove(&request);
        }
    }

    /// The end of a request that was answered wholly says nothing more: it is not known any more.
    fn answer_ended(&mut self, request: u64, result: Result<(), String>, actions: &mut Vec<Action>) {
        let Some((donor, _)) = self.requests.get(&request) else { return };
        let fault = result.map_or_else(Fault::Failed, |()| Fault::TooShort);
        self.blame(*donor, fault, actions);
    }

    fn watch(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let patience = self.bounds.patience;
        // A process that was stopped, or a laptop that slept, has heard nobody.
        let slept = self.last_tick.is_some_and(|tick| now.saturating_sub(tick) > patience / 2);
        self.last_tick = Some(now);
        if slept {
            self.sources.values_mut().for_each(|source| source.forgive(now));
        }
        let silent = |(slot, source): (&u32, &Source)| source.is_silent(patience, now).then_some(*slot);
        for slot in self.sources.iter().filter_map(silent).collect::<Vec<_>>() {
            self.blame(slot, Fault::Silent(patience), actions);
        }
    }

    /// The donor is asked no more; what it owes goes to the others, first of all.
    fn blame(&mut self, donor: u32, fault: Fault, actions: &mut Vec<Action>) {
        self.sources.remove(&donor);
        let owed = self.requests.extract_if(.., |_, (asked, _)| *asked == donor).collect::<Vec<_>>();
        for (request, (_, assembly)) in owed.into_iter().rev() {
            // Nothing is left of an answer that went on after its last chunk.
            if !assembly.left().is_empty() {
                self.queued += self.wanted.span(assembly.left());
                self.queue.push_front(assembly.left().clone());
            }
            actions.push(Action::Cancel { request });
        }
        actions.push(Action::Blame(Blame { donor, fault }));
    }

    /// Asks every donor for as much as it may owe, in turn.
    fn ask(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let slots: Vec<u32> = self.sources.keys().copied().collect();
        loop {
            let before = actions.len();
            for slot in &slots {
                if let Some(chunks) = self.next_for(*slot) {
                    self.request(*slot, chunks, now, actions);
                }
            }
            if actions.len() == before {
                return;
            }
        }
    }

    /// Chunks from the front of the queue that this donor is to be asked for now.
    fn next_for(&self, slot: u32) -> Option<Range<usize>> {
        let (source, front) = (self.sources.get(&slot)?, self.queue.front()?);
        let one = front.start..front.start + 1;
        let least = self.wanted.span(&one);
        let total: f64 = self.sources.values().map(Source::rate).sum();
        let in_flight: u64 = self.sources.values().map(|source| source.in_flight).sum();
        let window = source.window(total, self.bounds.in_flight);
        let free = window.saturating_sub(source.in_flight).min(self.bounds.in_flight.saturating_sub(in_flight));
        // Half a window, so that the next request is on its way while this one is answered; and smaller towards the end, so
        // that all end together.
        let share = self.queued / (2 * self.sources.len() as u64);
        let most = (window / 2).min(share).min(REQUEST).max(least);
        let full = free < least || (free < most && source.in_flight > 0);
        if source.requests == REQUESTS || full || self.others_are_sooner(slot, least, total, in_flight) {
            return None;
        }
        let fits = |end: &usize| self.wanted.span(&(front.start..*end)) <= most.min(free);
        let end = (front.start + 2..=front.end).take_while(fits).last().unwrap_or(one.end);
        Some(front.start..end)
    }

    /// Whether a quicker donor is there, and the others deliver all that is left before this one delivers `bytes` more.
    fn others_are_sooner(&self, slot: u32, bytes: u64, total: f64, in_flight: u64) -> bool {
        let Some(source) = self.sources.get(&slot) else { return true };
        let alone = source.seconds(bytes);
        let quicker = self.sources.values().any(|other| other.seconds(bytes) < alone);
        quicker && (self.queued + in_flight - source.in_flight) as f64 / (total - source.rate()) < alone
    }

    fn request(&mut self, donor: u32, chunks: Range<usize>, now: Millis, actions: &mut Vec<Action>) {
        let Some(source) = self.sources.get_mut(&donor) else { return };
        let bytes = self.wanted.span(&chunks);
        source.asked(bytes, now);
        self.queued -= bytes;
        if let Some(front) = self.queue.front_mut() {
            front.start = chunks.end;
        }
        self.queue.pop_front_if(|front| front.start == front.end);
        let request = self.next_request;
        self.next_request += 1;
        self.requests.insert(request, (donor, Assembly::new(chunks.clone())));
        actions.push(Action::Request { request, donor, chunks });
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{ElementType, Tensor};
    use super::*;

    const MIB: u64 = CHUNK as u64;
    const BOUNDS: Bounds = Bounds { in_flight: 64 * MIB, patience: 2_000 };

    /// A state of one tensor.
    fn of(bytes: &[u8]) -> Manifest {
        Manifest::of(&[Tensor { key: "w", element_type: ElementType::U8, bytes }], 1).unwrap()
    }

    /// The repair of a state of zeros, all of whose `chunks` are dirty, by donors of these bandwidths in MiB per second.
    fn repair(chunks: usize, bandwidths: &[u64], bounds: Bounds) -> Repair {
        let donors: Vec<_> =
            (0..).zip(bandwidths).map(|(slot, bandwidth)| Donor { slot, bandwidth: Some(bandwidth * MIB) }).collect();
        Repair::new(&of(&vec![1; chunks * CHUNK]), of(&vec![0; chunks * CHUNK]), &donors, bounds).unwrap()
    }

    fn requests(actions: &[Action]) -> Vec<(u64, u32, Range<usize>)> {
        let request = |action: &Action| match action {
            Action::Request { request, donor, chunks } => Some((*request, *donor, chunks.clone())),
            _ => None,
        };
        actions.iter().filter_map(request).collect()
    }

    /// Chunks that a donor is asked for.
    fn asked(actions: &[Action], slot: u32) -> usize {
        requests(actions).into_iter().filter(|(_, donor, _)| *donor == slot).map(|(.., chunks)| chunks.len()).sum()
    }

    fn zeros(chunks: usize) -> Bytes {
        vec![0; chunks * CHUNK].into()
    }

    #[test]
    fn a_quarter_of_the_bandwidth_is_asked_for_a_quarter_of_the_chunks() {
        let actions = repair(256, &[32, 32, 8], BOUNDS).tick(Event::Tick, 0);
        assert_eq!([0, 1, 2].map(|slot| asked(&actions, slot)), [24, 24, 6]);
    }

    #[test]
    fn only_dirty_chunks_are_asked_for() {
        let (wanted, mut held) = (vec![0; 256 * CHUNK], vec![0; 256 * CHUNK]);
        held[77 * CHUNK + 12_345] ^= 1;
        let donors = [0, 1].map(|slot| Donor { slot, bandwidth: None });
        let mut repair = Repair::new(&of(&held), of(&wanted), &donors, BOUNDS).unwrap();
        let actions = repair.tick(Event::Tick, 0);
        assert_eq!(requests(&actions), [(0, 0, 77..78)]);
        let ended = repair.tick(Event::Delivered { request: 0, bytes: zeros(1) }, 1);
        assert_eq!(ended, [Action::Accept { donor: 0, chunk: 77, bytes: zeros(1) }, Action::Complete]);
    }

    #[test]
    fn a_state_without_dirty_chunks_is_complete_at_once() {
        let mut repair = Repair::new(&of(&[1]), of(&[1]), &[], BOUNDS).unwrap();
        assert_eq!(repair.tick(Event::Tick, 0), [Action::Complete]);
        assert_eq!(repair.tick(Event::Tick, 1), []);
        let mut repair = Repair::new(&of(&[2]), of(&[1]), &[], BOUNDS).unwrap();
        assert_eq!(repair.tick(Event::Tick, 0), [Action::Exhausted]);
    }

    #[test]
    fn what_a_lost_donor_owes_goes_to_the_others_first() {
        let mut repair = repair(64, &[8, 8], Bounds { in_flight: 8 * MIB, ..BOUNDS });
        let first = requests(&repair.tick(Event::Tick, 0));
        assert_eq!(first, [(0, 0, 0..2), (1, 1, 2..4), (2, 0, 4..6), (3, 1, 6..8)]);
        repair.tick(Event::Delivered { request: 0, bytes: zeros(1) }, 10);
        let lost = repair.tick(Event::Ended { request: 2, result: Err("reset".into()) }, 20);
        let blame = Blame { donor: 0, fault: Fault::Failed("reset".into()) };
        let cancelled = [2, 0].map(|request| Action::Cancel { request });
        assert_eq!((&lost[..2], &lost[2]), (&cancelled[..], &Action::Blame(blame)));
        assert_eq!(requests(&lost), [(4, 1, 1..2)]);
        let next = repair.tick(Event::Delivered { request: 1, bytes: zeros(2) }, 30);
        assert_eq!(requests(&next), [(5, 1, 4..6)]);
    }

    #[test]
    fn a_wrong_chunk_is_not_accepted_and_its_donor_not_asked_again() {
        let mut repair = repair(4, &[8, 8], BOUNDS);
        repair.tick(Event::Tick, 0);
        let mut wrong = zeros(1).to_vec();
        wrong[CHUNK - 1] = 1;
        let actions = repair.tick(Event::Delivered { request: 0, bytes: wrong.into() }, 10);
        assert!(actions.contains(&Action::Blame(Blame { donor: 0, fault: Fault::WrongHash(0) })));
        assert!(!actions.iter().any(|action| matches!(action, Action::Accept { .. })));
        assert!(requests(&actions).iter().all(|(_, donor, _)| *donor == 1));
    }

    #[test]
    fn an_answer_that_ends_early_is_the_donors_fault() {
        let mut repair = repair(1, &[8], BOUNDS);
        repair.tick(Event::Tick, 0);
        let actions = repair.tick(Event::Ended { request: 0, result: Ok(()) }, 10);
        let blame = Blame { donor: 0, fault: Fault::TooShort };
        assert_eq!(actions, [Action::Cancel { request: 0 }, Action::Blame(blame), Action::Exhausted]);
    }

    #[test]
    fn a_slow_donor_is_not_asked_for_the_last_chunk() {
        let actions = repair(2, &[1, 100], BOUNDS).tick(Event::Tick, 0);
        assert_eq!([asked(&actions, 0), asked(&actions, 1)], [0, 2]);
    }

    #[test]
    fn the_last_chunks_are_shared() {
        let actions = repair(8, &[64, 64], BOUNDS).tick(Event::Tick, 0);
        assert_eq!([asked(&actions, 0), asked(&actions, 1)], [4, 4]);
    }

    #[test]
    fn tiny_chunks_do_not_become_any_number_of_requests() {
        let keys: Vec<_> = (0..1000).map(|key| format!("{key:04}")).collect();
        let of = |every_other: &[u8]| {
            let bytes = |key: usize| if key.is_multiple_of(2) { &[0] } else { every_other };
            let tensor = |(key, name)| Tensor { key: name, element_type: ElementType::U8, bytes: bytes(key) };
            let tensors: Vec<_> = keys.iter().map(String::as_str).enumerate().map(tensor).collect();
            Manifest::of(&tensors, 1).unwrap()
        };
        let donors = [0, 1].map(|slot| Donor { slot, bandwidth: None });
        let actions = Repair::new(&of(&[1]), of(&[2]), &donors, BOUNDS).unwrap().tick(Event::Tick, 0);
        assert_eq!([asked(&actions, 0), asked(&actions, 1)], [REQUESTS, REQUESTS]);
    }

    #[test]
    fn a_process_that_slept_blames_nobody() {
        let mut repair = repair(4, &[8], BOUNDS);
        repair.tick(Event::Tick, 0);
        assert_eq!(repair.tick(Event::Tick, 60_000), []);
        let mut later = (60_250..70_000).step_by(250);
        assert_eq!(later.find(|now| !repair.tick(Event::Tick, *now).is_empty()), Some(62_250));
    }
}
