//! The host's own TPM behind the port of [`crate::device`].
//!
//! The endorsement key is the manufacturer's. The attestation key and the host key are made at the first opening and kept as blobs that only
//! this TPM can load; the blobs are written before either key is shown to anybody.

use std::path::PathBuf;

use countersign_core::api::B64;
use countersign_core::digest::Sha256Digest;
use countersign_tpm::device::{DeviceError, EkProfile as Profile, ErrorClass, HostTpm, KeyBlob, KeyId};
use countersign_tpm::quote::PcrSelectionSpec;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::EkProfile;
use crate::device::{Attested, DeviceFault, DeviceKeys, HostDevice, OpenDevice, Quoted};
use crate::state_dir::{StateDir, read_document, write_document};

const KEYS_FILE: &str = "keys.json";

/// Key blobs as kept: encrypted by the TPM, useless elsewhere.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysDocument {
    ak: B64,
    host_key: B64,
}

/// Opens the TPM behind a TCTI address.
#[derive(Debug)]
pub(crate) struct HostTpmOpener {
    tcti: String,
    profile: Profile,
    keys: PathBuf,
}

impl HostTpmOpener {
    pub(crate) fn new(tcti: &str, profile: EkProfile, state: &StateDir) -> Self {
        let profile = match profile {
            EkProfile::Rsa2048 => Profile::Rsa2048,
            EkProfile::P384 => Profile::P384,
            EkProfile::P256 => Profile::P256,
        };
        Self { tcti: tcti.to_owned(), profile, keys: state.file(KEYS_FILE) }
    }

    fn blobs(&self, tpm: &mut HostTpm) -> Result<[KeyBlob; 2], DeviceFault> {
        let kept: Option<KeysDocument> = read_document(&self.keys).map_err(unusable)?;
        if let Some(kept) = kept {
            let blob = |bytes: B64| {
                KeyBlob::from_bytes(&bytes.0).map_err(|error| DeviceFault::ForeignKeys(error.to_string()))
            };
            return Ok([blob(kept.ak)?, blob(kept.host_key)?]);
        }
        let ak = tpm.create_attestation_key().map_err(fault)?;
        let host_key = tpm.create_signing_key().map_err(fault)?;
        let bytes = |blob: &KeyBlob| blob.to_bytes().map(B64).map_err(unusable);
        let document = KeysDocument { ak: bytes(&ak)?, host_key: bytes(&host_key)? };
        // Commit point: a crash before it leaves no keys and the next start makes others, which nobody knows yet either.
        write_document(&self.keys, &document).map_err(unusable)?;
        tracing::info!(file = %self.keys.display(), "made an attestation key and a host key in the TPM");
        Ok([ak, host_key])
    }
}

impl OpenDevice for HostTpmOpener {
    fn open(&mut self) -> Result<Box<dyn HostDevice>, DeviceFault> {
        let mut tpm = HostTpm::open(&self.tcti).map_err(fault)?;
        let [ak, host_key] = self.blobs(&mut tpm)?;
        let keys = DeviceKeys {
            ek_public: tpm.ek_public(self.profile).map_err(fault)?.bytes().to_vec(),
            ek_certificate: tpm.ek_certificate(self.profile).map_err(fault)?,
            ak_public: ak.public().to_vec(),
            host_key_public: host_key.public().to_vec(),
        };
        let ak = tpm.load(&ak).map_err(foreign)?;
        let host_key = tpm.load(&host_key).map_err(foreign)?;
        Ok(Box::new(OpenTpm { tpm, profile: self.profile, ak, host_key, keys }))
    }
}

struct OpenTpm {
    tpm: HostTpm,
    profile: Profile,
    ak: KeyId,
    host_key: KeyId,
    keys: DeviceKeys,
}

impl HostDevice for OpenTpm {
    fn keys(&self) -> &DeviceKeys {
        &self.keys
    }

    fn quote(
        &mut self,
        qualifying: &Sha256Digest,
        selection: &PcrSelectionSpec,
    ) -> Result<Quoted, DeviceFault> {
        let made = self.tpm.quote_with_values(self.ak, qualifying.as_bytes(), selection).map_err(
            |error| match error {
                // The authority asks for a bank or a register that this TPM doesn't have: opening it anew won't help.
                DeviceError::NoSuchPcr(_) => DeviceFault::Refused(error.to_string()),
                error => fault(error),
            },
        )?;
        let attested = Attested { attest: made.attest, signature: made.signature };
        Ok(Quoted { attested, pcrs: made.pcr_values })
    }

    fn activate(
        &mut self,
        id_object: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, DeviceFault> {
        let opened = self.tpm.activate_credential(self.profile, self.ak, id_object, encrypted_secret);
        opened.map_err(|error| match error.class() {
            // TPM_RC_INTEGRITY and the like: the credential isn't for this TPM and this key.
            ErrorClass::Fatal => DeviceFault::Refused(error.to_string()),
            _ => fault(error),
        })
    }

    fn certify_host_key(&mut self, qualifying: &Sha256Digest) -> Result<Attested, DeviceFault> {
        let made = self.tpm.certify(self.host_key, self.ak, qualifying.as_bytes()).map_err(fault)?;
        Ok(Attested { attest: made.attest, signature: made.signature })
    }

    fn sign(&mut self, digest: &Sha256Digest) -> Result<[u8; 64], DeviceFault> {
        self.tpm.sign_digest(self.host_key, digest.as_bytes()).map_err(fault)
    }
}

fn unusable(error: impl std::fmt::Display) -> DeviceFault {
    DeviceFault::Unusable(error.to_string())
}

fn fault(error: DeviceError) -> DeviceFault {
    unusable(error)
}

/// A blob that loads nowhere but in its own TPM, and not even there after TPM2_Clear.
fn foreign(error: DeviceError) -> DeviceFault {
    match error.class() {
        ErrorClass::Fatal => DeviceFault::ForeignKeys(error.to_string()),
        _ => fault(error),
    }
}

#[cfg(test)]
#[path = "host_tpm_tests.rs"]
mod tests;
