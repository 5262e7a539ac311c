//! X.509 certificates of the authority's own CA (RFC 5280), built here and signed elsewhere.
//!
//! Comes in: subject, key, purpose, validity, and whoever signs. Goes out: DER. The signature is made over the exact bytes that go out.
//! Subjects are for people: identity follows from the key (PROTOCOL §11).

use countersign_core::key::{Algorithm, SIGNATURE_LEN, VerifyingKey};
use countersign_core::note::ecdsa_fixed_to_der;
use der::asn1::{BitString, GeneralizedTime, Ia5String, ObjectIdentifier, OctetString, UtcTime};
use der::{Decode, Encode, Sequence};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use std::net::IpAddr;
use std::time::Duration;
use x509_cert::certificate::Version;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
    SubjectKeyIdentifier,
};
use x509_cert::ext::{Extension, Extensions};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::{Time, Validity};

// RFC 5758 §3.2 and RFC 8410 §3: neither has parameters.
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
// RFC 5280 §4.2.
const SUBJECT_KEY_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const AUTHORITY_KEY_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.35");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");
/// X.520 commonName; RFC 5280 appendix A.1 bounds it by 64 characters.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const MAX_COMMON_NAME: usize = 64;
/// A certificate is valid from a little before it is made, for clocks that are behind.
const BACKDATE_SECS: u64 = 300;

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError<E> {
    /// A name or a time that has no DER form.
    #[error("certificate can't be encoded: {0}")]
    Encode(#[from] der::Error),
    /// No randomness for the serial number.
    #[error("no randomness: {0}")]
    Random(getrandom::Error),
    /// The signer failed.
    #[error(transparent)]
    Sign(E),
}

/// What a certificate is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// The CA itself.
    Authority,
    /// The authority's listeners, under these names and addresses.
    Server(Vec<String>),
    /// A host, a gateway or an operator.
    Client,
}

/// What is to be certified.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// For people; cut to 64 characters.
    pub name: &'a str,
    /// The key.
    pub key: &'a VerifyingKey,
    /// What for.
    pub purpose: Purpose,
    /// From when, Unix seconds; a few minutes earlier are written down.
    pub now_secs: u64,
    /// For how long.
    pub lifetime: Duration,
}

/// Who certifies: the CA's key, and its name.
#[derive(Clone, Debug)]
pub struct Issuer<'a> {
    /// The CA's common name.
    pub name: &'a str,
    /// The CA's key.
    pub key: &'a VerifyingKey,
}

/// TBSCertificate (RFC 5280 §4.1) as this CA writes it.
#[derive(Sequence)]
struct Tbs {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: Version,
    serial_number: SerialNumber,
    signature: AlgorithmIdentifierOwned,
    issuer: Name,
    validity: Validity,
    subject: Name,
    subject_public_key_info: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Extensions,
}

#[derive(Sequence)]
struct Signed {
    tbs: der::Any,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

/// AttributeTypeAndValue with a UTF8String, and the sequences around it.
#[derive(Sequence)]
struct CommonName {
    oid: ObjectIdentifier,
    value: String,
}

/// Builds, has it signed, assembles. `sign` gets the exact bytes and answers with 64 bytes of Ed25519 or `r||s`.
///
/// # Errors
/// [`CertificateError`].
pub fn certify<E>(
    subject: &Subject<'_>,
    issuer: &Issuer<'_>,
    sign: impl FnOnce(&[u8]) -> Result<[u8; SIGNATURE_LEN], E>,
) -> Result<Vec<u8>, CertificateError<E>> {
    let algorithm = AlgorithmIdentifierOwned {
        oid: match issuer.key.algorithm() {
            Algorithm::EdDsa => ED25519,
            Algorithm::Es256 => ECDSA_SHA256,
        },
        parameters: None,
    };
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(CertificateError::Random)?;
    // RFC 5280 §4.1.2.2: positive, at most 20 octets.
    serial =
        std::array::from_fn(|at| serial.get(at).map_or(0, |b| if at == 0 { b & 0x7f | 0x40 } else { *b }));
    let tbs = Tbs {
        version: Version::V3,
        serial_number: SerialNumber::new(&serial)?,
        signature: algorithm.clone(),
        issuer: name(issuer.name)?,
        validity: Validity::new(
            time(subject.now_secs.saturating_sub(BACKDATE_SECS))?,
            time(subject.now_secs.saturating_add(subject.lifetime.as_secs()))?,
        ),
        subject: name(subject.name)?,
        subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(&subject.key.spki_der())?,
        extensions: extensions(subject, issuer)?,
    }
    .to_der()?;
    let signature = sign(&tbs).map_err(CertificateError::Sign)?;
    let signature = match issuer.key.algorithm() {
        Algorithm::EdDsa => signature.to_vec(),
        // RFC 3279 §2.2.3: ECDSA signatures in certificates are DER.
        Algorithm::Es256 => ecdsa_fixed_to_der(&signature),
    };
    let signed =
        Signed { tbs: der::Any::from_der(&tbs)?, algorithm, signature: BitString::from_bytes(&signature)? };
    Ok(signed.to_der()?)
}

/// The public key that a certificate is for, if it is one of ours.
#[must_use]
pub fn certified_spki(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?;
    certificate.tbs_certificate().subject_public_key_info().to_der().ok()
}

/// Until when a certificate is valid, Unix seconds.
#[must_use]
pub fn not_after_secs(der: &[u8]) -> Option<u64> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?;
    Some(certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs())
}

