//! Which endorsement keys enrol: those that a trusted manufacturer certified, of the one accepted kind, and those on the allow-list.

use crate::config;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_tpm::algorithm::EccCurve;
pub use countersign_tpm::ek::EkRefusal;
use countersign_tpm::ek::{check_issuer, require_same_key, verify_ek_chain};
use countersign_tpm::key::PublicKey;
use countersign_tpm::public::Public;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Bytes of an RSA-2048 modulus.
const RSA_2048_BYTES: usize = 256;

/// Why the roots of manufacturers can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// A PEM file that can't be read.
    #[error("{path}: {source}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What was wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate that can't issue others.
    #[error("{path}: {source}")]
    Issuer {
        /// Which file.
        path: PathBuf,
        /// What was wrong.
        source: EkRefusal,
    },
    /// A file without certificates.
    #[error("{0}: no certificate in it")]
    Empty(PathBuf),
    /// An allow-listed digest that isn't one.
    #[error("ek_allow: {0:?} isn't a SHA-256 digest")]
    Digest(String),
}

/// Why an endorsement key may not enrol.
#[derive(Debug, thiserror::Error)]
pub enum EkRefused {
    /// Its certificate isn't good, or is another key's.
    #[error(transparent)]
    Chain(EkRefusal),
    /// It has no certificate and isn't on the allow-list.
    #[error("no EK certificate was sent and the EK isn't on the allow-list")]
    NotAllowed,
    /// It is of another kind than this deployment accepts, and isn't on the allow-list.
    #[error("the EK isn't of the accepted kind")]
    Profile,
}

/// What vouches for an endorsement key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endorsement {
    /// It is on the allow-list and needs no join token.
    pub preregistered: bool,
    /// A trusted manufacturer certified it.
    pub certified: bool,
}

/// The deployment's endorsement rules.
#[derive(Debug)]
pub struct Endorsements {
    roots: Vec<Vec<u8>>,
    allowed: BTreeSet<Sha256Digest>,
    profile: config::EkProfile,
}

impl Endorsements {
    /// Reads and checks the roots.
    ///
    /// # Errors
    /// [`RootsError`]: a root that could never match anything is a mistake to be told at the start.
    pub fn load(enrolment: &config::Enrolment) -> Result<Self, RootsError> {
        let mut roots = Vec::new();
        for path in &enrolment.ek_roots {
            let pem = |source| RootsError::Pem { path: path.clone(), source };
            let before = roots.len();
            for der in CertificateDer::pem_file_iter(path).map_err(pem)? {
                let der = der.map_err(pem)?;
                check_issuer(&der).map_err(|source| RootsError::Issuer { path: path.clone(), source })?;
                roots.push(der.to_vec());
            }
            if roots.len() == before {
                return Err(RootsError::Empty(path.clone()));
            }
        }
        let allowed = enrolment
            .ek_allow
            .iter()
            .map(|text| Sha256Digest::from_hex(text).map_err(|_| RootsError::Digest(text.clone())));
        let allowed = allowed.collect::<Result<_, _>>()?;
        Ok(Self { roots, allowed, profile: enrolment.ek_profile })
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
    ) -> Result<Endorsement, EkRefused> {
        let preregistered = self.allowed.contains(&sha256(&ek.spki_der()));
        let certified = match certificate {
            Some(der) => match verify_ek_chain(der, intermediates, &self.roots, now_secs) {
                Ok(verified) => {
                    require_same_key(&verified, ek).map_err(EkRefused::Chain)?;
                    true
                }
                Err(_) if preregistered => false,
                Err(refusal) => return Err(EkRefused::Chain(refusal)),
            },
            None if preregistered => false,
            None => return Err(EkRefused::NotAllowed),
        };
        if preregistered || self.accepts(ek.key()) {
            Ok(Endorsement { preregistered, certified })
        } else {
            Err(EkRefused::Profile)
        }
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
