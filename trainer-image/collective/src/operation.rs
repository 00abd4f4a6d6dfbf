//! What an operation is: its name, who takes part, and what makes a request for one acceptable.
//!
//! Operations of a round are told apart by tag and sequence. All who take part must ask for the same one; the coordinator
//! compares what they ask for before anybody moves data.

use crate::codec::{self, Pairs, Precision, Signs, Sparse};
use crate::ledger::{self, MOST_RANGES};
use crate::v1::{Codec, DataType, EpochRecord, Member, Operation, OperationKey, OperationKind, Reduction, SampleRange};

/// Longest tag, in bytes.
pub const LONGEST_TAG: usize = 64;
/// Most operations of one peer that may be in flight at once.
pub const MOST_IN_FLIGHT: usize = 256;
/// Most elements of one vector: 2^40.
pub const MOST_ELEMENTS: u64 = 1 << 40;
/// Most elements of a vector of which payloads of pairs are: 2^32.
pub const MOST_INDEXED: u64 = 1 << 32;

/// [`OperationKey`] in the order of rounds, tags and sequence numbers. Stored as `ROUND/STARTED/SEQUENCE/SLOTS/TAG`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Key {
    /// The round in which it happens.
    pub round: u64,
    /// The epoch in which the round was begun.
    pub started: u64,
    /// Chosen by the trainers.
    pub tag: String,
    /// Counts the operations of this tag in the round.
    pub sequence: u64,
    /// Slots that take part, ascending; empty: all members.
    pub slots: Vec<u32>,
}

impl From<OperationKey> for Key {
    fn from(OperationKey { round, tag, sequence, started, slots }: OperationKey) -> Self {
        Self { round, started, tag, sequence, slots }
    }
}

impl From<Key> for OperationKey {
    fn from(Key { round, started, tag, sequence, slots }: Key) -> Self {
        Self { round, tag, sequence, started, slots }
    }
}

impl From<Key> for String {
    fn from(Key { round, started, tag, sequence, slots }: Key) -> Self {
        let slots: Vec<String> = slots.iter().map(u32::to_string).collect();
        format!("{round}/{started}/{sequence}/{}/{tag}", slots.join(","))
    }
}

/// A text that is not `ROUND/STARTED/SEQUENCE/SLOTS/TAG`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} does not name an operation")]
pub struct NotAKey(String);

impl TryFrom<String> for Key {
    type Error = NotAKey;

    fn try_from(text: String) -> Result<Self, NotAKey> {
        let key = || {
            let mut parts = text.splitn(5, '/');
            let mut number = || parts.next()?.parse().ok();
            let (round, started, sequence) = (number()?, number()?, number()?);
            let slots = parts.next()?.split(',').filter(|slot| !slot.is_empty()).map(|slot| slot.parse().ok());
            let slots = slots.collect::<Option<_>>()?;
            Some(Self { round, started, tag: parts.next()?.to_owned(), sequence, slots })
        };
        key().ok_or(NotAKey(text))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.tag.is_empty() && self.sequence == 0 {
            return write!(formatter, "round {}", self.round);
        }
        write!(formatter, "operation {}/{} of round {}", self.tag, self.sequence, self.round)
    }
}

/// The name of an operation; that of no operation where it has none.
#[must_use]
pub fn key(operation: Option<&Operation>) -> Key {
    operation.and_then(|operation| operation.key.clone()).unwrap_or_default().into()
}

/// What a trainer is told that uses a name for the second time.
pub(crate) fn used(key: &Key) -> String {
    format!("the name was used before: {key} is committed")
}

/// The reduction that ends `round`, which was begun in the epoch `started`: the weighted mean of all members' f32 vectors.
#[must_use]
pub fn ends_round(round: u64, started: u64, elements: u64) -> Operation {
    Operation {
        key: Some(OperationKey { round, started, ..OperationKey::default() }),
        kind: OperationKind::AllReduce.into(),
        data_type: DataType::F32.into(),
        elements,
        reduction: Reduction::Mean.into(),
        ends_round: true,
        ..Operation::default()
    }
}

