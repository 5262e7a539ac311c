//! What an operator trusts: roots, the intermediates and revocation lists that are at hand, and what is demanded of paths.
//!
//! Comes in: DER, read once. Goes out: [`TrustStore`], which judges certificates again and again without reading its own. Refused when it is put
//! in: what could never serve, since in an operator's directory that is a mistake to be told.

use super::certificate::{AIK_CERTIFICATE, CLIENT_AUTHENTICATION, Certificate, EK_CERTIFICATE};
use super::crl::Crl;
use super::path::{self, Question};
use super::{EkRefusal, MAX_INTERMEDIATES, VerifiedDevice, VerifiedEk, VerifiedIak};
use der::asn1::ObjectIdentifier;

/// Most certificates of a store. The bundled ones are some two hundred.
pub const MAX_STORE_CERTIFICATES: usize = 4_096;
/// Most revocation lists of a store.
pub const MAX_STORE_CRLS: usize = 1_024;

/// Roots, intermediates, revocation lists, demands.
#[derive(Clone, Debug, Default)]
pub struct TrustStore {
    roots: Vec<Certificate>,
    intermediates: Vec<Certificate>,
    crls: Vec<Crl>,
    policies: Vec<ObjectIdentifier>,
    crl_required: bool,
}

impl TrustStore {
    /// Trusts nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts what this certificate issues, whoever issued it.
    ///
    /// # Errors
    /// [`EkRefusal`] if it can't issue anything, or the store is full.
    pub fn add_root(&mut self, der: &[u8]) -> Result<(), EkRefusal> {
        let root = usable(der)?;
        Self::put(&mut self.roots, root)
    }

    /// Knows an issuer, without trusting it.
    ///
    /// # Errors
    /// As [`TrustStore::add_root`].
    pub fn add_intermediate(&mut self, der: &[u8]) -> Result<(), EkRefusal> {
        let issuer = usable(der)?;
        Self::put(&mut self.intermediates, issuer)
    }

    fn put(list: &mut Vec<Certificate>, certificate: Certificate) -> Result<(), EkRefusal> {
        if list.iter().any(|known| known.sha256() == certificate.sha256()) {
            return Ok(());
        }
        if list.len() >= MAX_STORE_CERTIFICATES {
            return Err(EkRefusal::StoreFull);
        }
        list.push(certificate);
        Ok(())
    }

    /// Knows a revocation list. Its signature is verified when its issuer is on a path.
    ///
    /// # Errors
    /// [`EkRefusal`] if it can't be read or doesn't speak for all certificates of its issuer, or the store is full.
    pub fn add_crl(&mut self, der: &[u8]) -> Result<(), EkRefusal> {
        let list = Crl::parse(der)?;
        if self.crls.len() >= MAX_STORE_CRLS {
            return Err(EkRefusal::StoreFull);
        }
        self.crls.push(list);
        Ok(())
    }

    /// From now on every link needs a current revocation list.
    pub const fn require_crls(&mut self) {
        self.crl_required = true;
    }

    /// From now on a path must assert this policy, or another that is demanded.
    ///
    /// # Errors
    /// [`EkRefusal::Malformed`] if it isn't a dotted object identifier.
    pub fn demand_policy(&mut self, dotted: &str) -> Result<(), EkRefusal> {
        let policy = ObjectIdentifier::new(dotted).map_err(|_| EkRefusal::Malformed("policy identifier"))?;
        self.policies.push(policy);
        Ok(())
    }

    pub(super) fn roots(&self) -> &[Certificate] {
        &self.roots
    }

    pub(super) fn intermediates(&self) -> &[Certificate] {
        &self.intermediates
    }

    pub(super) fn revocation_lists(&self) -> &[Crl] {
        &self.crls
    }

    pub(super) fn policies(&self) -> &[ObjectIdentifier] {
        &self.policies
    }

    pub(super) const fn requires_revocation_lists(&self) -> bool {
        self.crl_required
    }

