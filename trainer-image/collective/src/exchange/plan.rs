//! Who gives what to whom in one attempt at an operation: a function of [`Begin`] alone, the same on all who take part.
//!
//! Every kind is a case of one movement. The result is divided into shards with one owner each; an owner gets its shard
//! from the sources, reduces it, and gives it to those who want it. An all-gather has owners that are their own source, a
//! broadcast has one source, a reduction to one has one that wants it.

use std::ops::Range;

use crate::codec::Codec;
use crate::peer::Failure;
use crate::v1::{AbortReason, Begin, DataType, Member, Operation, OperationKind, Reduction};
use crate::{operation, shards};

/// Bytes of one uncoded block: receiving, adding, hashing and sending overlap by blocks.
pub const BLOCK_BYTES: usize = 1 << 18;
/// Elements that one owner reduces for all: more frames would cost more than what they carry.
const SMALL: u64 = 4096;

/// Who gives copies of a shard to its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sources {
    All,
    Only(usize),
    /// The owner alone.
    Owner,
}

/// Who gets the reduced shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    ByAll,
    ByOnly(usize),
}

/// One attempt at an operation, as one of its members sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Term of the coordinator that began it.
    pub term: u64,
    /// Its number in the term.
    pub number: u64,
    /// What is done.
    pub operation: Operation,
    /// Who takes part, in slot order.
    pub members: Vec<Member>,
    /// Position of this peer among the members.
    pub me: usize,
    /// Weight of this peer's contribution: not what it asked for, where nobody's had any.
    pub weight: u32,
    /// What each member's copy is multiplied by.
    pub factors: Vec<u32>,
    /// What the sum is divided by; 0 where it is not divided.
    pub divisor: u64,
    /// Ranges of bytes of the result, by owner.
    shards: Vec<Range<usize>>,
    sources: Sources,
    wanted: Wanted,
    /// Index of each shard's first block among those of all, and of the end.
    first_blocks: Vec<usize>,
    groups: Option<Groups>,
}

/// Neighbours whose copies one of them adds up, so that what crosses between groups does not grow with their size.
#[derive(Debug, Clone, PartialEq)]
struct Groups {
    size: usize,
    /// By group, who may add up: those that are no contributors.
    trusted: Vec<Vec<usize>>,
}

impl Plan {
    /// The plan of `begin` as the member of `slot` sees it; none when it does not take part, or when what was agreed makes
    /// no sense.
    #[must_use]
    pub fn new(begin: &Begin, slot: u32) -> Option<Self> {
        let record = begin.record.as_ref()?;
        let operation = begin.operation.clone()?;
        operation::check(&operation).ok()?;
        let members: Vec<Member> =
            begin.contributions.iter().map(|given| crate::chain::member(record, given.slot).cloned()).collect::<Option<_>>()?;
        let at = |slot: u32| members.iter().position(|member| member.slot == slot);
        let me = at(slot)?;
        let (sources, wanted) = match operation.kind() {
            OperationKind::AllReduce | OperationKind::Barrier => (Sources::All, Wanted::ByAll),
            OperationKind::AllGather => (Sources::Owner, Wanted::ByAll),
            OperationKind::Broadcast => (Sources::Only(at(operation.root)?), Wanted::ByAll),
            OperationKind::Send => {
                let root = at(operation.root)?;
                (Sources::Only(root), Wanted::ByOnly((0..members.len()).find(|member| *member != root)?))
            }
            OperationKind::Reduce => (Sources::All, Wanted::ByOnly(at(operation.root)?)),
            OperationKind::Unspecified => return None,
        };
        let size = operation::size(operation.data_type()) as usize;
        let elements = if operation.kind() == OperationKind::AllGather {
            let mut start = 0u64;
            let part = |given: &crate::v1::Contribution| {
                let part = start..start.checked_add(given.elements)?;
                start = part.end;
                (start <= operation::MOST_ELEMENTS).then_some(part.start as usize..part.end as usize)
            };
            begin.contributions.iter().map(part).collect::<Option<Vec<_>>>()?
        } else {
            divide(begin, &members, &operation)?
        };
        let shards: Vec<_> = elements.into_iter().map(|shard| shard.start * size..shard.end * size).collect();
        let mut first_blocks = vec![0];
        for shard in &shards {
            first_blocks.push(first_blocks.last().copied().unwrap_or(0) + shard.len().div_ceil(BLOCK_BYTES));
        }
        let groups = groups(&operation, &members);
        let weight = begin.contributions[me].weight;
        let factors = begin.contributions.iter().map(|given| if given.summed { 1 } else { given.weight }).collect();
        let total = begin.contributions.iter().map(|given| u64::from(given.weight)).sum();
        let divisor = if operation.reduction() == Reduction::Mean { total } else { 0 };
        let (term, number) = (record.term, begin.number);
        Some(Self {
            term,
            number,
            operation,
            members,
            me,
            weight,
            factors,
            divisor,
            shards,
            sources,
            wanted,
            first_blocks,
            groups,
        })
    }

