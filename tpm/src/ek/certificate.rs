//! One X.509 certificate: its bytes as signed, and the questions that path building asks.
//!
//! Comes in: a certificate as it lies in a file or in a TPM's NV memory, that is with the header or padding of such a place. Goes out:
//! [`Certificate`]. Refuses what isn't of the form of RFC 5280, repeated extensions and critical ones that aren't understood. A key or a
//! signature algorithm that isn't ours is read, and refused when it is asked for.

use super::device::{self, DeviceNames};
use super::extension::{Extensions, KeyUsage};
use super::keys::{CertifiedKey, Scheme};
use super::name::Name;
use super::tlv::{Elements, INTEGER, SEQUENCE, context, context_primitive, time, without_zeros};
use super::{EkRefusal, MAX_CERTIFICATE_BYTES};
use crate::key::PublicKey;
use der::asn1::ObjectIdentifier;
use sha2::{Digest, Sha256};

/// tcg-kp-EKCertificate. TCG EK Credential Profile 2.5, 3.2.16.
pub(super) const EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");
/// tcg-kp-AIKCertificate. TPM 2.0 Keys for Device Identity and Attestation, 8.
pub(super) const AIK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.3");
/// id-kp-clientAuth, RFC 5280 §4.2.1.12: what a device does with an IDevID is to show who it is.
pub(super) const CLIENT_AUTHENTICATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");
/// The arc of the TCG's purposes: keys that are something else than a device's identity.
const TCG_PURPOSES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8");
/// tcg-cap-verifiedTPMRestricted: the issuer saw that the key is restricted, fixed to and resident in a TPM.
const VERIFIED_RESTRICTED: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.11.1.3");
/// anyExtendedKeyUsage. RFC 5280 §4.2.1.12.
const ANY_PURPOSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
/// anyPolicy. RFC 5280 §4.2.1.4.
const ANY_POLICY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.32.0");

/// Header of a certificate in a TPM 1.2's NV memory: stored certificate, full, its size, full certificate. TCG PC Client 1.2, 7.4.5.
const NV_HEADER_BYTES: usize = 7;

/// A certificate that was read.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    sha256: [u8; 32],
    /// The signed part as it stands: what is verified is what was read.
    tbs: Vec<u8>,
    scheme: Scheme,
    signature: Vec<u8>,
    serial: Vec<u8>,
    issuer: Name,
    subject: Name,
    not_before: u64,
    not_after: u64,
    key: Result<CertifiedKey, EkRefusal>,
    extensions: Extensions,
}

