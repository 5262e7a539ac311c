//! A simulated device whose faults a test drives.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use countersign_core::digest::Sha256Digest;
use countersign_tpm::quote::PcrSelectionSpec;
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use zeroize::Zeroizing;

use super::random;
use crate::device::{Attested, DeviceFault, DeviceKeys, Endorsed, HostDevice, OpenDevice, Quoted};

/// A TPM in memory, its boot, and switches for its faults.
pub(crate) struct SimulatedHost {
    pub(crate) tpm: Mutex<SimulatedTpm>,
    pub(crate) boot_log: Vec<u8>,
    pub(crate) opens: AtomicUsize,
    pub(crate) quotes: AtomicUsize,
    /// This many of the next operations fail as if the TPM were gone.
    pub(crate) failures: AtomicUsize,
    /// Whether opening fails.
    pub(crate) gone: AtomicBool,
    /// Set by a test to keep the TPM busy.
    pub(crate) busy: AtomicBool,
}

impl SimulatedHost {
    pub(crate) fn new() -> Arc<Self> {
        let mut tpm = SimulatedTpm::new(&mut random).unwrap();
        let boot = SimulatedBoot::new(&BootOptions::default());
        tpm.boot(&boot).unwrap();
        Arc::new(Self {
            tpm: Mutex::new(tpm),
            boot_log: boot.log().to_vec(),
            opens: AtomicUsize::new(0),
            quotes: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
            busy: AtomicBool::new(false),
        })
    }

    fn keys(&self) -> DeviceKeys {
        let tpm = self.tpm.lock().unwrap();
        DeviceKeys {
            endorsed: Endorsed::ByEk { public: tpm.ek_public_tpmt().to_vec(), certificate: None },
            ak_public: tpm.ak_public().bytes().to_vec(),
            host_key_public: tpm.host_public().bytes().to_vec(),
            idevid: None,
        }
    }
}

pub(crate) struct SimulatedOpener(pub(crate) Arc<SimulatedHost>);

impl OpenDevice for SimulatedOpener {
    fn open(&mut self) -> Result<Box<dyn HostDevice>, DeviceFault> {
        self.0.opens.fetch_add(1, Ordering::SeqCst);
        if self.0.gone.load(Ordering::SeqCst) {
            return Err(DeviceFault::Unusable("switched off".to_owned()));
        }
        Ok(Box::new(SimulatedDevice { host: Arc::clone(&self.0), keys: self.0.keys() }))
    }
}

struct SimulatedDevice {
    host: Arc<SimulatedHost>,
    keys: DeviceKeys,
}

impl SimulatedDevice {
    fn try_once(&self) -> Result<(), DeviceFault> {
        while self.host.busy.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let failures = &self.host.failures;
        if failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(DeviceFault::Unusable("connection lost".to_owned()));
        }
        Ok(())
    }
}

impl HostDevice for SimulatedDevice {
    fn keys(&self) -> &DeviceKeys {
        &self.keys
    }

    fn quote(
        &mut self,
        qualifying: &Sha256Digest,
        selection: &PcrSelectionSpec,
    ) -> Result<Quoted, DeviceFault> {
        self.try_once()?;
        self.host.quotes.fetch_add(1, Ordering::SeqCst);
        let tpm = self.host.tpm.lock().unwrap();
        let made = tpm.quote(qualifying.as_bytes(), selection).unwrap();
        let attested = Attested { attest: made.attest, signature: made.signature };
        Ok(Quoted { attested, pcrs: tpm.pcr_values(selection).unwrap() })
    }

    fn activate(
        &mut self,
        id_object: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, DeviceFault> {
        self.try_once()?;
        let tpm = self.host.tpm.lock().unwrap();
        let opened = tpm.activate_credential(id_object, encrypted_secret);
        opened.map(Zeroizing::new).map_err(|error| DeviceFault::Refused(error.to_string()))
    }

    fn certify_host_key(&mut self, qualifying: &Sha256Digest) -> Result<Attested, DeviceFault> {
        self.try_once()?;
        let made = self.host.tpm.lock().unwrap().certify_host_key(qualifying.as_bytes()).unwrap();
        Ok(Attested { attest: made.attest, signature: made.signature })
    }

    fn certify_idevid(&mut self, _: &Sha256Digest) -> Result<Attested, DeviceFault> {
        Err(DeviceFault::Refused("no IDevID key".to_owned()))
    }

    fn sign_with_idevid(&mut self, _: &[u8]) -> Result<Vec<u8>, DeviceFault> {
        Err(DeviceFault::Refused("no IDevID key".to_owned()))
    }

    fn sign(&mut self, digest: &Sha256Digest) -> Result<[u8; 64], DeviceFault> {
        use p256::ecdsa::signature::hazmat::PrehashSigner as _;
        self.try_once()?;
        let tpm = self.host.tpm.lock().unwrap();
        let signature: p256::ecdsa::Signature =
            tpm.host_signing_key().sign_prehash(digest.as_bytes()).unwrap();
        Ok(signature.to_bytes().into())
    }
}