/// Bytes of one element.
#[must_use]
pub fn size(data_type: DataType) -> u64 {
    match data_type {
        DataType::F32 => 4,
        DataType::Bf16 => 2,
        DataType::I64 => 8,
        DataType::U8 | DataType::Unspecified => 1,
    }
}

/// The codec of what crosses lanes; none where it goes as it is.
#[must_use]
pub fn codec(operation: &Operation) -> Option<codec::Codec> {
    match operation.codec() {
        Codec::Bf16 => Some(codec::Codec::Bf16),
        Codec::Uint8 => Some(codec::Codec::UInt8),
        Codec::Uint4 => Some(codec::Codec::UInt4),
        Codec::None | Codec::SparseF32 | Codec::SparseBf16 | Codec::Signs => None,
    }
}

/// Whether its contributions are payloads of (index, value) pairs.
fn gathers_pairs(operation: &Operation) -> bool {
    matches!(operation.codec(), Codec::SparseF32 | Codec::SparseBf16 | Codec::Signs)
}

/// The form of the payloads that its members give; none where they give vectors.
#[must_use]
pub fn pairs(operation: &Operation) -> Option<Pairs> {
    let dense = usize::try_from(operation.elements).ok()?;
    let sparse = |precision| Sparse::new(dense, precision).ok().map(Pairs::Sparse);
    match operation.codec() {
        Codec::SparseF32 => sparse(Precision::F32),
        Codec::SparseBf16 => sparse(Precision::Bf16),
        Codec::Signs => Signs::new(dense).ok().map(Pairs::Signs),
        Codec::None | Codec::Bf16 | Codec::Uint8 | Codec::Uint4 => None,
    }
}

/// Whether `slot` takes part.
#[must_use]
pub fn includes(operation: &Operation, slot: u32) -> bool {
    among(slots(operation), slot)
}

/// Whether `slot` is one of an operation's `slots`, ascending; none means all members.
pub(crate) fn among(slots: &[u32], slot: u32) -> bool {
    slots.is_empty() || slots.binary_search(&slot).is_ok()
}

/// The slots that take part, ascending; none means all members.
#[must_use]
pub fn slots(operation: &Operation) -> &[u32] {
    operation.key.as_ref().map_or(&[], |key| &key.slots)
}

/// Members of the epoch that take part, in slot order.
pub fn participants<'a>(operation: &'a Operation, record: &'a EpochRecord) -> impl Iterator<Item = &'a Member> {
    record.members.iter().filter(|member| includes(operation, member.slot))
}

/// Whether the epoch has the members without whom the operation makes no sense: a root, and both ends of a send. Who is
/// missing otherwise.
///
/// # Errors
/// The slot that is not a member.
pub fn possible(operation: &Operation, record: &EpochRecord) -> Result<(), u32> {
    let needed: &[u32] = match operation.kind() {
        OperationKind::Broadcast | OperationKind::Reduce => &[operation.root],
        OperationKind::Send => slots(operation),
        _ => &[],
    };
    let present = |slot: &u32| record.members.iter().any(|member| member.slot == *slot);
    needed.iter().find(|slot| !present(slot)).map_or(Ok(()), |slot| Err(*slot))
}

/// Position of the longest part that a contributor gives, where parts are longer than `most` by what contributors give alone. Each
/// part is the length and whether a contributor gives it.
pub(crate) fn longest_of_contributors(parts: impl Iterator<Item = (u64, bool)> + Clone, most: u64) -> Option<usize> {
    let sum = |parts: &mut dyn Iterator<Item = (u64, bool)>| parts.map(|(length, _)| length).fold(0, u64::saturating_add);
    let by_contributors = sum(&mut parts.clone()) > most && sum(&mut parts.clone().filter(|(_, gives)| !gives)) <= most;
    let longest = parts.enumerate().filter(|(_, (_, gives))| *gives).max_by_key(|(_, (length, _))| *length);
    longest.filter(|_| by_contributors).map(|(position, _)| position)
}

