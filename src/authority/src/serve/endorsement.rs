//! Which TPMs enrol: those that a trusted manufacturer certified, of the one accepted kind; those on the allow-list; those whose attestation
//! key (IAK) a trusted issuer certified. And which machines have a name besides, by a certificate of a device's key (IDevID).
//!
//! Comes in: the configuration with its files, then keys and certificates of hosts. Goes out: [`Judged`], how a TPM is endorsed and what is known
//! of it from that. Refused at the start: files that could never serve. Refused later: keys that nothing vouches for, weak ones, old firmware.
//!
//! Files are read at the start and every ten minutes, never while a host waits; nothing is ever fetched from elsewhere.

use crate::config;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::device::{DeviceIdentity, HardwareName};
use countersign_core::leaf::host::{Endorsement, EndorsementKind, TpmModel};
use countersign_tpm::algorithm::EccCurve;
pub use countersign_tpm::ek::EkRefusal;
use countersign_tpm::ek::{
    BundleError, MAX_CRL_BYTES, TpmIdentity, TrustStore, bundled, has_roca_fingerprint, require_same_ak,
    require_same_device_key, require_same_key,
};
use countersign_tpm::key::PublicKey;
use countersign_tpm::public::Public;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of an RSA-2048 modulus.
const RSA_2048_BYTES: usize = 256;
/// The word that stands for all manufacturers.
const ALL_VENDORS: &str = "all";
/// Key of the floor for manufacturers that have none of their own.
const OTHER_VENDORS: &str = "*";

/// Why the endorsement rules can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// A file or directory that can't be read.
    #[error("{path}: {source}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A PEM file that can't be read.
    #[error("{path}: {source}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What was wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate that can't issue others, or a revocation list that can't serve.
    #[error("{path}: {source}")]
    Issuer {
        /// Which file.
        path: PathBuf,
        /// What was wrong.
        source: EkRefusal,
    },
    /// A directory, pipe or device where a file belongs: reading it could wait forever.
    #[error("{0}: not a file")]
    NotAFile(PathBuf),
    /// A file without certificates or revocation lists.
    #[error("{0}: nothing in it")]
    Empty(PathBuf),
    /// An allow-listed digest that isn't one.
    #[error("ek_allow: {0:?} isn't a SHA-256 digest")]
    Digest(String),
    /// A manufacturer that has no bundled certificates.
    #[error("ek_vendors: {0:?} isn't one of {1}")]
    Vendor(String, String),
    /// A policy that isn't an object identifier.
    #[error("{0}: {1:?} isn't an object identifier")]
    Policy(&'static str, String),
    /// The bundled certificates of this build.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Why a TPM may not enrol.
#[derive(Debug, thiserror::Error)]
pub enum EkRefused {
    /// The EK's certificate isn't good, or is another key's.
    #[error(transparent)]
    Chain(EkRefusal),
    /// The AK's certificate isn't good, or is another key's.
    #[error(transparent)]
    Iak(EkRefusal),
    /// It has no certificate and isn't on the allow-list.
    #[error("no EK certificate was sent and the EK isn't on the allow-list")]
    NotAllowed,
    /// It is of another kind than this deployment accepts, and isn't on the allow-list.
    #[error("the EK isn't of the accepted kind")]
    Profile,
    /// The RSA key has the fingerprint of CVE-2017-15361.
    #[error("the key was made by a generator that is known to be weak")]
    Weak,
}

/// Why a certificate doesn't name the machine.
#[derive(Debug, thiserror::Error)]
pub enum DeviceRefused {
    /// The certificate isn't good, or is another key's.
    #[error(transparent)]
    Certificate(EkRefusal),
    /// The RSA key has the fingerprint of CVE-2017-15361.
    #[error("the key was made by a generator that is known to be weak")]
    Weak,
}

/// What vouches for a TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The EK is on the allow-list and needs no join token.
    pub preregistered: bool,
    /// For the enrolment leaf.
    pub endorsement: Endorsement,
}

/// The deployment's endorsement rules.
#[derive(Debug)]
pub struct Endorsements {
    store: TrustStore,
    iak_store: TrustStore,
    device_store: TrustStore,
    allowed: BTreeSet<Sha256Digest>,
    profile: config::EkProfile,
    weak_keys: bool,
    floor: BTreeMap<String, u64>,
}

