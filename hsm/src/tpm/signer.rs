//! A signer whose key lives in a TPM.
//!
//! The connection is made anew when it was lost, once within a call; the keys are loaded again from their blobs. Custody is not what the
//! blob says about itself but what the TPM certifies: TPM2_Certify signs the Name of the loaded key, a digest over its attributes.
use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_core::key::{Algorithm, VerifyingKey};
use countersign_core::tuple::tuple_digest;
use countersign_tpm::certify::verify_certification;
use countersign_tpm::device::{Attested, HostTpm, KeyId};
use countersign_tpm::public::{Attributes, Public, require_host_key};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::shared::{Connection, SharedTpm};
use super::store::{BlobFile, Blobs};
use super::{TpmConfig, fault, reconnecting_helps};
use crate::signer::{bounded, release};
use crate::{Backend, Certification, CustodyEvidence, FaultClass, SignFault, Signature, Signer};

/// Qualifying data of a custody certification is `H(tag, SPKI of the certified key)`, so that anyone can compute it again.
const CUSTODY_TAG: &str = "countersign-v1:custody";

/// A P-256 key in a TPM, in custody when it was opened.
pub struct TpmSigner {
    shared: Arc<SharedTpm>,
    label: String,
    blobs: Blobs,
    public: VerifyingKey,
    loaded: Option<Loaded>,
}

/// The keys as the connection of one era knows them.
#[derive(Clone, Copy)]
struct Loaded {
    era: u64,
    attestation: KeyId,
    signing: KeyId,
}

/// What work on the TPM is given.
struct Open<'a> {
    tpm: &'a mut HostTpm,
    attestation: KeyId,
    signing: KeyId,
}

impl TpmSigner {
    /// Opens the key with this label and refuses one that is not in custody.
    ///
    /// # Errors
    /// `KeyMissing` without a blob or with one of another TPM, `CustodyIncomplete`, `TokenAbsent`, or another fault of the TPM.
    pub fn open(config: &TpmConfig, label: &str) -> Result<Self, SignFault> {
        let blobs = BlobFile::new(&config.state_dir, label)?.read()?;
        let public = verifying_key(&blobs.signing.parse_public().map_err(fault::of)?)?;
        let shared = SharedTpm::of(&config.tcti);
        let mut signer = Self { shared, label: label.to_owned(), blobs, public, loaded: None };
        signer.custody()?;
        Ok(signer)
    }

    /// Runs `work` on the open TPM; again over a new connection when that one was lost. A kernel device stays broken once it broke; the
    /// transport to swtpm connects for every command and so heals without this.
    fn run<T>(
        &mut self,
        mut work: impl FnMut(&mut Open<'_>) -> Result<T, SignFault>,
    ) -> Result<T, SignFault> {
        let shared = Arc::clone(&self.shared);
        let mut connection = shared.lock();
        let had_connection = connection.is_open();
        let result = self.attempt(&mut connection, &mut work);
        match &result {
            Err(fault) if had_connection && reconnecting_helps(fault.class()) => {
                tracing::debug!(code = fault.code(), "connecting to the TPM again: {fault}");
                self.attempt(&mut connection, &mut work)
            }
            _ => result,
        }
    }

    fn attempt<T>(
        &mut self,
        connection: &mut Connection,
        work: &mut impl FnMut(&mut Open<'_>) -> Result<T, SignFault>,
    ) -> Result<T, SignFault> {
        let (tpm, era) = connection.open()?;
        let result = self.load(tpm, era).and_then(|loaded| {
            work(&mut Open { tpm, attestation: loaded.attestation, signing: loaded.signing })
        });
        if result.as_ref().is_err_and(|fault| reconnecting_helps(fault.class())) {
            connection.drop_connection();
        }
        result
    }

    /// The keys, loaded once an era.
    fn load(&mut self, tpm: &mut HostTpm, era: u64) -> Result<Loaded, SignFault> {
        if let Some(loaded) = self.loaded.filter(|loaded| loaded.era == era) {
            return Ok(loaded);
        }
        let attestation = tpm.load(&self.blobs.attestation).map_err(fault::loading)?;
        let signing = tpm.load(&self.blobs.signing).map_err(fault::loading)?;
        let loaded = Loaded { era, attestation, signing };
        self.loaded = Some(loaded);
        Ok(loaded)
    }
}

/// The P-256 key of a public area that is fit to sign.
pub(super) fn verifying_key(public: &Public) -> Result<VerifyingKey, SignFault> {
    require_host_key(public).map_err(|refusal| {
        SignFault::new(FaultClass::CustodyIncomplete, "public area", refusal.to_string())
    })?;
    let unfit = || SignFault::new(FaultClass::Misconfigured, "public area", "not a P-256 key");
    let point = public.key().sec1().ok_or_else(unfit)?;
    VerifyingKey::from_raw(Algorithm::Es256, &point).map_err(|_| unfit())
}

impl Signer for TpmSigner {
    fn public_key(&self) -> &VerifyingKey {
        &self.public
    }

    fn sign(&mut self, message: &[u8]) -> Result<Signature, SignFault> {
        bounded(message)?;
        let digest: [u8; 32] = Sha256::digest(message).into();
        let signature = self.run(|open| open.tpm.sign_digest(open.signing, &digest).map_err(fault::of))?;
        release(&self.public, message, Signature::from_bytes(signature), "TPM2_Sign")
    }

    fn custody(&mut self) -> Result<CustodyEvidence, SignFault> {
        let extra = *tuple_digest(CUSTODY_TAG, &[&self.public.spki_der()]).as_bytes();
        let (attested, ak, key) = self.run(|open| {
            let attested = open.tpm.certify(open.signing, open.attestation, &extra).map_err(fault::of)?;
            let ak = open.tpm.public(open.attestation).map_err(fault::of)?.clone();
            let key = open.tpm.public(open.signing).map_err(fault::of)?.clone();
            Ok((attested, ak, key))
        })?;
        let Attested { attest, signature } = attested;
        let certified = verify_certification(&ak, &attest, &signature, &key, &extra).map_err(|refusal| {
            SignFault::new(FaultClass::CustodyIncomplete, "TPM2_Certify", refusal.to_string())
        })?;
        let mut attributes = attributes_of(certified.public());
        attributes.insert("label".to_owned(), self.label.clone());
        let certification = Some(Certification {
            attest,
            signature,
            ak_public: ak.bytes().to_vec(),
            key_public: key.bytes().to_vec(),
        });
        Ok(CustodyEvidence { backend: Backend::Tpm2, attributes, certification })
    }
}

/// TPM 2.0 Part 2, 8.3, by the specification's names.
fn attributes_of(public: &Public) -> BTreeMap<String, String> {
    let bits = [
        ("fixedTPM", Attributes::FIXED_TPM),
        ("fixedParent", Attributes::FIXED_PARENT),
        ("sensitiveDataOrigin", Attributes::SENSITIVE_DATA_ORIGIN),
        ("userWithAuth", Attributes::USER_WITH_AUTH),
        ("noDA", Attributes::NO_DA),
        ("restricted", Attributes::RESTRICTED),
        ("decrypt", Attributes::DECRYPT),
        ("sign", Attributes::SIGN),
    ];
    let told = bits.map(|(name, bit)| (name.to_owned(), public.attributes().has(bit).to_string()));
    let mut attributes = BTreeMap::from(told);
    attributes.insert("name".to_owned(), HEXLOWER.encode(public.name().as_bytes()));
    attributes
}
