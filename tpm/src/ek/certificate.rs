//! One X.509 certificate: its bytes as signed, and the questions that path building asks.
//!
//! Comes in: DER, possibly followed by the padding of an NV index. Goes out: a parsed certificate that still has the
//! exact signed bytes. Refuses other encodings, repeated extensions and critical ones that are not understood.

use der::asn1::ObjectIdentifier;
use der::{Decode, Encode, Header, Reader, SliceReader};
use sha2::{Digest, Sha256};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use x509_cert::name::Name;

use super::{EkRefusal, MAX_CERTIFICATE_BYTES};
use crate::algorithm::HashAlg;
use crate::key::{PublicKey, RsaPadding};

const SHA256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const SHA384_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const SHA512_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ECDSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");

const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
/// With any policy acceptable and none required, certificatePolicies constrains nothing. RFC 5280 §6.1.
const CERTIFICATE_POLICIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.32");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
/// tcg-kp-EKCertificate. TCG EK Credential Profile 2.5, 3.2.16.
const TCG_EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");

/// How a certificate is signed.
#[derive(Debug, Clone, Copy)]
enum Scheme {
    Rsa(RsaPadding, HashAlg),
    Ecdsa(HashAlg),
}

#[derive(Debug)]
pub(super) struct Certificate<'a> {
    /// The whole certificate, no padding.
    der: &'a [u8],
    /// The signed part as it stands there: what is verified is what was read.
    tbs: &'a [u8],
    parsed: x509_cert::Certificate,
}

