//! What tokens prove, and what those do not who made them differently.

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::*;

pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Of the key that signed [`RSA_TOKEN`], and that is thrown away.
const RSA_MODULUS: &str = concat!(
    "k-h5lud1FvTcolHVIvv246-81EWIoB0QCJL1EpD4U7ZZRdGE98aMZycfzvRDzvjXk9swK7kx37Bpb5KKWz__NeoKROrCArWFpPvrJi9NjoddBiyyBI_39v",
    "PX4Oz9KBFsgi_cFY0z6LTZ4QY51dW-uJQNV3my_ZbNisc0NOHeWD-VVBfMPl-CWS_ed4IgDyHF7n8OQYB05x5UQQMzDO7t1SX1BRpFrky0T4yoF7S9bJDi",
    "HKjcMJXWPyqoBu3lGBhUSf7L4IwbkmzdtSrHS7r1aR7QEV7yBdB5_FSQcr1nVLR_NYlwQ5lbsdg2-XXhRtxKcFyM9q9XrpsJveRsURVwpw",
);
/// As a kubelet projects it: for run `uid`, from 1,700,000,000 s to an hour later.
const RSA_TOKEN: &str = concat!(
    "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJhdWQiOlsicnVuLmF0b2xsLmRldi91aWQiXSwiZXhwIjoxNzAwMDAzNjAwLCJpYXQiOjE3MDAwMDAwM",
    "DAsImlzcyI6Imh0dHBzOi8va3ViZXJuZXRlcy5kZWZhdWx0LnN2Yy5jbHVzdGVyLmxvY2FsIiwianRpIjoiNWYxYyIsImt1YmVybmV0ZXMuaW8iOnsibmF",
    "tZXNwYWNlIjoicmVzZWFyY2giLCJub2RlIjp7Im5hbWUiOiJub2RlLTEiLCJ1aWQiOiJuIn0sInBvZCI6eyJuYW1lIjoia2p2LWxvY2FsLTAteDdrMnAiL",
    "CJ1aWQiOiJwb2QtdWlkIn0sInNlcnZpY2VhY2NvdW50Ijp7Im5hbWUiOiJkZWZhdWx0IiwidWlkIjoicyJ9fSwibmJmIjoxNzAwMDAwMDAwLCJzdWIiOiJ",
    "zeXN0ZW06c2VydmljZWFjY291bnQ6cmVzZWFyY2g6ZGVmYXVsdCJ9.SBnzKtFgZkJvf1reCarh9DrT3gtyEh311m6ED67br7YwDfo-LT46KiPIQabMl7hf",
    "7juj_v-PnndjP98feONAGs4e5ugMMgMu30cyiUirHz24u6jj1XHQwR99ZzUCzQDo1utV14D80zDFHYLlr8zKzyXtYfJSTbXdDxY5TxkAHmYJu20sUKth38",
    "GspGmDpMz2R6wlpRKLbKKcuRkLYskDsf2-HxJgcwzEJRQdyjfTa5hsN7oHDsP4uIaHri3r5Jz07d9e2SOp8JNJH6_Y8gi4qk9YK60uTp0RpebB8-xTebwQ",
    "ddCq6bw7rwmlKemByRH7mTq9ItS2XcSStyKaBbCTnQ",
);
const ISSUED: u64 = 1_700_000_000;

/// A key that an API server signs with.
#[derive(Clone)]
pub(crate) struct Signer {
    name: String,
    key: Arc<rcgen::KeyPair>,
}

impl Signer {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), key: Arc::new(rcgen::KeyPair::generate().unwrap()) }
    }

    /// As the API server publishes it.
    pub(crate) fn published(&self) -> Value {
        let point = self.key.public_key_raw();
        let (x, y) = (base64url(&point[1..33]), base64url(&point[33..]));
        json!({"use": "sig", "kty": "EC", "kid": self.name, "crv": "P-256", "alg": "ES256", "x": x, "y": y})
    }

    pub(crate) fn token(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.name.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_ec_der(&self.key.serialize_der())).unwrap()
    }
}

fn base64url(bytes: &[u8]) -> String {
    let text = serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).unwrap();
    text.as_str().unwrap().trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// What a kubelet asks the API server to sign, valid for an hour from `issued` (seconds since 1970).
pub(crate) fn claims(uid: &str, pod: &str, issued: u64) -> Value {
    json!({
        "iss": ISSUER,
        "aud": [format!("run.atoll.dev/{uid}")],
        "iat": issued, "nbf": issued, "exp": issued + 3600,
        "sub": "system:serviceaccount:research:default",
        "kubernetes.io": {
            "namespace": "research",
            "pod": {"name": pod, "uid": format!("uid-of-{pod}")},
            "serviceaccount": {"name": "default", "uid": "s"},
        },
    })
}

