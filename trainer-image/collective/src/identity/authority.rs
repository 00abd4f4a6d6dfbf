//! Who signs: the authority of a run signs one authority per island, which signs the certificates of its peers.
//!
//! Each authority's certificate permits DNS names under its own domain alone (RFC 5280, 4.2.1.10), so that the key of one island
//! is worth nothing for another. Keys are ECDSA P-256, which every TLS library verifies, or, where the caller derives them from
//! a secret of its own, Ed25519 (RFC 8032), whose keys are any 32 bytes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ED25519, SanType,
};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::name::{island_domain, run_domain};
use super::{Identity, IdentityError, PeerName, request};

/// PKCS#8 of an Ed25519 key up to its 32 bytes (RFC 8410, 7).
const PKCS8: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Last second that a certificate can express: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// From when, and for how long, a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first instant. A little in the past, where clocks of peers differ.
    pub from: SystemTime,
    /// The time until it expires.
    pub length: Duration,
}

/// Signs for a whole run.
#[derive(Debug)]
pub struct RunAuthority {
    run: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Signs for the peers of one island of a run.
#[derive(Debug)]
pub struct IslandAuthority {
    run: String,
    island: String,
    run_root: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl RunAuthority {
    /// A new key, and a certificate that it signs itself: the run's root.
    ///
    /// # Errors
    /// [`IdentityError::Name`], [`IdentityError::Validity`], [`IdentityError::Signing`].
    pub fn new(run: &str, validity: Validity) -> Result<Self, IdentityError> {
        Self::with(run, KeyPair::generate()?, validity)
    }

    /// The authority whose Ed25519 key is `key`: the same arguments give the same root.
    ///
    /// # Errors
    /// [`IdentityError::Name`], [`IdentityError::Validity`], [`IdentityError::Signing`].
    pub fn of_key(run: &str, key: &[u8; 32], validity: Validity) -> Result<Self, IdentityError> {
        Self::with(run, ed25519(key)?, validity)
    }

    fn with(run: &str, key: KeyPair, validity: Validity) -> Result<Self, IdentityError> {
        let mut root = authority(&run_domain(run)?, 1, validity)?;
        root.distinguished_name = subject(&[(DnType::OrganizationName, run), (DnType::CommonName, "run authority")]);
        Ok(Self { run: run.to_owned(), issuer: CertifiedIssuer::self_signed(root, key)? })
    }

    /// A new authority for `island`. It can sign as long as both certificates are valid.
    ///
    /// # Errors
    /// [`IdentityError::Name`], [`IdentityError::Validity`], [`IdentityError::Signing`].
    pub fn island(&self, island: &str, validity: Validity) -> Result<IslandAuthority, IdentityError> {
        self.island_with(island, KeyPair::generate()?, validity)
    }

    /// The authority for `island` whose Ed25519 key is `key`: the same arguments give the same certificate.
    ///
    /// # Errors
    /// [`IdentityError::Name`], [`IdentityError::Validity`], [`IdentityError::Signing`].
    pub fn island_of_key(&self, island: &str, key: &[u8; 32], validity: Validity) -> Result<IslandAuthority, IdentityError> {
        self.island_with(island, ed25519(key)?, validity)
    }

    fn island_with(&self, island: &str, key: KeyPair, validity: Validity) -> Result<IslandAuthority, IdentityError> {
        let mut certificate = authority(&island_domain(&self.run, island)?, 0, validity)?;
        certificate.distinguished_name = subject(&[
            (DnType::OrganizationName, &self.run),
            (DnType::OrganizationalUnitName, island),
            (DnType::CommonName, "island authority"),
        ]);
        Ok(IslandAuthority {
            run: self.run.clone(),
            island: island.to_owned(),
            run_root: self.issuer.pem(),
            issuer: CertifiedIssuer::signed_by(certificate, key, &self.issuer)?,
        })
    }
}

impl IslandAuthority {
    /// The run's root, PEM.
    #[must_use]
    pub fn run_root(&self) -> &str {
        &self.run_root
    }

