//! Who signs for runs: one key of the operator, from which everything secret of a run follows.
//!
//! What is derived (BLAKE3 in its mode for deriving keys) is bound to a purpose, the run's uid and the attempt, so that the
//! operator stores nothing more, is the same authority after a restart, and no key says anything of another.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_collective::identity::{HostAuthority, HostIdentity, IdentityError, IslandAuthority, RunAuthority, Validity};
use atoll_collective::transport::Security;

use super::{ARBITER, Attempt, DOMAIN, HOST, HubError};

/// How long a worker's certificate is valid: as long as a run goes on without the hub.
pub const VALID: Duration = Duration::from_hours(24);
/// How far clocks may be apart: certificates begin so much earlier.
const SKEW: Duration = Duration::from_hours(1);
/// How long the hub's own certificates are valid, which it makes anew each day.
const OWN: Duration = Duration::from_hours(7 * 24);
/// Authorities are derived, not renewed: from 1970 to 9999. What they sign ends with the day.
const ALWAYS: Validity = Validity { from: UNIX_EPOCH, length: Duration::from_secs(253_402_300_799) };

/// The one secret of the operator. Never logged.
#[derive(Clone)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// With these bytes, which come from a Secret.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Bytes for a new Secret.
    ///
    /// # Errors
    /// [`HubError::Randomness`].
    pub fn generate() -> Result<[u8; 32], HubError> {
        let mut bytes = [0; 32];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random.fill(&mut bytes).map_err(|_| HubError::Randomness)?;
        Ok(bytes)
    }

    /// What pods check the hub against before they have a certificate, PEM.
    ///
    /// # Errors
    /// [`HubError::Identity`].
    pub fn hub_roots(&self) -> Result<String, HubError> {
        Ok(self.hosts()?.root())
    }

    /// A new identity of the hub, for those who have no certificate.
    pub(super) fn host(&self, now: SystemTime) -> Result<HostIdentity, IdentityError> {
        self.hosts()?.host(HOST, valid(now, OWN))
    }

    /// Proves that the operator wrote what is stored of an attempt.
    pub(super) fn seal(&self, uid: &str, attempt: u64) -> [u8; 32] {
        self.derived("atoll.dev 2026 seal of a run's stored record", &[uid.as_bytes(), &attempt.to_le_bytes()])
    }

    fn hosts(&self) -> Result<HostAuthority, IdentityError> {
        HostAuthority::of_key(DOMAIN, &self.derived("atoll.dev 2026 authority of the hub", &[]), ALWAYS)
    }

    /// Of a purpose and what it is bound to, each with its length, so that no two are the same bytes.
    fn derived(&self, purpose: &'static str, bound: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(purpose);
        hasher.update(&self.0);
        for part in bound {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        *hasher.finalize().as_bytes()
    }
}

/// Signs for the workers of one attempt of a run.
pub(super) struct Authority {
    island: IslandAuthority,
    secret: String,
}

impl Authority {
    /// Of the run that is called `wire` in certificates.
    pub(super) fn new(master: &MasterKey, attempt: &Attempt, wire: &str, island: &str) -> Result<Self, IdentityError> {
        let (uid, number) = (attempt.uid.as_bytes(), attempt.attempt.to_le_bytes());
        let run = master.derived("atoll.dev 2026 authority of a run", &[uid, &number]);
        let own = master.derived("atoll.dev 2026 authority of an island", &[uid, &number, island.as_bytes()]);
        let secret = master.derived("atoll.dev 2026 secret that processes of a run share", &[uid, &number]);
        let island = RunAuthority::of_key(wire, &run, ALWAYS)?.island_of_key(island, &own, ALWAYS)?;
        let secret = hexadecimal(&secret);
        Ok(Self { island, secret })
    }

    /// What every process of the run shows to the others.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// The root that everybody of the run trusts, PEM.
    pub(super) fn root(&self) -> &str {
        self.island.run_root()
    }

    /// The certificate chain of `worker`, valid for [`VALID`].
    pub(super) fn sign(&self, worker: &str, request: &[u8], now: SystemTime) -> Result<String, IdentityError> {
        self.island.sign_request(worker, request, valid(now, VALID))
    }

    /// The hub's own TLS towards this run.
    pub(super) fn arbiter(&self, now: SystemTime) -> Result<Security, IdentityError> {
        Security::new(&self.island.peer(ARBITER, valid(now, OWN))?)
    }
}

fn valid(now: SystemTime, length: Duration) -> Validity {
    let from = now.checked_sub(SKEW).filter(|from| *from >= UNIX_EPOCH).unwrap_or(UNIX_EPOCH);
    Validity { from, length: SKEW + length }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::RunKey;

    fn authority(master: u8, uid: &str, attempt: u64) -> Authority {
        let key = RunKey { namespace: "research".into(), name: "kjv".into() };
        let attempt = Attempt { key, uid: uid.into(), attempt };
        Authority::new(&MasterKey::new([master; 32]), &attempt, "kjv-0a1b2c3d-1", "local").unwrap()
    }

    #[test]
    fn an_operator_that_starts_again_is_the_same_authority() {
        let (before, after) = (authority(1, "uid", 1), authority(1, "uid", 1));
        assert_eq!((before.root(), before.secret()), (after.root(), after.secret()));
        assert_eq!(before.secret().len(), 64);
        let roots = |master| MasterKey::new([master; 32]).hub_roots().unwrap();
        assert_eq!(roots(1), roots(1));
        assert_ne!(roots(1), roots(2));
    }

    #[test]
    fn another_operator_run_or_attempt_has_other_keys() {
        let known = authority(1, "uid", 1);
        for other in [authority(2, "uid", 1), authority(1, "other", 1), authority(1, "uid", 2)] {
            assert_ne!(known.root(), other.root());
            assert_ne!(known.secret(), other.secret());
        }
        let master = MasterKey::new([1; 32]);
        assert_ne!(master.seal("uid", 1), master.seal("uid", 2));
        assert_ne!(hexadecimal(&master.seal("uid", 1)), known.secret());
    }

    #[test]
    fn each_new_key_is_another() {
        assert_ne!(MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
    }
}
