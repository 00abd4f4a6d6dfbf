//! `atoll top`: what each worker of a run uses.

use clap::Args;

use super::connection::{Connection, Reach};
use super::text::{bytes, columns, grouped};
use super::usage::{Container, Usage, Used, usage};
use super::{show, show_json};
use crate::{Ending, say};

/// Arguments of `atoll top`.
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

pub(super) async fn top(arguments: &Arguments) -> Result<(), Ending> {
    let connection = Connection::new(&arguments.reach).await?;
    connection.run(&arguments.run).await?;
    let pods = connection.pods(&arguments.run).await?;
    let usage = usage(&connection, &arguments.run, &pods).await;
    if arguments.json {
        return show_json(&usage);
    }
    for unread in &usage.unread {
        say(unread);
    }
    if usage.workers.is_empty() {
        return show(&format!("no pod of the run {} is running\n", arguments.run));
    }
    show(&table(&usage))
}

/// A row for each worker; a dash for what is not known.
pub(super) fn table(usage: &Usage) -> String {
    let head = ["WORKER", "POD", "TRAINER", "MEMORY", "SIDECAR", "MEMORY", "ROUND", "SENT/ROUND", "RECEIVED/ROUND"];
    columns(&head, &usage.workers.iter().map(row).collect::<Vec<_>>())
}

fn row(used: &Used) -> Vec<String> {
    let dash = || "-".to_owned();
    let mut row = vec![used.worker.clone(), used.pod.clone()];
    for container in ["trainer", "sidecar"] {
        let container: Option<&Container> = used.containers.get(container);
        row.push(container.map_or_else(dash, |used| format!("{}m", used.millicores.round())));
        row.push(container.map_or_else(dash, |used| bytes(used.memory)));
    }
    row.push(used.traffic.map_or_else(dash, |traffic| grouped(traffic.round as i64)));
    let per_round = used.traffic.and_then(|traffic| traffic.per_round());
    row.push(per_round.map_or_else(dash, |(sent, _)| bytes(sent)));
    row.push(per_round.map_or_else(dash, |(_, received)| bytes(received)));
    row
}

#[cfg(test)]
mod tests {
    use super::super::usage::Traffic;
    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let known = Used {
            worker: "w0".into(),
            pod: "kjv-local-0-a".into(),
            containers: [("trainer".to_owned(), Container { millicores: 298.4, memory: 90.0 * 1_048_576.0 })].into(),
            traffic: Some(Traffic { round: 40.0, rounds: 20.0, sent: 20_480.0, received: 40_960.0 }),
        };
        let unknown = Used { worker: "w1".into(), pod: "kjv-local-1-b".into(), ..Used::default() };
        let usage = Usage { workers: vec![known, unknown], unread: Vec::new() };
        assert_eq!(
            table(&usage),
            "WORKER   POD             TRAINER   MEMORY     SIDECAR   MEMORY   ROUND   SENT/ROUND   RECEIVED/ROUND\n\
             w0       kjv-local-0-a   298m      90.0 MiB   -         -        40      1.0 KiB      2.0 KiB\n\
             w1       kjv-local-1-b   -         -          -         -        -       -            -\n"
        );
    }
}
