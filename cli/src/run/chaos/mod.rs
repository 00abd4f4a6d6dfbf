//! `atoll run --chaos FILE`: what befalls a run, round by round.

mod action;

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::str::FromStr;
use std::sync::LazyLock;

use atoll_crds::spec::Workers;
use atoll_crds::{CheckedFile, Problem, Problems, Schema};
use serde::Deserialize;

pub(super) use action::{Action, Link, Processes};

/// Most workers that a run ever has: their slots are never given again.
const MOST_WORKERS: usize = 64;

/// What a file may say.
static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::read(include_str!("schema.yaml")).expect("a test reads the schema that is built in"));

/// The steps that are still to be taken, by their rounds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chaos {
    steps: VecDeque<Step>,
    joins: usize,
    shapes_links: bool,
}

/// What happens once a round is committed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Step {
    pub(super) round: u64,
    #[serde(flatten)]
    pub(super) action: Action,
}

impl Chaos {
    /// Reads a script for a run of `workers`.
    ///
    /// # Errors
    /// All that is wrong with it: by its schema, or else by the workers that the run has when a step is taken.
    pub(super) fn load(file: &Path, text: &str, workers: &Workers) -> Result<Self, Problems> {
        let checked = CheckedFile::read(file, text, &SCHEMA)?;
        let steps: Vec<Step> = serde_json::from_value(checked.value.clone()).map_err(|error| {
            Problems(vec![checked.problem("", format!("found a value that the types refuse ({error})"), "report this as a bug")])
        })?;
        let mut order: Vec<usize> = (0..steps.len()).collect();
        order.sort_by_key(|index| steps[*index].round);
        let mut cast = Cast::new(workers);
        let mut problems = Vec::new();
        for index in &order {
            if let Err(Wrong { field, message, help }) = cast.take(&steps[*index].action) {
                problems.push((*index, checked.problem(&format!("[{index}].{field}"), message, help)));
            }
        }
        if !problems.is_empty() {
            problems.sort_by_key(|(index, _)| *index);
            return Err(Problems(problems.into_iter().map(|(_, problem)| problem).collect::<Vec<Problem>>()));
        }
        let shapes_links = steps.iter().any(|step| matches!(step.action, Action::Partition { .. } | Action::Link(_)));
        let joins = cast.slots - workers.target as usize;
        Ok(Self { steps: order.into_iter().map(|index| steps[index].clone()).collect(), joins, shapes_links })
    }

    /// Workers that join while the run goes.
    pub(super) fn joins(&self) -> usize {
        self.joins
    }

    /// Whether links are shaped or cut.
    pub(super) fn shapes_links(&self) -> bool {
        self.shapes_links
    }

    /// Leaves out the steps of rounds that a resumed run has behind it.
    pub(super) fn pass(&mut self, round: u64) {
        self.steps.retain(|step| round == 0 || step.round > round);
    }

    /// The next step, once its round is committed.
    pub(super) fn next(&mut self, round: u64) -> Option<Step> {
        self.steps.pop_front_if(|step| step.round <= round)
    }

    /// Rounds of the steps that were not taken.
    pub(super) fn left(&self) -> Vec<u64> {
        self.steps.iter().map(|step| step.round).collect()
    }
}

/// Why a step cannot be taken.
struct Wrong {
    field: String,
    message: String,
    help: String,
}

/// The workers that the run has, as far as a script says.
struct Cast {
    /// Workers that ever were.
    slots: usize,
    gone: BTreeSet<u32>,
    max: usize,
}

impl Cast {
    fn new(workers: &Workers) -> Self {
        let max = workers.max.unwrap_or(workers.target) as usize;
        Self { slots: workers.target as usize, gone: BTreeSet::new(), max }
    }

    fn take(&mut self, action: &Action) -> Result<(), Wrong> {
        let here = |slot: u32, field: &str| self.is_here(slot, field);
        match action {
            Action::Kill { worker, restart, .. } => {
                here(worker.0, "kill.worker")?;
                if !restart {
                    self.go(worker.0, "kill.restart")?;
                }
            }
            Action::Stop { worker, .. } => here(worker.0, "stop.worker")?,
            Action::Leave { worker } => {
                here(worker.0, "leave.worker")?;
                self.go(worker.0, "leave.worker")?;
            }
            Action::Join { workers } => self.join(*workers as usize)?,
            Action::Partition { workers, .. } => {
                for (index, worker) in workers.iter().enumerate() {
                    here(worker.0, &format!("partition.workers[{index}]"))?;
                }
            }
            Action::Link(link) => {
                here(link.worker.0, "link.worker")?;
                figure(link.rate(), "link.rate")?;
                figure(link.round_trip(), "link.roundTrip")?;
            }
        }
        Ok(())
    }

    fn is_here(&self, slot: u32, field: &str) -> Result<(), Wrong> {
        let message = match slot {
            slot if self.gone.contains(&slot) => format!("w{slot} is gone by then"),
            slot if slot as usize >= self.slots => format!("there is no w{slot} by then"),
            _ => return Ok(()),
        };
        let living: Vec<_> = (0..self.slots as u32).filter(|slot| !self.gone.contains(slot)).collect();
        let names = living.iter().map(|slot| format!("w{slot}")).collect::<Vec<_>>().join(", ");
        Err(Wrong { field: field.to_owned(), message, help: format!("give one of {names}") })
    }

