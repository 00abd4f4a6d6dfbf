//! The state of a run over real sidecars: one flipped bit, a donor that is killed, and what only receives or only gives. And what
//! their trainers are told of an operation that cannot be done: why, and because of whom.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use atoll_sdk::events::Event;
use atoll_sdk::{AbortReason, ElementType, Operation, Options, Outcome, Part, Region, Round, SdkError, Session, State};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const MIB: usize = 1 << 20;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_mins(2);
/// Bytes of what donors reduce among themselves.
const SMALL: usize = 4096;

/// `atoll sidecars`, ended with the test.
struct Sidecars {
    process: Child,
    sockets: Vec<PathBuf>,
    events: Receiver<Event>,
}

impl Sidecars {
    fn start(workers: u32) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
        command.args(["sidecars", "--run", "state", "--workers", &workers.to_string()]);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (said, told) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in BufReader::new(told).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    let _over = sender.send(event);
                }
            }
        });
        let socket = |line: String| PathBuf::from(line.split_once(' ').unwrap().1);
        let sockets = BufReader::new(said).lines().take(workers as usize).map(|line| socket(line.unwrap())).collect();
        Self { process, sockets, events }
    }

    fn event(&self, name: &str) -> Event {
        loop {
            let event = self.events.recv_timeout(PATIENCE).unwrap();
            if event.event == name {
                return event;
            }
        }
    }

    /// The process of a sidecar that was not started again: they are listed as they were started.
    fn pid(&self, slot: usize) -> Pid {
        let parent = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        Pid::from_raw(children.split_whitespace().nth(slot).unwrap().parse().unwrap()).unwrap()
    }
}

impl Drop for Sidecars {
    fn drop(&mut self) {
        let _ended = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _status = self.process.wait();
    }
}

/// A trainer with a state of so many MiB.
struct Trainer {
    session: Session,
    state: Region,
    small: Region,
    wanted: State,
}

impl Trainer {
    fn new(sidecars: &Sidecars, slot: usize, mebibytes: usize) -> Self {
        let (run, socket) = ("state".to_owned(), sidecars.sockets[slot].clone());
        let options = Options { run, socket, incarnation: 1, rank: 0, ranks: 1, patience: PATIENCE };
        let mut session = Session::new(options).unwrap();
        let state = session.share("state", (mebibytes * MIB) as u64).unwrap();
        let small = session.share("small", 2 * SMALL as u64).unwrap();
        // Two tensors, of which neither begins at a whole MiB.
        let tensor = |range| Part { region: "state".into(), range };
        let wanted = State::default().with("weights", ElementType::U8, tensor(100..state.len())).with(
            "bias",
            ElementType::U8,
            tensor(0..100),
        );
        Self { session, state, small, wanted }
    }

    /// With the state that all but one have.
    fn filled(self) -> Self {
        for (index, piece) in pattern(self.state.len()).chunks(MIB).enumerate() {
            assert!(self.state.write(index * MIB, piece));
        }
        self
    }

    /// Adds up what all give, for one of them alone.
    fn sum_for(&mut self, root: u32, own: u32) -> Outcome {
        let part = |start| Part { region: "small".into(), range: start..start + SMALL };
        let operation = Operation::reduce(root, part(0), (own == root).then(|| part(SMALL))).sum().tag("sum");
        self.session.operate(&operation).unwrap()
    }

    fn begin(&mut self) -> Result<Round, SdkError> {
        self.session.begin_round(1, &self.wanted, 0)
    }

