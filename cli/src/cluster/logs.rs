//! `atoll logs`: what the workers of a run say.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::{AsyncBufReadExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, ResourceExt};
use tokio::sync::mpsc;

use super::connection::{Connection, Reach, Run, list};
use super::show;
use super::view::{is_over, phase};
use super::workers::{by_slot, has_begun};
use crate::{Ending, say};

/// Pause between two looks for pods that are new.
const AGAIN: Duration = Duration::from_secs(2);
/// Lines of each worker where several are read and nobody says how many.
const TAIL: i64 = 20;
/// Lines that wait to be written.
const WAITING_LINES: usize = 1024;

/// Arguments of `atoll logs`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The run
    run: String,
    /// One worker, as in w2; all where none is given
    #[arg(short, long, value_name = "WORKER", value_parser = slot)]
    worker: Option<u32>,
    /// Which container of its pod
    #[arg(short, long, value_enum, default_value = "trainer")]
    container: Container,
    /// Go on with what they say from now on, also in pods to come, until the run is over
    #[arg(short, long)]
    follow: bool,
    /// Lines from the end; all of one worker, 20 of each of several, where nothing is said
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(i64).range(0..))]
    tail: Option<i64>,
    /// Of the pod before the present one, as after a failure
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
    #[command(flatten)]
    reach: Reach,
}

/// A container of a worker's pod.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Container {
    Trainer,
    Sidecar,
    Initializer,
}

impl Container {
    fn name(self) -> &'static str {
        match self {
            Self::Trainer => "trainer",
            Self::Sidecar => "sidecar",
            Self::Initializer => "initializer",
        }
    }
}

fn slot(text: &str) -> Result<u32, String> {
    text.strip_prefix('w').unwrap_or(text).parse().map_err(|_| "give a worker as in w2".to_owned())
}

pub(super) async fn logs(arguments: &Arguments) -> Result<(), Ending> {
    let connection = Connection::new(&arguments.reach).await?;
    let run = connection.run(&arguments.run).await?;
    let pods = connection.pods(&arguments.run).await?;
    let slots: Vec<String> = by_slot(&pods).keys().map(|slot| format!("w{slot}")).collect();
    if let Some(worker) = arguments.worker.filter(|worker| !slots.contains(&format!("w{worker}"))) {
        let there = if slots.is_empty() { no_pods(&run) } else { format!("there are: {}", list(&slots)) };
        return Err(Ending::BadInput(format!("the run {} has no worker w{worker}; {there}", arguments.run)));
    }
    if arguments.follow {
        return follow(&connection, arguments).await;
    }
    if slots.is_empty() {
        return Err(Ending::Failed(format!("no logs of the run {}: {}", arguments.run, no_pods(&run))));
    }
    print_once(&connection, arguments, &pods).await
}

/// Why there is nothing to read.
fn no_pods(run: &Run) -> String {
    let gone = if is_over(run) { ", and what its pods said went with them" } else { "" };
    format!("it is {} and has no pods{gone}", phase(run))
}

/// The pods that are read: the present one of each slot, or the one before it.
fn chosen(pods: &[Pod], worker: Option<u32>, previous: bool) -> Vec<(u32, &Pod)> {
    let slots = by_slot(pods).into_iter().filter(|(slot, _)| worker.is_none_or(|worker| worker == *slot));
    slots.filter_map(|(slot, pods)| Some((slot, *pods.iter().rev().nth(usize::from(previous))?))).collect()
}

/// Lines are prefixed where they may come from several workers.
fn prefix(arguments: &Arguments, slot: u32) -> String {
    if arguments.worker.is_some() { String::new() } else { format!("[w{slot}] ") }
}

fn parameters(arguments: &Arguments, tail: Option<i64>) -> LogParams {
    LogParams {
        container: Some(arguments.container.name().to_owned()),
        follow: arguments.follow,
        tail_lines: tail,
        ..LogParams::default()
    }
}

