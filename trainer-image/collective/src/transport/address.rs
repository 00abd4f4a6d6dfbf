//! Where a peer can be reached, as the record of members carries it.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// Longest text of an address, in bytes: the longest DNS name, a port, and the word `relay`.
const LONGEST: usize = 266;

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: HOST:PORT, or relay/HOST:PORT")]
pub struct AddressError {
    /// The text, cut after 266 characters.
    text: String,
}

/// `HOST:PORT`: a name or an IP address, in brackets if it is of version 6, and a port that is not 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// Where a peer can be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// It listens there itself: `HOST:PORT`.
    Direct(HostPort),
    /// It cannot be dialled, and is registered with the relay there under its name: `relay/HOST:PORT`.
    Relayed(HostPort),
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(place) => place.fmt(formatter),
            Self::Relayed(place) => write!(formatter, "relay/{place}"),
        }
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        parts(text).map(|(host, port)| Self { host: host.to_owned(), port }).ok_or_else(|| refused(text))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("relay/") {
            Some(place) => place.parse().map(Self::Relayed),
            None => text.parse().map(Self::Direct),
        }
        .map_err(|_| refused(text))
    }
}

fn refused(text: &str) -> AddressError {
    AddressError { text: text.chars().take(LONGEST).collect() }
}

fn parts(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':').filter(|_| text.len() <= LONGEST)?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = digits.then(|| port.parse().ok()).flatten().filter(|port| *port != 0)?;
    let named = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    let bracketed = || host.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    (named || bracketed().is_some()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in ["10.0.0.1:7000", "[::1]:7000", "worker-0.island:1", "relay/gateway.example:443", "relay/[fe80::1]:65535"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert!(matches!("relay/gateway:443".parse(), Ok(Address::Relayed(_))));
        assert_eq!("[::1]:7000".parse::<HostPort>().unwrap().host(), "::1");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}:1", "a".repeat(300));
        for text in [
            "",
            "host",
            ":1",
            "host:",
            "host:0",
            "host:+1",
            "host:65536",
            "::1:70",
            "a b:1",
            "relay/relay/a:1",
            "a/b:1",
            "[x]:1",
            &long,
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_written_the_same(text in "(relay/)?[a-z0-9.:\\[\\]/-]{0,20}(:[0-9]{1,6})?") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
