//! The safety rules of the protocol, by name, so that each can be shown to be needed.
//!
//! Nothing that ships turns one off: the simulation does, and must find a schedule that then goes wrong.

/// Declares [`Rules`]: one field per rule, and their names.
macro_rules! rules {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Which safety rules the state machines keep; all of them, unless a test takes one away.
        #[allow(clippy::struct_excessive_bools)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub struct Rules {
            $($(#[$doc])+ pub $name: bool,)+
        }

        impl Default for Rules {
            fn default() -> Self {
                Self { $($name: true,)+ }
            }
        }

        impl Rules {
            /// Every rule's name.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),+];

            /// All rules but the one of this name; none where there is no such rule.
            #[must_use]
            pub fn without(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self { $name: false, ..Self::default() }),)+
                    _ => None,
                }
            }
        }
    };
}

rules! {
    /// Arbiter: an epoch is granted to the coordinator of the newest term, on top of the newest epoch.
    epochs_follow,
    /// Arbiter: the newest record names the one arbiter that decides on the next; the other refuses.
    one_arbiter,
    /// Peers: a record is granted when more than half of the voters accepted it, not half.
    majority,
    /// Peers: the record before names who votes on a record, not the record itself.
    last_record_names_voters,
    /// Peers: a voter is a process; one that started again has forgotten what it promised, and has no vote.
    voters_are_processes,
    /// Peers: a voter accepts nothing in a ballot lower than the one that it promised.
    promises_bind,
    /// Peers: what a voter had accepted when it gave its promise is proposed again before anything new.
    accepted_is_adopted,
    /// Peers: two processes never propose in one ballot.
    ballots_differ,
    /// Coordinator: a round is committed when all members of the epoch are prepared, not some.
    unanimous,
    /// Coordinator: a vote counts in the epoch in which it was given.
    votes_of_this_epoch,
    /// Coordinator: a lost coordinator's round is committed only when every survivor is prepared for it.
    survivors_agree,
    /// Coordinator: survivors are told the outcome after the arbiter has stored their epoch, not before.
    stored_before_told,
    /// Coordinator: who came in with the last epoch and has not caught up does not continue a history that it does not know.
    history_is_known,
    /// Coordinator: samples count that were dealt to the member, no others.
    dealt_samples_count,
    /// Coordinator: what a contributor says of results and of commits decides nothing about others.
    contributors_have_no_vote,
    /// Coordinator: what a contributor complains of in others counts against itself.
    contributors_accuse_nobody,
    /// Coordinator: a contributor's state is neither elected nor given to others.
    contributors_give_no_state,
    /// Peer: messages of another term than the one it answered are refused.
    terms_fence,
    /// Peer: who is prepared does not abort by itself.
    prepared_waits,
    /// Peer: a commit counts for what it is prepared for with the same hash.
    commits_what_is_prepared,
    /// Peer: what was committed under a name stays its only operation: the history knows operations by their names.
    names_are_used_once,
    /// Peer: a start counts when it answers the newest arrival.
    starts_answer_arrivals,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_can_be_taken_away_alone() {
        for name in Rules::NAMES {
            let rules = serde_json::to_value(Rules::without(name).unwrap()).unwrap();
            let off: Vec<_> = rules.as_object().unwrap().iter().filter(|(_, on)| **on == false).map(|(rule, _)| rule).collect();
            assert_eq!(off, [name]);
        }
        assert_eq!(Rules::without("none"), None);
    }
}
