//! One case of the benchmark: what is reduced, by whom, and over which links.

use std::fmt;

use atoll_collective::lane::Bounds;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Loss, Rate, RoundTrip};

/// Most peers of one reduction: the most reducing members of a run.
const MOST_PEERS: usize = 64;
/// Most tensors of one case.
const MOST_TENSORS: usize = 256;
/// Most connections of one lane.
const MOST_CHANNELS: usize = Bounds::MOST_CHANNELS;
/// Bytes that may be on the way on a connection.
const WINDOWS: std::ops::RangeInclusive<u64> = 1 << 16..=1 << 30;
/// Bytes of one element.
pub(crate) const ELEMENT: u64 = 4;

/// How the peers meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Path {
    /// Ranks of one sidecar, in shared memory
    Shm,
    /// One rank and one sidecar per peer, over lanes
    Tcp,
}

/// How values are written on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Codec {
    /// As they are
    F32,
    /// The upper half of an f32
    Bf16,
    /// 8 bits and a scale per block
    U8,
    /// 4 bits and a scale per block
    U4,
}

impl Codec {
    /// The engine's word for it.
    pub(crate) fn code(self) -> atoll_sdk::Codec {
        match self {
            Self::F32 => atoll_sdk::Codec::None,
            Self::Bf16 => atoll_sdk::Codec::Bf16,
            Self::U8 => atoll_sdk::Codec::Uint8,
            Self::U4 => atoll_sdk::Codec::Uint4,
        }
    }

    /// The form in which values travel.
    pub(crate) fn written(self) -> atoll_collective::codec::Codec {
        use atoll_collective::codec::Codec as Written;
        match self {
            Self::F32 => Written::F32,
            Self::Bf16 => Written::Bf16,
            Self::U8 => Written::UInt8,
            Self::U4 => Written::UInt4,
        }
    }