async fn print_once(connection: &Connection, arguments: &Arguments, pods: &[Pod]) -> Result<(), Ending> {
    let container = arguments.container.name();
    let tail = arguments.tail.or_else(|| arguments.worker.is_none().then_some(TAIL));
    let chosen = chosen(pods, arguments.worker, arguments.previous);
    if chosen.is_empty() {
        return Err(Ending::Failed("no pod was replaced, so there is none before the present one".to_owned()));
    }
    let mut read = 0;
    for (slot, pod) in chosen {
        if !has_begun(pod, container) {
            say(&format!("w{slot}: the {container} of pod {} has not started", pod.name_any()));
            continue;
        }
        let log = connection.pod_api().logs(&pod.name_any(), &parameters(arguments, tail)).await;
        let log = log.map_err(|error| connection.explain(&error, &format!("read the log of pod {}", pod.name_any())))?;
        let prefix = prefix(arguments, slot);
        show(&log.lines().map(|line| format!("{prefix}{line}\n")).collect::<Vec<_>>().concat())?;
        read += 1;
    }
    if read == 0 { Err(Ending::Failed(format!("no {container} has started yet"))) } else { Ok(()) }
}

/// Reads all pods at once, those to come too, until the run is over and all was read.
async fn follow(connection: &Connection, arguments: &Arguments) -> Result<(), Ending> {
    let (lines, mut said) = mpsc::channel::<String>(WAITING_LINES);
    let (mut followed, mut readers) = (BTreeSet::new(), tokio::task::JoinSet::new());
    let mut tick = tokio::time::interval(AGAIN);
    // What a pod said before is of interest from its begin where the pod is new.
    let mut tail = arguments.tail.or_else(|| arguments.worker.is_none().then_some(TAIL));
    loop {
        tokio::select! {
            Some(line) = said.recv() => show(&line)?,
            _ = tick.tick() => {
                let (run, pods) = tokio::join!(connection.run(&arguments.run), connection.pods(&arguments.run));
                let over = match run {
                    Ok(run) => is_over(&run),
                    Err(ending @ Ending::BadInput(_)) if followed.is_empty() => return Err(ending),
                    Err(Ending::BadInput(_)) => true,
                    Err(_) => false,
                };
                let pods = pods.unwrap_or_default();
                for (slot, pod) in chosen(&pods, arguments.worker, false) {
                    if has_begun(pod, arguments.container.name()) && followed.insert(pod.name_any()) {
                        let reader = Reader {
                            pods: connection.pod_api(),
                            pod: pod.name_any(),
                            parameters: parameters(arguments, tail),
                            prefix: prefix(arguments, slot),
                        };
                        readers.spawn(reader.read_into(lines.clone()));
                    }
                }
                tail = arguments.tail;
                while readers.try_join_next().is_some() {}
                if over && readers.is_empty() && said.is_empty() {
                    return Ok(());
                }
            }
        }
    }
}

/// A log that is to be read.
struct Reader {
    pods: Api<Pod>,
    pod: String,
    parameters: LogParams,
    prefix: String,
}

impl Reader {
    async fn read_into(self, lines: mpsc::Sender<String>) {
        let opened = self.pods.log_stream(&self.pod, &self.parameters).await;
        let stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                say(&format!("the log of pod {} cannot be read: {}", self.pod, super::failures::deepest(&error)));
                return;
            }
        };
        let mut stream = stream.lines();
        while let Some(line) = stream.next().await {
            let Ok(line) = line.map_err(|error| say(&format!("the log of pod {} broke off: {error}", self.pod))) else { return };
            if lines.send(format!("{}{line}\n", self.prefix)).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::workers::tests::{pod, running};
    use super::*;

    #[test]
    fn the_newest_pod_of_each_slot_is_read_or_the_one_before() {
        let pods = [pod(0, "a", 1, &running()), pod(1, "c", 9, &running()), pod(1, "b", 2, &running())];
        let names = |worker, previous| chosen(&pods, worker, previous).iter().map(|(_, pod)| pod.name_any()).collect::<Vec<_>>();
        assert_eq!(names(None, false), ["a", "c"]);
        assert_eq!(names(Some(1), true), ["b"]);
        assert!(names(Some(0), true).is_empty());
    }

    #[test]
    fn a_worker_is_named_as_the_table_names_it() {
        assert_eq!([slot("w2"), slot("11")], [Ok(2), Ok(11)]);
        assert!(slot("kjv-local-2").is_err());
    }
}