impl Certificate {
    /// Reads one.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, EkRefusal> {
        if bytes.len() > MAX_CERTIFICATE_BYTES {
            return Err(EkRefusal::TooLong(bytes.len()));
        }
        let der = unwrapped(bytes)?;
        let mut outer = Elements::of(der, "certificate");
        let mut certificate = outer.inside(SEQUENCE)?;
        outer.finish()?;
        let tbs = certificate.next()?;
        if tbs.tag != SEQUENCE {
            return Err(certificate.malformed());
        }
        let algorithm = certificate.expect(SEQUENCE)?;
        let signature = certificate.whole_bits()?;
        certificate.finish()?;
        let mut fields = Elements::of(tbs.content, "certificate");
        version(&mut fields)?;
        let serial = fields.expect(INTEGER)?;
        // RFC 5280 §4.1.1.2: both copies of the algorithm must agree.
        if fields.expect(SEQUENCE)? != algorithm {
            return Err(EkRefusal::Malformed("signature algorithm"));
        }
        let issuer = Name::read(fields.expect(SEQUENCE)?)?;
        let mut validity = fields.inside(SEQUENCE)?;
        let (not_before, not_after) = (time(&validity.next()?)?, time(&validity.next()?)?);
        validity.finish()?;
        let subject = Name::read(fields.expect(SEQUENCE)?)?;
        let key = CertifiedKey::read(fields.expect(SEQUENCE)?);
        // issuerUniqueID and subjectUniqueID say nothing here. RFC 5280 §4.1.2.8.
        fields.optional(context_primitive(1))?;
        fields.optional(context_primitive(2))?;
        let extensions = match fields.optional(context(3))? {
            Some(content) => {
                let mut outer = Elements::of(content, "extensions");
                let extensions = Extensions::read(outer.expect(SEQUENCE)?)?;
                outer.finish()?;
                extensions
            }
            None => Extensions::default(),
        };
        fields.finish()?;
        // RFC 5280 §4.1.2.6: without a subject the alternative name is it, and so critical.
        if subject.is_empty() && !extensions.critical_alt_name {
            return Err(EkRefusal::Malformed("subject"));
        }
        Ok(Self {
            sha256: Sha256::digest(der).into(),
            tbs: tbs.whole.to_vec(),
            scheme: Scheme::read(algorithm)?,
            signature: signature.to_vec(),
            serial: without_zeros(serial).to_vec(),
            issuer,
            subject,
            not_before,
            not_after,
            key,
            extensions,
        })
    }

    /// SHA-256 of the certificate without header and padding.
    pub(super) const fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    #[cfg(test)]
    pub(super) const fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(super) const fn subject(&self) -> &Name {
        &self.subject
    }

    pub(super) const fn issuer(&self) -> &Name {
        &self.issuer
    }

    /// Without leading zeros.
    pub(super) fn serial(&self) -> &[u8] {
        &self.serial
    }

    pub(super) const fn validity(&self) -> (u64, u64) {
        (self.not_before, self.not_after)
    }

    pub(super) const fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    pub(super) fn key(&self) -> Result<&CertifiedKey, EkRefusal> {
        self.key.as_ref().map_err(Clone::clone)
    }

    /// Subject and issuer are the same name. RFC 5280 §6.1.
    pub(super) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Its own key signed it.
    pub(super) fn is_self_signed(&self) -> bool {
        self.is_self_issued() && self.require_signed_by(self).is_ok()
    }

    /// RFC 5280 §6.1.3 (a) (2).
    pub(super) const fn require_valid_at(&self, now_unix_secs: u64) -> Result<(), EkRefusal> {
        if now_unix_secs < self.not_before {
            return Err(EkRefusal::NotYetValid);
        }
        if now_unix_secs > self.not_after {
            return Err(EkRefusal::Expired);
        }
        Ok(())
    }

    /// RFC 5280 §6.1.3 (a) (1).
    pub(super) fn require_signed_by(&self, issuer: &Self) -> Result<(), EkRefusal> {
        issuer.key()?.verify(self.scheme, &self.tbs, &self.signature)
    }

    /// The certificate may issue others, with `below` intermediates between it and the end. RFC 5280 §6.1.4 (k) to (n).
    pub(super) fn require_authority(&self, below: usize) -> Result<(), EkRefusal> {
        let constraints = self.extensions.constraints.filter(|constraints| constraints.authority);
        let constraints = constraints.ok_or(EkRefusal::NotAnAuthority)?;
        let most = constraints.path_length.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        if most.is_some_and(|most| most < below) {
            return Err(EkRefusal::NotAnAuthority);
        }
        match self.extensions.usage {
            Some(usage) if !usage.has(KeyUsage::KEY_CERT_SIGN) => Err(EkRefusal::NotAnAuthority),
            _ => Ok(()),
        }
    }

    /// An intermediate that says for what it issues says this purpose, or any.
    pub(super) fn require_issues_for(&self, purpose: &ObjectIdentifier) -> Result<(), EkRefusal> {
        match &self.extensions.purposes {
            Some(list) if !list.contains(purpose) && !list.contains(&ANY_PURPOSE) => {
                Err(EkRefusal::NotAnAuthority)
            }
            _ => Ok(()),
        }
    }

    /// The certificate may sign revocation lists. RFC 5280 §6.3.3 (f).
    pub(super) fn signs_revocation_lists(&self) -> bool {
        self.extensions.usage.is_none_or(|usage| usage.has(KeyUsage::CRL_SIGN))
    }

    /// Whether it asserts one policy: an authority may do so by asserting any.
    pub(super) fn asserts(&self, policy: &ObjectIdentifier, authority: bool) -> bool {
        self.extensions
            .policies
            .as_ref()
            .is_some_and(|policies| policies.contains(policy) || authority && policies.contains(&ANY_POLICY))
    }

    /// The certificate is for an endorsement key of a TPM 2.0. TCG EK Credential Profile 2.5, 3.2.
    pub(super) fn require_endorsement_key(&self) -> Result<&PublicKey, EkRefusal> {
        let key = self.key()?.known()?;
        if self.extensions.constraints.is_some_and(|constraints| constraints.authority) {
            return Err(EkRefusal::NotAnEkCertificate);
        }
        // 3.2.15: present, with keyEncipherment for RSA, keyAgreement for ECC. Attestation keys have digitalSignature only, and some of their certificates
        // nevertheless carry the usage of endorsement keys.
        let bit = match key {
            PublicKey::Rsa { .. } => KeyUsage::KEY_ENCIPHERMENT,
            PublicKey::Ecc { .. } => KeyUsage::KEY_AGREEMENT,
        };
        // Those of TPMs 1.2 have no keyUsage: what they are is said before that.
        if let Some(other) = self.extensions.specification.as_ref().filter(|stated| stated.family != "2.0") {
            let (family, level, revision) = (other.family.clone(), other.level, other.revision);
            return Err(EkRefusal::OtherTpm { family, level, revision });
        }
        // A leaf under a manufacturer's root that doesn't say what it is for is nobody's endorsement.
        if !self.extensions.usage.is_some_and(|usage| usage.has(bit)) {
            return Err(EkRefusal::NotAnEkCertificate);
        }
        if self.extensions.purposes.as_ref().is_some_and(|list| !list.contains(&EK_CERTIFICATE)) {
            return Err(EkRefusal::NotAnEkCertificate);
        }
        Ok(key)
    }

    /// The certificate is for an attestation key whose residency in a TPM the issuer saw: it says so by purpose or by policy. A certificate for
    /// the same key and another purpose says nothing of it.
    pub(super) fn require_attestation_key(&self) -> Result<&PublicKey, EkRefusal> {
        let key = self.key()?.known()?;
        let extensions = &self.extensions;
        let authority = extensions.constraints.is_some_and(|constraints| constraints.authority);
        let signs = extensions.usage.is_some_and(|usage| usage.has(KeyUsage::DIGITAL_SIGNATURE));
        let purpose = extensions.purposes.as_ref().map(|list| list.contains(&AIK_CERTIFICATE));
        let says_so = purpose.unwrap_or_else(|| self.asserts(&VERIFIED_RESTRICTED, false));
        if authority || !signs || !says_so { Err(EkRefusal::NotAnIakCertificate) } else { Ok(key) }
    }

    /// The certificate is for the key of a device (IDevID), and names the device. One that has the marks of an EK's or AK's certificate is none, nor
    /// is one that names purposes of which none is to show who one is.
    pub(super) fn require_device_key(&self) -> Result<(&PublicKey, DeviceNames), EkRefusal> {
        let key = self.key()?.known()?;
        let extensions = &self.extensions;
        let authority = extensions.constraints.is_some_and(|constraints| constraints.authority);
        // RFC 5280 §4.2.1.3: an end entity has no keyCertSign. IEEE 802.1AR, 8.10.2: digitalSignature.
        let signs = extensions.usage.is_some_and(|usage| {
            usage.has(KeyUsage::DIGITAL_SIGNATURE) && !usage.has(KeyUsage::KEY_CERT_SIGN)
        });
        let fits = extensions.purposes.as_ref().is_none_or(|list| {
            let of_tcg = |purpose: &ObjectIdentifier| purpose.parent() == Some(TCG_PURPOSES);
            !list.iter().any(of_tcg) && (list.contains(&CLIENT_AUTHENTICATION) || list.contains(&ANY_PURPOSE))
        });
        if authority || !signs || !fits || self.asserts(&VERIFIED_RESTRICTED, false) {
            return Err(EkRefusal::NotADeviceCertificate);
        }
        let names = device::names(&self.subject, extensions.alt_names.as_deref())?;
        Ok((key, names))
    }
}

