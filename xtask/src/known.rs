//! What the events of a run tell of its processes while it goes.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use crate::{events::Event, process::Seen};

/// How long a killed process may take to disappear after the run's end.
const DISAPPEAR: Duration = Duration::from_secs(1);

/// What is known of a run.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) events: Vec<Event>,
    pub(crate) coordinator: Option<String>,
    /// Newest process of each worker and kind.
    pub(crate) current: BTreeMap<(String, String), Seen>,
    /// Every process that was seen alive.
    processes: Vec<Seen>,
}

impl Known {
    pub(crate) fn take(&mut self, events: Vec<Event>) {
        for event in &events {
            if event.is("Coordinator") {
                self.coordinator.clone_from(&event.worker);
            }
            if !event.is("ProcessStarted") {
                continue;
            }
            if let (Some(worker), Some(process), Some(seen)) = (&event.worker, &event.process, event.pid.and_then(Seen::now)) {
                self.current.insert((worker.clone(), process.clone()), seen);
                self.processes.push(seen);
            }
        }
        self.events.extend(events);
    }

    /// Those of its processes that are there although it has ended.
    pub(crate) fn left_over(&self) -> Vec<i32> {
        let since = Instant::now();
        loop {
            let alive: Vec<i32> = self.processes.iter().filter(|process| process.is_alive()).map(|process| process.id).collect();
            if alive.is_empty() || since.elapsed() > DISAPPEAR {
                return alive;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::tests::event;

    #[test]
    fn a_process_that_is_there_after_the_end_is_told() {
        let own = std::process::id() as i32;
        let mut known = Known::default();
        assert_eq!(known.left_over(), [0; 0]);
        known.take(vec![Event { process: Some("trainer".into()), pid: Some(own), ..event(0.0, "ProcessStarted", "w0", 0) }]);
        assert_eq!(known.left_over(), [own]);
    }
}
