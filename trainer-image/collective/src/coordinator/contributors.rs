//! Contributors: members that train and contribute, and whose word decides nothing about others.
//!
//! Every shard has a trusted owner, so what a contributor gives is in the results of all trusted members, or of none: their
//! hashes say what is committed. What a contributor says of its own result, of commits, or of others, is about itself alone. It
//! is waited for as others are, and never longer than a round may take.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Coordinator, Phase, Session, evict};
use crate::operation::{self, Key};
use crate::state::election::{Revision, Standing};
use crate::v1::{AbortReason, Begin, Flight, Member, OperationKind, Start, StateStrategy};
use crate::{Millis, Refusal, chain, ledger};

/// What a contributor is waited for to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
enum What {
    Arrive,
    Enter(Key),
    /// To move its part of this attempt.
    Move(u64),
}

/// A contributor for whom the others wait.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Awaited {
    slot: u32,
    what: What,
    since: Millis,
}

impl Coordinator {
    /// Whether the word of this member counts for others than itself.
    pub(super) fn decides(&self, member: &Member) -> bool {
        !member.contributor || !self.rules.contributors_have_no_vote
    }

    /// Sessions of the epoch's trusted members, in slot order.
    pub(super) fn trusted(&self) -> impl Iterator<Item = &Session> {
        self.members().filter(|session| self.decides(&session.member))
    }

    /// Sessions of the epoch's contributors, in slot order.
    fn contributors(&self) -> impl Iterator<Item = &Session> {
        self.members().filter(|session| !self.decides(&session.member))
    }

    /// What a member's trainer holds, while it stands at a round's start or is in a round. A contributor only takes states.
    pub(super) fn standing(&self, session: &Session) -> Option<Standing> {
        let standing = session.arrive.as_ref().and_then(Standing::of)?;
        let takes = session.member.contributor && self.rules.contributors_give_no_state;
        Some(if takes { Standing { strategy: StateStrategy::ReceiveOnly, ..standing } } else { standing })
    }

    /// What a trusted member of the round asks for, where that is most: no contributor is dealt more samples, whatever it asks for.
    pub(super) fn most_wanted(&self) -> u64 {
        let trusted = self.members().filter(|session| !session.member.contributor);
        trusted.filter_map(|session| session.arrive.as_ref()).map(|arrive| arrive.samples_wanted).max().unwrap_or(0)
    }

    /// What [`Coordinator::most_wanted`] was when the round began, as far as trusted members say: they themselves, and of those that
    /// were lost what they gave to the round before. A contributor's own word must not be believed, or it could have any position.
    fn most_dealt(&self) -> u64 {
        let records = self.trusted().filter_map(|session| session.start.as_ref()?.record.as_ref());
        let members = records.flat_map(|record| &record.members).filter(|member| !member.contributor);
        let trusted: BTreeSet<u32> = members.map(|member| member.slot).collect();
        let given = self.committed.iter().flat_map(|record| &record.contributions);
        let given = given.filter(|given| trusted.contains(&given.slot)).map(|given| ledger::count(&given.samples));
        given.fold(self.most_wanted(), u64::max)
    }

    /// Evicts contributors for whom the others have waited longer than a round may take, whatever is done about late trusted
    /// members.
    pub(super) fn drop_late_contributors(&mut self, now: Millis) {
        let waited_for = if self.phase == Phase::Open { self.waited_for() } else { BTreeSet::new() };
        let before = std::mem::take(&mut self.awaited);
        let since = |slot: u32, what: &What| {
            let known = before.binary_search_by(|awaited| (awaited.slot, &awaited.what).cmp(&(slot, what))).ok();
            known.map_or(now, |position| before[position].since)
        };
        self.awaited = waited_for.into_iter().map(|(slot, what)| Awaited { since: since(slot, &what), slot, what }).collect();
        let timeout = self.settings.round_timeout;
        let late = |awaited: &&Awaited| now.saturating_sub(awaited.since) > timeout;
        for slot in self.awaited.iter().filter(late).map(|awaited| awaited.slot).collect::<BTreeSet<_>>() {
            self.evict(slot, AbortReason::Straggler, &format!("the others have waited for it for more than {timeout} ms"));
        }
    }

    /// Whether the epoch has a contributor in this slot.
    pub(super) fn is_contributor(&self, slot: u32) -> bool {
        chain::member(&self.record, slot).is_some_and(|member| !self.decides(member))
    }

    /// Marks contributors for eviction that have finished, or have gone since, while trusted members go on.
    pub(super) fn drop_finished_contributors(&mut self) {
        let goes_on = self.trusted().any(|session| session.arrive.is_some() || session.start.is_some());
        if self.phase != Phase::Open || !goes_on {
            return;
        }
        let finished = |member: &&Member| {
            let session = self.sessions.get(&member.slot).filter(|session| session.member == **member);
            !self.decides(member) && session.is_none_or(|session| session.finished)
        };
        for slot in self.record.members.iter().filter(finished).map(|member| member.slot).collect::<Vec<_>>() {
            let why = || (AbortReason::Left, "it has finished while the others go on".to_owned());
            self.evicting.entry(slot).or_insert_with(why);
        }
    }

