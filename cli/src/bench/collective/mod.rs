//! `atoll bench collective`: one reduction over peers in processes of their own, timed from a rank's call to its return.
//!
//! The same processes, sidecars and protocol as in a run; this process is their supervisor and arbiter. Measured instead of
//! ours, on the same case: a plain reduction in shared memory, or Gloo.

mod barrier;
mod case;
mod engine;
mod figures;
mod gloo;
mod kernel;
mod links;
mod measure;
mod page;
mod pattern;
mod processes;
pub(crate) mod rank;
mod recorded;
mod reference;
pub(crate) mod state;
mod suite;
mod theory;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use self::case::{Case, Codec, Lane, Path, Wanted};
use self::figures::{Implementation, Line, Other};
use self::links::{Isolation, Kind, Links, Network};
use self::page::Page;
use self::processes::{Beside, Processes};
use self::suite::Comparison;
use crate::supervision::check_temporary_files;
use crate::supervision::interrupts::Interrupts;
use crate::units::{Bytes, Loss, Rate, RoundTrip};
use crate::{Ending, print, printed};

/// Arguments of `atoll bench collective`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Peers: ranks, each with a sidecar of its own over TCP, or all of one sidecar in shared memory
    #[arg(long, default_value_t = 2, value_name = "N")]
    peers: usize,
    /// Bytes of each peer's f32 tensors together, as in 4KiB or 64MiB; 0 for a call that moves nothing
    #[arg(long, default_value = "64MiB", value_name = "B")]
    bytes: Bytes,
    /// How the peers meet [default: tcp; shm with --reference]
    #[arg(long)]
    path: Option<Path>,
    /// How values are written on the way
    #[arg(long, default_value = "f32")]
    codec: Codec,
    /// Tensors that the bytes are divided among, each an operation; as many as --concurrent if not given
    #[arg(long, value_name = "K")]
    tensors: Option<usize>,
    /// Operations under way at once [default: 1]
    #[arg(long, value_name = "K")]
    concurrent: Option<usize>,
    /// Rate of each peer's link, as in 200mbit: one for all, or one per peer
    #[arg(long, value_delimiter = ',', value_name = "RATE")]
    rates: Vec<Rate>,
    /// Round trip between peers, as in 100ms
    #[arg(long, value_name = "TIME")]
    rtt: Option<RoundTrip>,
    /// Packets that are lost, as in 0.1%
    #[arg(long, value_name = "SHARE")]
    loss: Option<Loss>,
    /// Connections between two peers; as many as the link takes if not given
    #[arg(long, value_name = "K")]
    channels: Option<usize>,
    /// Bytes that may be on the way on each connection, as in 16MiB
    #[arg(long, value_name = "B")]
    window: Option<Bytes>,
    /// TLS between peers
    #[arg(long, default_value = "off")]
    tls: Switch,
    /// Operations to time; as many as take a few seconds if not given
    #[arg(long, value_name = "COUNT")]
    iterations: Option<usize>,
    #[command(flatten)]
    instead: Instead,
    /// Measure the cases of the performance page, ours and the others in turn, and write its tables
    #[arg(long, conflicts_with_all = ["peers", "bytes", "path", "codec", "tensors", "concurrent", "rates", "rtt", "loss",
        "channels", "window", "tls", "iterations", "reference", "peer"])]
    suite: bool,
    /// The page of --suite
    #[arg(long, requires = "suite", default_value = "docs/src/performance.md", value_name = "FILE")]
    page: PathBuf,
    /// Print one JSON object per line; its theoryMs is the least time that the links' rates and one round trip leave
    #[arg(long)]
    json: bool,
    /// This process has a network of its own
    #[arg(long, hide = true)]
    isolated: bool,
}

/// Who is measured instead of ours.
#[derive(Debug, Args)]
struct Instead {
    /// Measure the plain reduction in shared memory instead of ours
    #[arg(long, conflicts_with = "peer")]
    reference: bool,
    /// Measure another implementation instead of ours
    #[arg(long)]
    peer: Option<Other>,
}