fn keys(keys: &[Value]) -> Keys {
    Keys::read(&json!({"keys": keys}).to_string()).unwrap()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// What the claims of the usual token are worth after `change`, half an hour after it was issued.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Shown, TokenError> {
    let signer = Signer::new("a");
    let mut claims = claims("uid", "kjv-local-0", ISSUED);
    change(&mut claims);
    verified(&keys(&[signer.published()]), &signer.token(&claims), ISSUER, at(ISSUED + 1800))
}

#[test]
fn a_token_of_the_api_server_proves_a_pod() {
    let shown = changed(|_| ()).unwrap();
    let pod = Pod { namespace: "research".into(), name: "kjv-local-0".into(), uid: "uid-of-kjv-local-0".into() };
    assert_eq!(shown.pod, pod);
    shown.is_for("run.atoll.dev/uid").unwrap();
}

#[test]
fn one_that_is_signed_with_rsa_does_too() {
    let key = json!({"use": "sig", "kty": "RSA", "kid": "rsa", "alg": "RS256", "n": RSA_MODULUS, "e": "AQAB"});
    let shown = verified(&keys(&[key]), RSA_TOKEN, ISSUER, at(ISSUED)).unwrap();
    assert_eq!((shown.pod.name.as_str(), shown.pod.uid.as_str()), ("kjv-local-0-x7k2p", "pod-uid"));
    shown.is_for("run.atoll.dev/uid").unwrap();
}

#[test]
fn a_cluster_that_calls_its_issuer_the_same_has_another_key() {
    let (ours, theirs) = (Signer::new("a"), Signer::new("b"));
    let token = theirs.token(&claims("uid", "kjv-local-0", ISSUED));
    assert_eq!(verified(&keys(&[ours.published()]), &token, ISSUER, at(ISSUED)), Err(TokenError::UnknownKey));
    let same_name = Signer::new("a").token(&claims("uid", "kjv-local-0", ISSUED));
    assert_eq!(verified(&keys(&[ours.published()]), &same_name, ISSUER, at(ISSUED)), Err(TokenError::Signature));
}

#[test]
fn a_token_that_names_one_key_and_is_signed_by_another_is_refused() {
    let (one, other) = (Signer::new("a"), Signer::new("b"));
    let both = keys(&[one.published(), other.published()]);
    let confused = Signer { name: "a".into(), key: other.key };
    let token = confused.token(&claims("uid", "kjv-local-0", ISSUED));
    assert_eq!(verified(&both, &token, ISSUER, at(ISSUED)), Err(TokenError::Signature));
    assert!(verified(&both, &one.token(&claims("uid", "kjv-local-0", ISSUED)), ISSUER, at(ISSUED)).is_ok());
    let nameless = Header::new(Algorithm::ES256);
    let key = EncodingKey::from_ec_der(&one.key.serialize_der());
    let token = jsonwebtoken::encode(&nameless, &claims("uid", "kjv-local-0", ISSUED), &key).unwrap();
    assert_eq!(verified(&both, &token, ISSUER, at(ISSUED)), Err(TokenError::UnknownKey));
}

#[test]
fn the_key_decides_how_a_token_is_signed() {
    let signer = Signer::new("a");
    let known = keys(&[signer.published()]);
    let claims = claims("uid", "kjv-local-0", ISSUED);
    let header = Header { kid: Some("a".into()), ..Header::new(Algorithm::HS256) };
    for secret in [signer.key.public_key_raw(), &signer.key.public_key_raw()[1..], signer.published().to_string().as_bytes()] {
        let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap();
        assert_eq!(verified(&known, &token, ISSUER, at(ISSUED)), Err(TokenError::Signature));
    }
    let body = base64url(claims.to_string().as_bytes());
    for (algorithm, signature) in [("none", ""), ("NONE", ""), ("none", "AAAA"), ("RS256", "AAAA")] {
        let header = base64url(json!({"alg": algorithm, "kid": "a"}).to_string().as_bytes());
        let refused = verified(&known, &format!("{header}.{body}.{signature}"), ISSUER, at(ISSUED));
        assert!(matches!(refused, Err(TokenError::Signature | TokenError::Unreadable)), "{algorithm}: {refused:?}");
    }
}

#[test]
fn a_token_counts_in_its_time_and_a_minute_around_it() {
    let signer = Signer::new("a");
    let (known, token) = (keys(&[signer.published()]), signer.token(&claims("uid", "kjv-local-0", ISSUED)));
    let when = |seconds| verified(&known, &token, ISSUER, at(seconds)).map(drop);
    assert_eq!(when(ISSUED - 61), Err(TokenError::NotYetValid { seconds: 61 }));
    assert_eq!((when(ISSUED - 60), when(ISSUED + 3660)), (Ok(()), Ok(())));
    assert_eq!(when(ISSUED + 3661), Err(TokenError::Expired { seconds: 61 }));
    assert!(changed(|claims| _ = claims.as_object_mut().unwrap().remove("exp")).is_err(), "an endless one is none");
}

