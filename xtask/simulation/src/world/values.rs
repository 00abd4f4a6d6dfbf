//! What trainers give, by value: vectors in regions that are used again, read while data moves.

use atoll_collective::operation::Key;
use atoll_collective::v1::{CommitRecord, Contribution, Enter, OperationKind};

use super::{GRACE, World};

/// A vector: its first element is read when a move begins, its last when it ends.
pub(super) type Vector = [i64; 2];

/// What the lanes have of one member's vector, and which region the rest is read from.
#[derive(Debug, Clone)]
pub(super) struct Gift {
    region: Key,
    first: i64,
    last: Option<i64>,
}

/// What a contribution's number stands for.
pub(super) fn value(number: u64) -> i64 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) as i64
}

/// And what it is multiplied by.
pub(super) fn weight(number: u64) -> u32 {
    1 + (number % 3) as u32
}

/// What a pair does, by the number of its operation.
pub(super) const OF_PAIRS: [OperationKind; 4] =
    [OperationKind::AllReduce, OperationKind::Reduce, OperationKind::Broadcast, OperationKind::Send];

/// Whose vector alone an operation of a pair carries: the root's; none where vectors are added.
pub(super) fn source(key: &Key) -> Option<u32> {
    let kind = OF_PAIRS[key.sequence as usize % OF_PAIRS.len()];
    let carries = !key.slots.is_empty() && matches!(kind, OperationKind::Broadcast | OperationKind::Send);
    key.slots.first().copied().filter(|_| carries)
}

/// The weighted sum of what these slots gave, or what one of them gave.
pub(super) fn reference(numbers: &[(u32, u64)], source: Option<u32>) -> Vector {
    let given = numbers.iter().filter(|(slot, _)| source.is_none_or(|source| source == *slot));
    let counted = |number| source.map_or(i64::from(weight(number)), |_| 1);
    let sum = given.map(|(_, number)| counted(*number) * value(*number)).sum();
    [sum, sum]
}

pub(super) fn hash_of(vector: &Vector) -> Vec<u8> {
    blake3::hash(vector.map(i64::to_le_bytes).as_flattened()).as_bytes().to_vec()
}

/// The region that a trainer uses for all operations of this name.
pub(super) fn region(key: &Key) -> Key {
    Key { round: 0, started: 0, ..key.clone() }
}

impl World {
    /// A move begins to read its input.
    pub(super) fn begin_to_give(&mut self, slot: u32, key: &Key, attempt: (u64, u64)) {
        let region = region(key);
        let node = self.node(slot);
        let first = node.trainer.inputs.get(&region).copied().unwrap_or_default();
        node.gave.insert(attempt, Gift { region, first, last: None });
    }

    /// A move reads its input no more.
    pub(super) fn end_giving(&mut self, slot: u32, attempt: (u64, u64)) {
        let node = self.node(slot);
        if let Some(gift) = node.gave.get_mut(&attempt) {
            gift.last = gift.last.or(node.trainer.inputs.get(&gift.region).copied());
        }
    }

    /// The weighted sum of what the lanes have of these members' vectors, or read from their regions now; or one of the vectors.
    pub(super) fn sum_of_gifts(&self, contributions: &[Contribution], attempt: (u64, u64), source: Option<u32>) -> Vector {
        let mut sum = [0; 2];
        for given in contributions.iter().filter(|given| source.is_none_or(|source| source == given.slot)) {
            let node = &self.nodes[given.slot as usize];
            let Some(Gift { region, first, last }) = node.gave.get(&attempt) else { continue };
            let last = last.or(node.trainer.inputs.get(region).copied()).unwrap_or_default();
            let weight = source.map_or(i64::from(given.weight), |_| 1);
            sum = [sum[0] + weight * first, sum[1] + weight * last];
        }
        sum
    }

    /// However a call ends, its input is what the trainer wrote, and no move reads it any more.
    pub(super) fn check_input(&mut self, slot: u32, key: &Key, entered: Option<&Enter>) {
        let Some(number) = entered.map(number) else { return };
        let node = &self.nodes[slot as usize];
        let (held, read) = (node.trainer.inputs.get(&region(key)).copied(), node.moving.contains_key(key));
        self.require(held == Some(value(number)), || format!("the input of w{slot} to {key} was changed"));
        self.require(!read, || format!("the input of w{slot} to {key} is read after its call has ended"));
    }

    /// A call is in doubt at its deadline, when it holds a result whose outcome has not reached it.
    pub(super) fn check_doubt(&mut self, slot: u32, key: &Key, by: u64) {
        self.doubts += 1;
        let holds = self.nodes[slot as usize].outputs.contains_key(key);
        self.require(holds, || format!("{key} is in doubt for w{slot}, which holds no result of it"));
        let now = self.now;
        self.require(now >= by, || format!("{key} is in doubt for w{slot} before its deadline"));
        self.require(now <= by.max(self.nodes[slot as usize].stopped_until) + GRACE, || {
            format!("{key} is in doubt for w{slot} late")
        });
    }

    /// What a trainer is told is aborted counts nowhere, and never will.
    pub(super) fn give_up(&mut self, slot: u32, key: &Key, number: u64) {
        self.given_up.insert(number);
        let counts = |record: &CommitRecord| record.contributions.iter().any(|given| given.loss as u64 == number);
        let in_round = self.history.values().any(counts);
        let committed = self.operations.get(key).is_some_and(|commit| self.numbers(key, commit).contains(&(slot, number)));
        self.require(!(in_round || committed), || format!("{key} counts what w{slot} is told is aborted"));
    }

    /// Whoever has done all rounds knows what became of every call of its; and if one has, all have that live.
    pub(super) fn check_ends(&mut self) {
        let waits = self.nodes.iter().find(|node| Some(node.trainer.rounds) == self.last && !node.trainer.waits.is_empty());
        let slot = waits.map(|node| node.me.slot);
        self.require(slot.is_none(), || format!("w{} has done all rounds and waits for an outcome", slot.unwrap_or(0)));
        let late = self.nodes.iter().find(|node| self.last.is_some() && !self.has_ended(node));
        let slot = late.map(|node| node.me.slot);
        self.require(slot.is_none(), || format!("w{} does not end with the others", slot.unwrap_or(0)));
    }
}

/// Which contribution a call gives.
pub(super) fn number(enter: &Enter) -> u64 {
    enter.contribution.as_ref().map_or(0, |given| given.loss as u64)
}
