//! Links between network namespaces, one of each peer: by the kernel, all on one bridge and a token bucket where each sends; or
//! by a program that passes packets on.
//!
//! All of it lies in namespaces without a name, the benchmark's own among them: the kernel takes them down with the last
//! process inside, so nothing is left behind however the benchmark ends, and no address of this machine is in the way.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::case::Case;
use super::tunnel::{Shape, Switch, device};
use crate::units::{Loss, Rate};

/// Name of the bridge.
const BRIDGE: &str = "switch";
/// Bytes that may leave at once: what a link of 1 Gbit sends in 4 ms, within bounds that both slow and fast links bear.
const BURST_SECONDS: f64 = 0.004;
const LEAST_BURST: u64 = 64 << 10;
const MOST_BURST: u64 = 512 << 10;
/// How long a packet may wait for its turn before it is dropped.
const QUEUE: &str = "50ms";

/// A way into namespaces of one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Isolation(&'static [&'static str]);

impl Isolation {
    /// With the rights of this user, and as the root of a user namespace.
    const WAYS: [Self; 2] = [Self(&["--net"]), Self(&["--map-root-user", "--net"])];

    /// The way in which this user may shape links; none where nothing of it is allowed or the programs are missing.
    pub(crate) fn find() -> Option<Self> {
        let probe = "ip link add name switch type bridge && ip link add name port type veth peer name wire \
            && tc qdisc add dev port root tbf rate 1mbit burst 64kb latency 50ms";
        Self::WAYS.into_iter().find(|way| {
            let mut command = way.command();
            command.args(["sh", "-c", probe]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        })
    }

    fn command(self) -> Command {
        let mut command = Command::new("unshare");
        command.args(self.0).arg("--").env("PATH", path());
        command
    }

    /// Becomes this program with these arguments, in a network of its own; returns only when that fails.
    pub(crate) fn enter(self, arguments: impl IntoIterator<Item = OsString>) -> std::io::Error {
        match std::env::current_exe() {
            Ok(program) => self.command().arg(program).args(arguments).exec(),
            Err(error) => error,
        }
    }
}

/// Where the programs are that only administrators have on their path.
fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// The namespaces of all peers.
pub(crate) struct Network {
    peers: Vec<Peer>,
    /// Where a program passes packets on.
    switch: Option<Switch>,
}

/// A namespace; a process that does nothing keeps it open, and ends with the benchmark, whose pipe it reads.
struct Peer {
    keeper: Child,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _gone_already = self.keeper.kill();
        let _status = self.keeper.wait();
    }
}

impl Network {
    /// A peer's interface.
    pub(crate) const INTERFACE: &str = "wire";

    /// Where the supervisor listens.
    pub(crate) fn switch() -> SocketAddr {
        SocketAddr::from((address(0), 0))
    }

    /// Where a peer listens.
    pub(crate) fn peer(slot: usize) -> SocketAddr {
        SocketAddr::from((address(slot + 1), 0))
    }

    /// Makes the loopback address of a new network usable.
    ///
    /// # Errors
    /// What `ip` said.
    pub(crate) fn wake() -> Result<()> {
        run(&words("ip link set dev lo up"))
    }

    /// Joins one peer per rate by a bridge; the caller has a network of its own.
    ///
    /// # Errors
    /// What `ip` or `tc` said.
    pub(crate) fn bridged(rates: &[Rate]) -> Result<Self> {
        let mut network = Self { peers: Vec::new(), switch: None };
        run(&words(&format!("ip link add name {BRIDGE} type bridge")))?;
        run(&words(&format!("ip addr add {}/24 dev {BRIDGE}", address(0))))?;
        run(&words(&format!("ip link set dev {BRIDGE} up")))?;
        for (slot, rate) in rates.iter().enumerate() {
            network.join(slot, *rate).with_context(|| format!("the link of peer {slot}"))?;
        }
        Ok(network)
    }

    /// Joins the peers of `case` by a program; the caller has a network of its own.
    ///
    /// # Errors
    /// When TUN devices cannot be made, and what `ip` said.
    pub(crate) fn tunnelled(case: &Case) -> Result<Self> {
        let mut network = Self { peers: Vec::new(), switch: None };
        let mut devices = vec![(device(BRIDGE)?, Shape::PLAIN)];
        run(&words(&format!("ip addr add {}/24 dev {BRIDGE}", address(0))))?;
        run(&words(&format!("ip link set dev {BRIDGE} up")))?;
        for slot in 0..case.peers {
            let shape = Shape {
                rate: case.rates.get(slot).copied(),
                delay: case.round_trip.map_or(Duration::ZERO, |round_trip| round_trip.0 / 2),
                loss: case.loss.unwrap_or(Loss::NONE),
            };
            let device = network.tunnel(slot).with_context(|| format!("the link of peer {slot}"))?;
            devices.push((device, shape));
        }
        network.switch = Some(Switch::start(devices, host)?);
        Ok(network)
    }

