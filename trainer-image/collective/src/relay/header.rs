//! The header of an outer connection, and the token in it: who opens it, and what for.
//!
//! Layout: `ATLR`, one byte of version, two bytes (big-endian) of the body's length; the body: 32 bytes of token, one byte of
//! purpose, the opener's name, and for [`Purpose::Dial`] the name of who is dialled, for [`Purpose::Answer`] eight bytes
//! (big-endian) of number. A name is one byte of length and its text.

use std::fmt;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Refusal, RelayError};
use crate::identity::PeerName;

/// First bytes of every header.
const MAGIC: [u8; 4] = *b"ATLR";
/// Version of the protocol that is spoken.
const VERSION: u8 = 1;
/// Bytes before the body.
const PREFIX: usize = MAGIC.len() + 3;
/// Longest body: a token, a purpose, and two of the longest names (206 bytes) with their lengths.
const LONGEST: usize = 447;
/// Bytes of a token.
const TOKEN: usize = blake3::OUT_LEN;

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To dial others.
    Dialler,
    /// To be dialled.
    Listener,
}

/// Shows that the relay's owner allows a peer a role. Never printed.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Token([u8; TOKEN]);

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token")
    }
}

/// Both tokens of one peer, and its name: what it needs to use a relay.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Pass {
    /// The peer.
    pub(super) peer: PeerName,
    dial: Token,
    listen: Token,
}

/// Makes and checks the tokens of one relay.
#[derive(Clone)]
pub struct Tokens {
    key: [u8; blake3::KEY_LEN],
}

impl Tokens {
    /// Tokens that are made with `key`; 32 random bytes that only the relay and who hands out its passes know.
    #[must_use]
    pub fn new(key: [u8; blake3::KEY_LEN]) -> Self {
        Self { key }
    }

    /// The pass of `peer`.
    #[must_use]
    pub fn pass(&self, peer: &PeerName) -> Pass {
        let token = |role| Token(*self.hash(peer, role).as_bytes());
        Pass { peer: peer.clone(), dial: token(Role::Dialler), listen: token(Role::Listener) }
    }

    /// Whether the header's token is the one of its opener for this purpose.
    #[must_use]
    pub fn admit(&self, header: &Header) -> bool {
        // Hashes are compared in constant time.
        self.hash(&header.from, header.purpose.role()) == header.token.0
    }

    /// Keyed BLAKE3 of the role and the name, which holds the run and no byte that ends it.
    fn hash(&self, peer: &PeerName, role: Role) -> blake3::Hash {
        let role = match role {
            Role::Dialler => "atoll relay dialler ",
            Role::Listener => "atoll relay listener ",
        };
        blake3::keyed_hash(&self.key, format!("{role}{peer}").as_bytes())
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tokens")
    }
}

/// What an outer connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// To reach a peer.
    Dial(PeerName),
    /// To be told when somebody dials.
    Listen,
    /// To meet the dialler with this number.
    Answer(u64),
}

impl Purpose {
    fn role(&self) -> Role {
        match self {
            Self::Dial(_) => Role::Dialler,
            Self::Listen | Self::Answer(_) => Role::Listener,
        }
    }
}

/// The header of one outer connection.
#[derive(Debug, Clone)]
pub struct Header {
    /// Who opens it.
    pub from: PeerName,
    /// What for.
    pub purpose: Purpose,
    token: Token,
}

impl Header {
    /// The header that the pass's owner sends for `purpose`.
    #[must_use]
    pub fn new(pass: &Pass, purpose: Purpose) -> Self {
        let token = match purpose.role() {
            Role::Dialler => pass.dial,
            Role::Listener => pass.listen,
        };
        Self { from: pass.peer.clone(), purpose, token }
    }

    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.token.0.to_vec();
        let name = |body: &mut Vec<u8>, name: &PeerName| {
            let name = name.to_string();
            body.push(name.len() as u8);
            body.extend_from_slice(name.as_bytes());
        };
        let (purpose, to, number) = match &self.purpose {
            Purpose::Dial(to) => (0, Some(to), None),
            Purpose::Listen => (1, None, None),
            Purpose::Answer(number) => (2, None, Some(number)),
        };
        body.push(purpose);
        name(&mut body, &self.from);
        if let Some(to) = to {
            name(&mut body, to);
        }
        body.extend(number.into_iter().flat_map(|number| number.to_be_bytes()));
        let length = body.len() as u16;
        [&MAGIC[..], &[VERSION], &length.to_be_bytes(), &body].concat()
    }

    /// Reads the header of an outer connection, and not a byte more.
    ///
    /// # Errors
    /// [`RelayError::Io`], and [`RelayError::Refused`] with what is to be answered.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, RelayError> {
        let mut prefix = [0; PREFIX];
        stream.read_exact(&mut prefix).await?;
        let mut body = [0; LONGEST];
        let body = &mut body[..body_length(prefix)?];
        stream.read_exact(body).await?;
        Ok(parse(body).ok_or(Refusal::Malformed)?)
    }
}

fn body_length(prefix: [u8; PREFIX]) -> Result<usize, Refusal> {
    let [magic @ .., version, high, low] = prefix;
    let length = usize::from(u16::from_be_bytes([high, low]));
    match (magic, version) {
        (MAGIC, VERSION) if length <= LONGEST => Ok(length),
        (MAGIC, VERSION) => Err(Refusal::TooLong),
        (MAGIC, _) => Err(Refusal::Version),
        _ => Err(Refusal::Malformed),
    }
}