    /// Numbers of roots, intermediates and revocation lists.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.roots.len(), self.intermediates.len(), self.crls.len())
    }

    /// Judges an EK certificate, as it lies in NV memory, at a time. `sent` are issuers that the host offers; those that can't be read never
    /// match.
    ///
    /// # Errors
    /// [`EkRefusal`].
    pub fn verify_ek(
        &self,
        certificate: &[u8],
        sent: &[Vec<u8>],
        now_unix_secs: u64,
    ) -> Result<VerifiedEk, EkRefusal> {
        let leaf = Certificate::parse(certificate)?;
        let key = leaf.require_endorsement_key()?.clone();
        let chain = self.chain(&leaf, sent, EK_CERTIFICATE, now_unix_secs)?;
        Ok(VerifiedEk { key, certificate_sha256: *leaf.sha256(), chain, tpm: leaf.extensions().tpm.clone() })
    }

    /// Judges the certificate of an attestation key whose residency its issuer saw (TPM 2.0 Keys for Device Identity and Attestation).
    ///
    /// # Errors
    /// [`EkRefusal`].
    pub fn verify_iak(
        &self,
        certificate: &[u8],
        sent: &[Vec<u8>],
        now_unix_secs: u64,
    ) -> Result<VerifiedIak, EkRefusal> {
        let leaf = Certificate::parse(certificate)?;
        let key = leaf.require_attestation_key()?.clone();
        let chain = self.chain(&leaf, sent, AIK_CERTIFICATE, now_unix_secs)?;
        Ok(VerifiedIak {
            key,
            certificate_sha256: *leaf.sha256(),
            chain,
            tpm: leaf.extensions().tpm.clone(),
            subject: leaf.subject().to_string(),
        })
    }

    /// Judges the certificate of a device's key (IDevID) at a time.
    ///
    /// # Errors
    /// [`EkRefusal`].
    pub fn verify_device(
        &self,
        certificate: &[u8],
        sent: &[Vec<u8>],
        now_unix_secs: u64,
    ) -> Result<VerifiedDevice, EkRefusal> {
        let leaf = Certificate::parse(certificate)?;
        let (key, names) = leaf.require_device_key()?;
        let chain = self.chain(&leaf, sent, CLIENT_AUTHENTICATION, now_unix_secs)?;
        Ok(VerifiedDevice { key: key.clone(), certificate_sha256: *leaf.sha256(), chain, names })
    }

    /// The issuers of an issuer's certificate up to a root, as SHA-256 of each: whether the store's own certificates belong together.
    ///
    /// # Errors
    /// [`EkRefusal`].
    pub fn find_issuers(&self, issuer: &[u8], now_unix_secs: u64) -> Result<Vec<[u8; 32]>, EkRefusal> {
        self.chain(&usable(issuer)?, &[], EK_CERTIFICATE, now_unix_secs)
    }

    fn chain(
        &self,
        leaf: &Certificate,
        sent: &[Vec<u8>],
        purpose: ObjectIdentifier,
        now_unix_secs: u64,
    ) -> Result<Vec<[u8; 32]>, EkRefusal> {
        if sent.len() > MAX_INTERMEDIATES {
            return Err(EkRefusal::TooManyIntermediates(sent.len()));
        }
        let sent: Vec<_> = sent.iter().filter_map(|der| Certificate::parse(der).ok()).collect();
        let question = Question { store: self, sent: &sent, purpose, now_unix_secs };
        let path = path::build(leaf, &question)?;
        Ok(path.iter().map(|issuer| *issuer.sha256()).collect())
    }
}

fn usable(der: &[u8]) -> Result<Certificate, EkRefusal> {
    let certificate = Certificate::parse(der)?;
    certificate.require_authority(0)?;
    certificate.key()?;
    Ok(certificate)
}

/// What a certificate of an issuer says of itself, for lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
    /// Subject, as text.
    pub subject: String,
    /// Issuer, as text.
    pub issuer: String,
    /// Kind of key.
    pub key: String,
    /// Seconds since the Unix epoch.
    pub not_before: u64,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
    /// Its own key signed it, with an algorithm that is accepted.
    pub self_signed: bool,
    /// Subject and issuer are the same.
    pub self_issued: bool,
}

/// Reads a certificate of an issuer. Dates are not looked at.
///
/// # Errors
/// [`EkRefusal`] if it can't issue anything.
pub fn describe_issuer(der: &[u8]) -> Result<Issuer, EkRefusal> {
    let certificate = usable(der)?;
    let (not_before, not_after) = certificate.validity();
    Ok(Issuer {
        sha256: *certificate.sha256(),
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        key: certificate.key()?.describe(),
        not_before,
        not_after,
        self_signed: certificate.is_self_signed(),
        self_issued: certificate.is_self_issued(),
    })
}