/// Checks what a trainer asks for, by itself.
///
/// # Errors
/// Which part cannot be: a mismatch of whoever asks.
pub fn check(operation: &Operation) -> Result<(), String> {
    let key = operation.key.clone().unwrap_or_default();
    let slots = slots(operation);
    let adds = matches!(operation.kind(), OperationKind::AllReduce | OperationKind::Reduce);
    let (pairs, coded) = (gathers_pairs(operation), codec(operation).is_some());
    let rules = [
        (operation.kind() != OperationKind::Unspecified, "it is of no kind that is known"),
        (key.round > 0, "it belongs to no round"),
        (key.tag.len() <= LONGEST_TAG, "its tag is longer than 64 bytes"),
        (operation.elements <= MOST_ELEMENTS, "it has more than 2^40 elements"),
        (slots.is_sorted_by(|a, b| a < b), "its slots are not ascending"),
        (slots.len() <= 1 << 16, "it names more than 65,536 slots"),
        (
            operation.kind() == OperationKind::Barrier || operation.data_type() != DataType::Unspecified,
            "its data type is unknown",
        ),
        (!adds || operation.data_type() != DataType::U8, "bytes are not added"),
        (!adds || operation.reduction() != Reduction::Unspecified, "it is neither a sum nor a mean"),
        (
            operation.data_type() != DataType::I64 || !adds || operation.reduction() == Reduction::Sum,
            "counters have a sum, not a mean",
        ),
        (Codec::try_from(operation.codec).is_ok(), "its codec is not known"),
        (!coded || operation.data_type() == DataType::F32, "only f32 is coded"),
        (!coded || operation.kind() == OperationKind::AllReduce, "only an all-reduce is coded"),
        (
            !pairs || operation.kind() == OperationKind::AllGather && operation.data_type() == DataType::U8,
            "pairs are gathered, as bytes",
        ),
        (!pairs || (1..=MOST_INDEXED).contains(&operation.elements), "pairs are of a vector of 1 to 2^32 elements"),
        (
            operation.kind() != OperationKind::Send || slots.len() == 2 && includes(operation, operation.root),
            "a send has two slots, one of them the root",
        ),
        (
            !matches!(operation.kind(), OperationKind::Barrier | OperationKind::AllGather) || operation.elements == 0 || pairs,
            "its members have no common number of elements",
        ),
        (!operation.ends_round || slots.is_empty(), "a round is ended by all members"),
        (
            !operation.ends_round
                || operation.kind() == OperationKind::AllReduce
                    && operation.data_type() == DataType::F32
                    && operation.reduction() == Reduction::Mean,
            "a round is ended by an all-reduce to a mean of f32",
        ),
        (
            operation.ends_round == (key.tag.is_empty() && key.sequence == 0 && slots.is_empty()),
            "the name without tag, sequence and slots is that of what ends the round, and of nothing else",
        ),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        None => Ok(()),
        Some((_, broken)) => Err(format!("{}: {broken}", Key::from(key))),
    }
}

/// Checks that a member can give a contribution of so many elements; what is in it, those who get it check.
///
/// # Errors
/// In what it does not fit: a mismatch of whoever gives it.
pub fn check_length(operation: &Operation, elements: u64) -> Result<(), String> {
    let Some(pairs) = pairs(operation) else { return Ok(()) };
    let refused = |error: codec::PairsError| format!("{}: its payload: {error}", key(Some(operation)));
    pairs.check_length(usize::try_from(elements).unwrap_or(usize::MAX)).map_err(refused)
}

/// Checks the loss that is said to be behind a contribution: all members' mean is made of it.
///
/// # Errors
/// That it is no number.
pub fn check_loss(operation: &Operation, loss: f64) -> Result<(), String> {
    loss.is_finite().then_some(()).ok_or_else(|| format!("{}: its loss is {loss}, which is not finite", key(Some(operation))))
}

