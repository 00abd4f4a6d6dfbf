//! Who a pod is, by the projected token of its service account (RFC 7519), checked with the keys that its API server publishes.
//!
//! The key decides the algorithm, never the token, and a token of another cluster that calls its issuer the same has another
//! key. Nothing is asked of the API server but its keys, now and then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use tokio::time::Instant;

/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_mins(1);
/// Keys are asked for no more often.
const PAUSE: Duration = Duration::from_secs(10);
/// Keys that are older are asked for again, so that one that was withdrawn is forgotten.
const FRESH: Duration = Duration::from_mins(10);
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest token, in bytes.
const MOST_TOKEN: usize = 8 << 10;

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is none.
    #[error("the token cannot be read")]
    Unreadable,
    /// It is signed by a key that is not the API server's.
    #[error("the API server has no such key as the token is signed with")]
    UnknownKey,
    /// It is not signed by the key that it names, in the way of that key.
    #[error("the token is not signed by the key that it names")]
    Signature,
    /// It is another cluster's.
    #[error("the token is of another issuer")]
    Issuer,
    /// It is too old.
    #[error("the token expired {seconds} s ago")]
    Expired {
        /// Seconds since then.
        seconds: u64,
    },
    /// It is for later, or a clock is wrong.
    #[error("the token is valid only in {seconds} s")]
    NotYetValid {
        /// Seconds until then.
        seconds: u64,
    },
    /// It is for something else.
    #[error("the token is not for {expected}")]
    Audience {
        /// What it should be for.
        expected: String,
    },
    /// It is bound to no pod.
    #[error("the token is not that of a pod")]
    NoPod,
    /// The keys of the API server cannot be had.
    #[error("the keys of the API server cannot be read: {0}")]
    Keys(String),
}

/// The pod that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// A token that the API server has signed and that is valid now; for what, is to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) pod: Pod,
    audiences: Vec<String>,
}

impl Shown {
    /// That it is for `expected`, and for nothing else.
    pub(super) fn is_for(&self, expected: &str) -> Result<(), TokenError> {
        let exactly = matches!(&self.audiences[..], [one] if one == expected);
        if exactly { Ok(()) } else { Err(TokenError::Audience { expected: expected.to_owned() }) }
    }
}

/// The keys of an API server, by the names that it gives them.
#[derive(Default)]
pub(super) struct Keys(BTreeMap<String, (Algorithm, DecodingKey)>);

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    exp: u64,
    nbf: Option<u64>,
    aud: Audiences,
    #[serde(rename = "kubernetes.io")]
    bound: Option<Bound>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Bound {
    namespace: String,
    pod: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    uid: String,
}

impl Keys {
    /// A key set (RFC 7517). A key that is unfit to check tokens with is passed over.
    pub(super) fn read(text: &str) -> Result<Self, TokenError> {
        let set: KeySet = serde_json::from_str(text).map_err(|error| TokenError::Keys(error.to_string()))?;
        Ok(Self(set.keys.into_iter().filter_map(usable).collect()))
    }
}

/// A key's name, and how tokens are signed with it: RS256, or ES256.
fn usable(key: serde_json::Value) -> Option<(String, (Algorithm, DecodingKey))> {
    let key: Jwk = serde_json::from_value(key).ok()?;
    let algorithm = match &key.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        _ => return None,
    };
    let common = &key.common;
    let signs = common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
    let fits = common.key_algorithm.is_none_or(|named| named.to_string() == format!("{algorithm:?}"));
    let name = common.key_id.clone().filter(|_| signs && fits)?;
    Some((name, (algorithm, DecodingKey::from_jwk(&key).ok()?)))
}

/// What a token proves at `now`, where it is signed with one of `keys` for `issuer`.
pub(super) fn verified(keys: &Keys, token: &str, issuer: &str, now: SystemTime) -> Result<Shown, TokenError> {
    if token.len() > MOST_TOKEN {
        return Err(TokenError::Unreadable);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|error| reason(error.kind()))?;
    let (algorithm, key) = header.kid.and_then(|name| keys.0.get(&name)).ok_or(TokenError::UnknownKey)?;
    let mut signature = Validation::new(*algorithm);
    // The rest is checked below, at an instant that is given.
    (signature.validate_exp, signature.validate_aud) = (false, false);
    signature.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<Claims>(token, key, &signature).map_err(|error| reason(error.kind()))?.claims;
    if claims.iss != issuer {
        return Err(TokenError::Issuer);
    }
    in_time(&claims, now)?;
    let Some(Bound { namespace, pod: Some(pod) }) = claims.bound else { return Err(TokenError::NoPod) };
    let audiences = match claims.aud {
        Audiences::One(audience) => vec![audience],
        Audiences::Several(audiences) => audiences,
    };
    Ok(Shown { pod: Pod { namespace, name: pod.name, uid: pod.uid }, audiences })
}

fn in_time(claims: &Claims, now: SystemTime) -> Result<(), TokenError> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let leeway = LEEWAY.as_secs();
    if now > claims.exp.saturating_add(leeway) {
        return Err(TokenError::Expired { seconds: now - claims.exp });
    }
    match claims.nbf {
        Some(from) if from > now.saturating_add(leeway) => Err(TokenError::NotYetValid { seconds: from - now }),
        _ => Ok(()),
    }
}

fn reason(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => TokenError::Signature,
        _ => TokenError::Unreadable,
    }
}

/// Asks the API server for its key set: the text of `/openid/v1/jwks`.
pub type FetchKeys = Arc<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// Checks tokens of one API server.
pub(super) struct Tokens {
    issuer: String,
    fetch: FetchKeys,
    keys: Mutex<Arc<Keys>>,
    /// When keys were last asked for, and when they last came.
    asked: tokio::sync::Mutex<(Option<Instant>, Option<Instant>)>,
}

impl Tokens {
    pub(super) fn new(issuer: String, fetch: FetchKeys) -> Self {
        Self { issuer, fetch, keys: Mutex::default(), asked: tokio::sync::Mutex::default() }
    }

    /// What `token` proves; asks for the keys again where it is signed with one that is not known.
    pub(super) async fn check(&self, token: &str, now: SystemTime) -> Result<Shown, TokenError> {
        let known = self.known();
        let first = verified(&known, token, &self.issuer, now);
        let unknown = first == Err(TokenError::UnknownKey);
        self.refresh(unknown).await.or_else(|error| if unknown { Err(error) } else { Ok(()) })?;
        let newest = self.known();
        if Arc::ptr_eq(&known, &newest) { first } else { verified(&newest, token, &self.issuer, now) }
    }

    fn known(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn refresh(&self, needed: bool) -> Result<(), TokenError> {
        let mut asked = self.asked.lock().await;
        let within = |instant: Option<Instant>, span| instant.is_some_and(|instant| instant.elapsed() < span);
        if within(asked.0, PAUSE) || (!needed && within(asked.1, FRESH)) {
            return Ok(());
        }
        asked.0 = Some(Instant::now());
        let late = |_| Err(format!("no answer after {} s", PATIENCE.as_secs()));
        let text = tokio::time::timeout(PATIENCE, (self.fetch)()).await.unwrap_or_else(late).map_err(TokenError::Keys)?;
        let keys = Arc::new(Keys::read(&text)?);
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
        asked.1 = Some(Instant::now());
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests/tokens.rs"]
pub(super) mod tests;
