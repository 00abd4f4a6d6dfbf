//! Time in the model: a state machine stands at time 0 between any two steps, and a clock runs out as a step of its own.
//!
//! The machines compare times only with each other. A clock that runs out is shown to them as it is by its stored form with
//! all other times set to now; after the step, all times are set to 0 again. So states that differ by nothing but how much
//! time has passed are one, and each clock runs out in every order with everything else.

use atoll_collective::Millis;
use atoll_collective::coordinator::Coordinator;
use atoll_collective::peer::Peer;
use serde_json::{Value, from_value, to_value};

/// Silence after which another is lost.
pub(super) const LIVENESS: Millis = 2_000;
/// Until when the trainers' calls wait: longer than anything else.
pub(super) const DEADLINE: Millis = 100 * LIVENESS;
/// After a while a peer tries again to find a coordinator.
const RETRY: Millis = 50;
/// Another's complaint waits so long for the end of the suspect's session.
const SUSPICION: Millis = 250;

/// What has run out for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum PeerClock {
    /// Its pause between two attempts to reach a coordinator.
    Pause,
    /// It has not heard its coordinator for too long.
    Liveness,
    /// The deadline of its trainer's call.
    Deadline,
}

/// What has run out for a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CoordinatorClock {
    /// It has not heard this peer for too long.
    Liveness(u32),
    /// It has waited for the members of the last epoch.
    Recovery,
    /// A suspect's session has not ended by itself.
    Suspicion,
}

/// The peer with every time set to `now`, but for deadlines.
fn peer_at(peer: &Peer, now: Millis) -> Value {
    let mut stored = to_value(peer).unwrap();
    for place in ["/link/Dialling/since", "/link/Open/heard", "/link/Open/sent", "/tried/1", "/clock"] {
        set(&mut stored, place, now);
    }
    stored
}

/// The coordinator with every time set to `now`.
fn coordinator_at(coordinator: &Coordinator, now: Millis) -> Value {
    let mut stored = to_value(coordinator).unwrap();
    for place in ["/phase/Recovering/since", "/phase/Gathering/since", "/last_tick", "/proposal/asked"] {
        set(&mut stored, place, now);
    }
    for session in stored["sessions"].as_object_mut().unwrap().values_mut() {
        for place in ["/heard", "/started", "/suspected/0"] {
            set(session, place, now);
        }
    }
    stored
}

fn set(stored: &mut Value, place: &str, now: Millis) {
    if let Some(time) = stored.pointer_mut(place).filter(|time| time.is_u64()) {
        *time = now.into();
    }
}

/// The peer at the instant at which `clock` runs out, and that instant.
pub(super) fn when_peer(peer: &Peer, clock: PeerClock) -> (Peer, Millis) {
    match clock {
        PeerClock::Pause => (peer.clone(), RETRY),
        PeerClock::Liveness => (peer.clone(), LIVENESS + 1),
        PeerClock::Deadline => (from_value(peer_at(peer, DEADLINE)).unwrap(), DEADLINE),
    }
}

/// The coordinator at the instant at which `clock` runs out, and that instant.
pub(super) fn when_coordinator(coordinator: &Coordinator, clock: CoordinatorClock) -> (Coordinator, Millis) {
    let (place, now) = match clock {
        CoordinatorClock::Liveness(slot) => (format!("/sessions/{slot}/heard"), LIVENESS + 1),
        CoordinatorClock::Recovery => ("/phase/Recovering/since".to_owned(), LIVENESS),
        CoordinatorClock::Suspicion => (String::new(), SUSPICION),
    };
    let mut stored = coordinator_at(coordinator, now);
    if clock == CoordinatorClock::Suspicion {
        for session in stored["sessions"].as_object_mut().unwrap().values_mut() {
            set(session, "/suspected/0", 0);
        }
    } else {
        set(&mut stored, &place, 0);
    }
    (from_value(stored).unwrap(), now)
}

/// The peer, at time 0 again.
pub(super) fn peer_again(peer: &Peer) -> Peer {
    from_value(peer_at(peer, 0)).unwrap()
}

/// The coordinator, at time 0 again.
pub(super) fn coordinator_again(coordinator: &Coordinator) -> Coordinator {
    from_value(coordinator_at(coordinator, 0)).unwrap()
}