fn parse(body: &[u8]) -> Option<Header> {
    let (token, body) = body.split_first_chunk()?;
    let (purpose, body) = body.split_first()?;
    let (from, rest) = name(body)?;
    let (purpose, rest) = match purpose {
        0 => name(rest).map(|(to, rest)| (Purpose::Dial(to), rest))?,
        1 => (Purpose::Listen, rest),
        2 => rest.split_first_chunk().map(|(number, rest)| (Purpose::Answer(u64::from_be_bytes(*number)), rest))?,
        _ => return None,
    };
    rest.is_empty().then_some(Header { from, purpose, token: Token(*token) })
}

fn name(bytes: &[u8]) -> Option<(PeerName, &[u8])> {
    let (length, bytes) = bytes.split_first()?;
    let (name, rest) = bytes.split_at_checked(usize::from(*length))?;
    Some((str::from_utf8(name).ok()?.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(worker: &str) -> PeerName {
        PeerName::new("kjv", "west", worker).unwrap()
    }

    fn tokens() -> Tokens {
        Tokens::new([7; 32])
    }

    /// Reads as `Header::read` does, from bytes that are all there.
    fn read(bytes: &[u8]) -> Result<Header, RelayError> {
        futures::executor::block_on(Header::read(&mut &*bytes))
    }

    fn refusal(bytes: &[u8]) -> Option<Refusal> {
        match read(bytes) {
            Err(RelayError::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }

    #[test]
    fn a_token_is_good_for_one_peer_one_run_and_one_role() {
        let header = |pass: &Pass, purpose| Header::new(pass, purpose);
        let pass = tokens().pass(&peer("0"));
        for purpose in [Purpose::Dial(peer("1")), Purpose::Listen, Purpose::Answer(1)] {
            assert!(tokens().admit(&header(&pass, purpose)));
        }
        assert!(!Tokens::new([8; 32]).admit(&header(&pass, Purpose::Listen)));
        let swapped = Pass { listen: pass.dial, ..pass.clone() };
        assert!(!tokens().admit(&header(&swapped, Purpose::Listen)));
        let other_run = PeerName::new("other", "west", "0").unwrap();
        for other in [peer("1"), PeerName::new("kjv", "east", "0").unwrap(), other_run] {
            assert!(!tokens().admit(&header(&Pass { peer: other, ..pass.clone() }, Purpose::Listen)));
        }
    }

    #[test]
    fn what_is_no_header_is_refused_for_what_it_is() {
        let good = Header::new(&tokens().pass(&peer("0")), Purpose::Listen).encode();
        assert!(read(&good).is_ok());
        let changed = |at: usize, byte| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            refusal(&bytes)
        };
        assert_eq!(refusal(b"GET / HTTP/1.1\r\n"), Some(Refusal::Malformed));
        assert_eq!(changed(4, VERSION + 1), Some(Refusal::Version));
        assert_eq!(changed(5, 255), Some(Refusal::TooLong));
        assert_eq!(changed(PREFIX + TOKEN, 3), Some(Refusal::Malformed));
        assert_eq!(changed(PREFIX + TOKEN + 1, 255), Some(Refusal::Malformed));
        assert_eq!(changed(PREFIX + TOKEN + 2, b'*'), Some(Refusal::Malformed));
    }

    #[test]
    fn the_longest_names_fit() {
        let long = "a".repeat(63);
        let name = PeerName::new(&long, &long, &long).unwrap();
        let header = Header::new(&tokens().pass(&name), Purpose::Dial(name.clone()));
        assert_eq!(header.encode().len(), PREFIX + LONGEST);
        assert_eq!(read(&header.encode()).unwrap().purpose, Purpose::Dial(name));
    }

    #[test]
    fn tokens_are_not_printed() {
        assert_eq!(format!("{:?}", tokens()), "Tokens");
        let printed = format!("{:?}", tokens().pass(&peer("0")));
        assert_eq!(printed, "Pass { peer: 0.west.kjv.atoll.internal, dial: Token, listen: Token }");
    }

    fn any_purpose() -> impl Strategy<Value = Purpose> {
        let dial = "[a-z]{1,63}".prop_map(|worker| Purpose::Dial(peer(&worker)));
        prop_oneof![dial, Just(Purpose::Listen), any::<u64>().prop_map(Purpose::Answer)]
    }

    proptest! {
        #[test]
        fn nothing_after_a_header_is_read(purpose in any_purpose(), after in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = Header::new(&tokens().pass(&peer("0")), purpose.clone()).encode();
            bytes.extend_from_slice(&after);
            let mut rest = &bytes[..];
            let header = futures::executor::block_on(Header::read(&mut rest)).unwrap();
            prop_assert!(tokens().admit(&header));
            prop_assert_eq!((header.from, header.purpose), (peer("0"), purpose));
            prop_assert_eq!(rest, after);
        }

        #[test]
        fn hostile_bytes_are_no_header_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(read(&bytes).is_err());
        }

        #[test]
        fn a_hostile_body_gets_nobody_in(mut body in prop::collection::vec(any::<u8>(), 0..LONGEST), like in any::<bool>()) {
            if like && body.len() > TOKEN {
                body[TOKEN] %= 3;
            }
            if let Some(header) = parse(&body) {
                prop_assert!(!tokens().admit(&header));
            }
        }

        #[test]
        fn a_changed_bit_changes_neither_opener_nor_role(purpose in any_purpose(), bit in any::<prop::sample::Index>()) {
            let mut bytes = Header::new(&tokens().pass(&peer("0")), purpose.clone()).encode();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            // Who is dialled, and which number is answered, is not what the token proves.
            if let Ok(header) = read(&bytes) && tokens().admit(&header) {
                prop_assert_eq!(&header.from, &peer("0"));
                prop_assert_eq!(header.purpose.role(), purpose.role());
            }
        }
    }
}
