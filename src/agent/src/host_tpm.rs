//! The host's own TPM behind the port of [`crate::device`].
//!
//! The endorsement key is the manufacturer's. The attestation key and the host key are made at the first opening and kept as blobs that only
//! this TPM can load; the blobs are written before either key is shown to anybody. With an initial attestation key, which the TPM keeps and an
//! issuer certified, there is no endorsement key in use, and only the host key is made. That one is kept apart, because a TPM that is known
//! by its endorsement key and by its initial attestation key is two hosts, which can't share a key.

use std::path::PathBuf;

use countersign_core::api::B64;
use countersign_core::digest::Sha256Digest;
use countersign_tpm::device::{DeviceError, EkProfile as Profile, ErrorClass, HostTpm, KeyBlob, KeyId};
use countersign_tpm::ek::split_certificates;
use countersign_tpm::public::{require_attestation_key, require_device_key};
use countersign_tpm::quote::PcrSelectionSpec;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::EkProfile;
use crate::device::{Attested, DeviceFault, DeviceKeys, Endorsed, HostDevice, IdevidKey, OpenDevice, Quoted};
use crate::state_dir::{StateDir, read_document, write_document};

const KEYS_FILE: &str = "keys.json";
const IAK_KEYS_FILE: &str = "iak-keys.json";

/// Key blobs as kept: encrypted by the TPM, useless elsewhere.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysDocument {
    ak: B64,
    host_key: B64,
}

/// The same beside an initial attestation key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IakKeysDocument {
    /// Name of the key that the host key was made beside.
    iak_name: B64,
    host_key: B64,
}

/// Where certificates of a key that the TPM keeps are.
#[derive(Clone, Debug)]
pub(crate) enum WhereCertified {
    /// At hand.
    Given(Vec<Vec<u8>>),
    /// In this NV index.
    Nv(u32),
}

/// Which keys the host goes by.
#[derive(Clone, Debug)]
pub(crate) enum KeysWanted {
    /// An endorsement key, and an attestation key of the agent's own.
    BesideEk(EkProfile),
    /// An attestation key that the TPM keeps.
    Iak { handle: u32, certificates: WhereCertified },
}

/// The machine's own key (IDevID), which the TPM keeps.
#[derive(Clone, Debug)]
pub(crate) struct IdevidWanted {
    pub(crate) handle: u32,
    pub(crate) certificates: WhereCertified,
}

/// Opens the TPM behind a TCTI address.
#[derive(Debug)]
pub(crate) struct HostTpmOpener {
    tcti: String,
    wanted: KeysWanted,
    idevid: Option<IdevidWanted>,
    keys: PathBuf,
}

impl HostTpmOpener {
    pub(crate) fn new(
        tcti: &str,
        wanted: KeysWanted,
        idevid: Option<IdevidWanted>,
        state: &StateDir,
    ) -> Self {
        let file = match wanted {
            KeysWanted::BesideEk(_) => KEYS_FILE,
            KeysWanted::Iak { .. } => IAK_KEYS_FILE,
        };
        Self { tcti: tcti.to_owned(), wanted, idevid, keys: state.file(file) }
    }

    fn blobs(&self, tpm: &mut HostTpm) -> Result<[KeyBlob; 2], DeviceFault> {
        let kept: Option<KeysDocument> = read_document(&self.keys).map_err(unusable)?;
        if let Some(kept) = kept {
            return Ok([blob(&kept.ak)?, blob(&kept.host_key)?]);
        }
        let ak = tpm.create_attestation_key().map_err(fault)?;
        let host_key = tpm.create_signing_key().map_err(fault)?;
        let document = KeysDocument { ak: kept_as(&ak)?, host_key: kept_as(&host_key)? };
        // Commit point: a crash before it leaves no keys and the next start makes others, which nobody knows yet either.
        write_document(&self.keys, &document).map_err(unusable)?;
        tracing::info!(file = %self.keys.display(), "made an attestation key and a host key in the TPM");
        Ok([ak, host_key])
    }

