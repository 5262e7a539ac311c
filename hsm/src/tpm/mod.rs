//! Keys in a TPM 2.0.
//!
//! In: the address of a TPM and a directory for key blobs, which only that TPM can load. Out: signers over P-256 whose keys were made in
//! the TPM and are fixed to it, and a certification of each key by an attestation key of the same TPM. Refused: a blob of another TPM, a
//! key whose attributes do not bind it to its TPM.
//!
//! Whoever reads a blob and reaches the TPM can sign: the directory is made for its owner alone, and the TPM device should be too. The
//! attestation key's own residency is shown by activating a credential for it, which is not done here; a third party who has not seen
//! that trusts whoever runs this process for it.
//!
//! A TPM signs 5 to 3,000 times a second. One signature covers a batch, so that is enough.
mod counter;
mod fault;
mod shared;
mod signer;
mod store;

use std::path::PathBuf;

pub use counter::{COUNTER_AUTH_BYTES, Counter};
pub use signer::TpmSigner;

use countersign_core::key::VerifyingKey;

use crate::{FaultClass, SignFault};

/// Where a TPM and its key blobs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmConfig {
    /// Address for the TPM software stack, such as `device:/dev/tpmrm0`.
    pub tcti: String,
    /// Directory of the key blobs, made when missing.
    pub state_dir: PathBuf,
}

/// Makes a P-256 signing key in the TPM, with an attestation key to certify it, and keeps both as one blob file under `label`: lower case
/// letters, digits and hyphens, at most 64. When it returns, the file is on the disk.
///
/// # Errors
/// `KeyExists` when the label is taken, `TokenAbsent`, `Misconfigured`, or another fault of the TPM.
pub fn generate(config: &TpmConfig, label: &str) -> Result<VerifyingKey, SignFault> {
    let file = store::BlobFile::new(&config.state_dir, label)?;
    file.require_free()?;
    let shared = shared::SharedTpm::of(&config.tcti);
    let mut connection = shared.lock();
    let (tpm, _) = connection.open()?;
    let attestation = tpm.create_attestation_key().map_err(fault::of)?;
    let signing = tpm.create_signing_key().map_err(fault::of)?;
    let public = signer::verifying_key(&signing.parse_public().map_err(fault::of)?)?;
    // A crash before this leaves nothing: the TPM keeps no key that was not made persistent.
    file.create(&store::Blobs { attestation, signing })?;
    Ok(public)
}

/// Removes the blob file of a key. The key is gone with the last copy of its blob; a TPM itself has nothing left to erase.
///
/// # Errors
/// `KeyMissing`, or `Misconfigured` when the file cannot be removed.
pub fn destroy(config: &TpmConfig, label: &str) -> Result<(), SignFault> {
    store::BlobFile::new(&config.state_dir, label)?.remove()
}

/// Whether a fault may come from a connection that is broken.
fn reconnecting_helps(class: FaultClass) -> bool {
    matches!(class, FaultClass::TokenAbsent | FaultClass::Retry)
}
