//! Feeds a recording to the state machines that ship, and compares what they say to do, action by action.

use std::io::{self, BufRead, Read};

use atoll_collective::Millis;
use atoll_collective::coordinator::Coordinator;
use atoll_collective::peer::Peer;
use serde::Serialize;

use super::{FORMAT, Header, History, Line, Machine, Step};

/// Longest line, in bytes: a coordinator's state is the longest there is.
const LONGEST: u64 = 16 << 20;

/// What came of a replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// Whose recording it is.
    pub header: Header,
    /// Events that were fed to the machines.
    pub steps: u64,
    /// What the machines went through, as far as they agree.
    pub history: History,
    /// Where they did something else; nothing after it was fed to them.
    pub difference: Option<Difference>,
}

/// The first place where a machine does not do what was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Line of the file, from 1.
    pub line: u64,
    /// Which machine.
    pub machine: Machine,
    /// When, in milliseconds since the sidecar's start.
    pub now: Millis,
    /// The event, as JSON.
    pub event: String,
    /// Position of the action among those of the event, from 0.
    pub position: usize,
    /// The recorded action, as JSON; none where the recording has no more.
    pub expected: Option<String>,
    /// The machine's action, as JSON; none where the machine has no more.
    pub found: Option<String>,
}

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct Malformed {
    /// Line of the file, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// There is nothing.
    #[error("the file is empty")]
    Empty,
    /// It has no end.
    #[error("the file is cut short here: the line does not end")]
    Cut,
    /// It is longer than any that is written.
    #[error("longer than 16 MiB")]
    TooLong,
    /// It is not what is written.
    #[error("not a line of a recording: {0}")]
    NotALine(#[from] serde_json::Error),
    /// The file does not begin as recordings do.
    #[error("a recording begins with its header and the peer's state")]
    NoBeginning,
    /// Another version of the format.
    #[error("format {0}, and this version of atoll reads {FORMAT}")]
    Format(u32),
    /// A second header or a second peer.
    #[error("a recording has one header and one peer")]
    Twice,
    /// A step of a coordinator that is not there.
    #[error("the coordinator takes an event and has not begun")]
    NoCoordinator,
    /// A machine could not go on: the file is not of a run.
    #[error("the state machine cannot take this event")]
    Stuck,
}

/// Replays the recording that `reader` gives, up to the first difference.
///
/// # Errors
/// [`Malformed`] names the line that is not a recording's.
pub fn replay(mut reader: impl BufRead) -> Result<Replayed, Malformed> {
    let mut line = 0;
    let mut next = || -> Result<Option<Line>, Malformed> {
        line += 1;
        read(&mut reader, line == 1).map_err(|problem| Malformed { line, problem })
    };
    let header = match next()? {
        Some(Line::Recording(header)) if header.format == FORMAT => header,
        Some(Line::Recording(header)) => return Err(Malformed { line: 1, problem: Problem::Format(header.format) }),
        _ => return Err(Malformed { line: 1, problem: Problem::NoBeginning }),
    };
    let Some(Line::PeerState(peer)) = next()? else { return Err(Malformed { line: 2, problem: Problem::NoBeginning }) };
    let mut machines = Machines { peer, coordinator: None, steps: 0, history: History::default() };
    let mut difference = None;
    let mut number = 2;
    while let (None, Some(taken)) = (&difference, next()?) {
        number += 1;
        difference = machines.take(number, taken).map_err(|problem| Malformed { line: number, problem })?;
    }
    Ok(Replayed { header, steps: machines.steps, history: machines.history, difference })
}

/// The next line; none at the end of the file.
fn read(reader: &mut impl BufRead, first: bool) -> Result<Option<Line>, Problem> {
    let mut bytes = Vec::new();
    reader.take(LONGEST).read_until(b'\n', &mut bytes)?;
    match bytes.last() {
        None if first => Err(Problem::Empty),
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&bytes)?)),
        Some(_) if bytes.len() as u64 == LONGEST => Err(Problem::TooLong),
        Some(_) => Err(Problem::Cut),
    }
}

struct Machines {
    peer: Peer,
    coordinator: Option<Coordinator>,
    steps: u64,
    history: History,
}

impl Machines {
    fn take(&mut self, line: u64, taken: Line) -> Result<Option<Difference>, Problem> {
        match taken {
            Line::Recording(_) | Line::PeerState(_) => return Err(Problem::Twice),
            Line::CoordinatorState(state) => {
                self.history.coordinates(state.term());
                self.coordinator = Some(state);
            }
            Line::CoordinatorEnded => self.coordinator = None,
            Line::Peer(step) => {
                let Step { now, event, actions } = step;
                let text = serde_json::to_string(&event)?;
                self.history.heard(&event, now);
                let found = take(|| self.peer.tick(event, now))?;
                self.steps += 1;
                return Ok(compare(&actions, &found)?.map(|what| what.at(line, Machine::Peer, now, text)));
            }
            Line::Coordinator(step) => {
                let Step { now, event, actions } = step;
                let text = serde_json::to_string(&event)?;
                let coordinator = self.coordinator.as_mut().ok_or(Problem::NoCoordinator)?;
                let found = take(|| coordinator.tick(event, now))?;
                self.history.decided(&found);
                self.steps += 1;
                return Ok(compare(&actions, &found)?.map(|what| what.at(line, Machine::Coordinator, now, text)));
            }
        }
        Ok(None)
    }
}