    /// Bytes of the result.
    #[must_use]
    pub fn result_bytes(&self) -> usize {
        self.shards.last().map_or(0, |shard| shard.end)
    }

    /// Whether an output of so many bytes can hold the result: one of gathered parts may be longer, since a member that is lost
    /// leaves its part out.
    #[must_use]
    pub fn fits_in(&self, bytes: usize) -> bool {
        bytes == self.result_bytes() || self.sources == Sources::Owner && bytes > self.result_bytes()
    }

    /// Checks that an output of so many bytes can hold the result, where this peer gets it.
    ///
    /// # Errors
    /// [`Failure`] names this peer; or the contributor whose part is the longest, where what the others give would fit: it may
    /// declare whatever it likes.
    pub fn check_output(&self, bytes: usize) -> Result<(), Failure> {
        if !self.wants(self.me) || self.fits_in(bytes) {
            return Ok(());
        }
        let gives = |owner: usize| self.sources == Sources::Owner && owner != self.me && self.members[owner].contributor;
        let parts = (0..self.members.len()).map(|owner| (self.shards[owner].len() as u64, gives(owner)));
        let culprit = operation::longest_of_contributors(parts, bytes as u64).unwrap_or(self.me);
        let detail = format!("the result has {} bytes, and the output {bytes}", self.result_bytes());
        Err(Failure { reason: AbortReason::Mismatch, culprit: self.members[culprit].slot, detail })
    }

    /// Bytes of this peer's contribution.
    #[must_use]
    pub fn input_bytes(&self) -> usize {
        match self.sources {
            Sources::All => self.result_bytes(),
            Sources::Owner => self.shards[self.me].len(),
            Sources::Only(source) => usize::from(source == self.me) * self.result_bytes(),
        }
    }

    /// Range of bytes that `owner` reduces.
    #[must_use]
    pub fn shard(&self, owner: usize) -> Range<usize> {
        self.shards[owner].clone()
    }

    /// Blocks of a shard.
    #[must_use]
    pub fn blocks(&self, owner: usize) -> usize {
        self.shard_blocks(owner).len()
    }

    /// Indices of a shard's blocks among those of all shards.
    #[must_use]
    pub fn shard_blocks(&self, owner: usize) -> Range<usize> {
        self.first_blocks[owner]..self.first_blocks[owner + 1]
    }

    /// Blocks of all shards.
    #[must_use]
    pub fn all_blocks(&self) -> usize {
        self.first_blocks.last().copied().unwrap_or(0)
    }

    /// Whose shard has the block of this index among those of all, and its index in that shard.
    #[must_use]
    pub fn place(&self, block: usize) -> Option<(usize, usize)> {
        let owner = self.first_blocks.partition_point(|first| *first <= block).checked_sub(1)?;
        (owner < self.shards.len()).then(|| (owner, block - self.first_blocks[owner]))
    }

    /// Range of bytes of the result that is block `block` of `owner`'s shard.
    #[must_use]
    pub fn block(&self, owner: usize, block: usize) -> Range<usize> {
        let shard = &self.shards[owner];
        let start = shard.start + block * BLOCK_BYTES;
        start..(start + BLOCK_BYTES).min(shard.end)
    }