    fn tunnel(&mut self, slot: usize) -> Result<File> {
        self.peers.push(Peer { keeper: keeper()? });
        let interface = Self::INTERFACE;
        let namespace = File::open(format!("/proc/{}/ns/net", self.peers[slot].keeper.id()))?;
        // A thread of its own: it stays in the other network until it ends.
        let made = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            device(interface)
        });
        let device = made.join().map_err(|_| anyhow!("the thread that makes it panicked"))??;
        for command in [
            "ip link set dev lo up".to_owned(),
            format!("ip addr add {}/24 dev {interface}", address(slot + 1)),
            // The queue before the program's own, which is the one that drops.
            format!("ip link set dev {interface} txqueuelen 10000 up"),
            // What nearly all machines have, whatever this one has: what a loss costs depends on it most.
            format!("ip route replace {}/24 dev {interface} congctl cubic", Ipv4Addr::from([10, 77, 0, 0])),
        ] {
            run(&self.place(slot, words(&command)))?;
        }
        Ok(device)
    }

    fn join(&mut self, slot: usize, rate: Rate) -> Result<()> {
        self.peers.push(Peer { keeper: keeper()? });
        let (pid, interface) = (self.peers[slot].keeper.id(), Self::INTERFACE);
        run(&words(&format!("ip link add name port{slot} type veth peer name {interface} netns {pid}")))?;
        run(&words(&format!("ip link set dev port{slot} master {BRIDGE} up")))?;
        let burst = ((rate.0 as f64 / 8.0 * BURST_SECONDS) as u64).clamp(LEAST_BURST, MOST_BURST);
        for command in [
            "ip link set dev lo up".to_owned(),
            format!("ip addr add {}/24 dev {interface}", address(slot + 1)),
            format!("ip link set dev {interface} up"),
            format!("tc qdisc add dev {interface} root tbf rate {}bit burst {burst} latency {QUEUE}", rate.0),
        ] {
            run(&self.place(slot, words(&command)))?;
        }
        Ok(())
    }

    /// `program` as a process in a peer's namespace; it has the id of the process that is started.
    pub(crate) fn place(&self, slot: usize, program: Vec<OsString>) -> Vec<OsString> {
        let namespace = format!("--net=/proc/{}/ns/net", self.peers[slot].keeper.id());
        ["nsenter".into(), namespace.into(), "--".into()].into_iter().chain(program).collect()
    }
}

impl Drop for Network {
    /// The next case of a suite finds the names free: with its namespace a link goes too, but in the kernel's own time.
    fn drop(&mut self) {
        for slot in 0..self.peers.len() {
            let interface = self.place(slot, words(&format!("ip link del dev {}", Self::INTERFACE)));
            let _not_there = run(&interface);
        }
        let _not_there = run(&words(&format!("ip link del dev {BRIDGE}")));
        if let Some(switch) = &mut self.switch {
            switch.end();
        }
    }
}

/// A host of the benchmark's own network.
fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::from([10, 77, 0, host as u8 + 1])
}

/// The host that a packet is for.
fn host(packet: &[u8]) -> Option<usize> {
    let &[10, 77, 0, host] = packet.get(16..20)? else { return None };
    usize::from(host).checked_sub(1).filter(|_| packet[0] >> 4 == 4)
}

fn keeper() -> Result<Child> {
    let mut keeper = Command::new("unshare")
        .args(["--net", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot run unshare")?;
    // What comes back has come through the new namespace's process.
    let mut answer = [0];
    let asked = keeper.stdin.as_mut().map(|stdin| stdin.write_all(b"?"));
    let answered = keeper.stdout.as_mut().map(|stdout| stdout.read_exact(&mut answer));
    if let (Some(Ok(())), Some(Ok(()))) = (asked, answered) {
        return Ok(keeper);
    }
    let _gone_already = keeper.kill();
    bail!("no network namespace: unshare ended with {}", keeper.wait()?)
}

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

fn run(program: &[OsString]) -> Result<()> {
    let shown = program.join(OsStr::new(" "));
    let shown = shown.to_string_lossy();
    // What a terminal sends to this program when it is interrupted is not for those that clear up.
    let mut command = Command::new(&program[0]);
    let output = command.args(&program[1..]).stdin(Stdio::null()).env("PATH", path()).process_group(0).output();
    let output = output.with_context(|| format!("cannot run {shown}"))?;
    ensure!(output.status.success(), "{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
