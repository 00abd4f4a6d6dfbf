//! `atoll status`: the runs of a namespace, or one run.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::connection::{Connection, Reach, Run};
use super::view::{View, is_over, see};
use super::{now, screen, show, show_json};
use crate::Ending;

/// Pause between two looks.
const AGAIN: Duration = Duration::from_secs(2);
/// Brings a terminal's cursor to the upper left corner of an empty screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Arguments of `atoll status`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The run; all runs of the namespace where none is given
    run: Option<String>,
    /// Runs of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["run", "namespace"])]
    all_namespaces: bool,
    /// Look again every 2 seconds, until the run is over
    #[arg(short, long, conflicts_with = "json")]
    watch: bool,
    /// For programs: one JSON value
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

/// A run in a list for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    name: Option<&'a String>,
    namespace: Option<&'a String>,
    #[serde(flatten)]
    status: Option<&'a atoll_crds::status::TrainingRunStatus>,
}

pub(super) async fn status(arguments: &Arguments) -> Result<(), Ending> {
    let connection = Connection::new(&arguments.reach).await?;
    let clear = if std::io::stdout().is_terminal() { CLEAR } else { "\n" };
    let mut first = true;
    loop {
        let looked = look(&connection, arguments).await;
        let (text, last) = match looked {
            Ok(looked) => looked,
            // An API server that is away for a moment does not end the watch; what was wrong from the first does.
            Err(Ending::Failed(message)) if arguments.watch && !first => (format!("{message}\n"), false),
            Err(ending) => return Err(ending),
        };
        let before = if arguments.watch && (!first || clear == CLEAR) { clear } else { "" };
        show(&format!("{before}{text}"))?;
        if !arguments.watch || last {
            return Ok(());
        }
        first = false;
        tokio::time::sleep(AGAIN).await;
    }
}

/// What is to be shown, and whether nothing of it will change any more.
async fn look(connection: &Connection, arguments: &Arguments) -> Result<(String, bool), Ending> {
    let Some(name) = &arguments.run else {
        let runs = connection.list_runs(arguments.all_namespaces).await?;
        if arguments.json {
            show_json(&runs.iter().map(listed).collect::<Vec<_>>())?;
            return Ok((String::new(), true));
        }
        return Ok((table(&runs, arguments.all_namespaces, &connection.namespace), false));
    };
    let seen = see(connection, name).await?;
    let view = View::of(&seen);
    if arguments.json {
        show_json(&view)?;
        return Ok((String::new(), true));
    }
    Ok((screen::screen(&view, now()), is_over(&seen.run)))
}

fn table(runs: &[Run], everywhere: bool, namespace: &str) -> String {
    match (runs.is_empty(), everywhere) {
        (true, true) => "there are no runs in this cluster\n".to_owned(),
        (true, false) => format!("there are no runs in the namespace {namespace}\n"),
        (false, _) => screen::table(runs, everywhere, now()),
    }
}

fn listed(run: &Run) -> Listed<'_> {
    Listed { name: run.metadata.name.as_ref(), namespace: run.metadata.namespace.as_ref(), status: run.status.as_ref() }
}