impl<'a> Certificate<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, EkRefusal> {
        if bytes.len() > MAX_CERTIFICATE_BYTES {
            return Err(EkRefusal::TooLong(bytes.len()));
        }
        let der = without_padding(bytes)?;
        let tbs = signed_part(der).map_err(|_| EkRefusal::Malformed)?;
        let parsed = x509_cert::Certificate::from_der(der).map_err(|_| EkRefusal::Malformed)?;
        // RFC 5280 §4.1.1.2: both copies of the algorithm must agree.
        if parsed.signature_algorithm() != parsed.tbs_certificate().signature() {
            return Err(EkRefusal::Malformed);
        }
        let certificate = Self { der, tbs, parsed };
        certificate.check_extensions()?;
        Ok(certificate)
    }

    pub(super) fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.der).into()
    }

    pub(super) fn is_same(&self, other: &Certificate<'_>) -> bool {
        self.der == other.der
    }

    pub(super) fn public_key(&self) -> Result<PublicKey, EkRefusal> {
        Ok(PublicKey::from_spki(self.parsed.tbs_certificate().subject_public_key_info())?)
    }

    /// RFC 5280 §6.1.3 (a) (2).
    pub(super) fn require_valid_at(&self, now_unix_secs: u64) -> Result<(), EkRefusal> {
        let validity = self.parsed.tbs_certificate().validity();
        if now_unix_secs < validity.not_before.to_unix_duration().as_secs() {
            return Err(EkRefusal::NotYetValid);
        }
        if now_unix_secs > validity.not_after.to_unix_duration().as_secs() {
            return Err(EkRefusal::Expired);
        }
        Ok(())
    }

    /// RFC 5280 §6.1.3 (a) (4).
    pub(super) fn is_issued_by_name_of(&self, issuer: &Certificate<'_>) -> bool {
        same_name(self.parsed.tbs_certificate().issuer(), issuer.parsed.tbs_certificate().subject())
    }

    /// RFC 5280 §6.1.3 (a) (1).
    pub(super) fn require_signed_by(&self, issuer: &Certificate<'_>) -> Result<(), EkRefusal> {
        let scheme = self.signature_scheme()?;
        let signature = self.parsed.signature().as_bytes().ok_or(EkRefusal::Malformed)?;
        let key = issuer.public_key()?;
        match scheme {
            Scheme::Rsa(padding, hash) => key.verify_rsa(padding, hash, self.tbs, signature),
            Scheme::Ecdsa(hash) => key.verify_ecdsa_der(hash, self.tbs, signature),
        }
        .map_err(|_| EkRefusal::SignatureInvalid)
    }

    /// The certificate may issue others, with `below` intermediates between it and the end. RFC 5280 §6.1.4 (k) to (n).
    pub(super) fn require_authority(&self, below: usize) -> Result<(), EkRefusal> {
        let constraints: Option<BasicConstraints> = self.extension()?;
        let constraints = constraints.filter(|c| c.ca).ok_or(EkRefusal::NotAnAuthority)?;
        if constraints.path_len_constraint.is_some_and(|most| usize::from(most) < below) {
            return Err(EkRefusal::NotAnAuthority);
        }
        match self.extension::<KeyUsage>()? {
            Some(usage) if !usage.key_cert_sign() => Err(EkRefusal::NotAnAuthority),
            _ => Ok(()),
        }
    }

    /// The certificate is for an endorsement key. TCG EK Credential Profile 2.5, 3.2.
    pub(super) fn require_endorsement_key(&self, key: &PublicKey) -> Result<(), EkRefusal> {
        if self.extension::<BasicConstraints>()?.is_some_and(|constraints| constraints.ca) {
            return Err(EkRefusal::NotAnEkCertificate);
        }
        // 3.2.15: keyEncipherment for RSA, keyAgreement for ECC. Attestation keys have digitalSignature only, and some
        // of their certificates nevertheless carry the usage of endorsement keys.
        if let Some(usage) = self.extension::<KeyUsage>()? {
            let fits = match key {
                PublicKey::Rsa { .. } => usage.key_encipherment(),
                PublicKey::Ecc { .. } => usage.key_agreement(),
            };
            if !fits {
                return Err(EkRefusal::NotAnEkCertificate);
            }
        }
        match self.extension::<ExtendedKeyUsage>()? {
            Some(usages) if !usages.0.contains(&TCG_EK_CERTIFICATE) => Err(EkRefusal::NotAnEkCertificate),
            _ => Ok(()),
        }
    }

    fn extension<'b, T>(&'b self) -> Result<Option<T>, EkRefusal>
    where
        T: Decode<'b> + der::oid::AssociatedOid,
    {
        let found = self.parsed.tbs_certificate().get_extension::<T>().map_err(|_| EkRefusal::Malformed)?;
        Ok(found.map(|(_, value)| value))
    }

    /// RFC 5280 §4.2: no extension twice, no critical one that is not processed.
    fn check_extensions(&self) -> Result<(), EkRefusal> {
        let extensions = self.parsed.tbs_certificate().extensions().map_or(&[][..], Vec::as_slice);
        for (index, extension) in extensions.iter().enumerate() {
            let understood =
                [KEY_USAGE, SUBJECT_ALT_NAME, BASIC_CONSTRAINTS, CERTIFICATE_POLICIES, EXTENDED_KEY_USAGE]
                    .contains(&extension.extn_id);
            if extension.critical && !understood {
                return Err(EkRefusal::CriticalExtension(extension.extn_id.to_string()));
            }
            if extensions.iter().skip(index + 1).any(|other| other.extn_id == extension.extn_id) {
                return Err(EkRefusal::RepeatedExtension(extension.extn_id.to_string()));
            }
        }
        Ok(())
    }

    fn signature_scheme(&self) -> Result<Scheme, EkRefusal> {
        let algorithm = self.parsed.signature_algorithm();
        match algorithm.oid {
            SHA256_WITH_RSA => Ok(Scheme::Rsa(RsaPadding::Pkcs1, HashAlg::Sha256)),
            SHA384_WITH_RSA => Ok(Scheme::Rsa(RsaPadding::Pkcs1, HashAlg::Sha384)),
            SHA512_WITH_RSA => Ok(Scheme::Rsa(RsaPadding::Pkcs1, HashAlg::Sha512)),
            ECDSA_SHA256 => Ok(Scheme::Ecdsa(HashAlg::Sha256)),
            ECDSA_SHA384 => Ok(Scheme::Ecdsa(HashAlg::Sha384)),
            ECDSA_SHA512 => Ok(Scheme::Ecdsa(HashAlg::Sha512)),
            RSASSA_PSS => self.pss_scheme(),
            other => Err(EkRefusal::SignatureAlgorithm(other.to_string())),
        }
    }

    /// RSASSA-PSS-params. RFC 4055 §3.1: one hash for message and mask; absent parameters mean SHA-1.
    fn pss_scheme(&self) -> Result<Scheme, EkRefusal> {
        let refusal = || EkRefusal::SignatureAlgorithm(RSASSA_PSS.to_string());
        let parameters = self.parsed.signature_algorithm().parameters.as_ref().ok_or_else(refusal)?;
        let encoded = parameters.to_der().map_err(|_| refusal())?;
        let parameters = rsa::pkcs1::RsaPssParams::<der::Any>::from_der(&encoded).map_err(|_| refusal())?;
        let mask_hash = parameters.mask_gen.parameters.map(|inner| inner.oid);
        if parameters.mask_gen.oid != MGF1 || mask_hash != Some(parameters.hash.oid) {
            return Err(refusal());
        }
        let hash = match parameters.hash.oid {
            SHA256 => HashAlg::Sha256,
            SHA384 => HashAlg::Sha384,
            SHA512 => HashAlg::Sha512,
            _ => return Err(refusal()),
        };
        Ok(Scheme::Rsa(RsaPadding::Pss, hash))
    }
}

/// Cuts the padding of an NV index: the rest must be all 00 or all FF.
fn without_padding(bytes: &[u8]) -> Result<&[u8], EkRefusal> {
    let mut reader = SliceReader::new(bytes).map_err(|_| EkRefusal::Malformed)?;
    let certificate = reader.tlv_bytes().map_err(|_| EkRefusal::Malformed)?;
    let rest = bytes.get(certificate.len()..).unwrap_or_default();
    if rest.iter().all(|byte| *byte == 0) || rest.iter().all(|byte| *byte == 0xff) {
        Ok(certificate)
    } else {
        Err(EkRefusal::TrailingBytes(rest.len()))
    }
}

/// The first element of the outer sequence, as it stands. RFC 5280 §4.1.
fn signed_part(der: &[u8]) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(der)?;
    Header::decode(&mut reader)?;
    reader.tlv_bytes()
}

/// RFC 5280 §7.1, the part that certificates in the field need: string types and ASCII case do not matter.
fn same_name(one: &Name, other: &Name) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other.iter())
            .all(|(a, b)| a.oid == b.oid && a.value.value().eq_ignore_ascii_case(b.value.value()))
}