fn extensions(subject: &Subject<'_>, issuer: &Issuer<'_>) -> der::Result<Extensions> {
    let authority = matches!(subject.purpose, Purpose::Authority);
    let constraints = BasicConstraints { ca: authority, path_len_constraint: authority.then_some(0) };
    let usage = if authority { KeyUsages::KeyCertSign } else { KeyUsages::DigitalSignature };
    let mut list = vec![
        extension(BASIC_CONSTRAINTS, true, &constraints)?,
        extension(KEY_USAGE, true, &KeyUsage(usage.into()))?,
        extension(SUBJECT_KEY_ID, false, &SubjectKeyIdentifier(key_id(subject.key)?))?,
    ];
    if !authority {
        let id = AuthorityKeyIdentifier {
            key_identifier: Some(key_id(issuer.key)?),
            authority_cert_issuer: None,
            authority_cert_serial_number: None,
        };
        list.push(extension(AUTHORITY_KEY_ID, false, &id)?);
    }
    match &subject.purpose {
        Purpose::Authority => {}
        Purpose::Server(names) => {
            let names = names.iter().map(|name| general_name(name)).collect::<der::Result<Vec<_>>>()?;
            list.push(extension(SUBJECT_ALT_NAME, false, &SubjectAltName(names))?);
            list.push(extension(EXTENDED_KEY_USAGE, false, &ExtendedKeyUsage(vec![SERVER_AUTH]))?);
        }
        Purpose::Client => {
            list.push(extension(EXTENDED_KEY_USAGE, false, &ExtendedKeyUsage(vec![CLIENT_AUTH]))?);
        }
    }
    Ok(list)
}

fn extension(oid: ObjectIdentifier, critical: bool, value: &impl Encode) -> der::Result<Extension> {
    Ok(Extension { extn_id: oid, critical, extn_value: OctetString::new(value.to_der()?)? })
}

/// RFC 7093 §2, method 1: the leftmost 160 bits of SHA-256 over the key.
fn key_id(key: &VerifyingKey) -> der::Result<OctetString> {
    let digest = countersign_core::digest::sha256(key.raw());
    OctetString::new(digest.as_bytes().get(..20).unwrap_or_default())
}

fn general_name(name: &str) -> der::Result<GeneralName> {
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(GeneralName::from(address)),
        Err(_) => Ok(GeneralName::DnsName(Ia5String::new(name)?)),
    }
}

fn name(text: &str) -> der::Result<Name> {
    let value: String = text.chars().take(MAX_COMMON_NAME).collect();
    let attribute = CommonName { oid: COMMON_NAME, value };
    let mut set = der::asn1::SetOfVec::new();
    set.insert(der::Any::encode_from(&attribute)?)?;
    Name::from_der(&vec![set].to_der()?)
}

/// RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime after.
fn time(secs: u64) -> der::Result<Time> {
    let since = Duration::from_secs(secs);
    match UtcTime::from_unix_duration(since) {
        Ok(time) => Ok(Time::UtcTime(time)),
        Err(_) => Ok(Time::GeneralTime(GeneralizedTime::from_unix_duration(since)?)),
    }
}
