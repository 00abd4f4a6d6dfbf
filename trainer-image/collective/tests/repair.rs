//! Repairs under any schedule of honest and faulty donors: what a repair promises, checked at every step.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use atoll_collective::Millis;
use atoll_collective::state::manifest::{CHUNK, ElementType, Manifest, Tensor};
use atoll_collective::state::repair::{Action, Bounds, Donor, Event, Repair};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;

const PATIENCE: Millis = 2_000;

/// How a donor behaves once it has sent so many bytes as an honest one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Conduct {
    Honest,
    /// Its connection breaks.
    Dies,
    /// It flips a bit.
    Lies,
    /// It sends nothing more.
    FallsSilent,
    /// It sends a byte at a time.
    Trickles,
    /// It ends its answers as if they were whole.
    EndsEarly,
    /// It sends more than it was asked for.
    Floods,
}

fn conduct() -> impl Strategy<Value = (Conduct, usize)> {
    use Conduct::{Dies, EndsEarly, FallsSilent, Floods, Honest, Lies, Trickles};
    let conduct = prop::sample::select(vec![Honest, Dies, Lies, FallsSilent, Trickles, EndsEarly, Floods]);
    (conduct, 0..4 * CHUNK)
}

/// Lengths of tensors: some tiny, some of several chunks.
fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1usize..100, CHUNK - 1..CHUNK + 2, 2 * CHUNK..4 * CHUNK], 1..6)
}

fn manifest(tensors: &[Vec<u8>]) -> Manifest {
    let keys: Vec<_> = (0..tensors.len()).map(|key| format!("{key:02}")).collect();
    let tensor = |(key, bytes)| Tensor { key, element_type: ElementType::U8, bytes };
    let tensors: Vec<_> = keys.iter().map(String::as_str).zip(tensors.iter().map(Vec::as_slice)).map(tensor).collect();
    Manifest::of(&tensors, 1).unwrap()
}

/// A donor's answer that is under way.
struct Answer {
    donor: u32,
    chunks: Range<usize>,
    bytes: Bytes,
    /// Bytes of chunks that were not accepted.
    open: u64,
}

struct World {
    tensors: Vec<Vec<u8>>,
    wanted: Manifest,
    dirty: BTreeSet<usize>,
    conducts: Vec<(Conduct, usize)>,
    answers: BTreeMap<u64, Answer>,
    accepted: BTreeSet<usize>,
    blamed: Vec<u32>,
    bound: u64,
    end: Option<Action>,
}

impl World {
    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            assert_eq!(self.end, None, "nothing comes after the end");
            match action {
                Action::Request { request, donor, chunks } => self.asked(request, donor, chunks),
                Action::Cancel { request } => assert!(self.answers.remove(&request).is_some()),
                Action::Accept { donor, chunk, bytes } => {
                    let place = self.wanted.place(chunk);
                    assert_eq!(bytes, self.tensors[place.entry][place.bytes], "only the wanted bytes are accepted");
                    assert!(self.dirty.contains(&chunk) && self.accepted.insert(chunk), "each dirty chunk is accepted once");
                    let from = self.answers.values_mut().find(|answer| answer.donor == donor && answer.chunks.contains(&chunk));
                    from.unwrap().open -= bytes.len() as u64;
                }
                Action::Blame(blame) => self.blamed.push(blame.donor),
                Action::Complete | Action::Exhausted => self.end = Some(action),
            }
            assert!(self.answers.values().map(|answer| answer.open).sum::<u64>() <= self.bound, "more in flight than the bound");
        }
    }

    fn asked(&mut self, request: u64, donor: u32, chunks: Range<usize>) {
        assert!(!self.blamed.contains(&donor), "who was blamed is not asked again");
        for chunk in chunks.clone() {
            let twice = self.answers.values().any(|answer| answer.open > 0 && answer.chunks.contains(&chunk));
            assert!(
                self.dirty.contains(&chunk) && !self.accepted.contains(&chunk) && !twice,
                "only what is missing is asked for"
            );
        }
        let places = chunks.clone().map(|chunk| self.wanted.place(chunk));
        let bytes: Bytes = places.flat_map(|place| self.tensors[place.entry][place.bytes].to_vec()).collect();
        let open = bytes.len() as u64;
        self.answers.insert(request, Answer { donor, chunks, bytes, open });
    }

    /// What a donor does next for one request; none when it does nothing.
    fn step(&mut self, request: u64, most: usize) -> Option<Event> {
        let answer = self.answers.get_mut(&request)?;
        let (conduct, honest) = &mut self.conducts[answer.donor as usize];
        if answer.bytes.is_empty() {
            self.answers.remove(&request);
            return Some(Event::Ended { request, result: Ok(()) });
        }
        if *conduct == Conduct::Honest || *honest > 0 {
            let bytes = answer.bytes.split_to(most.min(answer.bytes.len()));
            *honest = honest.saturating_sub(bytes.len());
            return Some(Event::Delivered { request, bytes });
        }
        match conduct {
            Conduct::Honest | Conduct::FallsSilent => None,
            Conduct::Dies => Some(Event::Ended { request, result: Err("connection reset".into()) }),
            Conduct::EndsEarly => Some(Event::Ended { request, result: Ok(()) }),
            Conduct::Trickles => Some(Event::Delivered { request, bytes: answer.bytes.split_to(1) }),
            Conduct::Lies => {
                let mut bytes = answer.bytes.split_to(most.min(answer.bytes.len())).to_vec();
                bytes[0] ^= 1;
                Some(Event::Delivered { request, bytes: bytes.into() })
            }
            Conduct::Floods => {
                let bytes = [&answer.bytes[..], b"more"].concat().into();
                Some(Event::Delivered { request, bytes })
            }
        }
    }
}