    /// How far a mean of the benchmark's values, 0 to 250 and a rank, may be from the exact one: each is coded twice.
    pub(crate) fn tolerance(self) -> f32 {
        match self {
            Self::F32 => 0.0,
            Self::Bf16 => 2.0,
            Self::U8 => 1.5,
            Self::U4 => 40.0,
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Case {
    pub(crate) peers: usize,
    /// Bytes of each peer's f32 tensors, all together; none for a call that moves nothing.
    pub(crate) bytes: u64,
    pub(crate) path: Path,
    pub(crate) codec: Codec,
    /// The bytes are this many tensors, each reduced by an operation of its own.
    pub(crate) tensors: usize,
    /// So many of those operations are under way at once.
    pub(crate) concurrent: usize,
    /// Rate of each peer's link; empty where links are not shaped.
    pub(crate) rates: Vec<Rate>,
    pub(crate) round_trip: Option<RoundTrip>,
    /// Packets that are lost of each peer's; none where nobody loses any.
    pub(crate) loss: Option<Loss>,
    pub(crate) lane: Lane,
    pub(crate) tls: bool,
}

/// How a lane is set, where not by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lane {
    /// Connections of one lane.
    pub(crate) channels: Option<usize>,
    /// Bytes that may be on the way on each.
    pub(crate) window: Option<Bytes>,
}

/// Arguments that make no case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CaseError {
    /// Too few or too many peers.
    #[error("--peers {0}: give 2 to {MOST_PEERS}")]
    Peers(usize),
    /// Too few or too many tensors.
    #[error("--tensors {0}: give 1 to {MOST_TENSORS}")]
    Tensors(usize),
    /// More operations at once than there are.
    #[error("--concurrent {concurrent}: give 1 to {}", most_at_once(*tensors))]
    Concurrent {
        /// Asked for.
        concurrent: usize,
        /// Operations there are; none where they follow from this.
        tensors: Option<usize>,
    },
    /// The bytes are not whole elements of so many tensors.
    #[error("--bytes {bytes}: not {tensors} tensors of whole f32 values; give a multiple of {}", ELEMENT * *tensors as u64)]
    Bytes {
        /// Asked for.
        bytes: Bytes,
        /// Tensors to divide it among.
        tensors: usize,
    },
    /// Neither one rate nor one per peer.
    #[error("--rates has {rates} values; give one for all peers, or {peers}")]
    Rates {
        /// Values given.
        rates: usize,
        /// Peers.
        peers: usize,
    },
    /// Too few or too many connections.
    #[error("--channels {0}: give 1 to {MOST_CHANNELS}")]
    Channels(usize),
    /// Smaller than HTTP/2's least, or larger than its most.
    #[error("--window {0}: give 64KiB to 1GiB")]
    Window(Bytes),
    /// Links of peers that share memory.
    #[error("{0} is for --path tcp: ranks that share memory have no link")]
    NoLink(&'static str),
}

fn most_at_once(tensors: Option<usize>) -> String {
    tensors.map_or(MOST_TENSORS.to_string(), |tensors| format!("{tensors}, the number of --tensors"))
}

/// What a person asks for; unset figures follow the others.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) peers: usize,
    pub(crate) bytes: Bytes,
    pub(crate) path: Path,
    pub(crate) codec: Codec,
    pub(crate) tensors: Option<usize>,
    pub(crate) concurrent: Option<usize>,
    pub(crate) rates: Vec<Rate>,
    pub(crate) round_trip: Option<RoundTrip>,
    pub(crate) loss: Option<Loss>,
    pub(crate) lane: Lane,
    pub(crate) tls: bool,
}

impl Case {
    /// The case that is asked for.
    ///
    /// # Errors
    /// [`CaseError`] names the first figure that fits no case.
    pub(crate) fn new(wanted: Wanted) -> Result<Self, CaseError> {
        let Wanted { peers, bytes, path, codec, mut rates, round_trip, loss, lane, tls, .. } = wanted;
        let tensors = wanted.tensors.or(wanted.concurrent).unwrap_or(1);
        let concurrent = wanted.concurrent.unwrap_or(1);
        if !(2..=MOST_PEERS).contains(&peers) {
            return Err(CaseError::Peers(peers));
        }
        if wanted.tensors.is_some_and(|tensors| !(1..=MOST_TENSORS).contains(&tensors)) {
            return Err(CaseError::Tensors(tensors));
        }
        if !(1..=wanted.tensors.unwrap_or(MOST_TENSORS)).contains(&concurrent) {
            return Err(CaseError::Concurrent { concurrent, tensors: wanted.tensors });
        }
        if !bytes.0.is_multiple_of(ELEMENT * tensors as u64) {
            return Err(CaseError::Bytes { bytes, tensors });
        }
        match rates.as_slice() {
            [one] => rates = vec![*one; peers],
            some if !some.is_empty() && some.len() != peers => return Err(CaseError::Rates { rates: some.len(), peers }),
            _ => {}
        }
        if path == Path::Shm && !rates.is_empty() {
            return Err(CaseError::NoLink("--rates"));
        }
        let of_links = [
            ("--rtt", round_trip.is_some()),
            ("--loss", loss.is_some()),
            ("--channels", lane.channels.is_some()),
            ("--window", lane.window.is_some()),
            ("--tls on", tls),
        ];
        if let Some((option, _)) = of_links.into_iter().find(|(_, given)| *given && path == Path::Shm) {
            return Err(CaseError::NoLink(option));
        }
        if let Some(channels) = lane.channels.filter(|channels| !(1..=MOST_CHANNELS).contains(channels)) {
            return Err(CaseError::Channels(channels));
        }
        if let Some(window) = lane.window.filter(|window| !WINDOWS.contains(&window.0)) {
            return Err(CaseError::Window(window));
        }
        Ok(Self { peers, bytes: bytes.0, path, codec, tensors, concurrent, rates, round_trip, loss, lane, tls })
    }

    /// Elements of each tensor.
    pub(crate) fn elements_per_tensor(&self) -> u64 {
        self.bytes / ELEMENT / self.tensors as u64
    }
}

/// The name of the case: `tcp-f32-4x16MiB-200mbit`.
impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}-{}x{}", word(&self.path), word(&self.codec), self.peers, Bytes(self.bytes))?;
        if self.tensors > 1 {
            write!(out, "-{}tensors-{}concurrent", self.tensors, self.concurrent)?;
        }
        if let Some(first) = self.rates.first() {
            write!(out, "-{first}")?;
            if self.rates.iter().any(|rate| rate != first) {
                self.rates[1..].iter().try_for_each(|rate| write!(out, ",{rate}"))?;
            }
        }
        if let Some(round_trip) = &self.round_trip {
            write!(out, "-rtt{round_trip}")?;
        }
        if let Some(loss) = &self.loss {
            write!(out, "-loss{loss}")?;
        }
        if let Some(channels) = self.lane.channels {
            write!(out, "-{channels}channels")?;
        }
        if let Some(window) = self.lane.window {
            write!(out, "-window{window}")?;
        }
        if self.tls { write!(out, "-tls") } else { Ok(()) }
    }
}