impl Endorsements {
    /// Reads and checks the files that the configuration names.
    ///
    /// # Errors
    /// [`RootsError`]: what could never serve is a mistake to be told at the start.
    pub fn load(enrolment: &config::Enrolment) -> Result<Self, RootsError> {
        let mut store = TrustStore::new();
        let mut iak_store = TrustStore::new();
        let mut device_store = TrustStore::new();
        add_bundled(&mut store, &enrolment.ek_vendors)?;
        for path in &enrolment.ek_roots {
            each_certificate(path, |der| store.add_root(der))?;
        }
        for path in &enrolment.iak_roots {
            each_certificate(path, |der| iak_store.add_root(der))?;
        }
        for path in &enrolment.idevid_roots {
            each_certificate(path, |der| device_store.add_root(der))?;
        }
        if let Some(directory) = &enrolment.ek_cache {
            add_cache(&mut [&mut store, &mut iak_store, &mut device_store], directory)?;
        }
        let demanded = [
            ("ek_policies", &mut store, &enrolment.ek_policies),
            ("iak_policies", &mut iak_store, &enrolment.iak_policies),
            ("idevid_policies", &mut device_store, &enrolment.idevid_policies),
        ];
        for (key, store, policies) in demanded {
            for policy in policies {
                store.demand_policy(policy).map_err(|_| RootsError::Policy(key, policy.clone()))?;
            }
        }
        if enrolment.ek_crl_required {
            store.require_crls();
            iak_store.require_crls();
            device_store.require_crls();
        }
        let allowed = enrolment
            .ek_allow
            .iter()
            .map(|text| Sha256Digest::from_hex(text).map_err(|_| RootsError::Digest(text.clone())));
        let floor = enrolment.firmware_floor.iter();
        // Versions were checked when the file was read; one that isn't a version is above every firmware.
        let floor =
            floor.map(|(vendor, text)| (vendor.clone(), config::firmware_version(text).unwrap_or(u64::MAX)));
        Ok(Self {
            allowed: allowed.collect::<Result<_, _>>()?,
            floor: floor.collect(),
            profile: enrolment.ek_profile,
            weak_keys: enrolment.danger_weak_keys,
            store,
            iak_store,
            device_store,
        })
    }

