//! A counter that only rises, in the TPM: what a disk that was rolled back doesn't take along.
//!
//! In: the address of a TPM, an NV index, the index's authorization value. Out: the counter's value. Refused: an index that isn't there, isn't
//! a counter or has another authorization value. The connection is shared with the signers of the same TPM, and made anew when it was lost.

use std::sync::Arc;

use countersign_tpm::device::{CounterIndex, DeviceError, HostTpm};

use super::shared::SharedTpm;
use super::{fault, reconnecting_helps};
use crate::SignFault;

/// Bytes of an authorization value.
pub const COUNTER_AUTH_BYTES: usize = countersign_tpm::device::COUNTER_AUTH_BYTES;

/// A counter of one TPM.
#[derive(Clone, Debug)]
pub struct Counter {
    shared: Arc<SharedTpm>,
    at: CounterIndex,
}

impl Counter {
    /// Names a counter; nothing is opened yet.
    #[must_use]
    pub fn new(tcti: &str, index: u32, auth: [u8; COUNTER_AUTH_BYTES]) -> Self {
        Self { shared: SharedTpm::of(tcti), at: CounterIndex { index, auth } }
    }

    /// Makes it. It has no value before it is raised.
    ///
    /// # Errors
    /// A fault of the TPM; `Misconfigured` if the index is taken.
    pub fn define(&self) -> Result<(), SignFault> {
        self.run(|tpm, at| tpm.define_counter(at))
    }

    /// Removes it.
    ///
    /// # Errors
    /// A fault of the TPM; `KeyMissing` if there is none.
    pub fn undefine(&self) -> Result<(), SignFault> {
        self.run(|tpm, at| tpm.undefine_counter(at.index))
    }

    /// Its value; none if it was never raised.
    ///
    /// # Errors
    /// A fault of the TPM; `KeyMissing` if there is none.
    pub fn value(&self) -> Result<Option<u64>, SignFault> {
        self.run(|tpm, at| tpm.read_counter(at))
    }

    /// Raises it by one; its value afterwards. Not repeated over a new connection: whether it was raised is unknown then, and the caller reads it.
    ///
    /// # Errors
    /// A fault of the TPM; `KeyMissing` if there is none.
    pub fn raise(&self) -> Result<u64, SignFault> {
        self.once(|tpm, at| tpm.raise_counter(at))
    }

    fn run<T>(
        &self,
        mut work: impl FnMut(&mut HostTpm, &CounterIndex) -> Result<T, DeviceError>,
    ) -> Result<T, SignFault> {
        match self.once(&mut work) {
            Err(fault) if reconnecting_helps(fault.class()) => self.once(work),
            result => result,
        }
    }

    fn once<T>(
        &self,
        work: impl FnOnce(&mut HostTpm, &CounterIndex) -> Result<T, DeviceError>,
    ) -> Result<T, SignFault> {
        let mut connection = self.shared.lock();
        let (tpm, _) = connection.open()?;
        let result = work(tpm, &self.at).map_err(fault::of);
        if result.as_ref().is_err_and(|fault| reconnecting_helps(fault.class())) {
            connection.drop_connection();
        }
        result
    }
}