/// A machine's step; a file that no run has written may be one that it cannot take.
fn take<A>(step: impl FnOnce() -> Vec<A>) -> Result<Vec<A>, Problem> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(step)).map_err(|_| Problem::Stuck)
}

/// The first action that differs: its position, as recorded and as found.
struct Differs(usize, Option<String>, Option<String>);

impl Differs {
    fn at(self, line: u64, machine: Machine, now: Millis, event: String) -> Difference {
        let Self(position, expected, found) = self;
        Difference { line, machine, now, event, position, expected, found }
    }
}

fn compare<A: Serialize>(expected: &[A], found: &[A]) -> Result<Option<Differs>, serde_json::Error> {
    for position in 0..expected.len().max(found.len()) {
        // As text: what is not a number is then like itself.
        let text = |actions: &[A]| actions.get(position).map(serde_json::to_string).transpose();
        let (expected, found) = (text(expected)?, text(found)?);
        if expected != found {
            return Ok(Some(Differs(position, expected, found)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use atoll_collective::v1::Member;

    use super::*;

    /// A recording of a peer that has just started and ticks once.
    fn recording() -> String {
        let header = Header {
            format: FORMAT,
            version: "0.1.0".into(),
            run: "tiny".into(),
            worker: "w0".into(),
            incarnation: 1,
            time: String::new(),
        };
        let mut peer = Peer::new("tiny".into(), Member::default(), 2000);
        let state = Line::PeerState(peer.clone());
        let event = atoll_collective::peer::Event::Tick;
        let actions = peer.tick(event.clone(), 25);
        assert!(!actions.is_empty(), "it asks for a term");
        let step = Line::Peer(Step { now: 25, event, actions });
        [Line::Recording(header), state, step].iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect()
    }

    fn problem(text: &str) -> String {
        replay(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_was_recorded_is_done_again() {
        let replayed = replay(recording().as_bytes()).unwrap();
        assert_eq!((replayed.steps, replayed.difference), (1, None));
    }

    #[test]
    fn another_action_is_found_with_its_line() {
        let difference = |text: &str| replay(text.as_bytes()).unwrap().difference.unwrap();
        let changed = difference(&recording().replace(r#""RequestTerm":0"#, r#""RequestTerm":7"#));
        assert_eq!((changed.line, changed.machine, changed.now, changed.position), (3, Machine::Peer, 25, 0));
        assert_eq!(changed.expected.as_deref(), Some(r#"{"RequestTerm":7}"#));
        assert_eq!(changed.found.as_deref(), Some(r#"{"RequestTerm":0}"#));
        let missing = difference(&recording().replace(r#","actions":[{"RequestTerm":0}]"#, ""));
        assert_eq!((missing.expected, missing.found.as_deref()), (None, Some(r#"{"RequestTerm":0}"#)));
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_named_with_the_line() {
        let whole = recording();
        for length in 1..whole.len() {
            let cut = &whole[..length];
            let lines = cut.lines().count();
            match cut.as_bytes().last() {
                Some(b'\n') if lines == 2 => assert_eq!(replay(cut.as_bytes()).unwrap().steps, 0),
                Some(b'\n') => assert_eq!(problem(cut), "line 2: a recording begins with its header and the peer's state"),
                _ => assert_eq!(problem(cut), format!("line {lines}: the file is cut short here: the line does not end")),
            }
        }
        assert_eq!(problem(""), "line 1: the file is empty");
    }

    #[test]
    fn what_is_no_recording_is_named_with_the_line() {
        assert!(problem("garbage\n").starts_with("line 1: not a line of a recording: expected value"));
        let first = recording().lines().next().unwrap().to_owned() + "\n";
        assert!(problem(&(first.clone() + &"[".repeat(100_000) + "\n")).starts_with("line 2: not a line of a recording"));
        assert_eq!(problem(&(recording() + &first)), "line 4: a recording has one header and one peer");
        let orphan = "{\"coordinator\":{\"now\":1,\"event\":\"Tick\"}}\n";
        assert_eq!(problem(&(recording() + orphan)), "line 4: the coordinator takes an event and has not begun");
        let newer = recording().replacen("\"format\":1", "\"format\":2", 1);
        assert_eq!(problem(&newer), "line 1: format 2, and this version of atoll reads 1");
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        assert_eq!(replay(endless).unwrap_err().to_string(), "line 1: longer than 16 MiB");
        assert!(replay(&[0xff, 0xfe, b'\n'][..]).unwrap_err().to_string().starts_with("line 1: not a line"));
    }
}