    /// Begins, however often it has to, on a thread of its own.
    fn begun(mut self) -> JoinHandle<(Self, Round)> {
        thread::spawn(move || {
            loop {
                match self.begin() {
                    Ok(round) => return (self, round),
                    Err(SdkError::Again(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
    }

    fn bytes(&self) -> &[u8] {
        self.state.bytes(0..self.state.len()).unwrap()
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 7 % 253) as u8).collect()
}

fn bytes(event: &Event) -> u64 {
    event.more["bytes"].as_u64().unwrap()
}

#[test]
fn one_flipped_bit_in_64_mib_moves_one_chunk_from_whoever_holds_the_state() {
    let sidecars = Sidecars::start(4);
    let trainers: Vec<_> = (0..4).map(|slot| Trainer::new(&sidecars, slot, 64).filled()).collect();
    let wrong = 40 * MIB + 12_345;
    let byte = trainers[1].bytes()[wrong];
    assert!(trainers[1].state.write(wrong, &[byte ^ 8]));
    let begun: Vec<_> = trainers.into_iter().map(Trainer::begun).collect();
    let begun: Vec<_> = begun.into_iter().map(|trainer| trainer.join().unwrap()).collect();
    let synchronised: Vec<bool> = begun.iter().map(|(_, round)| round.synchronised).collect();
    assert_eq!(synchronised, [false, true, false, false], "three agree, and the fourth takes their state");
    let pattern = pattern(64 * MIB);
    assert!(begun.iter().all(|(trainer, _)| trainer.bytes() == pattern));
    let event = sidecars.event("Repaired");
    assert_eq!((event.worker.as_str(), bytes(&event), &event.more["whole"]), ("w1", MIB as u64, &Value::Bool(true)));
}

#[test]
fn a_joiner_repairs_from_three_donors_of_which_one_is_killed_while_the_others_reduce_among_themselves() {
    let sidecars = Sidecars::start(4);
    let coordinator = sidecars.event("Coordinator").worker;
    let lost = if coordinator == "w2" { 1 } else { 2 };
    let donors: Vec<_> = (0..3).map(|slot| Trainer::new(&sidecars, slot, 48).filled().begun()).collect();
    let joiner = Trainer::new(&sidecars, 3, 48);
    let state = joiner.state.clone();
    let joiner = joiner.begun();
    let mut donors: Vec<_> = donors.into_iter().map(|donor| donor.join().unwrap().0).collect();
    // Its first bytes are the others' when the repair has begun.
    let repaired = || state.bytes(0..state.len()).unwrap().iter().step_by(4096).any(|byte| *byte != 0);
    while !repaired() && !joiner.is_finished() {
        thread::yield_now();
    }
    kill_process(sidecars.pid(lost), Signal::KILL).unwrap();
    // Its trainer stands still meanwhile.
    let _lost = donors.remove(lost);
    let slots = [0, 3 - lost as u32];
    let others = donors.into_iter().map(|mut donor| {
        thread::spawn(move || {
            let part = |start| Part { region: "small".into(), range: start..start + SMALL };
            let together = Operation::all_reduce(part(0), part(SMALL)).among(&slots).tag("together");
            for _ in 0..20 {
                let ended = donor.session.operate(&together).unwrap();
                assert!(matches!(&ended, Outcome::Committed { slots: took_part, .. } if *took_part == slots), "{ended:?}");
            }
            donor
        })
    });
    let others: Vec<_> = others.collect();
    let kept: Vec<_> = others.into_iter().map(|donor| donor.join().unwrap()).collect();
    let (joined, round) = joiner.join().unwrap();
    assert!(round.synchronised);
    let pattern = pattern(48 * MIB);
    assert!(joined.bytes() == pattern && kept.iter().all(|donor| donor.bytes() == pattern));
    assert!(joined.state.is_whole().unwrap());
}

#[test]
fn a_state_that_cannot_take_part_is_refused_in_words_and_the_others_go_on() {
    let sidecars = Sidecars::start(3);
    let mut gives = Trainer::new(&sidecars, 0, 1);
    gives.wanted = gives.wanted.send_only();
    let refused = thread::spawn(move || gives.begin());
    let others: Vec<_> = (1..3).map(|slot| Trainer::new(&sidecars, slot, 1).filled().begun()).collect();
    let error = refused.join().unwrap().unwrap_err();
    assert!(matches!(error, SdkError::Refused(_)), "{error}");
    assert!(error.to_string().contains("it takes no other"), "{error}");
    for other in others {
        let (_, round) = other.join().unwrap();
        assert!(!round.synchronised);
    }
}

#[test]
fn a_state_that_an_earlier_sidecar_left_half_repaired_is_not_elected() {
    let sidecars = Sidecars::start(2);
    let mut half = Trainer::new(&sidecars, 0, 1);
    half.state.mark(false).unwrap();
    let whole = Trainer::new(&sidecars, 1, 1).filled().begun();
    let round = half.begin().unwrap();
    assert!(round.synchronised, "slot 0 would have won between two states");
    assert!(half.bytes() == pattern(MIB) && half.state.is_whole().unwrap());
    assert!(!whole.join().unwrap().1.synchronised);
}

/// Three trainers in a round; the workers' slots are their places.
fn three_in_a_round(sidecars: &Sidecars) -> Vec<Trainer> {
    let begun: Vec<_> = (0..3).map(|slot| Trainer::new(sidecars, slot, 1).filled().begun()).collect();
    begun.into_iter().map(|trainer| trainer.join().unwrap().0).collect()
}

#[test]
fn whoever_needs_what_holds_nan_reads_so_with_the_slot_that_gave_it_and_the_others_go_on() {
    let sidecars = Sidecars::start(3);
    let trainers = three_in_a_round(&sidecars);
    assert!(trainers[1].small.write(0, &f32::NAN.to_le_bytes()));
    let sums = trainers.into_iter().zip(0..).map(|(mut trainer, own)| {
        thread::spawn(move || {
            let Outcome::Aborted { reason, culprit, detail } = trainer.sum_for(1, own) else { panic!("w{own} got a sum") };
            assert_eq!((reason, culprit), (AbortReason::NotFinite, Some(1)), "w{own}: {detail}");
            assert!(own == 1 || detail.starts_with("w1: "), "{detail}");
            trainer
        })
    });
    let sums: Vec<_> = sums.collect();
    let mut trainers: Vec<_> = sums.into_iter().map(|sum| sum.join().unwrap()).collect();
    trainers.remove(1);
    let means = trainers.into_iter().map(|mut trainer| {
        thread::spawn(move || {
            let part = |start| Part { region: "small".into(), range: start..start + SMALL };
            let ended = trainer.session.operate(&Operation::all_reduce(part(0), part(SMALL)).tag("mean")).unwrap();
            assert!(matches!(&ended, Outcome::Committed { slots, .. } if slots == &[0, 2]), "{ended:?}");
        })
    });
    means.collect::<Vec<_>>().into_iter().for_each(|mean| mean.join().unwrap());
}

#[test]
fn whoever_needs_a_worker_that_is_killed_reads_so_with_its_slot() {
    let sidecars = Sidecars::start(3);
    let coordinator = sidecars.event("Coordinator").worker;
    let lost = if coordinator == "w1" { 2 } else { 1 };
    let mut trainers = three_in_a_round(&sidecars);
    // It stands still, and never gives its part.
    let _lost = trainers.remove(lost as usize);
    let sums =
        trainers.into_iter().zip([0, 3 - lost]).map(|(mut trainer, own)| thread::spawn(move || trainer.sum_for(lost, own)));
    let sums: Vec<_> = sums.collect();
    kill_process(sidecars.pid(lost as usize), Signal::KILL).unwrap();
    for sum in sums {
        let ended = sum.join().unwrap();
        assert!(
            matches!(ended, Outcome::Aborted { reason: AbortReason::PeerLost, culprit: Some(slot), .. } if slot == lost),
            "{ended:?}"
        );
    }
}

#[test]
fn the_benchmark_counts_what_moves_and_how_the_donors_train_meanwhile() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
    command.args(["bench", "state", "--bytes", "4MiB", "--rate", "40mbit", "--json"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&line["flippedBitBytes"], &line["donorsThatGave"]), (&MIB.into(), &3.into()), "{line}");
    let figure = |field: &str| line[field].as_f64().unwrap();
    assert!(figure("roundsWhileGiving") >= 1.0, "{line}");
    // A token bucket lets what it saved pass at once.
    assert!(figure("oneDonorSeconds") >= figure("oneDonorTheorySeconds") / 2.0, "{line}");
}