    /// Contributors for whom the trusted members wait: those for whom alone they wait at a round's start or to enter, and those that
    /// have not ended an attempt whose data moves. Who moves slowly holds the others there as well as itself, so it is not asked who
    /// else has not ended.
    fn waited_for(&self) -> BTreeSet<(u32, What)> {
        let mut waited_for = BTreeSet::new();
        if self.trusted().all(|session| session.start.is_none() && session.arrive.is_some()) {
            let late = self.contributors().filter(|session| session.arrive.is_none());
            waited_for.extend(late.map(|session| (session.member.slot, What::Arrive)));
        }
        for (key, begin) in &self.moving {
            let is_prepared = |session: &Session| session.flights.get(key).is_some_and(|flight| flight.prepared.is_some());
            let gives = |session: &&Session| begin.contributions.iter().any(|given| given.slot == session.member.slot);
            let waiting = self.contributors().filter(gives).filter(|session| !is_prepared(session));
            waited_for.extend(waiting.map(|session| (session.member.slot, What::Move(begin.number))));
        }
        let keys: BTreeSet<&Key> = self.trusted().flat_map(|session| session.flights.keys()).collect();
        for key in keys.into_iter().filter(|key| !self.moving.contains_key(key)) {
            let entered = |session: &Session| session.enter(key).is_some();
            let takes_part = |session: &&Session| operation::among(&key.slots, session.member.slot);
            if self.trusted().filter(takes_part).all(entered) {
                let waiting = self.contributors().filter(takes_part).filter(|session| !entered(session));
                waited_for.extend(waiting.map(|session| (session.member.slot, What::Enter(key.clone()))));
            }
        }
        waited_for
    }

    /// Whether the trusted members of an operation of these slots are none.
    pub(super) fn has_no_trusted(&self, slots: &[u32]) -> bool {
        let takes_part = |member: &&Member| operation::among(slots, member.slot);
        !self.record.members.iter().filter(takes_part).any(|member| self.decides(member))
    }

    /// Operations that are decided without this contributor: committed, and it is not prepared with their result; or nobody who
    /// is trusted and took part is left. Whether what it gave counts, others know.
    pub(super) fn is_left_out(&self, session: &Session) -> bool {
        let committed: BTreeMap<Key, &[u8]> =
            self.history.iter().filter_map(|commit| Some((commit.key.clone()?.into(), &*commit.result_hash))).collect();
        let left_out = |(key, flight): (&Key, &Flight)| match (committed.get(key), &flight.prepared) {
            (Some(result), prepared) => prepared.as_ref().is_none_or(|prepared| prepared.result_hash != *result),
            (None, Some(_)) => {
                let gave = |slot| flight.begin.iter().flat_map(|begin| &begin.contributions).any(|given| given.slot == slot);
                !self.trusted().any(|trusted| gave(trusted.member.slot))
            }
            (None, None) => false,
        };
        !self.decides(&session.member) && session.flights.iter().any(left_out)
    }

    /// After a recovery, contributors go on in the round that the trusted members have begun, with samples that are nobody
    /// else's and no more than they can have been dealt; whoever says otherwise begins again, and keeps its place.
    pub(super) fn recall_contributors(&mut self, actions: &mut Vec<Action>) {
        let begun = |start: &Start| Revision::of(start).map(|state| (start.round, state, start.started));
        let starts = || self.trusted().filter_map(|session| session.start.as_ref());
        let round = starts().find(|start| start.round == self.round()).and_then(begun);
        let mut held: Vec<_> = starts().flat_map(|start| start.samples.clone()).collect();
        let ledger = chain::ledger(self.committed.as_ref());
        let (most, mut recalled) = (self.most_dealt(), Vec::new());
        for session in self.contributors() {
            let Some(start) = &session.start else { continue };
            let free = ledger::free(&ledger, &held);
            if begun(start) != round {
                recalled.push((session.member.slot, "its round is not that of the trusted members"));
            } else if ledger::count(&start.samples) > most || !ledger::covers(&free, &start.samples) {
                recalled.push((session.member.slot, "nobody can confirm that it was dealt its samples"));
            } else {
                held.extend(start.samples.iter().copied());
            }
        }
        for (slot, why) in recalled {
            actions.push(self.send(slot, evict(AbortReason::PeerLost, why)));
            if let Some(session) = self.sessions.get_mut(&slot) {
                session.leave_round();
            }
        }
    }

    /// Finite contributions have a sum that is not: nobody can say whose they are, but contributors end no round with it. It is
    /// tried once more without them.
    pub(super) fn overflowed(&mut self, key: &Key, detail: String, actions: &mut Vec<Action>) {
        let begin = self.moving.get(key).into_iter();
        let slots: Vec<u32> = begin
            .flat_map(|begin| &begin.contributions)
            .map(|given| given.slot)
            .filter(|slot| self.is_contributor(*slot))
            .collect();
        if slots.is_empty() {
            return self.give_up(key, &Refusal { reason: AbortReason::Overflow, culprit: None, detail }, actions);
        }
        for slot in slots {
            self.evict(slot, AbortReason::Overflow, &detail);
        }
    }

    /// Whether an operation that its trusted members see differently may be a contributor's doing: it gives its own part of an
    /// all-gather to each of them, and may give each another.
    pub(super) fn may_be_told_apart(begin: &Begin) -> bool {
        begin.operation.as_ref().is_some_and(|operation| operation.kind() == OperationKind::AllGather)
    }
}
