//! Who signs for the processes of one run on this machine: the supervisor, for one island.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use atoll_collective::identity::{Identity, IslandAuthority, RunAuthority, Validity};

/// The island of every worker on this machine.
pub(crate) const ISLAND: &str = "local";
/// Certificates end with the run: no run on one machine takes longer.
pub(crate) const YEAR: Duration = Duration::from_hours(366 * 24);
/// How far clocks may be apart.
pub(crate) const SKEW: Duration = Duration::from_hours(1);

/// Signs identities of a run.
pub(crate) struct Authority {
    island: IslandAuthority,
    validity: Validity,
}

impl Authority {
    /// Makes the keys of `run`.
    pub(crate) fn new(run: &str) -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a certificate's validity is in the time of the day")]
        let validity = Validity { from: SystemTime::now() - SKEW, length: YEAR };
        let authority = RunAuthority::new(run, validity).context("cannot sign for the run")?;
        Ok(Self { island: authority.island(ISLAND, validity)?, validity })
    }

    /// An identity for a process.
    pub(crate) fn identity(&self, name: &str) -> Result<Identity> {
        self.island.peer(name, self.validity).with_context(|| format!("cannot sign for {name}"))
    }
}
