//! Who is registered with the relay, who waits to be answered, and how many connections each run has.

use std::collections::BTreeMap;

use super::Refusal;
use crate::identity::PeerName;

/// The relay's memory. `L` reaches a registered peer, `D` a waiting dialler.
pub(super) struct Table<L, D> {
    most: usize,
    most_per_run: usize,
    connections: usize,
    runs: BTreeMap<String, usize>,
    registered: BTreeMap<PeerName, (u64, L)>,
    waiting: BTreeMap<u64, (PeerName, D)>,
    last: u64,
}

impl<L, D> Table<L, D> {
    /// Empty; for at most `most` connections, and at most `most_per_run` of each run.
    pub(super) fn new(most: usize, most_per_run: usize) -> Self {
        Self {
            most,
            most_per_run,
            connections: 0,
            runs: BTreeMap::new(),
            registered: BTreeMap::new(),
            waiting: BTreeMap::new(),
            last: 0,
        }
    }

    /// Counts a connection of `run`.
    ///
    /// # Errors
    /// [`Refusal::Full`], [`Refusal::RunFull`]; it is not counted then.
    pub(super) fn enter(&mut self, run: &str) -> Result<(), Refusal> {
        if self.connections >= self.most {
            return Err(Refusal::Full);
        }
        if self.runs.get(run).is_some_and(|count| *count >= self.most_per_run) {
            return Err(Refusal::RunFull);
        }
        *self.runs.entry(run.to_owned()).or_default() += 1;
        self.connections += 1;
        Ok(())
    }

    /// A connection of `run` that was counted has ended.
    pub(super) fn leave(&mut self, run: &str) {
        self.connections -= 1;
        if let Some(count) = self.runs.get_mut(run) {
            *count -= 1;
            if *count == 0 {
                self.runs.remove(run);
            }
        }
    }

    /// Registers `peer`, and drops what reached an earlier registration of it. Returns the registration's number.
    pub(super) fn register(&mut self, peer: PeerName, reach: L) -> u64 {
        self.last += 1;
        self.registered.insert(peer, (self.last, reach));
        self.last
    }

    /// The registration with this number has ended; a later one of the peer stays.
    pub(super) fn unregister(&mut self, peer: &PeerName, registration: u64) {
        if self.registered.get(peer).is_some_and(|(number, _)| *number == registration) {
            self.registered.remove(peer);
        }
    }

    /// Lets `dialler` wait for `peer`. Returns the number under which it waits and what reaches the peer.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub(super) fn dial(&mut self, peer: &PeerName, dialler: D) -> Result<(u64, &L), Refusal> {
        let (_, reach) = self.registered.get(peer).ok_or(Refusal::Unknown)?;
        self.last += 1;
        self.waiting.insert(self.last, (peer.clone(), dialler));
        Ok((self.last, reach))
    }

    /// The dialler that waits for `peer` under `number`; it waits no more.
    ///
    /// # Errors
    /// [`Refusal::NobodyWaits`].
    pub(super) fn answer(&mut self, peer: &PeerName, number: u64) -> Result<D, Refusal> {
        if self.waiting.get(&number).is_none_or(|(dialled, _)| dialled != peer) {
            return Err(Refusal::NobodyWaits);
        }
        self.waiting.remove(&number).map(|(_, dialler)| dialler).ok_or(Refusal::NobodyWaits)
    }

    /// Who waited under `number` waits no more.
    pub(super) fn forget(&mut self, number: u64) {
        self.waiting.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(worker: &str) -> PeerName {
        PeerName::new("kjv", "west", worker).unwrap()
    }

    fn table() -> Table<&'static str, &'static str> {
        Table::new(3, 2)
    }

    #[test]
    fn connections_are_bounded_for_a_run_and_for_all() {
        let mut table = table();
        assert_eq!([table.enter("a"), table.enter("a"), table.enter("a")], [Ok(()), Ok(()), Err(Refusal::RunFull)]);
        assert_eq!([table.enter("b"), table.enter("b")], [Ok(()), Err(Refusal::Full)]);
        table.leave("a");
        assert_eq!([table.enter("a"), table.enter("b")], [Ok(()), Err(Refusal::Full)]);
        for run in ["a", "a", "b"] {
            table.leave(run);
        }
        assert!(table.runs.is_empty() && table.connections == 0);
    }

    #[test]
    fn who_is_not_registered_cannot_be_dialled() {
        let mut table = table();
        assert_eq!(table.dial(&peer("0"), "dialler"), Err(Refusal::Unknown));
        let registration = table.register(peer("0"), "zero");
        assert!(matches!(table.dial(&peer("0"), "dialler"), Ok((_, &"zero"))));
        table.unregister(&peer("0"), registration);
        assert_eq!(table.dial(&peer("0"), "dialler"), Err(Refusal::Unknown));
    }

    #[test]
    fn the_later_registration_counts_also_when_the_earlier_one_ends() {
        let mut table = table();
        let earlier = table.register(peer("0"), "earlier");
        table.register(peer("0"), "later");
        table.unregister(&peer("0"), earlier);
        assert!(matches!(table.dial(&peer("0"), "dialler"), Ok((_, &"later"))));
    }

    #[test]
    fn a_dialler_is_answered_once_and_only_by_whom_it_dialled() {
        let mut table = table();
        table.register(peer("0"), "zero");
        let (number, _) = table.dial(&peer("0"), "dialler").unwrap();
        assert_eq!(table.answer(&peer("1"), number), Err(Refusal::NobodyWaits));
        assert_eq!(table.answer(&peer("0"), number), Ok("dialler"));
        assert_eq!(table.answer(&peer("0"), number), Err(Refusal::NobodyWaits));
    }

    #[test]
    fn who_gave_up_is_not_answered() {
        let mut table = table();
        table.register(peer("0"), "zero");
        let (number, _) = table.dial(&peer("0"), "dialler").unwrap();
        table.forget(number);
        assert_eq!(table.answer(&peer("0"), number), Err(Refusal::NobodyWaits));
    }
}
