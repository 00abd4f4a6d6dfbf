//! What nobody needs any more, and in which order it is removed. How that goes together with writers: [`intent`](crate::intent).

use std::collections::BTreeSet;

use crate::intent::Intent;
use crate::shard::ShardName;

/// What a collector condemns: shards that are `stored`, and that none of the manifests which it has read `named`.
#[must_use]
pub fn condemned(stored: &BTreeSet<ShardName>, named: &BTreeSet<ShardName>) -> BTreeSet<ShardName> {
    stored.difference(named).copied().collect()
}

/// What it then removes: of what it has condemned, what no writer intended, and no manifest `named` that was read after the intents.
/// An intent that was taken back by then had become a manifest, or nothing.
#[must_use]
pub fn doomed(condemned: &BTreeSet<ShardName>, intents: &[Intent], named: &BTreeSet<ShardName>) -> BTreeSet<ShardName> {
    let needed = |shard: &&ShardName| named.contains(shard) || intents.iter().any(|intent| intent.spares(shard));
    condemned.iter().filter(|shard| !needed(shard)).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;
    use crate::intent::usable_copy;

    type Shards = BTreeSet<ShardName>;

    /// What lies in a store.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
    struct Stored {
        shards: Shards,
        manifests: BTreeSet<Shards>,
        intents: BTreeMap<usize, Shards>,
        condemned: BTreeMap<usize, Shards>,
    }

    impl Stored {
        fn named(&self) -> Shards {
            self.manifests.iter().flatten().copied().collect()
        }
    }

    /// Somebody at work, after so many steps; and what it has read until then. Each step is one request to the store.
    #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
    enum Worker {
        Writer { step: usize, needs: Vec<ShardName>, uses: Vec<ShardName>, looked: usize },
        Collector { step: usize, stored: Shards, condemned: Shards, intents: Vec<Shards>, doomed: Vec<ShardName> },
    }

    /// Which rules of the protocol are kept.
    #[derive(Debug, Clone, Copy)]
    struct Rules {
        intends: bool,
        avoids_condemned: bool,
        intents_before_manifests: bool,
    }

    const ALL: Rules = Rules { intends: true, avoids_condemned: true, intents_before_manifests: true };

    impl Worker {
        fn writer(needs: &[ShardName]) -> Self {
            Self::Writer { step: 0, needs: needs.to_vec(), uses: Vec::new(), looked: 0 }
        }

        fn collector() -> Self {
            let (stored, condemned) = (Shards::new(), Shards::new());
            Self::Collector { step: 0, stored, condemned, intents: Vec::new(), doomed: Vec::new() }
        }

        /// The next step; false when there is none.
        fn step(&mut self, me: usize, store: &mut Stored, rules: Rules) -> bool {
            match self {
                Self::Writer { step, needs, uses, looked } => {
                    match *step {
                        0 => {
                            store.intents.extend(rules.intends.then(|| (me, needs.iter().copied().collect())));
                        }
                        1 => {
                            let condemned: Shards = store.condemned.values().flatten().copied().collect();
                            let known = if rules.avoids_condemned { condemned } else { Shards::new() };
                            *uses = needs.iter().map(|shard| usable_copy(*shard, &known)).collect();
                        }
                        // Looks for one shard, or uploads it: a shard that is there is not written again.
                        2 if *looked < uses.len() => {
                            store.shards.insert(uses[*looked]);
                            *looked += 1;
                            return true;
                        }
                        2 => {}
                        3 => {
                            store.manifests.insert(uses.iter().copied().collect());
                        }
                        4 => {
                            store.intents.remove(&me);
                        }
                        _ => return false,
                    }
                    *step += 1;
                }
                Self::Collector { step, stored, condemned, intents, doomed: victims } => {
                    let read_intents = |store: &Stored| store.intents.values().cloned().collect::<Vec<_>>();
                    match *step {
                        0 => *stored = store.shards.clone(),
                        1 => *condemned = super::condemned(stored, &store.named()),
                        2 => {
                            store.condemned.insert(me, condemned.clone());
                        }
                        3 if rules.intents_before_manifests => *intents = read_intents(store),
                        3 => *stored = store.named(),
                        4 => {
                            let named = if rules.intents_before_manifests { store.named() } else { stored.clone() };
                            if !rules.intents_before_manifests {
                                *intents = read_intents(store);
                            }
                            let intents: Vec<Intent> = intents.iter().map(|shards| Intent::new(shards.iter().copied())).collect();
                            *victims = super::doomed(condemned, &intents, &named).into_iter().collect();
                        }
                        5 => {
                            if let Some(shard) = victims.pop() {
                                store.shards.remove(&shard);
                                return true;
                            }
                        }
                        6 => {
                            store.condemned.remove(&me);
                        }
                        _ => return false,
                    }
                    *step += 1;
                }
            }
            true
        }
    }

    /// Visits every order of the steps of `workers`, any of which may end at any moment. A manifest that lacks a shard, or the number
    /// of states.
    fn explore(store: Stored, workers: Vec<Worker>, rules: Rules) -> Result<usize, Stored> {
        let mut seen = HashSet::new();
        let mut open = vec![(store, workers)];
        while let Some((store, workers)) = open.pop() {
            if !seen.insert((store.clone(), workers.clone())) {
                continue;
            }
            if !store.named().is_subset(&store.shards) {
                return Err(store);
            }
            for me in 0..workers.len() {
                let (mut store, mut workers) = (store.clone(), workers.clone());
                if workers[me].step(me, &mut store, rules) {
                    open.push((store, workers));
                }
            }
        }
        Ok(seen.len())
    }

    fn shards() -> [ShardName; 3] {
        [ShardName::of(b"a"), ShardName::of(b"b"), ShardName::of(b"c")]
    }

    /// Two shards that no manifest names any more, and one that a manifest does.
    fn before() -> Stored {
        let [a, b, c] = shards();
        Stored { shards: [a, b, c].into(), manifests: [[c].into()].into(), ..Stored::default() }
    }

    fn all_orders(rules: Rules) -> Result<usize, Stored> {
        let [a, b, _] = shards();
        explore(before(), vec![Worker::writer(&[a, b]), Worker::collector(), Worker::collector()], rules)?;
        explore(before(), vec![Worker::writer(&[a]), Worker::writer(&[a, b]), Worker::collector()], rules)
    }

    #[test]
    fn no_manifest_ever_lacks_a_shard_in_whatever_order_writers_and_collectors_work_and_end() {
        let states = all_orders(ALL).unwrap();
        assert!(states > 1_000, "{states} states");
    }

    #[test]
    fn without_any_one_of_the_rules_some_manifest_lacks_a_shard() {
        assert!(all_orders(Rules { intends: false, ..ALL }).is_err());
        assert!(all_orders(Rules { avoids_condemned: false, ..ALL }).is_err());
        assert!(all_orders(Rules { intents_before_manifests: false, ..ALL }).is_err());
    }

    #[test]
    fn what_nobody_needs_is_removed_and_what_a_manifest_names_is_not() {
        let [a, b, c] = shards();
        let mut store = before();
        let mut collector = Worker::collector();
        while collector.step(0, &mut store, ALL) {}
        assert_eq!(store.shards, [c].into());
        assert_eq!(condemned(&[a, b, c].into(), &[c].into()), [a, b].into());
        assert_eq!(doomed(&[a, b].into(), &[Intent::new([b.next_copy()])], &Shards::new()), [a].into());
    }
}