/// A value as it is written on the command line.
pub(crate) fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            peers: 4,
            bytes: Bytes(16 << 20),
            path: Path::Tcp,
            codec: Codec::F32,
            tensors: None,
            concurrent: None,
            rates: Vec::new(),
            round_trip: None,
            loss: None,
            lane: Lane::default(),
            tls: false,
        }
    }

    /// Four peers whose links have this rate.
    pub(crate) fn shaped(bytes: &str, rate: &str, round_trip: Option<&str>) -> Case {
        let round_trip = round_trip.map(|text| text.parse().unwrap());
        Case::new(Wanted { bytes: bytes.parse().unwrap(), rates: vec![rate.parse().unwrap()], round_trip, ..wanted() }).unwrap()
    }

    #[test]
    fn one_rate_is_everybodys() {
        assert_eq!(shaped("1MiB", "50mbit", None).rates, vec![Rate(50_000_000); 4]);
        let rates = vec![Rate(1_000_000); 3];
        assert_eq!(Case::new(Wanted { rates, ..wanted() }), Err(CaseError::Rates { rates: 3, peers: 4 }));
    }

    #[test]
    fn figures_that_make_no_case_are_named() {
        let refused = |wanted: Wanted| Case::new(wanted).unwrap_err().to_string();
        assert_eq!(refused(Wanted { peers: 1, ..wanted() }), "--peers 1: give 2 to 64");
        assert_eq!(refused(Wanted { peers: 65, ..wanted() }), "--peers 65: give 2 to 64");
        assert_eq!(refused(Wanted { tensors: Some(0), ..wanted() }), "--tensors 0: give 1 to 256");
        let three = Wanted { bytes: Bytes(4096), tensors: Some(3), ..wanted() };
        assert_eq!(refused(three), "--bytes 4KiB: not 3 tensors of whole f32 values; give a multiple of 12");
        let busy = Wanted { tensors: Some(2), concurrent: Some(3), ..wanted() };
        assert_eq!(refused(busy), "--concurrent 3: give 1 to 2, the number of --tensors");
        for concurrent in [0, 257] {
            let alone = Wanted { concurrent: Some(concurrent), ..wanted() };
            assert_eq!(refused(alone), format!("--concurrent {concurrent}: give 1 to 256"));
        }
        let round_trip = Some("1ms".parse().unwrap());
        let together = Wanted { path: Path::Shm, round_trip, ..wanted() };
        assert_eq!(refused(together), "--rtt is for --path tcp: ranks that share memory have no link");
        let secured = Wanted { path: Path::Shm, tls: true, ..wanted() };
        assert_eq!(refused(secured), "--tls on is for --path tcp: ranks that share memory have no link");
        let many = Wanted { lane: Lane { channels: Some(17), window: None }, ..wanted() };
        assert_eq!(refused(many), "--channels 17: give 1 to 16");
        let narrow = Wanted { lane: Lane { channels: None, window: Some(Bytes(4096)) }, ..wanted() };
        assert_eq!(refused(narrow), "--window 4KiB: give 64KiB to 1GiB");
    }

    #[test]
    fn concurrent_operations_are_a_tensor_each() {
        let case = Case::new(Wanted { concurrent: Some(4), ..wanted() }).unwrap();
        assert_eq!((case.tensors, case.concurrent, case.elements_per_tensor()), (4, 4, 1 << 20));
    }

    #[test]
    fn the_name_says_what_is_measured() {
        assert_eq!(Case::new(wanted()).unwrap().to_string(), "tcp-f32-4x16MiB");
        assert_eq!(shaped("1MiB", "200mbit", Some("20ms")).to_string(), "tcp-f32-4x1MiB-200mbit-rtt20ms");
        let rates = ["200mbit", "200mbit", "200mbit", "50mbit"].map(|rate| rate.parse().unwrap()).to_vec();
        let lane = Lane { channels: Some(4), window: Some(Bytes(1 << 20)) };
        let lossy = Case { loss: Some("0.1%".parse().unwrap()), lane, ..shaped("1MiB", "200mbit", Some("20ms")) };
        assert_eq!(lossy.to_string(), "tcp-f32-4x1MiB-200mbit-rtt20ms-loss0.1%-4channels-window1MiB");
        let skewed = Case::new(Wanted { rates, codec: Codec::U8, concurrent: Some(4), ..wanted() }).unwrap();
        assert_eq!(skewed.to_string(), "tcp-u8-4x16MiB-4tensors-4concurrent-200mbit,200mbit,200mbit,50mbit");
    }
}