    /// Numbers of roots, intermediates and revocation lists for endorsement keys.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        self.store.counts()
    }

    /// Whether this endorsement key may enrol, and by what it is vouched for. A certificate of another key is refused in any case; one that
    /// doesn't chain to a root is as good as none for a key on the list.
    ///
    /// # Errors
    /// [`EkRefused`].
    pub fn judge(
        &self,
        ek: &Public,
        certificate: Option<&[u8]>,
        intermediates: &[Vec<u8>],
        now_secs: u64,
    ) -> Result<Judged, EkRefused> {
        let preregistered = self.allowed.contains(&sha256(&ek.spki_der()));
        let verified = match certificate {
            Some(der) => match self.store.verify_ek(der, intermediates, now_secs) {
                Ok(verified) => {
                    require_same_key(&verified, ek).map_err(EkRefused::Chain)?;
                    Some(verified)
                }
                Err(_) if preregistered => None,
                Err(refusal) => return Err(EkRefused::Chain(refusal)),
            },
            None if preregistered => None,
            None => return Err(EkRefused::NotAllowed),
        };
        if !preregistered && !self.accepts(ek.key()) {
            return Err(EkRefused::Profile);
        }
        let kind = match verified {
            Some(_) => EndorsementKind::EkCertificate,
            None => EndorsementKind::EkAllowed,
        };
        let tpm = verified.as_ref().and_then(|verified| verified.tpm());
        Ok(Judged { preregistered, endorsement: self.endorsement(kind, ek.key(), tpm)? })
    }

    /// Whether this attestation key may enrol by a certificate of its own. Its issuer vouches that the key is restricted and in a TPM, so no
    /// activation is needed; that the certificate is the key's is what makes it so.
    ///
    /// # Errors
    /// [`EkRefused`].
    pub fn judge_iak(
        &self,
        ak: &Public,
        certificate: &[u8],
        intermediates: &[Vec<u8>],
        now_secs: u64,
    ) -> Result<Judged, EkRefused> {
        let verified = self.iak_store.verify_iak(certificate, intermediates, now_secs);
        let verified = verified.map_err(EkRefused::Iak)?;
        require_same_ak(&verified, ak).map_err(EkRefused::Iak)?;
        let endorsement = self.endorsement(EndorsementKind::IakCertificate, ak.key(), verified.tpm())?;
        Ok(Judged { preregistered: false, endorsement })
    }

    /// Which machine a certificate of this key names. That the key is in a TPM at all is for others to show.
    ///
    /// # Errors
    /// [`DeviceRefused`]. Weak keys are refused whatever `danger_weak_keys` says: it lets TPMs in that can't have others, and an identity can be left out.
    pub fn judge_device(
        &self,
        key: &Public,
        certificate: &[u8],
        intermediates: &[Vec<u8>],
        now_secs: u64,
    ) -> Result<DeviceIdentity, DeviceRefused> {
        let verified = self.device_store.verify_device(certificate, intermediates, now_secs);
        let verified = verified.map_err(DeviceRefused::Certificate)?;
        require_same_device_key(&verified, key).map_err(DeviceRefused::Certificate)?;
        if matches!(key.key(), PublicKey::Rsa { n, .. } if has_roca_fingerprint(n)) {
            return Err(DeviceRefused::Weak);
        }
        // One certificate is one identity: what lies behind it in NV memory isn't sent along.
        if sha256(certificate).as_bytes() != verified.certificate_sha256() {
            return Err(DeviceRefused::Certificate(EkRefusal::Malformed("padding")));
        }
        let names = verified.names();
        let hardware = names
            .hardware
            .as_ref()
            .map(|module| HardwareName { kind: module.kind.clone(), serial: module.serial.clone() });
        let identity = DeviceIdentity {
            certificate: sha256(certificate),
            key: sha256(key.bytes()),
            serial: names.serial.clone(),
            hardware,
        };
        // The reader's bounds are the leaf's; a name that no leaf can hold names nobody.
        if identity.is_well_formed() {
            Ok(identity)
        } else {
            Err(DeviceRefused::Certificate(EkRefusal::NamesNoDevice))
        }
    }

    fn endorsement(
        &self,
        kind: EndorsementKind,
        key: &PublicKey,
        tpm: Option<&TpmIdentity>,
    ) -> Result<Endorsement, EkRefused> {
        let weak_key = matches!(key, PublicKey::Rsa { n, .. } if has_roca_fingerprint(n));
        if weak_key && !self.weak_keys {
            return Err(EkRefused::Weak);
        }
        let tpm = tpm.map(|tpm| TpmModel {
            manufacturer: tpm.manufacturer.clone(),
            model: tpm.model.clone(),
            version: tpm.version.clone(),
        });
        Ok(Endorsement { kind, weak_key, tpm, device: None })
    }

    /// Whether firmware of this version (TPMS_ATTEST.firmwareVersion) may enrol. The floor of a manufacturer is for its own; the one of all
    /// others is also for TPMs that no certificate describes.
    #[must_use]
    pub fn accepts_firmware(&self, endorsement: &Endorsement, version: u64) -> bool {
        let vendor = endorsement.tpm.as_ref().map_or(OTHER_VENDORS, |tpm| tpm.manufacturer.as_str());
        let floor = self.floor.get(vendor).or_else(|| self.floor.get(OTHER_VENDORS));
        floor.is_none_or(|floor| version >= *floor)
    }

    fn accepts(&self, key: &PublicKey) -> bool {
        match (self.profile, key) {
            (config::EkProfile::Rsa2048, PublicKey::Rsa { n, .. }) => n.len() == RSA_2048_BYTES,
            (config::EkProfile::P256, PublicKey::Ecc { curve, .. }) => *curve == EccCurve::P256,
            (config::EkProfile::P384, PublicKey::Ecc { curve, .. }) => *curve == EccCurve::P384,
            _ => false,
        }
    }
}

