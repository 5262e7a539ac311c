//! What the agent needs of a TPM, as a port: the host's own TPM behind it in service, a simulated one in tests.
//!
//! A device is opened with its keys (attestation, host, and endorsement unless the attestation key has a certificate of its own) ready, and is used by one thread. Every call either answers or says
//! whether it was the TPM that couldn't be used ([`DeviceFault::Unusable`], worth another try after opening anew) or what was asked of it
//! ([`DeviceFault::Refused`], never worth one).

use countersign_core::digest::Sha256Digest;
use countersign_tpm::quote::PcrSelectionSpec;
use zeroize::Zeroizing;

/// Why a TPM didn't do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceFault {
    /// The TPM, or the way to it, can't be used now.
    #[error("the TPM can't be used: {0}")]
    Unusable(String),
    /// The TPM works and says no.
    #[error("the TPM refuses: {0}")]
    Refused(String),
    /// The key blobs are of another TPM, or of this one before it was cleared.
    #[error("the stored keys don't belong to this TPM: {0}")]
    ForeignKeys(String),
    /// The initial attestation key of the configuration, or its certificate, isn't there.
    #[error("the configured attestation key can't be used: {0}")]
    Iak(String),
    /// The device's own key (IDevID) of the configuration, or its certificate, isn't there or isn't of its kind.
    #[error("the configured IDevID key can't be used: {0}")]
    Idevid(String),
}

/// What vouches for the attestation key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endorsed {
    /// The endorsement key of the same TPM, which names the host.
    ByEk {
        /// TPMT_PUBLIC.
        public: Vec<u8>,
        /// Its certificate as the manufacturer left it in NV, DER.
        certificate: Option<Vec<u8>>,
    },
    /// A certificate of the attestation key itself (an IAK), which then names the host.
    ByIak {
        /// DER, the key's own first, then those above it that lay beside it.
        certificates: Vec<Vec<u8>>,
    },
}

/// The machine's own key, by which its maker named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdevidKey {
    /// TPMT_PUBLIC.
    pub public: Vec<u8>,
    /// DER, the key's own first, then those above it that lay beside it.
    pub certificates: Vec<Vec<u8>>,
}

/// Public parts of a device's keys. They never change while a device is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceKeys {
    /// What vouches for the attestation key.
    pub endorsed: Endorsed,
    /// TPMT_PUBLIC of the attestation key.
    pub ak_public: Vec<u8>,
    /// TPMT_PUBLIC of the host key.
    pub host_key_public: Vec<u8>,
    /// The machine's own key, if one is configured.
    pub idevid: Option<IdevidKey>,
}

impl DeviceKeys {
    /// TPMT_PUBLIC of the key that names the host (PROTOCOL §2).
    #[must_use]
    pub fn naming_public(&self) -> &[u8] {
        match &self.endorsed {
            Endorsed::ByEk { public, .. } => public,
            Endorsed::ByIak { .. } => &self.ak_public,
        }
    }

    /// Whether these are the same keys, whatever certificates lie beside them.
    #[must_use]
    pub fn same_keys(&self, other: &Self) -> bool {
        let keys = |one: &Self| {
            let idevid = one.idevid.as_ref().map(|key| key.public.clone());
            (one.naming_public().to_vec(), one.ak_public.clone(), one.host_key_public.clone(), idevid)
        };
        keys(self) == keys(other)
    }
}

/// An attestation structure and the attestation key's signature over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// Exact TPMS_ATTEST bytes.
    pub attest: Vec<u8>,
    /// Exact TPMT_SIGNATURE bytes.
    pub signature: Vec<u8>,
}

/// A quote and the values that it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The quote.
    pub attested: Attested,
    /// PCR index and value, ascending.
    pub pcrs: Vec<(u32, Vec<u8>)>,
}

/// An open TPM whose keys are ready.
pub trait HostDevice {
    /// Public parts of its keys.
    fn keys(&self) -> &DeviceKeys;

    /// TPM2_Quote by the attestation key. The values are those that the quote covers.
    ///
    /// # Errors
    /// [`DeviceFault`].
    fn quote(
        &mut self,
        qualifying: &Sha256Digest,
        selection: &PcrSelectionSpec,
    ) -> Result<Quoted, DeviceFault>;

    /// TPM2_ActivateCredential for the attestation key; both arguments without the outer size.
    ///
    /// # Errors
    /// [`DeviceFault`].
    fn activate(
        &mut self,
        id_object: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, DeviceFault>;

    /// TPM2_Certify of the host key by the attestation key.
    ///
    /// # Errors
    /// [`DeviceFault`].
    fn certify_host_key(&mut self, qualifying: &Sha256Digest) -> Result<Attested, DeviceFault>;

    /// TPM2_Certify of the IDevID key by the attestation key.
    ///
    /// # Errors
    /// [`DeviceFault`].
    fn certify_idevid(&mut self, qualifying: &Sha256Digest) -> Result<Attested, DeviceFault>;

    /// TPMT_SIGNATURE by the IDevID key over a message.
    ///
    /// # Errors
    /// [`DeviceFault`].
    fn sign_with_idevid(&mut self, message: &[u8]) -> Result<Vec<u8>, DeviceFault>;

    /// ECDSA by the host key over a SHA-256 digest, as `r || s`.
    ///
    /// # Errors
    /// [`DeviceFault`].
    fn sign(&mut self, digest: &Sha256Digest) -> Result<[u8; 64], DeviceFault>;
}

/// Opens a TPM, again after it went away. Runs on the thread that owns the device.
pub trait OpenDevice: Send + 'static {
    /// Connects and makes the keys ready; keys that don't exist yet are made and kept.
    ///
    /// # Errors
    /// [`DeviceFault`].
    fn open(&mut self) -> Result<Box<dyn HostDevice>, DeviceFault>;
}
