//! The runs that are served, and who of them is asking.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use atoll_collective::identity::{HostIdentity, IdentityError, PeerName};
use atoll_collective::secret::Secret;
use atoll_collective::transport::Security;
use atoll_proto::v1::Member;
use tokio::time::Instant;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::arbiter::Grants;
use super::authority::Authority;
use super::daily::Daily;
use super::supervision::Looking;
use super::tokens::Tokens;
use super::{Attempt, Metrics, Setup};
use crate::directory::{RunKey, Served, Worker};

/// All runs, of which those are kept ready that somebody has asked for.
pub(super) struct Runs {
    pub(super) setup: Setup,
    pub(super) metrics: Metrics,
    pub(super) tokens: Tokens,
    /// Since when it serves.
    started: Instant,
    ready: Mutex<BTreeMap<String, Arc<Run>>>,
}

/// One attempt of a run.
pub(super) struct Run {
    pub(super) attempt: Attempt,
    /// Name of the run in certificates and messages.
    pub(super) wire: String,
    pub(super) authority: Authority,
    pub(super) grants: Grants,
    pub(super) setup: Setup,
    island: String,
    secret: Secret,
    /// The hub's own TLS towards it.
    security: Daily<Security>,
    /// By slot: the incarnation that was given last.
    incarnations: Mutex<BTreeMap<u32, u64>>,
    /// Who looks for that from which it begins.
    looking: Mutex<Option<Looking>>,
}

/// A worker's pod, as its run's controller has told.
pub(super) struct OfRun {
    pub(super) run: Arc<Run>,
    pub(super) served: Served,
    pub(super) worker: Worker,
}

impl Runs {
    pub(super) fn new(setup: Setup, metrics: Metrics) -> Self {
        let tokens = Tokens::new(setup.issuer.clone(), Arc::clone(&setup.keys));
        Self { setup, metrics, tokens, started: Instant::now(), ready: Mutex::default() }
    }

    /// The time of the day.
    pub(super) fn now(&self) -> SystemTime {
        (self.setup.time)()
    }

    /// The hub's identity towards those who have none.
    pub(super) fn host_identity(&self) -> Result<HostIdentity, IdentityError> {
        self.setup.master.host(self.now())
    }

    /// The run that has this name in certificates and messages, if it is served now.
    pub(super) fn named(&self, wire: &str) -> Option<Arc<Run>> {
        let ready = self.lock().get(wire).cloned();
        if let Some(run) = ready.filter(|run| run.is_served()) {
            return Some(run);
        }
        let (key, served) = self.setup.directory.by_wire_name(wire)?;
        self.prepared(&key, &served).inspect_err(|error| tracing::warn!(wire, %error, "a run cannot be served")).ok()
    }

    /// The worker whose pod this is, and its run.
    ///
    /// # Errors
    /// [`IdentityError`] where the run's name cannot be in a certificate.
    pub(super) fn of_pod(&self, namespace: &str, uid: &str) -> Result<Option<OfRun>, IdentityError> {
        let Some((key, served, worker)) = self.setup.directory.by_pod(namespace, uid) else { return Ok(None) };
        Ok(Some(OfRun { run: self.prepared(&key, &served)?, served, worker }))
    }

    fn prepared(&self, key: &RunKey, served: &Served) -> Result<Arc<Run>, IdentityError> {
        let (wire, attempt) = (served.wire_name(&key.name), Attempt::of(key, served));
        let mut ready = self.lock();
        if let Some(run) = ready.get(&wire).filter(|run| run.attempt == attempt) {
            return Ok(Arc::clone(run));
        }
        ready.retain(|_, run| run.is_served());
        let authority = Authority::new(&self.setup.master, &attempt, &wire, &served.island)?;
        let run = Arc::new(Run {
            grants: Grants::new(self, attempt.clone(), served, self.started),
            secret: Secret::new(authority.secret()),
            attempt,
            wire: wire.clone(),
            authority,
            setup: self.setup.clone(),
            island: served.island.clone(),
            security: Daily::default(),
            incarnations: Mutex::default(),
            looking: Mutex::default(),
        });
        ready.insert(wire, Arc::clone(&run));
        Ok(run)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Run>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    /// Name of its island.
    pub(super) fn island(&self) -> &str {
        &self.island
    }

    /// The run as its controller has it served now; none where it serves it no more, or another attempt.
    pub(super) fn served(&self) -> Option<Served> {
        let served = self.setup.directory.served(&self.attempt.key)?;
        Some(served).filter(|served| Attempt::of(&self.attempt.key, served) == self.attempt)
    }

    /// Whether its controller has it served now.
    fn is_served(&self) -> bool {
        let Attempt { key, uid, attempt } = &self.attempt;
        self.setup.directory.serves(key, uid, *attempt)
    }

    /// The hub's TLS towards the workers of the run.
    pub(super) fn security(&self, now: SystemTime) -> Result<Security, IdentityError> {
        self.security.get(|| self.authority.arbiter(now))
    }

    /// The incarnation of a process in `slot` that has `asked` (0: for a new one), where a granted record knows `recorded`.
    pub(super) fn incarnation(&self, slot: u32, asked: u64, recorded: u64, now: SystemTime) -> Option<u64> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let mut given = self.incarnations.lock().unwrap_or_else(PoisonError::into_inner);
        let incarnation = incarnation(asked, given.get(&slot).copied(), recorded, now)?;
        given.insert(slot, incarnation);
        Some(incarnation)
    }

