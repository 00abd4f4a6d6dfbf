//! `atoll bench state`: a worker repairs its state from one donor, from three, and where a single bit is wrong.
//!
//! Sidecars and links are those of `atoll bench collective`; the trainers are threads of this process. Donors go on training
//! while they give, in rounds of 20 inner steps as the example's: one of them computes, as all of them together would have more
//! to do than a small machine has processors, and then all add up a little.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atoll_sdk::events::Event;
use atoll_sdk::{ElementType, Operation, Options, Outcome, Part, Region, Session, State};
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;

use super::case::{Case, CaseError, Codec, Lane, Path, Wanted};
use super::engine::{RUN, start_sidecars};
use super::kernel::check_memory;
use super::links::{self, Isolation, Kind, Links, Network};
use super::processes::{Beside, Processes};
use crate::supervision::check_temporary_files;
use crate::supervision::interrupts::Interrupts;
use crate::units::{Bytes, FRAMING, Rate};
use crate::{Ending, printed};

/// Bytes of one piece of the pattern that a state is filled with.
const PIECE: usize = 1 << 20;
/// Bytes that donors reduce among themselves in each round, and rounds after the repair, to compare.
const STEP: usize = 4096;
const AFTERWARDS: usize = 20;
/// Inner steps of a round; what the first donor computes in one of them takes about so long.
const INNER_STEPS: u32 = 20;
const COMPUTING: Duration = Duration::from_millis(10);
/// Passes over the values, between two looks at the clock.
const PASSES: u32 = 50;
/// Longest wait for a sidecar that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most donors of one measurement.
const DONORS: usize = 3;

/// Arguments of `atoll bench state`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Bytes of the state, as in 256MiB
    #[arg(long, default_value = "256MiB", value_name = "B")]
    bytes: Bytes,
    /// Rate of each worker's link, as in 200mbit
    #[arg(long, default_value = "200mbit", value_name = "RATE")]
    rate: Rate,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// This process has a network of its own
    #[arg(long, hide = true)]
    isolated: bool,
}

pub(crate) fn bench(arguments: &Arguments) -> Ending {
    let cases = match cases(arguments) {
        Ok(cases) => cases,
        Err(problem) => return Ending::BadInput(problem),
    };
    let isolation = if arguments.isolated { None } else { Isolation::find() };
    if let Some(isolation) = isolation {
        let again = std::env::args_os().skip(1).chain(["--isolated".into()]);
        return Ending::Failed(format!("no network namespace: {}", isolation.enter(again)));
    }
    if let (true, Err(error)) = (arguments.isolated, Network::wake()) {
        return Ending::failed(&error);
    }
    // One thread: children ask to be told when the thread that started them ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(perform(arguments, cases))) {
        Ok(ending) => ending,
        Err(error) => Ending::failed(&error),
    }
}

/// What is measured in turn, and whether a bit of the state is wrong; or why that cannot be.
fn cases(arguments: &Arguments) -> Result<Vec<(Case, bool)>, String> {
    check_temporary_files()?;
    check_memory(arguments.bytes.0 * (DONORS as u64 + 2))?;
    if arguments.bytes.0 == 0 {
        return Err("--bytes 0: there is no state to take; give some bytes".to_owned());
    }
    let wanted = [(1, false), (DONORS, false), (DONORS, true)].into_iter();
    wanted.map(|(donors, flipped)| Ok((case(donors, arguments).map_err(|error| error.to_string())?, flipped))).collect()
}

