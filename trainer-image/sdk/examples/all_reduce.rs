//! A trainer in Rust: in each of three rounds, the mean of all workers' vectors becomes the state that they share.
//! `all_reduce RUN SOCKET`, beside a sidecar of `atoll sidecars`; `examples/python/all_reduce.py` is the same in Python.
use std::time::{Duration, UNIX_EPOCH};

use atoll_sdk::{Coding, Contribution, ElementType, Options, Outcome, Part, Region, SdkError, Session, State};

const ALL: std::ops::Range<usize> = 0..400_000; // bytes of each vector

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(run), Some(socket)) = (arguments.next(), arguments.next()) else { return Err("give RUN and SOCKET".into()) };
    #[expect(clippy::disallowed_methods, reason = "a number that no earlier start had")]
    let incarnation = UNIX_EPOCH.elapsed()?.as_nanos() as u64; // a later start has a higher one
    let patience = Duration::from_secs(10);
    let mut session = Session::new(Options { run, socket: socket.into(), incarnation, rank: 0, ranks: 1, patience })?;
    let mut share = |name| session.share(name, ALL.len() as u64);
    let (state, mut input, output) = (share("state")?, share("input")?, share("output")?);
    let mut committed = 0;
    while committed < 3 {
        committed = match round(&mut session, committed + 1, &state, &mut input) {
            Ok(None) | Err(SdkError::Again(_)) => continue, // aborted, or the sidecar was lost
            done => done?.unwrap_or_default(),
        };
        let mean = output.bytes(ALL).unwrap_or_default();
        let (_fits, last) = (state.write(0, mean), output.values(ALL).unwrap_or_default()[ALL.len() / 4 - 1]);
        println!("round {committed}: last element {last:.1}, state {}", blake3::hash(mean));
    }
    Ok(session.finish()?)
}

fn round(session: &mut Session, next: u64, state: &Region, input: &mut Region) -> Result<Option<u64>, SdkError> {
    let part = |region: &str| Part { region: region.to_owned(), range: ALL };
    let begun = session.begin_round(next, &State::default().with("vector", ElementType::F32, part("state")), 0)?;
    for (index, (own, shared)) in
        input.values_mut(ALL).into_iter().flatten().zip(state.values(ALL).unwrap_or_default()).enumerate()
    {
        *own = shared + ((begun.slot as usize + 1) * index) as f32;
    }
    let (round, input, output, deadline) = (begun.round, part("input"), part("output"), Duration::from_mins(1));
    let given =
        Contribution { round, input, output, weight: 1, samples: Vec::new(), loss: 0.0, deadline, coding: Coding::default() };
    loop {
        match session.all_reduce(&given)? {
            Outcome::Committed { .. } => return Ok(Some(round)),
            Outcome::Aborted { reason, culprit, detail } => eprintln!("{reason:?} by {culprit:?}: {detail}"),
            Outcome::InDoubt => continue, // cut off after its vote: asks again
        }
        return Ok(None);
    }
}
