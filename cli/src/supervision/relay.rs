//! The relay of a run: its process, kept running at one address, and who may use it.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use atoll_collective::identity::{HostIdentity, PeerName, Validity};
use atoll_collective::relay::Tokens;
use rustix::process::Signal;
use tokio::sync::mpsc;

use super::authority::{ISLAND, SKEW, YEAR};
use super::child::{Child, Role, Told, What, own};
use super::loopback;
use super::processors::Processors;
use crate::relay::{Config, LISTENING};

/// How long it may take to listen.
const BEGINNING: Duration = Duration::from_secs(20);

/// A relay that this process keeps running.
pub(crate) struct Relay {
    key: [u8; 32],
    identity: HostIdentity,
    /// Where it listened first, and listens ever after.
    address: SocketAddr,
    child: Option<Child>,
    incarnation: u64,
    /// A channel of its own: the slot and the role in what it tells say nothing.
    teller: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
}

impl Relay {
    /// Starts it, and waits until it listens.
    pub(crate) async fn start() -> Result<Self> {
        let mut key = [0; 32];
        File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut key)).context("no random bytes for a relay")?;
        let address = loopback(0);
        #[expect(clippy::disallowed_methods, reason = "a certificate's validity is in the time of the day")]
        let validity = Validity { from: SystemTime::now() - SKEW, length: YEAR };
        let identity = HostIdentity::self_signed(&address.ip().to_string(), validity)?;
        let (teller, told) = mpsc::channel(64);
        let mut relay = Self { key, identity, address, child: None, incarnation: 0, teller, told };
        relay.begin().await?;
        Ok(relay)
    }

    /// How the sidecar of a worker uses it.
    pub(crate) fn used_by(&self, run: &str, worker: &str, behind: bool) -> Result<atoll_sidecar::Relay> {
        let pass = Tokens::new(self.key).pass(&PeerName::new(run, ISLAND, worker)?);
        let roots = self.identity.certificate_chain().to_owned();
        Ok(atoll_sidecar::Relay { address: self.address.to_string(), pass, roots, behind })
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process, unless it has ended.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.pid)
    }

    async fn begin(&mut self) -> Result<()> {
        self.incarnation += 1;
        let config = Config { listen: self.address, identity: self.identity.clone(), key: self.key };
        let log = File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
        let who = (0, Role::Sidecar, self.incarnation);
        let processors = Processors { threads: 1, pinned: Vec::new() };
        let started = Child::start(who, &own("relay")?, config, log, &processors, self.teller.clone()).await;
        self.child = Some(started.context("cannot start the relay")?);
        loop {
            let told = tokio::time::timeout(BEGINNING, self.told.recv()).await.context("the relay does not begin to listen")?;
            match told.context("the relay is not heard")?.what {
                What::Event(event) if event.event == LISTENING => {
                    let address = event.more.get("address").and_then(serde_json::Value::as_str).unwrap_or_default();
                    self.address = address.parse().context("where the relay listens is no address")?;
                    return Ok(());
                }
                What::Event(_) => {}
                What::Ended(status) => bail!("the relay ended with {}", status?),
            }
        }
    }

    /// Waits until it ends, and returns how; may be dropped and called again.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        loop {
            if let What::Ended(status) = self.told.recv().await.context("the relay is not heard")?.what {
                self.child = None;
                return status.context("the relay is lost");
            }
        }
    }

    /// Starts it again at its address, where it was killed.
    ///
    /// # Errors
    /// Where it gave up by itself, or does not begin to listen.
    pub(crate) async fn restart(&mut self, ended: ExitStatus) -> Result<()> {
        ensure!(ended.code().is_none(), "the relay ended with {ended}");
        self.begin().await
    }

    /// Ends it in good order: its last figures are in its log.
    pub(crate) async fn stop(&mut self, within: Duration) {
        for signal in [Signal::TERM, Signal::KILL] {
            let Some(child) = &self.child else { return };
            child.signal(signal);
            while let Ok(Some(told)) = tokio::time::timeout(within, self.told.recv()).await {
                if matches!(told.what, What::Ended(_)) {
                    self.child = None;
                    return;
                }
            }
        }
    }
}