async fn perform(arguments: &Arguments, cases: Vec<(Case, bool)>) -> Result<Ending> {
    let mut interrupts = Interrupts::new()?;
    let mut repairs = Vec::new();
    let mut kind = Kind::None;
    for (case, flipped) in cases {
        kind = links::kind(&case, arguments.isolated);
        let links = Links::build(&case, kind)?;
        let mut processes = Processes::new(case.peers, Beside::Each)?;
        let repaired = tokio::select! {
            repaired = repair(&mut processes, &case, &links, flipped) => Some(repaired),
            () = interrupts.next() => None,
        };
        processes.stop().await;
        match repaired {
            Some(repaired) => repairs.push(repaired?),
            None => return Ok(Ending::Interrupted),
        }
    }
    let line = Line::new(arguments, kind, &repairs).context("nothing was measured")?;
    Ok(printed(&(if arguments.json { serde_json::to_string(&line)? } else { line.text() } + "\n")))
}

/// The workers of one measurement: donors, and who repairs.
fn case(donors: usize, arguments: &Arguments) -> Result<Case, CaseError> {
    let (bytes, rates) = (arguments.bytes, vec![arguments.rate]);
    let (path, codec, tls) = (Path::Tcp, Codec::F32, true);
    let (tensors, concurrent, round_trip) = (None, None, None);
    let (loss, lane) = (None, Lane::default());
    Case::new(Wanted { peers: donors + 1, bytes, path, codec, tensors, concurrent, rates, round_trip, loss, lane, tls })
}

/// What was measured of one repair.
#[derive(Debug, Clone, PartialEq)]
struct Repair {
    seconds: f64,
    /// That were written.
    bytes: u64,
    /// Donors that some of them came from.
    donors: usize,
    /// Of the donors' inner steps, their share of what a round takes: while they gave, and after.
    giving: Vec<Duration>,
    afterwards: Vec<Duration>,
}

/// Tells the donors, however the measurement ends.
#[derive(Default)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn repair(processes: &mut Processes, case: &Case, links: &Links, flipped: bool) -> Result<Repair> {
    let _serving = start_sidecars(processes, case, links).await?;
    let over = Over::default();
    let donors = case.peers - 1;
    let mut giving = JoinSet::new();
    for slot in 0..donors {
        let (trainer, ended) = (Trainer::new(processes, slot, case.bytes)?, Arc::clone(&over.0));
        giving.spawn_blocking(move || trainer.give(donors, &ended));
    }
    let trainer = Trainer::new(processes, donors, case.bytes)?;
    let (measuring, measured) = channel::<()>();
    let ended = Arc::clone(&over.0);
    let mut repairing = tokio::task::spawn_blocking(move || -> Result<()> {
        let _member = trainer.repair(flipped)?;
        ended.store(true, Ordering::Relaxed);
        // A member that left would be missing in the donors' quorum.
        let _nobody_sends = measured.recv();
        Ok(())
    });
    let mut operations = Vec::new();
    let event = loop {
        tokio::select! {
            event = processes.event("Repaired") => break event?,
            Some(gave) = giving.join_next() => operations.push(gave??),
            // It waits for the end of the measurement, unless it failed.
            repaired = &mut repairing => repaired??,
        }
    };
    while let Some(gave) = giving.join_next().await {
        operations.push(gave??);
    }
    drop(measuring);
    repairing.await??;
    let (giving, afterwards) = operations.swap_remove(0);
    let (seconds, bytes, donors) = said(&event).context("the repair did not say what it moved")?;
    Ok(Repair { seconds, bytes, donors, giving, afterwards })
}

fn said(event: &Event) -> Option<(f64, u64, usize)> {
    Some((event.seconds?, event.more.get("bytes")?.as_u64()?, event.more.get("donors")?.as_object()?.len()))
}

/// A trainer beside its sidecar.
struct Trainer {
    session: Session,
    state: Region,
    bytes: usize,
    /// It is the one that computes.
    computes: bool,
}

/// Durations of inner steps while the state is given away, and after.
type Steps = (Vec<Duration>, Vec<Duration>);

