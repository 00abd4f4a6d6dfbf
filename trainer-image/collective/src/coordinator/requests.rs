//! What trusted members ask for under one name: they decide it by majority, in whatever order they ask.

use super::Coordinator;
use crate::operation::{self, Key};
use crate::v1::{EpochRecord, Operation};

/// What becomes of a name.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wanted {
    /// Nobody who decides has asked.
    Nothing,
    /// Who has not asked yet may decide between these.
    Open,
    /// As many ask for one as for another, and nobody is left to ask.
    Tied(usize),
    /// All who have asked ask for this, or most do.
    One {
        operation: Box<Operation>,
        /// Whoever asks yet cannot change it: who asks for something else is at fault.
        decided: bool,
    },
}

impl Coordinator {
    /// `present`: the members that can take part.
    pub(super) fn wanted(&self, key: &Key, present: &EpochRecord) -> Wanted {
        let asked: Vec<&Operation> = self.trusted().filter_map(|session| session.enter(key)?.operation.as_ref()).collect();
        let Some(first) = asked.first() else { return Wanted::Nothing };
        let voters = operation::participants(first, present).filter(|member| self.decides(member)).count();
        decide(&asked, voters)
    }
}

/// Among what was `asked`, of so many who may ask.
fn decide(asked: &[&Operation], voters: usize) -> Wanted {
    let mut distinct: Vec<(&Operation, usize)> = Vec::new();
    for operation in asked {
        match distinct.iter_mut().find(|(known, _)| known == operation) {
            Some((_, support)) => *support += 1,
            None => distinct.push((operation, 1)),
        }
    }
    let most = distinct.iter().map(|(_, support)| *support).max().unwrap_or(0);
    let leaders: Vec<&Operation> =
        distinct.iter().filter(|(_, support)| *support == most).map(|(operation, _)| *operation).collect();
    let all = asked.len() >= voters;
    let decided = 2 * most > voters || all;
    match leaders[..] {
        [leader] if decided || distinct.len() == 1 => Wanted::One { operation: Box::new(leader.clone()), decided },
        [_, _, ..] if all => Wanted::Tied(leaders.len()),
        _ => Wanted::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(elements: u64) -> Operation {
        Operation { elements, ..Operation::default() }
    }

    fn one(elements: u64, decided: bool) -> Wanted {
        Wanted::One { operation: Box::new(of(elements)), decided }
    }

    fn decided(asked: &[u64], voters: usize) -> Wanted {
        let asked: Vec<Operation> = asked.iter().copied().map(of).collect();
        decide(&asked.iter().collect::<Vec<_>>(), voters)
    }

    #[test]
    fn most_decide_in_whatever_order_they_ask() {
        assert_eq!(decided(&[1], 3), one(1, false));
        assert_eq!(decided(&[1, 2], 3), Wanted::Open);
        for asked in [[1, 1, 2], [1, 2, 1], [2, 1, 1]] {
            assert_eq!(decided(&asked, 3), one(1, true));
        }
        assert_eq!(decided(&[1, 1], 3), one(1, true), "the third cannot change it");
        assert_eq!(decided(&[1, 1, 2, 3], 4), one(1, true), "most of four");
        assert_eq!(decided(&[1, 1, 2], 4), Wanted::Open);
    }

    #[test]
    fn as_many_on_both_sides_decide_nothing() {
        assert_eq!(decided(&[1, 2], 2), Wanted::Tied(2));
        assert_eq!(decided(&[1, 2, 3], 3), Wanted::Tied(3));
        assert_eq!(decided(&[1, 2, 2, 1], 4), Wanted::Tied(2));
    }

    #[test]
    fn who_asks_alone_decides_alone() {
        assert_eq!(decided(&[1], 1), one(1, true));
        assert_eq!(decided(&[], 2), Wanted::Open);
    }
}