    /// The certificate chain (PEM) of `worker` for the key in `request`, a PKCS#10 request in DER that this key has signed. No name
    /// in the request is read.
    ///
    /// # Errors
    /// [`IdentityError::LongRequest`], [`IdentityError::Request`], [`IdentityError::Name`], [`IdentityError::Validity`],
    /// [`IdentityError::Signing`].
    pub fn sign_request(&self, worker: &str, request: &[u8], validity: Validity) -> Result<String, IdentityError> {
        let key = request::public_key(request)?;
        let certificate = self.certificate(worker, validity)?.signed_by(&key, &self.issuer)?;
        Ok(certificate.pem() + &self.issuer.pem())
    }

    /// A new identity for `worker`, good for dialling and for being dialled.
    ///
    /// # Errors
    /// [`IdentityError::Name`], [`IdentityError::Validity`], [`IdentityError::Signing`].
    pub fn peer(&self, worker: &str, validity: Validity) -> Result<Identity, IdentityError> {
        self.sign(&self.certificate(worker, validity)?)
    }

    fn certificate(&self, worker: &str, validity: Validity) -> Result<CertificateParams, IdentityError> {
        let name = PeerName::new(&self.run, &self.island, worker)?;
        let mut certificate = parameters(validity)?;
        certificate.distinguished_name = subject(&[
            (DnType::OrganizationName, &self.run),
            (DnType::OrganizationalUnitName, &self.island),
            (DnType::CommonName, worker),
        ]);
        certificate.subject_alt_names = vec![SanType::DnsName(Ia5String::try_from(name.to_string())?)];
        Ok(certificate)
    }

    fn sign(&self, certificate: &CertificateParams) -> Result<Identity, IdentityError> {
        let key = KeyPair::generate()?;
        let certificate = certificate.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate_chain: certificate.pem() + &self.issuer.pem(),
            private_key: key.serialize_pem(),
            run_root: self.run_root.clone(),
        })
    }
}

/// What certificates of peers have in common.
pub(super) fn parameters(validity: Validity) -> Result<CertificateParams, IdentityError> {
    let expressible = |instant: SystemTime| {
        instant.duration_since(UNIX_EPOCH).is_ok_and(|since| since.as_secs() <= LAST_SECOND).then_some(instant)
    };
    let from = expressible(validity.from);
    let until = validity.from.checked_add(validity.length).and_then(expressible);
    let (Some(from), Some(until)) = (from, until) else { return Err(IdentityError::Validity) };
    let mut parameters = CertificateParams::default();
    parameters.not_before = from.into();
    parameters.not_after = until.into();
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

/// What certificates of authorities have in common: names under `domain`, and at most `authorities` more below it in a chain.
pub(super) fn authority(domain: &str, authorities: u8, validity: Validity) -> Result<CertificateParams, IdentityError> {
    let mut parameters = parameters(validity)?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(authorities));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters.extended_key_usages.clear();
    let permitted_subtrees = vec![GeneralSubtree::DnsName(domain.to_owned())];
    parameters.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    Ok(parameters)
}

