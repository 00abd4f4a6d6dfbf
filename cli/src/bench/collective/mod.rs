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
mod pattern;
mod processes;
pub(crate) mod rank;
mod reference;
mod theory;
mod units;

use anyhow::Result;
use clap::{Args, ValueEnum};

use self::case::{Case, Codec, Path, Wanted};
use self::figures::{Implementation, Line, Other};
use self::links::{Isolation, Kind, Links};
use self::processes::Processes;
use self::units::{Bytes, Rate, RoundTrip};
use crate::supervision::interrupts::Interrupts;
use crate::{Ending, printed};

/// Arguments of `atoll bench collective`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Peers: ranks, each with a sidecar of its own over TCP, or all of one sidecar in shared memory
    #[arg(long, default_value_t = 2, value_name = "N")]
    peers: usize,
    /// Bytes of each peer's f32 tensors together, as in 4KiB or 64MiB
    #[arg(long, default_value = "64MiB", value_name = "B")]
    bytes: Bytes,
    /// How the peers meet
    #[arg(long, default_value = "tcp")]
    path: Path,
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
    /// TLS between peers
    #[arg(long, default_value = "off")]
    tls: Switch,
    /// Operations to time; as many as take a few seconds if not given
    #[arg(long, value_name = "COUNT")]
    iterations: Option<usize>,
    /// Measure the plain reduction in shared memory instead of ours
    #[arg(long, conflicts_with = "peer")]
    reference: bool,
    /// Measure another implementation instead of ours
    #[arg(long)]
    peer: Option<Other>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// This process has a network of its own
    #[arg(long, hide = true)]
    isolated: bool,
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
    let isolation = if arguments.rates.is_empty() || arguments.isolated { None } else { Isolation::find() };
    let plan = match plan(arguments, || arguments.isolated || isolation.is_some()) {
        Ok(plan) => plan,
        Err(problem) => return Ending::BadInput(problem),
    };
    if let (Kind::Namespaces, Some(isolation)) = (plan.links, isolation) {
        let again = std::env::args_os().skip(1).chain(["--isolated".into()]);
        return Ending::Failed(format!("no network namespace: {}", isolation.enter(again)));
    }
    // One thread: children ask to be told when the thread that started them ends.
    let line =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from).and_then(|runtime| {
            runtime.block_on(async {
                let mut interrupts = Interrupts::new()?;
                measured(&plan, &mut interrupts).await
            })
        });
    match line {
        Ok(Some(line)) => printed(&((if arguments.json { line.json() } else { line.text() }) + "\n")),
        Ok(None) => Ending::Interrupted,
        Err(error) => Ending::failed(&error),
    }
}

/// What is asked for, if it can be measured; what is wrong otherwise.
fn plan(arguments: &Arguments, isolation: impl FnOnce() -> bool) -> Result<Plan, String> {
    let implementation = match (arguments.reference, arguments.peer) {
        (true, _) => Implementation::Reference,
        (false, Some(Other::Gloo)) => Implementation::Gloo,
        (false, None) => Implementation::Atoll,
    };
    let wanted = Wanted {
        peers: arguments.peers,
        bytes: arguments.bytes,
        path: implementation.path().unwrap_or(arguments.path),
        codec: arguments.codec,
        tensors: arguments.tensors,
        concurrent: arguments.concurrent,
        rates: arguments.rates.clone(),
        round_trip: arguments.rtt,
        tls: arguments.tls == Switch::On,
    };
    let case = Case::new(wanted).map_err(|error| error.to_string())?;
    let iterations = arguments.iterations.unwrap_or_else(|| measure::iterations(&case));
    if !(1..=MOST_ITERATIONS).contains(&iterations) {
        return Err(format!("--iterations {iterations}: give 1 to {MOST_ITERATIONS}"));
    }
    let links = links::kind(&case, isolation);
    if let Some(refusal) = refusal(&case, implementation, links) {
        return Err(refusal);
    }
    kernel::check_memory(case.bytes * implementation.copies(case.peers))?;
    Ok(Plan { case, implementation, links, iterations })
}

/// Why an implementation does not do a case; none when it does.
fn refusal(case: &Case, implementation: Implementation, links: Kind) -> Option<String> {
    let name = implementation.name();
    match (implementation, case) {
        (Implementation::Atoll, case) => rank::refusal(case).map(str::to_owned),
        (_, Case { codec: Codec::Bf16 | Codec::U8 | Codec::U4, .. }) => Some(format!("--codec: {name} reduces f32; give --codec f32")),
        (_, Case { tls: true, .. }) => Some(format!("--tls on: {name} has none; give --tls off")),
        (Implementation::Reference, Case { tensors: 2.., .. }) => Some("--tensors: the reference reduces one; give one tensor".into()),
        (Implementation::Gloo, _) if links == Kind::Proxy => Some(
            "--peer gloo: its ranks cannot be led through the proxy; give --rates without --rtt, as a user who may make network namespaces".into(),
        ),
        (Implementation::Gloo, _) => gloo::missing(),
        (Implementation::Reference, _) => None,
    }
}

/// Measures one case; none when the user ended it. Whatever happens, nothing is left running.
async fn measured(plan: &Plan, interrupts: &mut Interrupts) -> Result<Option<Line>> {
    let links = Links::build(&plan.case, plan.links)?;
    let mut processes = Processes::new()?;
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