    fn go(&mut self, slot: u32, field: &str) -> Result<(), Wrong> {
        self.gone.insert(slot);
        if self.gone.len() < self.slots {
            return Ok(());
        }
        let message = format!("after w{slot} nobody is left");
        Err(Wrong { field: field.to_owned(), message, help: "leave one worker, or have others join before".to_owned() })
    }

    fn join(&mut self, workers: usize) -> Result<(), Wrong> {
        let living = self.slots - self.gone.len() + workers;
        let (most, help) = if living > self.max {
            (self.max, format!("give workers.max of at least {living} in the run, as with --set workers.max={living}"))
        } else {
            (MOST_WORKERS, format!("a run names at most {MOST_WORKERS} workers from its beginning to its end"))
        };
        if living > self.max || self.slots + workers > MOST_WORKERS {
            let message = format!("with {workers} more the run would have more than {most} workers");
            return Err(Wrong { field: "join".to_owned(), message, help });
        }
        self.slots += workers;
        Ok(())
    }
}

/// A figure with a unit, if it can be read.
fn figure<T: FromStr<Err: ToString>>(figure: Option<Result<T, T::Err>>, field: &str) -> Result<(), Wrong> {
    match figure {
        Some(Err(error)) => Err(Wrong {
            field: field.to_owned(),
            message: "found a figure that cannot be used".to_owned(),
            help: error.to_string(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKERS: Workers = Workers { min: 1, target: 3, max: Some(4), ranks: 1, batch_size: 1, resources: None };

    fn load(text: &str) -> Result<Chaos, String> {
        Chaos::load(Path::new("chaos.yaml"), text, &WORKERS).map_err(|problems| problems.to_string())
    }

    #[test]
    fn steps_come_in_the_order_of_their_rounds_and_once_each() {
        let text = "
- {round: 7, link: {worker: w3, rate: 8mbit, roundTrip: 20ms}}
- {round: 2, kill: {worker: w1, restart: false}}
- {round: 2, join: {}}
- {round: 3, join: {}}
- {round: 4, stop: {worker: w0, process: Trainer, seconds: 0.5}}
- {round: 5, partition: {workers: [w0, w2], seconds: 2}}
- {round: 6, leave: {worker: w0}}";
        let mut chaos = load(text).unwrap();
        assert!((chaos.joins(), chaos.shapes_links()) == (2, true));
        assert_eq!(chaos.next(1), None);
        let killed = Action::Kill { worker: action::Worker(1), process: Processes::Both, restart: false };
        assert_eq!(chaos.next(3), Some(Step { round: 2, action: killed }));
        assert_eq!(std::iter::from_fn(|| chaos.next(3)).count(), 2);
        chaos.pass(4);
        assert_eq!(chaos.left(), [5, 6, 7]);
    }

    #[test]
    fn the_examples_are_scripts_for_their_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/chaos");
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            let workers = Workers { target: 4, max: Some(5), ..WORKERS };
            Chaos::load(&file, &std::fs::read_to_string(&file).unwrap(), &workers).unwrap();
        }
    }

    #[test]
    fn what_a_run_cannot_take_is_named_with_its_place() {
        for (text, problem) in [
            ("- {round: 1}", "chaos.yaml:1:3: [0]: found none of kill, stop, join, leave, partition, link; give exactly one"),
            ("- {round: 1, kil: {worker: w1}}", "[0].kil: unknown field; did you mean kill?"),
            ("- {round: 1, kill: {worker: coordinator}}", "[0].kill.worker: found text \"coordinator\"; write text of at most 3"),
            (
                "- {round: 1, kill: {worker: w3}}",
                "chaos.yaml:1:29: [0].kill.worker: there is no w3 by then; give one of w0, w1, w2",
            ),
            ("- {round: 2, stop: {worker: w1, seconds: 1}}\n- {round: 1, leave: {worker: w1}}", "[0].stop.worker: w1 is gone"),
            (
                "- {round: 1, join: {workers: 2}}",
                "[0].join: with 2 more the run would have more than 4 workers; give workers.max",
            ),
            ("- {round: 1, link: {worker: w1, rate: fast}}", "[0].link.rate: found a figure that cannot be used; give a number"),
            ("- {round: 1, partition: {workers: [w0, w9], seconds: 1}}", "[0].partition.workers[1]: there is no w9"),
            (
                "- {round: 1, leave: {worker: w0}}\n- {round: 1, leave: {worker: w1}}\n- {round: 1, leave: {worker: w2}}",
                "[2].leave.worker: after w2 nobody is left",
            ),
        ] {
            let found = load(text).unwrap_err();
            assert!(found.contains(problem), "{text}\n{found}");
        }
    }

    #[test]
    fn a_step_takes_away_what_it_says_and_no_more() {
        let mut chaos = load("- {round: 0, kill: {worker: w0}}\n- {round: 1, join: {}}").unwrap();
        chaos.pass(0);
        assert_eq!(chaos.left(), [0, 1]);
        assert!(chaos.next(0).is_some());
    }
}