#[test]
fn a_token_is_for_one_run_and_nothing_else() {
    let uid = "run.atoll.dev/uid";
    assert!(changed(|claims| claims["aud"] = json!(uid)).unwrap().is_for(uid).is_ok());
    for other in
        [json!([]), json!("run.atoll.dev/other"), json!([uid, "https://kubernetes.default.svc"]), json!("run.atoll.dev/ui")]
    {
        let shown = changed(|claims| claims["aud"] = other.clone()).unwrap();
        assert!(matches!(shown.is_for(uid), Err(TokenError::Audience { .. })), "{other}");
    }
}

#[test]
fn a_token_of_nobody_in_particular_is_refused() {
    for change in [
        |claims: &mut Value| _ = claims.as_object_mut().unwrap().remove("kubernetes.io"),
        |claims: &mut Value| _ = claims["kubernetes.io"].as_object_mut().unwrap().remove("pod"),
    ] {
        assert_eq!(changed(change), Err(TokenError::NoPod));
    }
    assert_eq!(changed(|claims| claims["iss"] = json!("https://elsewhere")), Err(TokenError::Issuer));
    assert!(changed(|claims| claims["kubernetes.io"]["pod"] = json!({"name": "no uid"})).is_err());
    let long = "x".repeat(MOST_TOKEN + 1);
    for bad in ["", "a.b.c", "....", &long] {
        assert_eq!(verified(&Keys::default(), bad, ISSUER, at(ISSUED)), Err(TokenError::Unreadable));
    }
}

#[test]
fn keys_that_are_unfit_are_passed_over() {
    let signer = Signer::new("a");
    let mut unfit = vec![json!({"kty": "OKP", "crv": "X", "kid": "x"}), json!({"kty": "oct", "k": "AAAA", "kid": "a"}), json!(7)];
    for (field, value) in [("use", "enc"), ("alg", "ES384"), ("crv", "P-384")] {
        let mut key = signer.published();
        key[field] = json!(value);
        key["kid"] = json!(field);
        unfit.push(key);
    }
    assert!(keys(&unfit).0.is_empty());
    unfit.push(signer.published());
    assert_eq!(keys(&unfit).0.keys().collect::<Vec<_>>(), ["a"]);
    assert!(matches!(Keys::read("<html>"), Err(TokenError::Keys(_))));
}

/// What is published at each question, and how often it was asked.
struct Published {
    sets: Mutex<Result<String, String>>,
    questions: Mutex<usize>,
}

impl Published {
    fn new() -> Arc<Self> {
        Arc::new(Self { sets: Mutex::new(Err("down".into())), questions: Mutex::default() })
    }

    fn publish(&self, keys: &[Value]) {
        *self.sets.lock().unwrap() = Ok(json!({"keys": keys}).to_string());
    }

    fn withdraw(&self) {
        *self.sets.lock().unwrap() = Err("down".into());
    }

    fn tokens(self: &Arc<Self>) -> Tokens {
        let published = Arc::clone(self);
        let fetch: FetchKeys = Arc::new(move || {
            *published.questions.lock().unwrap() += 1;
            let answer = published.sets.lock().unwrap().clone();
            Box::pin(async move { answer })
        });
        Tokens::new(ISSUER.into(), fetch)
    }

    fn questions(&self) -> usize {
        *self.questions.lock().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_asked_for_again_where_one_is_unknown_but_not_often() {
    let (published, old, new) = (Published::new(), Signer::new("old"), Signer::new("new"));
    let tokens = published.tokens();
    let usual = claims("uid", "kjv-local-0", ISSUED);
    let (by_old, by_new) = (old.token(&usual), new.token(&usual));
    assert!(matches!(tokens.check(&by_old, at(ISSUED)).await, Err(TokenError::Keys(_))));
    published.publish(&[old.published()]);
    assert_eq!(tokens.check(&by_old, at(ISSUED)).await, Err(TokenError::UnknownKey), "it was asked a moment ago");
    tokio::time::advance(PAUSE).await;
    assert!(tokens.check(&by_old, at(ISSUED)).await.is_ok());
    published.publish(&[old.published(), new.published()]);
    for _ in 0..9 {
        assert_eq!(tokens.check(&by_new, at(ISSUED)).await, Err(TokenError::UnknownKey));
    }
    assert_eq!(published.questions(), 2);
    tokio::time::advance(PAUSE).await;
    assert!(tokens.check(&by_new, at(ISSUED)).await.is_ok());
    assert_eq!(published.questions(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_withdrawn_is_forgotten_and_one_is_kept_while_nobody_answers() {
    let (published, old) = (Published::new(), Signer::new("old"));
    let (tokens, token) = (published.tokens(), old.token(&claims("uid", "kjv-local-0", ISSUED)));
    published.publish(&[old.published()]);
    assert!(tokens.check(&token, at(ISSUED)).await.is_ok());
    published.withdraw();
    tokio::time::advance(FRESH).await;
    assert!(tokens.check(&token, at(ISSUED)).await.is_ok());
    published.publish(&[]);
    tokio::time::advance(PAUSE).await;
    assert_eq!(tokens.check(&token, at(ISSUED)).await, Err(TokenError::UnknownKey));
}
