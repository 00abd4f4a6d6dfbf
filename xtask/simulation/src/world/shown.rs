//! How a run is shown to who looks for a mistake in it.

use atoll_collective::Millis;

/// Prints an event that is worth it, and what was done about it.
pub(super) fn trace<A: std::fmt::Debug>(now: Millis, (machine, slot): (&str, u32), event: Option<String>, actions: &[A]) {
    let Some(event) = event else { return };
    let quiet = |text: &str| text == "Tick" || text.contains("Heartbeat") || text.starts_with("Located");
    let actions: Vec<_> = actions.iter().map(|action| format!("{action:?}")).filter(|action| !quiet(action)).collect();
    if !quiet(&event) || !actions.is_empty() {
        println!("{now} {machine} {slot}: {event}");
    }
    for action in actions {
        println!("{now} {machine} {slot}   -> {action}");
    }
}