/// Checks the samples that are said to be behind a contribution, by themselves: all members are told them.
///
/// # Errors
/// Why they cannot be: a mismatch of whoever gives it.
pub fn check_samples(operation: &Operation, samples: &[SampleRange]) -> Result<(), String> {
    let broken = if !operation.ends_round && !samples.is_empty() {
        "only what ends a round has samples".to_owned()
    } else if !ledger::is_dealt(samples) {
        format!("its samples are not at most {MOST_RANGES} ranges, none of them empty, ascending and disjoint")
    } else {
        return Ok(());
    };
    Err(format!("{}: {broken}", key(Some(operation))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(slots: &[u32]) -> Operation {
        let mut operation = ends_round(1, 1, 8);
        operation.key.as_mut().unwrap().slots = slots.to_vec();
        operation
    }

    #[test]
    fn what_ends_a_round_is_acceptable() {
        assert_eq!(check(&ends_round(1, 1, 8)), Ok(()));
        assert_eq!(key(Some(&ends_round(3, 1, 8))).to_string(), "round 3");
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        let good = ends_round(1, 1, 8);
        let named = |change: fn(&mut Operation)| {
            let mut operation = good.clone();
            change(&mut operation);
            check(&operation).unwrap_err()
        };
        assert_eq!(named(|operation| operation.kind = 99), "round 1: it is of no kind that is known");
        assert_eq!(named(|operation| operation.key.as_mut().unwrap().slots = vec![2, 1]), "round 1: its slots are not ascending");
        assert_eq!(named(|operation| operation.set_data_type(DataType::U8)), "round 1: bytes are not added");
        assert_eq!(
            named(|operation| operation.set_kind(OperationKind::Send)),
            "round 1: a send has two slots, one of them the root"
        );
        assert!(named(|operation| operation.key.as_mut().unwrap().tag = "x".repeat(65)).ends_with("longer than 64 bytes"));
        assert!(named(|operation| operation.elements = u64::MAX).ends_with("2^40 elements"));
    }

    #[test]
    fn a_round_is_ended_by_a_mean_of_f32_under_the_empty_name_and_nothing_else_has_that_name() {
        let named = |change: fn(&mut Operation)| {
            let mut operation = ends_round(1, 1, 8);
            change(&mut operation);
            check(&operation)
        };
        let is_refused =
            |checked: Result<(), String>, why: &str| assert!(checked.clone().unwrap_err().contains(why), "{checked:?}");
        let changes: [fn(&mut Operation); 4] = [
            |operation| operation.set_reduction(Reduction::Sum),
            |operation| operation.set_data_type(DataType::Bf16),
            |operation| operation.set_kind(OperationKind::Reduce),
            |operation| operation.set_kind(OperationKind::Broadcast),
        ];
        for change in changes {
            is_refused(named(change), "an all-reduce to a mean of f32");
        }
        is_refused(named(|operation| operation.key.as_mut().unwrap().tag = "a".into()), "of what ends the round");
        is_refused(named(|operation| operation.key.as_mut().unwrap().sequence = 1), "of what ends the round");
        is_refused(named(|operation| operation.ends_round = false), "of what ends the round");
        assert_eq!(named(|operation| (operation.group_size, operation.codec) = (2, Codec::Uint8.into())), Ok(()));
    }

    #[test]
    fn pairs_are_gathered_as_bytes_of_a_vector_whose_length_is_known() {
        let mut good = Operation { ends_round: false, elements: 10, ..ends_round(1, 1, 10) };
        good.key.as_mut().unwrap().tag = "a".into();
        good.set_kind(OperationKind::AllGather);
        good.set_data_type(DataType::U8);
        for codec in [Codec::SparseF32, Codec::SparseBf16, Codec::Signs] {
            good.set_codec(codec);
            assert_eq!(check(&good), Ok(()));
            assert!(pairs(&good).is_some() && super::codec(&good).is_none());
        }
        let named = |change: fn(&mut Operation)| {
            let mut operation = good.clone();
            change(&mut operation);
            check(&operation).unwrap_err()
        };
        assert_eq!(named(|operation| operation.codec = 99), "operation a/0 of round 1: its codec is not known");
        assert_eq!(
            named(|operation| operation.set_data_type(DataType::F32)),
            "operation a/0 of round 1: pairs are gathered, as bytes"
        );
        assert_eq!(
            named(|operation| operation.set_kind(OperationKind::Broadcast)),
            "operation a/0 of round 1: pairs are gathered, as bytes"
        );
        for change in [(|operation| operation.elements = 0) as fn(&mut Operation), |operation| operation.elements = (1 << 32) + 1]
        {
            assert_eq!(named(change), "operation a/0 of round 1: pairs are of a vector of 1 to 2^32 elements");
        }
        assert_eq!(
            named(|operation| operation.set_codec(Codec::None)),
            "operation a/0 of round 1: its members have no common number of elements"
        );
        let too_many = check_length(&good, 11 * 2 + 2);
        assert_eq!(too_many, Err("operation a/0 of round 1: its payload: 11 pairs for 10 elements".to_owned()));
        assert_eq!(check_length(&good, 10 * 2 + 2), Ok(()));
    }

    #[test]
    fn samples_are_few_ranges_in_order_of_what_ends_a_round() {
        let ranges = |ends: &[(u64, u64)]| ends.iter().map(|(start, end)| SampleRange { start: *start, end: *end }).collect();
        let check = |samples: Vec<SampleRange>| check_samples(&ends_round(1, 1, 8), &samples);
        assert_eq!(check(ranges(&[])), Ok(()));
        assert_eq!(check(ranges(&[(0, 4), (4, 5), (9, 12)])), Ok(()));
        for wrong in [&[(4, 4)][..], &[(5, 4)], &[(0, 4), (3, 5)], &[(0, 4), (0, 4)], &[(4, 8), (0, 4)]] {
            assert!(check(ranges(wrong)).unwrap_err().starts_with("round 1: its samples"), "{wrong:?}");
        }
        let single = |count: u64| (0..count).map(|index| SampleRange { start: 2 * index, end: 2 * index + 1 }).collect();
        assert_eq!(check(single(MOST_RANGES as u64)), Ok(()));
        assert!(check(single(MOST_RANGES as u64 + 1)).unwrap_err().contains("at most 4096 ranges"));
        let other = Operation { ends_round: false, ..ends_round(1, 1, 8) };
        assert_eq!(check_samples(&other, &single(1)), Err("round 1: only what ends a round has samples".to_owned()));
    }

    #[test]
    fn a_loss_is_finite() {
        assert_eq!(check_loss(&ends_round(1, 1, 8), -2.5), Ok(()));
        for loss in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(check_loss(&ends_round(1, 1, 8), loss), Err(format!("round 1: its loss is {loss}, which is not finite")));
        }
    }

    #[test]
    fn a_key_is_stored_as_text() {
        let key = Key { round: 7, started: 3, tag: "a/b".into(), sequence: 2, slots: vec![0, 4] };
        let text = String::from(key.clone());
        assert_eq!((text.as_str(), Key::try_from(text.clone())), ("7/3/2/0,4/a/b", Ok(key)));
        assert!(Key::try_from("7".to_owned()).is_err());
    }

    #[test]
    fn a_send_needs_both_ends_and_a_reduction_whoever_is_there() {
        let record =
            EpochRecord { members: [0, 2].map(|slot| Member { slot, ..Member::default() }).to_vec(), ..EpochRecord::default() };
        let send = |slots: &[u32]| Operation { kind: OperationKind::Send.into(), ..among(slots) };
        assert_eq!(possible(&send(&[0, 2]), &record), Ok(()));
        assert_eq!(possible(&send(&[0, 1]), &record), Err(1));
        let group = among(&[1, 2]);
        assert_eq!(possible(&group, &record), Ok(()));
        assert_eq!(participants(&group, &record).map(|member| member.slot).collect::<Vec<_>>(), [2]);
    }
}