    fn host_key_beside(&self, tpm: &mut HostTpm, iak_name: &[u8]) -> Result<KeyBlob, DeviceFault> {
        let kept: Option<IakKeysDocument> = read_document(&self.keys).map_err(unusable)?;
        match kept {
            Some(kept) if kept.iak_name.0 == iak_name => blob(&kept.host_key),
            Some(_) => Err(DeviceFault::ForeignKeys(
                "the host key was made beside another attestation key".to_owned(),
            )),
            None => {
                let host_key = tpm.create_signing_key().map_err(fault)?;
                let document =
                    IakKeysDocument { iak_name: B64(iak_name.to_vec()), host_key: kept_as(&host_key)? };
                // Commit point: as above.
                write_document(&self.keys, &document).map_err(unusable)?;
                tracing::info!(file = %self.keys.display(), "made a host key in the TPM");
                Ok(host_key)
            }
        }
    }

    fn beside_ek(&self, mut tpm: HostTpm, profile: EkProfile) -> Result<OpenTpm, DeviceFault> {
        let profile = match profile {
            EkProfile::Rsa2048 => Profile::Rsa2048,
            EkProfile::P384 => Profile::P384,
            EkProfile::P256 => Profile::P256,
        };
        let [ak, host_key] = self.blobs(&mut tpm)?;
        let keys = DeviceKeys {
            endorsed: Endorsed::ByEk {
                public: tpm.ek_public(profile).map_err(fault)?.bytes().to_vec(),
                certificate: tpm.ek_certificate(profile).map_err(fault)?,
            },
            ak_public: ak.public().to_vec(),
            host_key_public: host_key.public().to_vec(),
            idevid: None,
        };
        let ak = tpm.load(&ak).map_err(foreign)?;
        let host_key = tpm.load(&host_key).map_err(foreign)?;
        Ok(OpenTpm { tpm, profile: Some(profile), ak, host_key, idevid: None, keys })
    }

    fn with_iak(
        &self,
        mut tpm: HostTpm,
        handle: u32,
        certificates: &WhereCertified,
    ) -> Result<OpenTpm, DeviceFault> {
        let iak = |error| kept(error, DeviceFault::Iak);
        let certificates = certificates_of(&mut tpm, certificates, DeviceFault::Iak)?;
        let ak = tpm.persistent(handle).map_err(iak)?;
        let public = tpm.public(ak).map_err(iak)?;
        require_attestation_key(public).map_err(|error| DeviceFault::Iak(error.to_string()))?;
        let (ak_public, name) = (public.bytes().to_vec(), public.name().as_bytes().to_vec());
        let host_key = self.host_key_beside(&mut tpm, &name)?;
        let keys = DeviceKeys {
            endorsed: Endorsed::ByIak { certificates },
            ak_public,
            host_key_public: host_key.public().to_vec(),
            idevid: None,
        };
        let host_key = tpm.load(&host_key).map_err(foreign)?;
        Ok(OpenTpm { tpm, profile: None, ak, host_key, idevid: None, keys })
    }
}

impl OpenTpm {
    /// With the machine's own key besides.
    fn named_by(mut self, wanted: &IdevidWanted) -> Result<Self, DeviceFault> {
        let idevid = |error| kept(error, DeviceFault::Idevid);
        let certificates = certificates_of(&mut self.tpm, &wanted.certificates, DeviceFault::Idevid)?;
        let key = self.tpm.persistent(wanted.handle).map_err(idevid)?;
        let public = self.tpm.public(key).map_err(idevid)?;
        require_device_key(public).map_err(|error| DeviceFault::Idevid(error.to_string()))?;
        self.keys.idevid = Some(IdevidKey { public: public.bytes().to_vec(), certificates });
        self.idevid = Some(key);
        Ok(self)
    }

    fn idevid(&self) -> Result<KeyId, DeviceFault> {
        self.idevid.ok_or_else(|| DeviceFault::Refused("no IDevID key is in use".to_owned()))
    }
}