impl Trainer {
    fn new(processes: &Processes, slot: usize, bytes: u64) -> Result<Self> {
        let (run, socket) = (RUN.to_owned(), processes.socket(slot));
        let mut session = Session::new(Options { run, socket, incarnation: 1, rank: 0, ranks: 1, patience: PATIENCE })?;
        let state = session.share("state", bytes)?;
        Ok(Self { session, state, bytes: bytes as usize, computes: slot == 0 })
    }

    /// Ranges of the state, and the byte that fills each.
    fn pieces(&self) -> impl Iterator<Item = (usize, usize, u8)> + use<> {
        let bytes = self.bytes;
        (0..bytes.div_ceil(PIECE)).map(move |piece| {
            let start = piece * PIECE;
            (start, (start + PIECE).min(bytes), (piece % 255) as u8 + 1)
        })
    }

    fn fill(&self) -> Result<()> {
        let written = self.pieces().all(|(start, end, value)| self.state.write(start, &vec![value; end - start]));
        written.then_some(()).context("the state does not hold its bytes")
    }

    fn shared(&self) -> State {
        State::default().with("state", ElementType::U8, Part { region: "state".to_owned(), range: 0..self.bytes })
    }

    /// Begins the round and gives the state away, until `ended`; with others, trains with them all the time.
    fn give(mut self, donors: usize, ended: &AtomicBool) -> Result<Steps> {
        self.fill()?;
        let mut input = self.session.share("input", STEP as u64)?;
        let output = self.session.share("output", STEP as u64)?;
        let round = self.session.begin_round(1, &self.shared(), 0)?;
        ensure!(!round.synchronised, "a donor's state was not elected");
        let (mut giving, mut afterwards) = (Vec::new(), Vec::new());
        let passes = if self.computes { INNER_STEPS * passes_of(COMPUTING) } else { 0 };
        let slots: Vec<u32> = (0..donors as u32).collect();
        while donors > 1 && afterwards.len() < AFTERWARDS {
            // What one of them has heard, all of them hear in the same operation: they end together.
            let heard = if ended.load(Ordering::Relaxed) { 1.0 } else { 0.0 };
            input.values_mut(0..STEP).context("the input is no vector")?.fill(heard);
            let part = |region: &str| Part { region: region.to_owned(), range: 0..STEP };
            let step = Operation::all_reduce(part("input"), part("output")).sum().among(&slots).tag("step");
            let began = Instant::now();
            compute(passes);
            let ended = self.session.operate(&step)?;
            ensure!(matches!(ended, Outcome::Committed { .. }), "a donor is cut off from the others: {ended:?}");
            let took = began.elapsed() / INNER_STEPS;
            let repaired = output.values(0..4).is_some_and(|values| values[0] > 0.0);
            if repaired { &mut afterwards } else { &mut giving }.push(took);
        }
        while !ended.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Ok((giving, afterwards))
    }

    /// Begins the round with nothing, or with all but one bit, and checks what came; it is a member as long as it is kept.
    fn repair(mut self, flipped: bool) -> Result<Self> {
        if flipped {
            self.fill()?;
            let middle = self.bytes / 2;
            let byte = self.state.bytes(middle..middle + 1).context("the state is empty")?[0];
            ensure!(self.state.write(middle, &[byte ^ 1]), "the state is empty");
        }
        let round = self.session.begin_round(1, &self.shared().receive_only(), 0)?;
        ensure!(round.synchronised, "the state was not repaired");
        for (start, end, value) in self.pieces() {
            let same = self.state.bytes(start..end).is_some_and(|bytes| bytes.iter().all(|byte| *byte == value));
            ensure!(same, "the state has wrong bytes between {start} and {end}");
        }
        Ok(self)
    }
}

/// Goes over some values so many times, as training does.
fn compute(passes: u32) {
    let mut values = [1.0_f32; STEP];
    for _ in 0..passes {
        for value in &mut values {
            *value = *value * 0.999 + 0.001;
        }
        std::hint::black_box(&mut values);
    }
}