    /// Where this peer's contribution to a range of the result is in its input.
    #[must_use]
    pub fn in_input(&self, range: Range<usize>) -> Range<usize> {
        let before = if self.sources == Sources::Owner { self.shards[self.me].start } else { 0 };
        range.start - before..range.end - before
    }

    /// Whether `from` gives copies of `owner`'s shard to its reduction.
    #[must_use]
    pub fn gives(&self, from: usize, owner: usize) -> bool {
        match self.sources {
            Sources::All => true,
            Sources::Only(source) => from == source,
            Sources::Owner => from == owner,
        }
    }

    /// Who gets `from`'s copy of `owner`'s shard: one of its group who adds up what the group gives; or the owner itself, where
    /// the group is its own, where there are no groups, and where nobody of the group may.
    #[must_use]
    pub fn hop(&self, from: usize, owner: usize) -> usize {
        let Some(Groups { size, trusted }) = &self.groups else { return owner };
        let trusted = &trusted[from / size];
        if from / size == owner / size || trusted.is_empty() { owner } else { trusted[owner % trusted.len()] }
    }

    /// Whether `member` adds up what its group gives to the shard of `owner`, who is another.
    #[must_use]
    pub fn collects(&self, member: usize, owner: usize) -> bool {
        member != owner && self.hop(member, owner) == member
    }

    /// Whether `at` needs something of `from`, another, in order to add up or to reduce `owner`'s shard.
    #[must_use]
    pub fn needs(&self, at: usize, from: usize, owner: usize) -> bool {
        let copy = self.gives(from, owner) && self.hop(from, owner) == at;
        from != at && (copy || at == owner && self.collects(from, owner))
    }

    /// From whom `to` has the result of `owner`'s shard.
    #[must_use]
    pub fn supplier(&self, to: usize, owner: usize) -> usize {
        let hop = self.hop(to, owner);
        if hop == to { owner } else { hop }
    }

    /// How many members' work one after the other the result of `owner`'s shard is, as `from` gives it: those that give copies, the
    /// sums of groups, and the owner; each waits for those before.
    #[must_use]
    pub fn steps(&self, from: usize, owner: usize) -> u32 {
        match self.sources {
            Sources::Owner => 1,
            Sources::Only(source) => 1 + u32::from(from != source),
            Sources::All => 2 + u32::from(self.groups.is_some()) + u32::from(from != owner),
        }
    }

    /// Whether `to` gets the bytes of `owner`'s reduced shard: its hashes alone, where not.
    #[must_use]
    pub fn wants(&self, to: usize) -> bool {
        self.wanted == Wanted::ByAll || self.wanted == Wanted::ByOnly(to)
    }

    /// Whether `member` has the whole result from the start: the only source of it.
    #[must_use]
    pub fn has_all(&self, member: usize) -> bool {
        self.sources == Sources::Only(member)
    }

    /// Whether copies are added, and not taken as they are.
    #[must_use]
    pub fn adds(&self) -> bool {
        self.sources == Sources::All && self.operation.data_type() != DataType::U8
    }

    /// The other members' positions, beginning with the next one, so that not all send to the same one first.
    pub fn others(&self) -> impl Iterator<Item = usize> + '_ {
        let members = self.members.len();
        (1..members).map(move |step| (self.me + step) % members)
    }

    /// Position of the member with this slot, if it is another than this peer.
    #[must_use]
    pub fn other(&self, slot: u32) -> Option<usize> {
        self.members.iter().position(|member| member.slot == slot).filter(|member| *member != self.me)
    }
}

/// The groups of an operation that has such, and more than one.
fn groups(operation: &Operation, members: &[Member]) -> Option<Groups> {
    let size = operation.group_size as usize;
    let adds_floats = operation.kind() == OperationKind::AllReduce && operation.data_type() != DataType::I64;
    if !adds_floats || size <= 1 || members.len() <= size {
        return None;
    }
    let trusted = |(group, members): (usize, &[Member])| {
        let members = members.iter().enumerate().filter(|(_, member)| !member.contributor);
        members.map(|(place, _)| group * size + place).collect()
    };
    Some(Groups { size, trusted: members.chunks(size).enumerate().map(trusted).collect() })
}

