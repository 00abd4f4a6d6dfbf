//! `atoll report`: all that is known of a run in one document, for whoever is to help or to remember.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::connection::{Connection, Reach};
use super::events::{Happening, of_run};
use super::text::plain;
use super::usage::{Usage, usage};
use super::view::{View, see};
use super::{now, screen, show, show_json, top};
use crate::Ending;

/// Arguments of `atoll report`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The run
    run: String,
    /// For programs: one JSON value instead of Markdown
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

/// The document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Version of this program.
    version: &'static str,
    made: Timestamp,
    run: View,
    spec: Value,
    timeline: Vec<Moment>,
    usage: Usage,
}

/// A point of the timeline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Moment {
    time: Timestamp,
    what: String,
    message: String,
}

pub(super) async fn report(arguments: &Arguments) -> Result<(), Ending> {
    let connection = Connection::new(&arguments.reach).await?;
    let seen = see(&connection, &arguments.run).await?;
    let pods = seen.pods.clone().unwrap_or_default();
    let (events, usage) = tokio::join!(connection.events(), usage(&connection, &arguments.run, &pods));
    let mut run = View::of(&seen);
    let events = events.unwrap_or_else(|ending| {
        run.unread.push(ending.message().to_owned());
        Vec::new()
    });
    let timeline = timeline(&run, &of_run(&events, &arguments.run));
    let report = Report { version: env!("CARGO_PKG_VERSION"), made: now(), spec: seen.run.spec.clone(), timeline, usage, run };
    if arguments.json { show_json(&report) } else { show(&markdown(&report)) }
}

/// Beginnings, transitions of conditions, and events, in the order of time.
fn timeline(view: &View, events: &[Happening]) -> Vec<Moment> {
    let ends = [(&view.created, "made"), (&view.start_time, "admitted"), (&view.completion_time, "over")];
    let ends = ends
        .into_iter()
        .filter_map(|(time, what)| Some(Moment { time: time.as_ref()?.0, what: what.to_owned(), message: String::new() }));
    let conditions = view.conditions.iter().map(|condition| Moment {
        time: condition.last_transition_time.0,
        what: format!("{} {}, {}", condition.type_, condition.status, condition.reason),
        message: plain(&condition.message),
    });
    let events = events.iter().filter_map(|event| {
        let times = if event.count > 1 { format!(" (x{})", event.count) } else { String::new() };
        Some(Moment {
            time: event.time?,
            what: format!("{} {}{times}", event.object, event.reason),
            message: event.message.clone(),
        })
    });
    let mut moments: Vec<_> = ends.chain(conditions).chain(events).collect();
    moments.sort();
    moments
}

fn markdown(report: &Report) -> String {
    let run = &report.run;
    let fields = fields(&report.spec).into_iter().map(|(field, value)| format!("| `{field}` | {} |\n", cell(&value)));
    let moment = |moment: &Moment| format!("| {:.0} | {} | {} |\n", moment.time, cell(&moment.what), cell(&moment.message));
    let unread = report.usage.unread.iter().map(|unread| format!("- {}\n", plain(unread)));
    let used = if report.usage.workers.is_empty() {
        "No pod is running.\n".to_owned()
    } else {
        format!("```text\n{}```\n", top::table(&report.usage))
    };
    let parts = [
        format!("# Run {} in {}\n\nMade by atoll {} at {:.0}.\n\n", run.name, run.namespace, report.version, report.made),
        format!("## State\n\n```text\n{}```\n\n", screen::screen(run, report.made)),
        "## Specification\n\n| field | value |\n|---|---|\n".to_owned(),
        fields.collect::<Vec<_>>().concat(),
        "\n## Timeline\n\n| time | what | message |\n|---|---|---|\n".to_owned(),
        report.timeline.iter().map(moment).collect::<Vec<_>>().concat(),
        "\n## Usage\n\n".to_owned(),
        unread.collect::<Vec<_>>().concat(),
        used,
    ];
    parts.concat()
}

/// The leaves of a value with their paths.
fn fields(spec: &Value) -> Vec<(String, String)> {
    fn collect(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                for (name, value) in members {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    collect(&path, value, found);
                }
            }
            Value::String(text) => found.push((path.to_owned(), text.clone())),
            other => found.push((path.to_owned(), other.to_string())),
        }
    }
    let mut found = Vec::new();
    collect("", spec, &mut found);
    found
}

/// As a cell of a table.
fn cell(text: &str) -> String {
    plain(text).replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::view::Seen;
    use super::*;

    fn view() -> View {
        let run = serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": { "name": "kjv", "namespace": "research", "creationTimestamp": "2026-11-28T12:00:00Z" },
            "spec": {},
            "status": {
                "phase": "Complete",
                "startTime": "2026-11-28T12:00:05Z",
                "completionTime": "2026-11-28T12:03:05Z",
                "conditions": [{
                    "type": "Complete", "status": "True", "reason": "Finished", "message": "all|done",
                    "lastTransitionTime": "2026-11-28T12:03:05Z",
                }],
                "result": { "weightsHash": "ab12" },
            },
        }))
        .unwrap();
        View::of(&Seen { run, pods: Ok(Vec::new()), islands: Ok(Vec::new()), losses: Vec::new() })
    }

    #[test]
    fn a_report_has_state_specification_timeline_and_usage() {
        let event = Happening {
            time: "2026-11-28T12:00:09Z".parse().ok(),
            kind: "Normal".into(),
            object: "Job/kjv-local".into(),
            reason: "SuccessfulCreate".into(),
            message: "Created pod".into(),
            count: 4,
        };
        let run = view();
        let report = Report {
            version: "0.1.0",
            made: "2026-11-28T12:10:00Z".parse().unwrap(),
            timeline: timeline(&run, &[event]),
            run,
            spec: json!({ "workers": { "target": 4 }, "stop": { "steps": 1000 } }),
            usage: Usage::default(),
        };
        let text = markdown(&report);
        assert!(
            text.starts_with("# Run kjv in research\n\nMade by atoll 0.1.0 at 2026-11-28T12:10:00Z.\n\n## State\n"),
            "{text}"
        );
        assert!(text.contains("weightsHash ab12"), "{text}");
        assert!(text.contains("| `stop.steps` | 1000 |\n| `workers.target` | 4 |\n"), "{text}");
        let end = "| 2026-11-28T12:00:00Z | made |  |\n\
            | 2026-11-28T12:00:05Z | admitted |  |\n\
            | 2026-11-28T12:00:09Z | Job/kjv-local SuccessfulCreate (x4) | Created pod |\n\
            | 2026-11-28T12:03:05Z | Complete True, Finished | all\\|done |\n\
            | 2026-11-28T12:03:05Z | over |  |\n\n## Usage\n\nNo pod is running.\n";
        assert!(text.ends_with(end), "{text}");
    }
}