/// Passes that take about as long as `time`.
fn passes_of(time: Duration) -> u32 {
    let (began, mut passes) = (Instant::now(), 0);
    while began.elapsed() < time {
        compute(PASSES);
        passes += PASSES;
    }
    passes
}

/// The figures, in a line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    bytes: u64,
    rate_bits_per_second: u64,
    links: Kind,
    one_donor_seconds: f64,
    one_donor_theory_seconds: f64,
    three_donors_seconds: f64,
    three_donors_theory_seconds: f64,
    /// Donors that bytes came from in the measurement with three.
    donors_that_gave: usize,
    flipped_bit_seconds: f64,
    flipped_bit_bytes: u64,
    /// Of three donors, while they gave the whole state; how long an inner step of theirs took, with its share of the rest.
    rounds_while_giving: usize,
    step_p50_ms_while_giving: f64,
    step_p50_ms_afterwards: f64,
}

impl Line {
    fn new(arguments: &Arguments, links: Kind, repairs: &[Repair]) -> Option<Self> {
        let [one, three, flipped] = repairs else { return None };
        let theory = |donors: usize| arguments.bytes.0 as f64 * 8.0 * FRAMING / (arguments.rate.0 as f64 * donors as f64);
        Some(Self {
            bytes: arguments.bytes.0,
            rate_bits_per_second: arguments.rate.0,
            links,
            one_donor_seconds: one.seconds,
            one_donor_theory_seconds: theory(1),
            three_donors_seconds: three.seconds,
            three_donors_theory_seconds: theory(DONORS),
            donors_that_gave: three.donors,
            flipped_bit_seconds: flipped.seconds,
            flipped_bit_bytes: flipped.bytes,
            rounds_while_giving: three.giving.len(),
            step_p50_ms_while_giving: median(&three.giving),
            step_p50_ms_afterwards: median(&three.afterwards),
        })
    }

    fn text(&self) -> String {
        format!(
            "state of {} at {} per link ({}): 1 donor {:.2} s (wire {:.2} s), 3 donors {:.2} s (wire {:.2} s); 1 flipped bit moves {} in {:.2} s; \
             {} rounds of the donors meanwhile, {:.2} ms for each inner step, afterwards {:.2} ms",
            Bytes(self.bytes),
            Rate(self.rate_bits_per_second),
            self.links,
            self.one_donor_seconds,
            self.one_donor_theory_seconds,
            self.three_donors_seconds,
            self.three_donors_theory_seconds,
            Bytes(self.flipped_bit_bytes),
            self.flipped_bit_seconds,
            self.rounds_while_giving,
            self.step_p50_ms_while_giving,
            self.step_p50_ms_afterwards,
        )
    }
}

/// In milliseconds; 0 of none.
fn median(durations: &[Duration]) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).map_or(0.0, |median| median.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_the_wire_needs_and_what_moved() {
        let arguments =
            Arguments { bytes: "250MiB".parse().unwrap(), rate: "200mbit".parse().unwrap(), json: false, isolated: false };
        let repair = |seconds, bytes| Repair {
            seconds,
            bytes,
            donors: 3,
            giving: [3, 1, 2].map(Duration::from_millis).to_vec(),
            afterwards: Vec::new(),
        };
        let whole = arguments.bytes.0;
        let line = Line::new(&arguments, Kind::Proxy, &[repair(11.0, whole), repair(4.0, whole), repair(0.25, 1 << 20)]).unwrap();
        assert!((line.one_donor_theory_seconds - 10.97).abs() < 0.01, "{line:?}");
        assert_eq!(
            line.text(),
            "state of 250MiB at 200mbit per link (proxy): 1 donor 11.00 s (wire 10.97 s), 3 donors 4.00 s (wire 3.66 s); 1 flipped bit moves \
             1MiB in 0.25 s; 3 rounds of the donors meanwhile, 2.00 ms for each inner step, afterwards 0.00 ms"
        );
    }
}