/// Lets donors act in an order drawn from `seed` until the repair has ended.
fn play(world: &mut World, repair: &mut Repair, mut seed: u64) {
    let mut draw = |below: usize| {
        // Knuth's MMIX generator; its high bits.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below.max(1)
    };
    let mut now = 0;
    world.take(repair.tick(Event::Tick, now));
    while world.end.is_none() {
        assert!(now < 10_000_000, "the repair does not end");
        // Every donor acts in every step, so that the honest ones are never silent.
        for donor in 0..world.conducts.len() as u32 {
            let requests: Vec<_> =
                world.answers.iter().filter(|(_, answer)| answer.donor == donor).map(|(request, _)| *request).collect();
            let Some(request) = requests.get(draw(requests.len())) else { continue };
            if let Some(event) = world.step(*request, 1 + draw(1 << 19)) {
                let actions = repair.tick(event, now);
                world.take(actions);
            }
        }
        now += draw(PATIENCE as usize / 8) as Millis;
        let actions = repair.tick(Event::Tick, now);
        world.take(actions);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_repair_completes_with_one_honest_donor_and_never_otherwise_than_right(
        lengths in lengths(),
        flips in prop::collection::vec((any::<Index>(), any::<Index>()), 0..8),
        conducts in prop::collection::vec(conduct(), 0..6),
        bandwidths in prop::collection::vec(prop::option::of(1u64..1 << 28), 6),
        in_flight in 1..16 * CHUNK as u64,
        seed in any::<u64>(),
    ) {
        let tensors: Vec<Vec<u8>> = lengths.iter().map(|length| (0..*length).map(|index| (index % 239) as u8).collect()).collect();
        let mut mine = tensors.clone();
        for (tensor, byte) in flips {
            let tensor = tensor.get_mut(&mut mine);
            *byte.get_mut(tensor) ^= 1;
        }
        let (held, wanted) = (manifest(&mine), manifest(&tensors));
        let dirty: BTreeSet<usize> = held.dirty(&wanted).unwrap().into_iter().flatten().collect();
        let donors: Vec<_> = (0..).zip(&bandwidths).take(conducts.len()).map(|(slot, b)| Donor { slot, bandwidth: *b }).collect();
        let mut repair = Repair::new(&held, wanted.clone(), &donors, Bounds { in_flight, patience: PATIENCE }).unwrap();
        let mut world = World {
            tensors,
            wanted,
            dirty,
            conducts: conducts.clone(),
            answers: BTreeMap::new(),
            accepted: BTreeSet::new(),
            blamed: Vec::new(),
            bound: in_flight.max(CHUNK as u64),
            end: None,
        };
        play(&mut world, &mut repair, seed);

        let honest = |slot: u32| conducts[slot as usize].0 == Conduct::Honest;
        prop_assert!(!world.blamed.iter().any(|slot| honest(*slot)), "an honest donor was blamed");
        if world.accepted == world.dirty {
            prop_assert_eq!(world.end, Some(Action::Complete));
        } else {
            prop_assert_eq!(world.end, Some(Action::Exhausted));
            prop_assert_eq!(world.blamed.len(), conducts.len());
        }
        let complete = world.accepted == world.dirty;
        prop_assert!(complete || !(0..conducts.len() as u32).any(honest), "an honest donor was there");
    }
}
