//! `atoll suspend` and `atoll resume`: a run gives its workers back, and goes on.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::connection::{Connection, Reach, Run};
use super::text::plain;
use super::view::{is_over, phase};
use super::{now, show};
use crate::{Ending, say};

/// Pause between two looks at a run that is waited for.
const AGAIN: Duration = Duration::from_secs(1);

/// Arguments of `atoll suspend` and `atoll resume`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The run
    run: String,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    reach: Reach,
}

/// Whether a command waits until what it asks for is so.
#[derive(Debug, Clone, Args)]
pub(crate) struct Wait {
    /// Wait until it is so
    #[arg(long)]
    pub(super) wait: bool,
    /// Longest wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "600", requires = "wait")]
    timeout: u64,
}

/// Where a run that is waited for stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not there yet; what it does meanwhile.
    Waiting(String),
    /// It is so.
    Done(String),
    /// It will never be.
    Never(String),
}

pub(super) async fn change(arguments: &Arguments, suspend: bool) -> Result<(), Ending> {
    let connection = Connection::new(&arguments.reach).await?;
    let (name, run) = (&arguments.run, connection.run(&arguments.run).await?);
    if is_over(&run) {
        return Err(Ending::BadInput(format!("the run {name} is over: {}", phase(&run))));
    }
    let doing = if suspend { "suspend" } else { "resume" };
    if run.spec["suspend"].as_bool().unwrap_or(false) == suspend {
        let is = if suspend { "was to be suspended already" } else { "was not suspended" };
        say(&format!("the run {name} {is}"));
    } else {
        connection.patch(name, &json!({ "spec": { "suspend": suspend } }), doing).await?;
    }
    if !arguments.wait.wait {
        return show(&format!("{name}: {}\n", if suspend { "to be suspended" } else { "to go on" }));
    }
    wait(&connection, name, &arguments.wait, if suspend { suspended } else { resumed }).await
}

/// Looks until `standing` is done, and says on the way what changes.
///
/// # Errors
/// Failed where it will never be, or takes longer than it may.
pub(super) async fn wait(
    connection: &Connection,
    name: &str,
    wait: &Wait,
    standing: impl Fn(&Run) -> Standing,
) -> Result<(), Ending> {
    let begun = std::time::Instant::now();
    let mut said = String::new();
    loop {
        match standing(&connection.run(name).await?) {
            Standing::Done(text) => return show(&format!("{name}: {text}\n")),
            Standing::Never(text) => return Err(Ending::Failed(format!("{name}: {text}"))),
            Standing::Waiting(text) if begun.elapsed().as_secs() >= wait.timeout => {
                return Err(Ending::Failed(format!("{name}: not after {} seconds: {text}", wait.timeout)));
            }
            Standing::Waiting(text) => {
                if text != said {
                    say(&format!("{:.0} {name}: {text}", now()));
                    said = text;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What a run does, in a few words.
pub(super) fn doing(run: &Run) -> String {
    let status = run.status.clone().unwrap_or_default();
    let round = status.progress.map_or_else(String::new, |progress| format!(", round {}", progress.round));
    format!("{}, {} of {} workers ready{round}", phase(run), status.workers.ready, status.workers.desired)
}

/// A condition, where what the operator says is of the present spec.
fn condition(run: &Run, kind: &str) -> Option<(bool, String, String)> {
    let status = run.status.as_ref()?;
    if status.observed_generation < run.metadata.generation {
        return None;
    }
    let found = status.conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status == "True", found.reason.clone(), plain(&found.message)))
}

fn over(run: &Run) -> Option<Standing> {
    is_over(run).then(|| Standing::Never(format!("it is over: {}", phase(run))))
}

fn suspended(run: &Run) -> Standing {
    match condition(run, "Suspended") {
        Some((true, _, message)) => Standing::Done(format!("suspended; {message}")),
        Some((false, reason, message)) if reason == "Suspending" => Standing::Waiting(format!("{message}; {}", doing(run))),
        _ => over(run).unwrap_or_else(|| Standing::Waiting(doing(run))),
    }
}

fn resumed(run: &Run) -> Standing {
    let suspended = condition(run, "Suspended").is_some_and(|(suspended, ..)| suspended);
    match condition(run, "Progressing") {
        _ if phase(run) == "Complete" => Standing::Done("complete".to_owned()),
        Some((true, ..)) if !suspended => Standing::Done(format!("going on; {}", doing(run))),
        Some((false, reason, message)) if !suspended && !is_over(run) => {
            let message = if message.is_empty() { reason } else { message };
            Standing::Waiting(format!("{}; {message}", doing(run)))
        }
        _ => over(run).unwrap_or_else(|| Standing::Waiting(doing(run))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(phase: &str, observed: i64, conditions: &[(&str, &str, &str, &str)]) -> Run {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status, reason, message)| {
                json!({
                    "type": kind, "status": status, "reason": reason, "message": message,
                    "lastTransitionTime": "2026-11-28T12:00:00Z",
                })
            })
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": { "name": "kjv", "generation": 2 },
            "spec": {},
            "status": { "phase": phase, "observedGeneration": observed, "conditions": conditions },
        }))
        .unwrap()
    }

    #[test]
    fn a_run_is_suspended_when_the_operator_says_so_of_the_present_spec() {
        let is = [("Suspended", "True", "Suspended", "it goes on from the checkpoint of round 4")];
        assert_eq!(suspended(&run("Running", 1, &is)), Standing::Waiting("Running, 0 of 0 workers ready".into()));
        let done = Standing::Done("suspended; it goes on from the checkpoint of round 4".into());
        assert_eq!(suspended(&run("Suspended", 2, &is)), done);
        let soon = [("Suspended", "False", "Suspending", "a checkpoint is made first")];
        let waiting = Standing::Waiting("a checkpoint is made first; Suspending, 0 of 0 workers ready".into());
        assert_eq!(suspended(&run("Suspending", 2, &soon)), waiting);
        assert_eq!(suspended(&run("Failed", 2, &[])), Standing::Never("it is over: Failed".into()));
    }

    #[test]
    fn a_run_goes_on_when_it_commits_rounds_again() {
        let was = ("Suspended", "True", "Suspended", "");
        let is = ("Progressing", "True", "Training", "");
        assert!(matches!(resumed(&run("Suspended", 2, &[was, is])), Standing::Waiting(_)));
        assert!(matches!(resumed(&run("Running", 2, &[("Suspended", "False", "Resumed", ""), is])), Standing::Done(_)));
        let waits = ("Progressing", "False", "WaitingForWorkers", "2 of 4");
        assert_eq!(resumed(&run("Starting", 2, &[waits])), Standing::Waiting("Starting, 0 of 0 workers ready; 2 of 4".into()));
        assert_eq!(resumed(&run("Complete", 1, &[])), Standing::Done("complete".into()));
    }
}