impl Instead {
    fn implementation(&self) -> Implementation {
        match (self.reference, self.peer) {
            (true, _) => Implementation::Reference,
            (false, Some(Other::Gloo)) => Implementation::Gloo,
            (false, None) => Implementation::Atoll,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Most operations that are timed.
const MOST_ITERATIONS: usize = 10_000;

/// A case, who is measured, how often, and how its links are shaped.
struct Plan {
    case: Case,
    implementation: Implementation,
    links: Kind,
    iterations: usize,
}

pub(crate) fn bench(arguments: &Arguments) -> Ending {
    if let Err(problem) = check_temporary_files() {
        return Ending::BadInput(problem);
    }
    let shaped = arguments.suite || !arguments.rates.is_empty() || arguments.loss.is_some();
    let isolation = if shaped && !arguments.isolated { Isolation::find() } else { None };
    let may_isolate = arguments.isolated || isolation.is_some();
    let work = if arguments.suite { suite_work(arguments) } else { plan(arguments, may_isolate).map(Work::Case) };
    let work = match work {
        Ok(work) => work,
        Err(problem) => return Ending::BadInput(problem),
    };
    if let (true, Some(isolation)) = (work.needs_isolation(), isolation) {
        let again = std::env::args_os().skip(1).chain(["--isolated".into()]);
        return Ending::Failed(format!("no network namespace: {}", isolation.enter(again)));
    }
    if arguments.isolated
        && let Err(error) = Network::wake()
    {
        return Ending::failed(&error);
    }
    // One thread: children ask to be told when the thread that started them ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(perform(work, may_isolate, arguments.json))) {
        Ok(ending) => ending,
        Err(error) => Ending::failed(&error),
    }
}

/// What is to be measured.
enum Work {
    Case(Plan),
    Suite(Vec<Comparison>, Page),
}

impl Work {
    fn needs_isolation(&self) -> bool {
        match self {
            Self::Case(plan) => matches!(plan.links, Kind::Namespaces | Kind::Tunnels),
            Self::Suite(..) => true,
        }
    }
}

fn suite_work(arguments: &Arguments) -> Result<Work, String> {
    let page = Page::open(&arguments.page).map_err(|error| error.to_string())?;
    let comparisons = suite::comparisons().map_err(|error| error.to_string())?;
    Ok(Work::Suite(comparisons, page))
}

async fn perform(work: Work, isolated: bool, json: bool) -> Result<Ending> {
    let mut interrupts = Interrupts::new()?;
    let shown = |line: &Line| (if json { line.json() } else { line.text() }) + "\n";
    match work {
        Work::Case(plan) => {
            Ok(measured(&plan, &mut interrupts).await?.map_or(Ending::Interrupted, |line| printed(&shown(&line))))
        }
        Work::Suite(comparisons, page) => {
            let comparisons = suite::able(comparisons, isolated, gloo::missing().as_deref());
            // A reader that has gone needs no lines; the page is written all the same.
            let hear = |line: &Line| drop(print(&shown(line)));
            let Some(compared) = suite::perform(comparisons, isolated, &mut interrupts, hear).await? else {
                return Ok(Ending::Interrupted);
            };
            page.write(&page::tables(&compared))?;
            Ok(Ending::Done)
        }
    }
}

/// What is asked for, if it can be measured; what is wrong otherwise.
fn plan(arguments: &Arguments, may_isolate: bool) -> Result<Plan, String> {
    let implementation = arguments.instead.implementation();
    let wanted = Wanted {
        peers: arguments.peers,
        bytes: arguments.bytes,
        path: path(implementation, arguments.path)?,
        codec: arguments.codec,
        tensors: arguments.tensors,
        concurrent: arguments.concurrent,
        rates: arguments.rates.clone(),
        round_trip: arguments.rtt,
        loss: arguments.loss,
        lane: Lane { channels: arguments.channels, window: arguments.window },
        tls: arguments.tls == Switch::On,
    };
    let case = Case::new(wanted).map_err(|error| error.to_string())?;
    let iterations = arguments.iterations.unwrap_or_else(|| measure::iterations(&case));
    if !(1..=MOST_ITERATIONS).contains(&iterations) {
        return Err(format!("--iterations {iterations}: give 1 to {MOST_ITERATIONS}"));
    }
    let links = links::kind(&case, may_isolate);
    let missing = || if implementation == Implementation::Gloo { gloo::missing() } else { None };
    let impossible = || links::impossible(links, may_isolate);
    let too_large = || too_large(&case, implementation);
    if let Some(refusal) = refusal(&case, implementation, links).or_else(impossible).or_else(missing).or_else(too_large) {
        return Err(refusal);
    }
    Ok(Plan { case, implementation, links, iterations })
}

/// How the peers meet; what is wrong where an implementation has no choice and another was asked for.
fn path(implementation: Implementation, asked: Option<Path>) -> Result<Path, String> {
    match (implementation.path(), asked) {
        (Some(only), Some(asked)) if asked != only => {
            let [asked, only] = [asked, only].map(|path| case::word(&path));
            Err(format!("--path {asked}: {} has another; give --path {only}, or none", implementation.name()))
        }
        (only, asked) => Ok(only.or(asked).unwrap_or(Path::Tcp)),
    }
}

/// Why an implementation does not do a case; none when it does.
fn refusal(case: &Case, implementation: Implementation, links: Kind) -> Option<String> {
    let name = implementation.name();
    match (implementation, case) {
        (Implementation::Atoll, _) => None,
        (_, Case { bytes: 0, .. }) => Some(format!("--bytes 0: {name} has no empty call")),
        (_, Case { codec: Codec::Bf16 | Codec::U8 | Codec::U4, .. }) => Some(format!("--codec: {name} reduces f32; give --codec f32")),
        (_, Case { tls: true, .. }) => Some(format!("--tls on: {name} has none; give --tls off")),
        (Implementation::Reference, Case { tensors: 2.., .. }) => Some("--tensors: the reference reduces one; give one tensor".into()),
        (_, case) if case.lane != Lane::default() => Some(format!("--channels, --window: {name} has no lanes; leave them out")),
        (Implementation::Gloo, _) if links == Kind::Proxy => Some(
            "--peer gloo: its ranks cannot be led through the proxy; give --rates without --rtt, as a user who may make network namespaces".into(),
        ),
        _ => None,
    }
}

/// Why the memory that is left is too little for a case.
fn too_large(case: &Case, implementation: Implementation) -> Option<String> {
    kernel::check_memory(case.bytes * implementation.copies(case.peers)).err()
}

/// Measures one case; none when the user ended it. Whatever happens, nothing is left running.
async fn measured(plan: &Plan, interrupts: &mut Interrupts) -> Result<Option<Line>> {
    let links = Links::build(&plan.case, plan.links)?;
    let beside = match (plan.implementation, plan.case.path) {
        (Implementation::Reference | Implementation::Gloo, _) => Beside::None,
        (Implementation::Atoll, Path::Shm) => Beside::One,
        (Implementation::Atoll, Path::Tcp) => Beside::Each,
    };
    let mut processes = Processes::new(plan.case.peers, beside)?;
    let measuring = async {
        match plan.implementation {
            Implementation::Atoll => engine::run(&mut processes, &plan.case, &links, plan.iterations).await,
            Implementation::Reference => reference::run(&mut processes, &plan.case, plan.iterations).await,
            Implementation::Gloo => gloo::run(&mut processes, &plan.case, &links, plan.iterations).await,
        }
    };
    let measured = tokio::select! {
        measured = measuring => Some(measured),
        () = interrupts.next() => None,
    };
    processes.stop().await;
    let Some(measured) = measured.transpose()? else { return Ok(None) };
    Ok(Some(Line::new(&plan.case, plan.implementation, plan.links, &measured)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_chosen_where_there_is_a_choice_and_never_changed_silently() {
        assert_eq!(path(Implementation::Atoll, None), Ok(Path::Tcp));
        assert_eq!(path(Implementation::Atoll, Some(Path::Shm)), Ok(Path::Shm));
        for (implementation, only, other) in
            [(Implementation::Reference, Path::Shm, Path::Tcp), (Implementation::Gloo, Path::Tcp, Path::Shm)]
        {
            assert_eq!((path(implementation, None), path(implementation, Some(only))), (Ok(only), Ok(only)));
            assert!(path(implementation, Some(other)).is_err());
        }
        let refused = path(Implementation::Reference, Some(Path::Tcp)).unwrap_err();
        assert_eq!(refused, "--path tcp: reference has another; give --path shm, or none");
    }
}