impl super::Authority {
    /// Reads the files of the endorsement rules again. What can't be read changes nothing; a revocation list that isn't renewed ends by itself.
    pub fn reload_endorsements(&self) {
        match Endorsements::load(&self.config.enrolment) {
            Ok(endorsements) => self.endorsements.store(Arc::new(endorsements)),
            Err(fault) => tracing::warn!(%fault, "endorsement files weren't read again"),
        }
    }
}

fn add_bundled(store: &mut TrustStore, vendors: &[String]) -> Result<(), RootsError> {
    if vendors.is_empty() {
        return Ok(());
    }
    let bundle = bundled()?;
    let known: BTreeSet<&str> = bundle.iter().map(|one| one.vendor).collect();
    if let Some(unknown) = vendors.iter().find(|name| *name != ALL_VENDORS && !known.contains(name.as_str()))
    {
        let known: Vec<_> = known.into_iter().collect();
        return Err(RootsError::Vendor(unknown.clone(), format!("{} and {ALL_VENDORS}", known.join(", "))));
    }
    let wanted = |vendor: &str| vendors.iter().any(|name| name == ALL_VENDORS || name == vendor);
    for one in bundle.iter().filter(|one| wanted(one.vendor)) {
        let put =
            if one.kind.is_trusted() { store.add_root(&one.der) } else { store.add_intermediate(&one.der) };
        put.map_err(|source| RootsError::Issuer { path: PathBuf::from(one.path), source })?;
    }
    Ok(())
}

/// Every certificate of a PEM file.
fn each_certificate(
    path: &Path,
    mut put: impl FnMut(&[u8]) -> Result<(), EkRefusal>,
) -> Result<(), RootsError> {
    let pem = |source| RootsError::Pem { path: path.to_owned(), source };
    let mut any = false;
    for der in CertificateDer::pem_file_iter(path).map_err(pem)? {
        put(&der.map_err(pem)?).map_err(|source| RootsError::Issuer { path: path.to_owned(), source })?;
        any = true;
    }
    if any { Ok(()) } else { Err(RootsError::Empty(path.to_owned())) }
}

/// Intermediates and revocation lists of a directory, its own files only, in the order of their names. Other files are passed over.
fn add_cache(stores: &mut [&mut TrustStore], directory: &Path) -> Result<(), RootsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RootsError::Read { path, source }
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed(directory))? {
        paths.push(entry.map_err(failed(directory))?.path());
    }
    paths.sort();
    for path in paths {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let list = match ending {
            "crl" => true,
            "pem" | "crt" | "cer" | "der" => false,
            _ => continue,
        };
        let found = std::fs::metadata(&path).map_err(failed(&path))?;
        if !found.is_file() {
            return Err(RootsError::NotAFile(path));
        }
        let size = found.len();
        // A list in PEM is a third longer.
        if size > u64::try_from(MAX_CRL_BYTES).unwrap_or(u64::MAX).saturating_mul(2) {
            return Err(RootsError::Issuer { path, source: EkRefusal::TooLong(MAX_CRL_BYTES) });
        }
        let bytes = std::fs::read(&path).map_err(failed(&path))?;
        let ders = ders(&path, bytes, list)?;
        for der in &ders {
            for store in stores.iter_mut() {
                let put = if list { store.add_crl(der) } else { store.add_intermediate(der) };
                put.map_err(|source| RootsError::Issuer { path: path.clone(), source })?;
            }
        }
        if ders.is_empty() {
            return Err(RootsError::Empty(path));
        }
    }
    Ok(())
}

/// What a file holds: one element in DER, or any number in PEM.
fn ders(path: &Path, bytes: Vec<u8>, list: bool) -> Result<Vec<Vec<u8>>, RootsError> {
    // DER begins with the tag of a SEQUENCE, which no text does.
    if bytes.first() == Some(&0x30) {
        return Ok(vec![bytes]);
    }
    let pem = |source| RootsError::Pem { path: path.to_owned(), source };
    if list {
        let each = CertificateRevocationListDer::pem_slice_iter(&bytes);
        each.map(|der| der.map(|der| der.to_vec()).map_err(pem)).collect()
    } else {
        let each = CertificateDer::pem_slice_iter(&bytes);
        each.map(|der| der.map(|der| der.to_vec()).map_err(pem)).collect()
    }
}

#[cfg(test)]
#[path = "endorsement_tests.rs"]
mod tests;
