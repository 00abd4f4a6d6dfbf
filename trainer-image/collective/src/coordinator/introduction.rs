//! Who may open a session: judged before it takes the place of another.

use super::{Coordinator, beginning};
use crate::chain;
use crate::identity::PeerName;
use crate::transport::Address;
use crate::v1::{Hello, Member};

/// Most sessions of one coordinator.
pub const MOST_SESSIONS: usize = 4096;

impl Coordinator {
    /// Judges an introduction. What all others are told of a member is a name and an address; a slot belongs to one worker and a
    /// worker has one slot, as long as the epoch or a session knows them; a later process of a worker is not replaced by an earlier
    /// one; and who is a contributor is no trusted member.
    ///
    /// # Errors
    /// Why the session is to be closed. Nothing has changed then, for nobody.
    pub fn admits(&self, hello: &Hello) -> Result<(), String> {
        let Some(member) = &hello.member else { return Err("the introduction names no member".into()) };
        if hello.run != self.settings.run {
            return Err(format!("this is run {}, not {}", self.settings.run, beginning(&hello.run)));
        }
        PeerName::new(&self.settings.run, &member.island, &member.worker).map_err(|error| error.to_string())?;
        member.address.parse::<Address>().map_err(|error| format!("worker {}: its address: {error}", member.worker))?;
        let named = |member: &Member| (member.island.clone(), member.worker.clone());
        let known = || self.sessions.values().map(|session| &session.member).chain(&self.record.members);
        if let Some(owner) = known().find(|known| known.slot == member.slot && named(known) != named(member)) {
            return Err(format!("slot {} is worker {}'s", member.slot, owner.worker));
        }
        if let Some(other) = known().find(|known| known.slot != member.slot && named(known) == named(member)) {
            return Err(format!("worker {} has slot {}", member.worker, other.slot));
        }
        let contributes = |known: &&Member| known.slot == member.slot && known.contributor && !member.contributor;
        if let Some(contributor) = known().find(contributes) {
            return Err(format!("worker {} is a contributor", contributor.worker));
        }
        let newest = chain::member(&self.record, member.slot).into_iter();
        let newest = newest.chain(self.sessions.get(&member.slot).map(|session| &session.member));
        if let Some(later) = newest.max_by_key(|known| known.incarnation).filter(|later| later.incarnation > member.incarnation) {
            return Err(format!("worker {} has started again since: incarnation {}", member.worker, later.incarnation));
        }
        if self.sessions.len() >= MOST_SESSIONS && !self.sessions.contains_key(&member.slot) {
            return Err(format!("there are {MOST_SESSIONS} sessions already"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Settings};
    use super::*;
    use crate::v1::EpochRecord;

    fn member(slot: u32, worker: &str, incarnation: u64) -> Member {
        let (worker, island, address) = (worker.into(), "here".into(), format!("w{slot}:1"));
        Member { slot, worker, incarnation, address, island, ..Member::default() }
    }

    fn hello(member: Member) -> Hello {
        Hello { run: "run".into(), member: Some(member), ..Hello::default() }
    }

    /// Knows workers a (slot 0, incarnation 2) by its session and b (slot 1, incarnation 5) by the epoch.
    fn coordinator() -> Coordinator {
        let settings = Settings { liveness: 2_000, round_timeout: 60_000, ..Settings::of("run", 2) };
        let record = EpochRecord { term: 1, epoch: 1, members: vec![member(1, "b", 5)], ..EpochRecord::default() };
        let mut coordinator = Coordinator::new(settings, record, 0);
        coordinator.tick(Event::Connected(Box::new(hello(member(0, "a", 2)))), 0);
        coordinator
    }

    fn refused(hello: &Hello) -> String {
        coordinator().admits(hello).unwrap_err()
    }

    #[test]
    fn a_worker_may_come_back_and_a_new_one_come_in() {
        for member in [member(0, "a", 2), member(0, "a", 3), member(1, "b", 5), member(2, "c", 1)] {
            assert_eq!(coordinator().admits(&hello(member)), Ok(()));
        }
    }

    #[test]
    fn nobody_takes_the_place_of_another() {
        assert_eq!(refused(&hello(member(0, "c", 9))), "slot 0 is worker a's");
        assert_eq!(refused(&hello(member(1, "c", 9))), "slot 1 is worker b's");
        assert_eq!(refused(&hello(Member { island: "other".into(), ..member(0, "a", 9) })), "slot 0 is worker a's");
        assert_eq!(refused(&hello(member(7, "b", 9))), "worker b has slot 1");
    }

    #[test]
    fn an_earlier_process_does_not_replace_a_later_one() {
        assert_eq!(refused(&hello(member(0, "a", 1))), "worker a has started again since: incarnation 2");
        assert_eq!(refused(&hello(member(1, "b", 4))), "worker b has started again since: incarnation 5");
    }

    #[test]
    fn a_contributor_does_not_become_a_trusted_member() {
        let mut coordinator = coordinator();
        let volunteer = Member { contributor: true, ..member(2, "c", 1) };
        coordinator.tick(Event::Connected(Box::new(hello(volunteer.clone()))), 0);
        assert_eq!(coordinator.admits(&hello(volunteer)), Ok(()));
        assert_eq!(coordinator.admits(&hello(member(2, "c", 2))).unwrap_err(), "worker c is a contributor");
    }

    #[test]
    fn another_run_and_nobody_are_refused() {
        assert_eq!(refused(&Hello { run: "other".into(), ..hello(member(2, "c", 1)) }), "this is run run, not other");
        assert!(refused(&Hello { run: "r".repeat(1 << 20), ..hello(member(2, "c", 1)) }).len() < 1_000);
        assert_eq!(refused(&Hello::default()), "the introduction names no member");
    }

    /// Both go into the record of members, which everybody gets.
    #[test]
    fn what_is_no_name_or_no_address_is_refused_and_the_field_is_named() {
        let change = |change: fn(&mut Member)| {
            let mut member = member(2, "c", 1);
            change(&mut member);
            refused(&hello(member))
        };
        let long = |refusal: String, told: &str| assert!(refusal.contains(told) && refusal.len() < 1_000, "{refusal}");
        long(change(|member| member.worker = "c".repeat(1 << 20)), "the worker name");
        long(change(|member| member.island = "C".repeat(1 << 20)), "the island name");
        long(change(|member| member.address = "c".repeat(1 << 20)), "worker c: its address: ");
        long(change(|member| member.address = format!("{}:1", "c".repeat(1 << 20))), "worker c: its address: ");
        assert!(change(|member| member.address.clear()).contains("its address: \"\" is not an address"));
    }

    #[test]
    fn sessions_are_bounded() {
        let mut full = coordinator();
        for slot in 2..=MOST_SESSIONS as u32 {
            full.tick(Event::Connected(Box::new(hello(member(slot, &slot.to_string(), 1)))), 0);
        }
        assert!(full.admits(&hello(member(9_999, "late", 1))).unwrap_err().contains("4096 sessions"));
        assert_eq!(full.admits(&hello(member(0, "a", 2))), Ok(()), "who has one may come back");
    }
}