pub(super) fn subject(attributes: &[(DnType, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (kind, value) in attributes {
        name.push(kind.clone(), *value);
    }
    name
}

/// The Ed25519 key that is these 32 bytes.
pub(super) fn ed25519(key: &[u8; 32]) -> Result<KeyPair, IdentityError> {
    let pkcs8 = [&PKCS8[..], key].concat();
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ED25519)?)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::server::WebPkiClientVerifier;

    use super::super::Request;
    use super::*;

    /// A day that begins an hour before the instant at which these tests verify.
    const DAY: Validity = Validity { from: UNIX_EPOCH, length: Duration::from_hours(24) };
    const NOW: Duration = Duration::from_hours(1);

    fn run() -> RunAuthority {
        RunAuthority::new("kjv", DAY).unwrap()
    }

    fn island(run: &RunAuthority, island: &str) -> IslandAuthority {
        run.island(island, DAY).unwrap()
    }

    /// What stock rustls says of `identity` as a client, and as a server that was dialled by the name of its certificate.
    fn verified(identity: &Identity, name: &str, now: Duration) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(identity.root().unwrap()).unwrap();
        let (roots, provider) = (Arc::new(roots), Arc::new(rustls::crypto::ring::default_provider()));
        let server = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build().unwrap();
        let client = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
        let chain = identity.certificates().unwrap();
        let now = UnixTime::since_unix_epoch(now);
        let as_client = client.verify_client_cert(&chain[0], &chain[1..], now).map(|_| ());
        let dialled = ServerName::try_from(name.to_owned()).unwrap();
        let as_server = server.verify_server_cert(&chain[0], &chain[1..], &dialled, &[], now).map(|_| ());
        assert_eq!(as_client.is_ok(), as_server.is_ok(), "{as_client:?}, {as_server:?}");
        as_client
    }

    /// What the island's key could sign if it were stolen.
    pub(crate) fn forged(authority: &IslandAuthority, names: &[&str], validity: Validity) -> Identity {
        let mut certificate = parameters(validity).unwrap();
        certificate.subject_alt_names = names.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
        authority.sign(&certificate).unwrap()
    }

    fn breaks_the_name_constraint(verified: &Result<(), rustls::Error>) -> bool {
        format!("{verified:?}").contains("NameConstraintViolation")
    }

    #[test]
    fn a_peer_of_an_island_is_who_its_certificate_says() {
        let identity = island(&run(), "west").peer("0", DAY).unwrap();
        assert_eq!(identity.name().unwrap(), PeerName::new("kjv", "west", "0").unwrap());
        verified(&identity, "0.west.kjv.atoll.internal", NOW).unwrap();
    }

    #[test]
    fn a_certificate_counts_in_its_time_only() {
        let identity = island(&run(), "west").peer("0", Validity { from: UNIX_EPOCH + NOW, length: NOW }).unwrap();
        let at = |seconds| verified(&identity, "0.west.kjv.atoll.internal", Duration::from_secs(seconds));
        assert!(format!("{:?}", at(3599)).contains("NotValidYet"));
        at(3600).unwrap();
        at(7200).unwrap();
        assert!(format!("{:?}", at(7201)).contains("Expired"));
    }

    #[test]
    fn what_a_certificate_cannot_express_is_refused() {
        let year_1969 = Validity { from: UNIX_EPOCH - Duration::from_secs(1), length: NOW };
        let endless = Validity { from: UNIX_EPOCH, length: Duration::MAX };
        for validity in [year_1969, endless] {
            assert!(matches!(RunAuthority::new("kjv", validity), Err(IdentityError::Validity)));
        }
        assert!(matches!(RunAuthority::new("k.j.v", DAY), Err(IdentityError::Name(_))));
        assert!(matches!(run().island("West", DAY), Err(IdentityError::Name(_))));
        assert!(matches!(island(&run(), "west").peer("", DAY), Err(IdentityError::Name(_))));
    }

    #[test]
    fn the_longest_names_make_a_certificate() {
        let long = "a".repeat(63);
        let run = RunAuthority::new(&long, DAY).unwrap();
        let identity = run.island(&long, DAY).unwrap().peer(&long, DAY).unwrap();
        verified(&identity, &format!("{long}.{long}.{long}.atoll.internal"), NOW).unwrap();
    }

    #[test]
    fn the_key_of_an_island_signs_for_no_other_island() {
        let west = island(&run(), "west");
        verified(&forged(&west, &["1.west.kjv.atoll.internal"], DAY), "1.west.kjv.atoll.internal", NOW).unwrap();
        for name in ["0.east.kjv.atoll.internal", "0.northwest.kjv.atoll.internal", "0.west.other.atoll.internal", "example.org"]
        {
            let verified = verified(&forged(&west, &[name], DAY), name, NOW);
            assert!(breaks_the_name_constraint(&verified), "{name}: {verified:?}");
        }
        let all = verified(&forged(&west, &["*.kjv.atoll.internal"], DAY), "east.kjv.atoll.internal", NOW);
        assert!(breaks_the_name_constraint(&all), "{all:?}");
    }

    #[test]
    fn the_name_of_a_peer_is_checked_beside_a_second_one() {
        let west = island(&run(), "west");
        let names = ["0.west.kjv.atoll.internal", "0.east.kjv.atoll.internal"];
        let identity = forged(&west, &names, DAY);
        assert!(breaks_the_name_constraint(&verified(&identity, names[0], NOW)));
        assert!(matches!(identity.name(), Err(IdentityError::Names(2))));
    }

    #[test]
    fn the_key_of_an_island_makes_no_further_authority() {
        let west = island(&run(), "west");
        let second = authority("west.kjv.atoll.internal", 0, DAY).unwrap();
        let issuer = CertifiedIssuer::signed_by(second, KeyPair::generate().unwrap(), &west.issuer).unwrap();
        let name = "0.west.kjv.atoll.internal";
        let below = IslandAuthority { run: "kjv".into(), island: "west".into(), run_root: west.run_root.clone(), issuer };
        let mut identity = forged(&below, &[name], DAY);
        identity.certificate_chain += &west.issuer.pem();
        let verified = verified(&identity, name, NOW);
        assert!(format!("{verified:?}").contains("PathLenConstraintViolated"), "{verified:?}");
    }

    #[test]
    fn the_certificate_of_a_peer_signs_nothing() {
        let west = island(&run(), "west");
        let name = "0.west.kjv.atoll.internal";
        let mut peer = parameters(DAY).unwrap();
        peer.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        let issuer = CertifiedIssuer::signed_by(peer, KeyPair::generate().unwrap(), &west.issuer).unwrap();
        let below = IslandAuthority { run: "kjv".into(), island: "west".into(), run_root: west.run_root.clone(), issuer };
        let mut identity = forged(&below, &[name], DAY);
        identity.certificate_chain += &west.issuer.pem();
        let verified = verified(&identity, name, NOW);
        assert!(format!("{verified:?}").contains("EndEntityUsedAsCa"), "{verified:?}");
    }

    #[test]
    fn the_root_of_a_run_signs_for_its_own_run_only() {
        let run = run();
        let other = RunAuthority { run: "other".into(), issuer: run.issuer };
        let identity = other.island("west", DAY).unwrap().peer("0", DAY).unwrap();
        assert!(breaks_the_name_constraint(&verified(&identity, "0.west.other.atoll.internal", NOW)));
    }

    fn of_keys(run: u8, island: u8) -> IslandAuthority {
        let run = RunAuthority::of_key("kjv", &[run; 32], DAY).unwrap();
        run.island_of_key("west", &[island; 32], DAY).unwrap()
    }

    #[test]
    fn keys_that_are_given_make_the_same_authorities_each_time() {
        let (once, again) = (of_keys(1, 2), of_keys(1, 2));
        assert_eq!((once.run_root(), once.issuer.der()), (again.run_root(), again.issuer.der()));
        let mut identity = once.peer("0", DAY).unwrap();
        identity.run_root = again.run_root;
        verified(&identity, "0.west.kjv.atoll.internal", NOW).unwrap();
        identity.run_root = of_keys(3, 2).run_root;
        assert!(verified(&identity, "0.west.kjv.atoll.internal", NOW).is_err());
    }

    #[test]
    fn an_authority_of_a_given_key_is_bound_to_its_island_too() {
        let forged = forged(&of_keys(1, 2), &["0.east.kjv.atoll.internal"], DAY);
        assert!(breaks_the_name_constraint(&verified(&forged, "0.east.kjv.atoll.internal", NOW)));
    }

    #[test]
    fn a_request_gets_the_name_that_the_authority_gives_it() {
        let request = Request::new().unwrap();
        let west = of_keys(1, 2);
        let chain = west.sign_request("w0", request.der(), DAY).unwrap();
        let identity = Identity::from_parts(chain, request.private_key().to_owned(), west.run_root().to_owned()).unwrap();
        assert_eq!(identity.name().unwrap(), PeerName::new("kjv", "west", "w0").unwrap());
        verified(&identity, "w0.west.kjv.atoll.internal", NOW).unwrap();
    }

    #[test]
    fn two_runs_of_one_name_do_not_trust_each_other() {
        let mut identity = island(&run(), "west").peer("0", DAY).unwrap();
        identity.run_root = island(&run(), "west").run_root;
        assert!(verified(&identity, "0.west.kjv.atoll.internal", NOW).is_err());
    }

    #[test]
    fn an_identity_travels_as_text_and_hides_its_key() {
        let identity = island(&run(), "west").peer("0", DAY).unwrap();
        let printed = format!("{identity:?}");
        assert_eq!(printed, "Identity(Some(0.west.kjv.atoll.internal))");
        let text = serde_json::to_string(&identity).unwrap();
        let read: Identity = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (read.certificates().unwrap(), read.key().unwrap()),
            (identity.certificates().unwrap(), identity.key().unwrap())
        );
        assert_eq!(read.root().unwrap(), identity.root().unwrap());
    }
}
