//! Names of peers: `WORKER.ISLAND.RUN.atoll.internal`.
//!
//! The name is what a certificate is issued for and what a dialler expects, so that stock TLS verifies it. Each part is one DNS
//! label, as the names of Kubernetes objects are (those that hold a dot are not); that no part holds a dot is what keeps one
//! island from naming a peer of another.

use std::fmt;
use std::str::FromStr;

/// What all names end in.
const DOMAIN: &str = "atoll.internal";
/// Longest DNS label, in bytes.
const LABEL: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A part is not a DNS label.
    #[error("the {part} name {name:?} is not a DNS label: 1 to 63 of a-z, 0-9 and '-', which is neither first nor last")]
    Label {
        /// Which part: run, island or worker.
        part: &'static str,
        /// The text, cut after 64 characters.
        name: String,
    },
    /// The whole is not three labels under the domain.
    #[error("{0:?} is not a peer's name, WORKER.ISLAND.RUN.{DOMAIN}")]
    Shape(
        /// The text, cut after 256 characters.
        String,
    ),
}

/// Who a peer is: one worker, on one island, of one run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerName {
    run: String,
    island: String,
    worker: String,
}

impl PeerName {
    /// The name of `worker` on `island` of `run`.
    ///
    /// # Errors
    /// [`NameError::Label`] for the first part that is not a DNS label.
    pub fn new(run: &str, island: &str, worker: &str) -> Result<Self, NameError> {
        let [run, island, worker] = [("run", run), ("island", island), ("worker", worker)].map(|(part, name)| label(part, name));
        Ok(Self { run: run?, island: island?, worker: worker? })
    }

    /// The run.
    #[must_use]
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The island.
    #[must_use]
    pub fn island(&self) -> &str {
        &self.island
    }

    /// The worker.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.worker
    }
}

/// The domain of a run, under which all its islands are.
///
/// # Errors
/// [`NameError::Label`].
pub(super) fn run_domain(run: &str) -> Result<String, NameError> {
    Ok(format!("{}.{DOMAIN}", label("run", run)?))
}

/// The domain of an island, under which all its peers are.
///
/// # Errors
/// [`NameError::Label`].
pub(super) fn island_domain(run: &str, island: &str) -> Result<String, NameError> {
    Ok(format!("{}.{}", label("island", island)?, run_domain(run)?))
}

fn label(part: &'static str, name: &str) -> Result<String, NameError> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edges = !name.starts_with('-') && !name.ends_with('-');
    if (1..=LABEL).contains(&name.len()) && name.bytes().all(inner) && edges {
        return Ok(name.to_owned());
    }
    Err(NameError::Label { part, name: name.chars().take(LABEL + 1).collect() })
}

impl fmt::Display for PeerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}.{DOMAIN}", self.worker, self.island, self.run)
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for PeerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let shape = || NameError::Shape(text.chars().take(256).collect());
        let labels = text.strip_suffix(DOMAIN).and_then(|labels| labels.strip_suffix('.')).ok_or_else(shape)?;
        let mut labels = labels.splitn(4, '.');
        match [labels.next(), labels.next(), labels.next(), labels.next()] {
            [Some(worker), Some(island), Some(run), None] => Self::new(run, island, worker),
            _ => Err(shape()),
        }
    }
}

impl TryFrom<String> for PeerName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<PeerName> for String {
    fn from(name: PeerName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_kubernetes_objects_are_names_of_peers() {
        let name = PeerName::new("kjv", "eu-west", "0").unwrap();
        assert_eq!(name.to_string(), "0.eu-west.kjv.atoll.internal");
        assert_eq!(name.to_string().parse(), Ok(name));
    }

    #[test]
    fn what_is_no_label_is_refused_and_its_part_is_named() {
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "*", &"a".repeat(64)] {
            let refused = PeerName::new("run", bad, "worker");
            assert!(matches!(&refused, Err(NameError::Label { part: "island", .. })), "{bad}: {refused:?}");
        }
        assert!(PeerName::new("run", &"a".repeat(63), "worker").is_ok());
    }

    #[test]
    fn a_name_has_three_labels_under_the_domain() {
        for bad in
            ["", "atoll.internal", "a.b.atoll.internal", "a.b.c.d.atoll.internal", "a.b.c.atoll.example", "a.b.catoll.internal"]
        {
            assert!(matches!(bad.parse::<PeerName>(), Err(NameError::Shape(_))), "{bad}");
        }
        assert!(matches!("*.b.c.atoll.internal".parse::<PeerName>(), Err(NameError::Label { part: "worker", .. })));
    }

    proptest! {
        #[test]
        fn what_parses_is_written_the_same_again(text in "[a-c.*-]{0,12}(\\.atoll\\.internal)?") {
            if let Ok(name) = text.parse::<PeerName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
