//! `atoll checkpoint RUN`: has a run of a cluster make a checkpoint now.

use clap::Args;
use serde_json::json;

use super::change::{Standing, Wait, doing, wait};
use super::connection::{Connection, Reach, Run};
use super::show;
use super::view::{is_over, phase};
use crate::Ending;

/// Annotation of a run: a checkpoint of this or a later round is wanted.
const ANNOTATION: &str = "atoll.dev/checkpoint-round";

/// Arguments of `atoll checkpoint RUN`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A run of a cluster, which makes a checkpoint as soon as a round ends
    run: Option<String>,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    reach: Reach,
}

pub(super) async fn keep(arguments: &Arguments) -> Result<(), Ending> {
    let Some(name) = &arguments.run else {
        return Err(Ending::BadInput("give a run of a cluster, or what to do with a folder: atoll checkpoint --help".into()));
    };
    let connection = Connection::new(&arguments.reach).await?;
    let run = connection.run(name).await?;
    let round = wanted(&run).map_err(|why| Ending::BadInput(format!("the run {name} makes no checkpoint now: {why}")))?;
    let patch = json!({ "metadata": { "annotations": { ANNOTATION: round.to_string() } } });
    connection.patch(name, &patch, "ask for a checkpoint of").await?;
    if !arguments.wait.wait {
        return show(&format!("{name}: a checkpoint of round {round} or a later one was asked for\n"));
    }
    wait(&connection, name, &arguments.wait, |run| kept(run, round)).await
}

/// The round that is to be kept: the last that is known, or why there is nothing to keep.
fn wanted(run: &Run) -> Result<i64, String> {
    if !run.spec.get("checkpoint").is_some_and(serde_json::Value::is_object) {
        return Err("its spec has no checkpoint, so it keeps none".to_owned());
    }
    let status = run.status.clone().unwrap_or_default();
    let last = status.last_checkpoint.map_or_else(String::new, |last| format!("; the last is of round {}", last.round));
    if is_over(run) || phase(run) == "Suspended" {
        return Err(format!("it is {}{last}", phase(run)));
    }
    let round = status.progress.map_or(0, |progress| progress.round);
    if round == 0 { Err(format!("no round has been committed yet; it is {}", phase(run))) } else { Ok(round) }
}

fn kept(run: &Run, round: i64) -> Standing {
    let status = run.status.clone().unwrap_or_default();
    if let Some(last) = status.last_checkpoint.filter(|last| last.round >= round) {
        return Standing::Done(format!("checkpoint of round {}, {}", last.round, last.place));
    }
    if is_over(run) {
        return Standing::Never(format!("it is over without it: {}", phase(run)));
    }
    let failed = status.conditions.iter().find(|condition| condition.reason == "CheckpointFailed");
    let why = failed.map_or_else(String::new, |condition| format!("; the last try failed: {}", condition.message));
    Standing::Waiting(format!("{}{why}", doing(run)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(checkpoint: bool, phase: &str, round: i64, kept: i64) -> Run {
        let spec = if checkpoint { json!({ "checkpoint": { "uri": "s3://b/p" } }) } else { json!({}) };
        serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": { "name": "kjv" },
            "spec": spec,
            "status": {
                "phase": phase,
                "progress": { "round": round },
                "lastCheckpoint": { "round": kept, "place": format!("round-{kept}") },
            },
        }))
        .unwrap()
    }

    #[test]
    fn the_last_known_round_is_asked_for_where_there_is_one_to_keep() {
        assert_eq!(wanted(&run(true, "Running", 12, 10)), Ok(12));
        assert_eq!(wanted(&run(true, "Starting", 0, 0)), Err("no round has been committed yet; it is Starting".into()));
        assert_eq!(wanted(&run(true, "Suspended", 12, 12)), Err("it is Suspended; the last is of round 12".into()));
        assert_eq!(wanted(&run(false, "Running", 12, 0)), Err("its spec has no checkpoint, so it keeps none".into()));
    }

    #[test]
    fn a_later_round_is_as_good() {
        assert!(matches!(kept(&run(true, "Running", 12, 10), 12), Standing::Waiting(_)));
        assert_eq!(kept(&run(true, "Running", 14, 13), 12), Standing::Done("checkpoint of round 13, round-13".into()));
        assert!(matches!(kept(&run(true, "Failed", 12, 10), 12), Standing::Never(_)));
    }
}
