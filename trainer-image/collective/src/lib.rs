//! Membership, votes and fault-tolerant collectives, as pure state machines and the lanes that carry them.