    /// Asks, or changes, who looks for that from which it begins.
    pub(super) fn look<T>(&self, change: impl FnOnce(&mut Option<Looking>) -> T) -> T {
        change(&mut self.looking.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// That `member` is the worker whose certificate the connection has shown, in the slot of that worker.
    pub(super) fn admit(&self, name: Option<&PeerName>, member: &Member) -> Result<(), Status> {
        let itself = name
            .is_some_and(|name| (name.run(), name.island(), name.worker()) == (&*self.wire, &*member.island, &*member.worker));
        if !itself || member.worker != worker(member.slot) || member.contributor {
            return Err(Status::permission_denied("the certificate is another worker's"));
        }
        Ok(())
    }
}

/// Name of the worker in a slot.
pub(super) fn worker(slot: u32) -> String {
    format!("w{slot}")
}

/// The incarnation that a process gets at `now` (ms since 1970), where `given` was the last in its slot, and a granted record
/// knows `recorded` (0: none). One that renews keeps its own, unless a later one has been given.
fn incarnation(asked: u64, given: Option<u64>, recorded: u64, now: u64) -> Option<u64> {
    if asked == 0 {
        return Some(now.max(given.map_or(0, |given| given.saturating_add(1))).max(recorded.saturating_add(1)));
    }
    // A hub that has started again does not know what was given, but that none was in the future.
    let last = given.map_or(asked >= recorded && asked <= now.max(recorded), |given| given == asked);
    last.then_some(asked)
}

/// Lets those in who show a certificate of a run that is served, and the run's secret.
#[derive(Clone)]
pub(super) struct Guard {
    runs: Arc<Runs>,
}

impl Guard {
    pub(super) fn new(runs: Arc<Runs>) -> Self {
        Self { runs }
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let name = request.extensions().get::<Option<PeerName>>().cloned().flatten();
        let name = name.ok_or_else(|| Status::permission_denied("a certificate of the run is needed"))?;
        let run = self.runs.named(name.run());
        let run = run.ok_or_else(|| Status::not_found(format!("run {} is not served here", name.run())))?;
        let mut request = run.secret.clone().guard()(request)?;
        request.extensions_mut().insert(run);
        Ok(request)
    }
}

/// The run of a request that has passed the [`Guard`].
pub(super) fn run_of<T>(request: &Request<T>) -> Result<Arc<Run>, Status> {
    request.extensions().get::<Arc<Run>>().cloned().ok_or_else(|| Status::internal("a request that nobody has checked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_starts_is_later_than_all_before_it() {
        assert_eq!(incarnation(0, None, 0, 1_000), Some(1_000));
        assert_eq!(incarnation(0, Some(1_000), 0, 1_000), Some(1_001));
        assert_eq!(incarnation(0, Some(900), 2_000, 1_000), Some(2_001), "another operator's clock was ahead");
        assert_eq!(incarnation(0, None, u64::MAX, 1_000), Some(u64::MAX), "a worker wrote what it liked into a record");
    }

    #[test]
    fn one_that_renews_keeps_its_number_unless_a_later_one_has_started() {
        assert_eq!(incarnation(900, Some(900), 900, 1_000), Some(900));
        assert_eq!(incarnation(900, Some(901), 900, 1_000), None);
        assert_eq!(incarnation(900, None, 900, 1_000), Some(900), "the hub has started again");
        assert_eq!(incarnation(900, None, 901, 1_000), None);
        assert_eq!(incarnation(u64::MAX, None, 901, 1_000), None, "none was given that is later than now");
    }
}
