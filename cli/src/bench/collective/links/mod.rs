//! The links between peers: as they are, or shaped to a rate and a delay.

mod namespaces;
mod tunnel;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde::Serialize;

use super::case::Case;
use crate::supervision::link::Proxy;
use crate::supervision::loopback;
pub(crate) use namespaces::{Isolation, Network};

/// How links are shaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Not at all: loopback, or shared memory.
    None,
    /// Each peer in a network namespace, with a token bucket where it sends.
    Namespaces,
    /// A program that passes bytes on at a rate and after a delay.
    Proxy,
    /// Each peer in a network namespace, and a program that passes their packets on, or loses them.
    Tunnels,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::None => "nothing",
            Self::Namespaces => "namespaces",
            Self::Proxy => "proxy",
            Self::Tunnels => "tunnels",
        })
    }
}

/// How to shape the links of `case`: the kernel does rates where this user may ask it to; delays are the proxy's, and losses
/// those of tunnels.
pub(crate) fn kind(case: &Case, may_isolate: bool) -> Kind {
    match case {
        Case { loss: Some(_), .. } => Kind::Tunnels,
        Case { round_trip: Some(_), .. } => Kind::Proxy,
        Case { rates, .. } if rates.is_empty() => Kind::None,
        _ if may_isolate => Kind::Namespaces,
        _ => Kind::Proxy,
    }
}

/// Why links cannot be shaped in this way; none where they can.
pub(crate) fn impossible(kind: Kind, may_isolate: bool) -> Option<String> {
    if kind != Kind::Tunnels {
        return None;
    }
    if !may_isolate {
        return Some("--loss: packets are lost between network namespaces, which this user may not make; run it as root".into());
    }
    let refused = tunnel::openable().err()?;
    Some(format!("--loss: packets are lost by TUN devices, and {} cannot be opened: {refused}; run it as root", tunnel::DEVICES))
}

/// The links of one case, as long as it lives.
pub(crate) enum Links {
    Plain,
    Namespaces(Network),
    /// One per peer, in slot order.
    Proxies(Vec<Proxy>),
}

impl Links {
    /// # Errors
    /// When the kernel refuses a part of them.
    pub(crate) fn build(case: &Case, kind: Kind) -> Result<Self> {
        Ok(match kind {
            Kind::None => Self::Plain,
            Kind::Namespaces => Self::Namespaces(Network::bridged(&case.rates)?),
            Kind::Tunnels => {
                Self::Namespaces(Network::tunnelled(case).context("--loss: the links cannot be made; run it as root")?)
            }
            Kind::Proxy => {
                let link = |slot: usize| Proxy::start(case.rates.get(slot).copied(), case.round_trip);
                Self::Proxies((0..case.peers).map(link).collect::<Result<_>>()?)
            }
        })
    }

    /// Where the supervisor listens so that every peer reaches it.
    pub(crate) fn supervisor(&self) -> SocketAddr {
        match self {
            Self::Namespaces(_) => Network::switch(),
            Self::Plain | Self::Proxies(_) => loopback(0),
        }
    }

    /// Where a peer listens.
    pub(crate) fn listen(&self, slot: usize) -> SocketAddr {
        match self {
            Self::Plain => loopback(0),
            Self::Namespaces(_) => Network::peer(slot),
            Self::Proxies(proxies) => proxies[slot].target(),
        }
    }

    /// What the others dial, where that is another address.
    pub(crate) fn announce(&self, slot: usize) -> Option<String> {
        match self {
            Self::Proxies(proxies) => Some(proxies[slot].address().to_string()),
            Self::Plain | Self::Namespaces(_) => None,
        }
    }

    /// The interface that leads to the other peers.
    pub(crate) fn interface(&self) -> &'static str {
        match self {
            Self::Namespaces(_) => Network::INTERFACE,
            Self::Plain | Self::Proxies(_) => "lo",
        }
    }

    /// `program` as a process of this peer.
    pub(crate) fn place(&self, slot: usize, program: Vec<OsString>) -> Vec<OsString> {
        match self {
            Self::Namespaces(network) => network.place(slot, program),
            Self::Plain | Self::Proxies(_) => program,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::collective::case::tests::shaped;
    use crate::units::Loss;

    #[test]
    fn the_kernel_shapes_rates_where_it_may_and_the_proxy_delays() {
        let rates = shaped("1MiB", "200mbit", None);
        assert_eq!(kind(&rates, true), Kind::Namespaces);
        assert_eq!(kind(&rates, false), Kind::Proxy);
        let delayed = shaped("1MiB", "200mbit", Some("20ms"));
        assert_eq!(kind(&delayed, true), Kind::Proxy);
        assert_eq!(kind(&Case { loss: Some(Loss::NONE), ..delayed }, true), Kind::Tunnels);
        assert_eq!(kind(&Case { rates: Vec::new(), ..rates }, true), Kind::None);
    }
}
