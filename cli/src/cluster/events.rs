//! `atoll events`: what happened to a run, its Job and its pods, in the order of time.

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde::Serialize;

use super::connection::{Connection, Reach};
use super::text::{columns, plain, span};
use super::{now, show, show_json};
use crate::Ending;

/// Arguments of `atoll events`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The run
    run: String,
    /// For programs: one JSON value
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Happening {
    /// When it happened last.
    pub(super) time: Option<Timestamp>,
    /// Normal or Warning.
    pub(super) kind: String,
    /// To what, as in `Pod/kjv-local-0-abcde`.
    pub(super) object: String,
    pub(super) reason: String,
    pub(super) message: String,
    /// How often.
    pub(super) count: i32,
}

pub(super) async fn events(arguments: &Arguments) -> Result<(), Ending> {
    let connection = Connection::new(&arguments.reach).await?;
    connection.run(&arguments.run).await?;
    let happened = of_run(&connection.events().await?, &arguments.run);
    if arguments.json {
        return show_json(&happened);
    }
    if happened.is_empty() {
        return show("nothing was recorded; Kubernetes keeps events for an hour unless told otherwise\n");
    }
    show(&table(&happened, now()))
}

/// Those of the run and of what was made for it, the oldest first.
pub(super) fn of_run(events: &[Event], run: &str) -> Vec<Happening> {
    let mut happened: Vec<_> = events.iter().filter(|event| belongs(event, run)).map(happening).collect();
    happened.sort_by(|one, other| (one.time, &one.object, &one.reason).cmp(&(other.time, &other.object, &other.reason)));
    happened
}

/// Pods that are gone have events still, so names decide: a Job is called as its run and island, a pod as its Job and slot.
fn belongs(event: &Event, run: &str) -> bool {
    let object = &event.involved_object;
    let (kind, name) = (object.kind.as_deref().unwrap_or_default(), object.name.as_deref().unwrap_or_default());
    let Some(rest) = name.strip_prefix(run) else { return false };
    match kind {
        "TrainingRun" | "Service" | "PodDisruptionBudget" => rest.is_empty(),
        "Job" | "TrainingIsland" => rest == "-local",
        "Pod" => rest.strip_prefix("-local-").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit())),
        _ => false,
    }
}

fn happening(event: &Event) -> Happening {
    let series = event.series.as_ref();
    let times = [
        series.and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0),
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
    ];
    let object = &event.involved_object;
    Happening {
        time: times.into_iter().flatten().next(),
        kind: event.type_.clone().unwrap_or_default(),
        object: format!("{}/{}", object.kind.as_deref().unwrap_or_default(), object.name.as_deref().unwrap_or_default()),
        reason: event.reason.clone().unwrap_or_default(),
        message: plain(event.message.as_deref().unwrap_or_default()),
        count: series.and_then(|series| series.count).or(event.count).unwrap_or(1).max(1),
    }
}

fn table(happened: &[Happening], now: Timestamp) -> String {
    let row = |happening: &Happening| {
        let age = happening.time.map_or_else(|| "-".to_owned(), |time| span(now.as_second() - time.as_second()));
        let times = if happening.count > 1 { format!(" (x{})", happening.count) } else { String::new() };
        vec![
            age,
            happening.kind.clone(),
            happening.reason.clone(),
            happening.object.clone(),
            format!("{}{times}", happening.message),
        ]
    };
    columns(&["AGE", "TYPE", "REASON", "OBJECT", "MESSAGE"], &happened.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, name: &str, second: u32, reason: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": { "name": "e" },
            "involvedObject": { "kind": kind, "name": name },
            "lastTimestamp": format!("2026-11-28T12:00:{second:02}Z"),
            "reason": reason, "message": "it\nis so", "type": "Normal", "count": second,
        }))
        .unwrap()
    }

    #[test]
    fn events_of_a_run_and_its_pods_are_sorted_and_others_left_out() {
        let events = [
            event("Pod", "kjv-local-0-abcde", 9, "Started"),
            event("TrainingRun", "kjv", 1, "Admitted"),
            event("Job", "kjv-local", 3, "SuccessfulCreate"),
            event("TrainingRun", "kjv-two", 2, "Admitted"),
            event("Pod", "kjv-local-two-local-0-abcde", 4, "Started"),
            event("ConfigMap", "kjv", 5, "Changed"),
        ];
        let happened = of_run(&events, "kjv");
        assert_eq!(
            table(&happened, "2026-11-28T12:01:09Z".parse().unwrap()),
            "AGE    TYPE     REASON             OBJECT                  MESSAGE\n\
             1m8s   Normal   Admitted           TrainingRun/kjv         it is so\n\
             1m6s   Normal   SuccessfulCreate   Job/kjv-local           it is so (x3)\n\
             1m0s   Normal   Started            Pod/kjv-local-0-abcde   it is so (x9)\n"
        );
    }
}