/// Shards in proportion to what links carry, where that is known; contributors own nothing. What is small has one owner.
fn divide(begin: &Begin, members: &[Member], operation: &Operation) -> Option<Vec<Range<usize>>> {
    let bandwidths = members.iter().enumerate().map(|(position, member)| {
        let known = begin.bandwidths.get(position).copied().filter(|_| begin.bandwidths.len() == members.len());
        (!member.contributor).then_some(known.unwrap_or(1))
    });
    let mut bandwidths = shards::evened(bandwidths.collect());
    if operation.elements <= SMALL {
        leave_to_one(&mut bandwidths);
    }
    let codec = operation::codec(operation).unwrap_or(Codec::F32);
    shards::weighted(operation.elements as usize, &bandwidths, codec).ok()
}

/// Leaves everything to the last of the fastest.
fn leave_to_one(bandwidths: &mut [Option<u64>]) {
    let fastest = bandwidths.iter().copied().max().flatten();
    let owner = bandwidths.iter().rposition(|bandwidth| *bandwidth == fastest);
    for (peer, bandwidth) in bandwidths.iter_mut().enumerate() {
        bandwidth.take_if(|_| Some(peer) != owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Contribution, EpochRecord};

    fn plan(operation: Operation, slot: u32, lengths: [u64; 3]) -> Option<Plan> {
        let members = [0, 1, 2].map(|slot| Member { slot, ..Member::default() }).to_vec();
        let contributions =
            [0, 1, 2].map(|slot| Contribution { slot, weight: 2, elements: lengths[slot as usize], ..Contribution::default() });
        let record = Some(EpochRecord { term: 1, epoch: 1, members, ..EpochRecord::default() });
        let begin = Begin { operation: Some(operation), record, contributions: contributions.to_vec(), ..Begin::default() };
        Plan::new(&begin, slot)
    }

    fn kind(kind: OperationKind, elements: u64) -> Operation {
        let mut operation = Operation { elements, root: 1, ends_round: false, ..operation::ends_round(1, 1, elements) };
        operation.set_kind(kind);
        operation.key.as_mut().unwrap().sequence = 1;
        operation
    }

    #[test]
    fn a_mean_takes_everybodys_shards_and_gives_them_to_all() {
        let plan = plan(kind(OperationKind::AllReduce, 6000), 1, [0; 3]).unwrap();
        assert_eq!((plan.shard(1), plan.result_bytes(), plan.input_bytes()), (8000..16_000, 24_000, 24_000));
        assert!(plan.gives(0, 1) && plan.gives(2, 0) && plan.wants(2));
        assert_eq!((plan.divisor, plan.factors[1]), (6, 2));
        assert_eq!(plan.others().collect::<Vec<_>>(), [2, 0]);
    }

    #[test]
    fn between_groups_one_of_each_speaks_for_the_others() {
        let operation = Operation { group_size: 2, ..operation::ends_round(1, 1, 1 << 20) };
        let members = [0, 1, 2, 3, 4].map(|slot| Member { slot, contributor: slot == 2, ..Member::default() }).to_vec();
        let contributions = [0, 1, 2, 3, 4].map(|slot| Contribution { slot, weight: 1, ..Contribution::default() }).to_vec();
        let record = Some(EpochRecord { term: 1, epoch: 1, members, ..EpochRecord::default() });
        let begin = Begin { operation: Some(operation), record, contributions, ..Begin::default() };
        let plan = Plan::new(&begin, 0).unwrap();
        let hops = |owner| [0, 1, 2, 3, 4].map(|from| plan.hop(from, owner));
        assert_eq!((hops(0), hops(1)), ([0, 0, 3, 3, 4], [1, 1, 3, 3, 4]), "2 is a contributor and never adds");
        assert_eq!((hops(3), hops(4)), ([1, 1, 3, 3, 4], [0, 0, 3, 3, 4]));
        assert_eq!([0, 1, 2, 3, 4].map(|to| plan.supplier(to, 0)), [0, 0, 3, 0, 0]);
        assert!(
            plan.needs(0, 3, 0) && plan.needs(0, 1, 0) && plan.needs(3, 2, 0) && !plan.needs(0, 2, 0) && !plan.needs(1, 0, 0)
        );
    }

    #[test]
    fn blocks_of_all_shards_are_counted_through() {
        let plan = plan(kind(OperationKind::AllGather, 0), 1, [1, 0, 70_000]).unwrap();
        assert_eq!([0, 1, 2, 3].map(|block| plan.place(block)), [Some((0, 0)), Some((2, 0)), Some((2, 1)), None]);
        assert_eq!((plan.all_blocks(), plan.shard_blocks(2)), (3, 1..3));
    }

    #[test]
    fn what_is_small_has_one_owner() {
        let plan = plan(kind(OperationKind::AllReduce, SMALL), 1, [0; 3]).unwrap();
        assert_eq!([plan.shard(0), plan.shard(1), plan.shard(2)], [0..0, 0..0, 0..16_384]);
        let mut bandwidths = [Some(5), Some(9), None, Some(9), Some(1)];
        leave_to_one(&mut bandwidths);
        assert_eq!(bandwidths, [None, None, None, Some(9), None]);
    }

    #[test]
    fn gathered_parts_lie_one_after_the_other() {
        let plan = plan(kind(OperationKind::AllGather, 0), 1, [1, 0, 70_000]).unwrap();
        assert_eq!([plan.shard(0), plan.shard(1), plan.shard(2)], [0..4, 4..4, 4..280_004]);
        assert_eq!((plan.input_bytes(), plan.blocks(2), plan.block(2, 1)), (0, 2, 262_148..280_004));
        assert!(plan.gives(2, 2) && !plan.gives(1, 2) && plan.wants(1));
    }

    #[test]
    fn whose_part_makes_the_result_longer_than_the_output_is_named() {
        let gather = plan(kind(OperationKind::AllGather, 0), 1, [10, 5, 70_000]).unwrap();
        let contributed = |slots: &[usize]| {
            let mut plan = gather.clone();
            for slot in slots {
                plan.members[*slot].contributor = true;
            }
            plan
        };
        let blamed = |plan: &Plan, bytes| plan.check_output(bytes).map_err(|failure| (failure.reason, failure.culprit));
        let by = |slot| Err((AbortReason::Mismatch, slot));
        assert_eq!((blamed(&gather, 280_060), blamed(&gather, 280_059)), (Ok(()), by(1)), "nobody lies");
        assert_eq!(blamed(&contributed(&[0, 2]), 1_000), by(2));
        assert_eq!(blamed(&contributed(&[0]), 1_000), by(1), "without 0 it would not fit");
        assert_eq!(blamed(&contributed(&[1]), 280_059), by(1), "a contributor has its own output");
        let reduced =
            Plan { members: contributed(&[0]).members, ..plan(kind(OperationKind::AllReduce, 6000), 1, [0; 3]).unwrap() };
        assert_eq!(blamed(&reduced, 9), by(1));
    }

    #[test]
    fn one_gives_a_broadcast_and_one_gets_a_reduction() {
        let broadcast = plan(kind(OperationKind::Broadcast, 48), 0, [0; 3]).unwrap();
        assert!(broadcast.gives(1, 0) && !broadcast.gives(0, 0) && broadcast.has_all(1) && broadcast.input_bytes() == 0);
        let mut send = kind(OperationKind::Send, 48);
        send.key.as_mut().unwrap().slots = vec![1, 2];
        let send = plan(send, 1, [0; 3]).unwrap();
        assert!(send.has_all(1) && send.gives(1, 2) && !send.wants(1) && send.input_bytes() == 192);
        let reduce = plan(kind(OperationKind::Reduce, 48), 0, [0; 3]).unwrap();
        assert!(reduce.gives(2, 0) && reduce.wants(1) && !reduce.wants(0));
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        assert_eq!(plan(kind(OperationKind::AllGather, 0), 0, [u64::MAX, 1, 1]), None);
        assert_eq!(plan(kind(OperationKind::AllReduce, 48), 3, [0; 3]), None);
    }
}