/// Version, 1 to 3. RFC 5280 §4.1.2.1.
fn version(fields: &mut Elements<'_>) -> Result<(), EkRefusal> {
    let Some(content) = fields.optional(context(0))? else { return Ok(()) };
    let mut inner = Elements::of(content, "version");
    let number = inner.small()?;
    inner.finish()?;
    if number > 2 { Err(inner.malformed()) } else { Ok(()) }
}

/// Cuts what a place in NV memory adds: the header of a TPM 1.2, and padding, one byte over and over up to the size of the index. Which byte it
/// is differs by manufacturer (00, 11 and FF were seen); it is neither signed nor used.
fn unwrapped(bytes: &[u8]) -> Result<&[u8], EkRefusal> {
    let (bytes, stated) = match bytes {
        [0x10, 0x01, 0x00, high, low, 0x10, 0x02, ..] => {
            let stated = usize::from(u16::from_be_bytes([*high, *low]));
            (bytes.get(NV_HEADER_BYTES..).unwrap_or_default(), Some(stated))
        }
        _ => (bytes, None),
    };
    let certificate = Elements::of(bytes, "certificate").next()?.whole;
    // The stated size counts the tag behind it too.
    if stated.is_some_and(|stated| stated != certificate.len() + 2) {
        return Err(EkRefusal::Malformed("header of the NV index"));
    }
    let rest = bytes.get(certificate.len()..).unwrap_or_default();
    let same = rest.first().is_none_or(|first| rest.iter().all(|byte| byte == first));
    if same { Ok(certificate) } else { Err(EkRefusal::TrailingBytes(rest.len())) }
}