/// The certificates of a key that the TPM keeps, its own first. `blamed` says whose they are.
fn certificates_of(
    tpm: &mut HostTpm,
    place: &WhereCertified,
    blamed: fn(String) -> DeviceFault,
) -> Result<Vec<Vec<u8>>, DeviceFault> {
    match place {
        WhereCertified::Given(certificates) => Ok(certificates.clone()),
        WhereCertified::Nv(index) => {
            let bytes = tpm.nv_certificate(*index).map_err(|error| kept(error, blamed))?;
            let none = || blamed(format!("no certificate in NV index 0x{index:08x}"));
            split_certificates(&bytes.ok_or_else(none)?)
                .map_err(|error| blamed(format!("NV index 0x{index:08x}: {error}")))
        }
    }
}

fn blob(bytes: &B64) -> Result<KeyBlob, DeviceFault> {
    KeyBlob::from_bytes(&bytes.0).map_err(|error| DeviceFault::ForeignKeys(error.to_string()))
}

fn kept_as(blob: &KeyBlob) -> Result<B64, DeviceFault> {
    blob.to_bytes().map(B64).map_err(unusable)
}

impl OpenDevice for HostTpmOpener {
    fn open(&mut self) -> Result<Box<dyn HostDevice>, DeviceFault> {
        let tpm = HostTpm::open(&self.tcti).map_err(fault)?;
        let open = match &self.wanted {
            KeysWanted::BesideEk(profile) => self.beside_ek(tpm, *profile),
            KeysWanted::Iak { handle, certificates } => self.with_iak(tpm, *handle, certificates),
        }?;
        Ok(Box::new(match &self.idevid {
            Some(wanted) => open.named_by(wanted)?,
            None => open,
        }))
    }
}

struct OpenTpm {
    tpm: HostTpm,
    /// Absent beside an initial attestation key.
    profile: Option<Profile>,
    ak: KeyId,
    host_key: KeyId,
    idevid: Option<KeyId>,
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
        let none = || DeviceFault::Refused("no endorsement key is in use".to_owned());
        let profile = self.profile.ok_or_else(none)?;
        let opened = self.tpm.activate_credential(profile, self.ak, id_object, encrypted_secret);
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

    fn certify_idevid(&mut self, qualifying: &Sha256Digest) -> Result<Attested, DeviceFault> {
        let key = self.idevid()?;
        let made = self.tpm.certify_device_key(key, self.ak, qualifying.as_bytes());
        let made = made.map_err(|error| kept(error, DeviceFault::Idevid))?;
        Ok(Attested { attest: made.attest, signature: made.signature })
    }

    fn sign_with_idevid(&mut self, message: &[u8]) -> Result<Vec<u8>, DeviceFault> {
        let key = self.idevid()?;
        self.tpm.sign_with_device_key(key, message).map_err(|error| kept(error, DeviceFault::Idevid))
    }

    fn sign(&mut self, digest: &Sha256Digest) -> Result<[u8; 64], DeviceFault> {
        self.tpm.sign_digest(self.host_key, digest.as_bytes()).map_err(fault)
    }
}

fn unusable(error: impl std::fmt::Display) -> DeviceFault {
    DeviceFault::Unusable(error.to_string())
}

fn fault(error: DeviceError) -> DeviceFault {
    match error.class() {
        ErrorClass::Full => unusable(format!(
            "{error}: other programs hold its memory; use a resource manager (/dev/tpmrm0), or flush what they left"
        )),
        _ => unusable(error),
    }
}

/// What the configuration names isn't there or isn't of its kind; a TPM that is busy or gone is another matter.
fn kept(error: DeviceError, blamed: fn(String) -> DeviceFault) -> DeviceFault {
    match error.class() {
        ErrorClass::Fatal | ErrorClass::Auth => blamed(error.to_string()),
        _ => fault(error),
    }
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
