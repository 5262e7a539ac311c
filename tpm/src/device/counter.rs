//! A counter in NV memory that only rises. TPM 2.0 Part 1, 37.2.4; Part 3, 31.8.
//!
//! Comes in: an NV index of the owner's range and the index's own authorization value. Goes out: its value. Refused: an index that is
//! taken when it is to be made, one that isn't there, isn't a counter, or has another authorization value.
//!
//! A counter can't be set back, not even by undefining it and making it anew: a TPM begins each new counter above every one that it ever
//! had. NV memory wears; whoever raises a counter does so a few times a day.

use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::constants::NvIndexType;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::structures::{Auth, NvPublicBuilder};

use super::{DeviceError, HostTpm};

/// Bytes of an authorization value: as many as the index's name algorithm, SHA-256, makes.
pub const COUNTER_AUTH_BYTES: usize = 32;
/// TPM 2.0 Part 2, 13.4: a counter is a UINT64.
const COUNTER_BYTES: u16 = 8;

/// A counter of this TPM: where it is and what allows its use.
#[derive(Clone, PartialEq, Eq)]
pub struct CounterIndex {
    /// NV index, `0x01800000` to `0x01bfffff`: the owner's range (TCG Registry of Reserved TPM 2.0 Handles, 2.2).
    pub index: u32,
    /// Authorization value.
    pub auth: [u8; COUNTER_AUTH_BYTES],
}

impl HostTpm {
    /// Makes a counter, which has no value before it is raised for the first time. The owner hierarchy must be open.
    pub fn define_counter(&mut self, counter: &CounterIndex) -> Result<(), DeviceError> {
        let at = nv_index(counter.index)?;
        if let Some(taken) = self.lookup(TpmHandle::NvIndex(at))? {
            self.close(taken);
            return Err(DeviceError::IndexTaken(counter.index));
        }
        let built = |error| DeviceError::tss("NV index", error);
        let attributes = NvIndexAttributesBuilder::new()
            .with_nv_index_type(NvIndexType::Counter)
            .with_auth_read(true)
            .with_auth_write(true)
            .with_no_da(true)
            .build()
            .map_err(built)?;
        let public = NvPublicBuilder::new()
            .with_nv_index(at)
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(attributes)
            .with_data_area_size(usize::from(COUNTER_BYTES))
            .build()
            .map_err(built)?;
        let auth = authorization(counter)?;
        let made = self.call("NV_DefineSpace", |context| {
            context.nv_define_space(Provision::Owner, Some(auth.clone()), public.clone())
        })?;
        self.close(made.into());
        Ok(())
    }

    /// Removes a counter. The owner hierarchy must be open.
    pub fn undefine_counter(&mut self, index: u32) -> Result<(), DeviceError> {
        let at = nv_index(index)?;
        let found = self.lookup(TpmHandle::NvIndex(at))?.ok_or(DeviceError::NoSuchIndex(index))?;
        self.call("NV_UndefineSpace", |context| {
            context.nv_undefine_space(Provision::Owner, NvIndexHandle::from(found))
        })
    }

    /// The counter's value; none if it was never raised (TPMA_NV_WRITTEN is clear, which only the TPM can set, and nobody can take back).
    pub fn read_counter(&mut self, counter: &CounterIndex) -> Result<Option<u64>, DeviceError> {
        self.with_counter(counter, |tpm, handle, was_raised| {
            was_raised.then(|| tpm.value_of(handle)).transpose()
        })
    }

    /// Raises the counter by one; its value afterwards.
    pub fn raise_counter(&mut self, counter: &CounterIndex) -> Result<u64, DeviceError> {
        self.with_counter(counter, |tpm, handle, _| {
            tpm.call("NV_Increment", |context| context.nv_increment(NvAuth::NvIndex(handle), handle))?;
            tpm.value_of(handle)
        })
    }

    fn with_counter<T>(
        &mut self,
        counter: &CounterIndex,
        body: impl FnOnce(&mut Self, NvIndexHandle, bool) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        let at = nv_index(counter.index)?;
        let found = self.lookup(TpmHandle::NvIndex(at))?.ok_or(DeviceError::NoSuchIndex(counter.index))?;
        let handle = NvIndexHandle::from(found);
        let auth = authorization(counter)?;
        let allowed = self.call_with("authorization of an NV index", (None, None, None), |context| {
            context.tr_set_auth(found, auth.clone())
        });
        let result = allowed
            .and_then(|()| self.require_counter(handle))
            .and_then(|was_raised| body(self, handle, was_raised));
        self.close(found);
        result
    }

    /// An ordinary index could be written back to any value. Whether this counter was ever raised.
    fn require_counter(&mut self, handle: NvIndexHandle) -> Result<bool, DeviceError> {
        let none = (None, None, None);
        let (public, _) = self.call_with("NV_ReadPublic", none, |context| context.nv_read_public(handle))?;
        match public.attributes().index_type() {
            Ok(NvIndexType::Counter) => Ok(public.attributes().written()),
            _ => Err(DeviceError::NotACounter),
        }
    }

    fn value_of(&mut self, handle: NvIndexHandle) -> Result<u64, DeviceError> {
        let read = self
            .call("NV_Read", |context| context.nv_read(NvAuth::NvIndex(handle), handle, COUNTER_BYTES, 0))?;
        let bytes = read.value().try_into().map_err(|_| DeviceError::NotACounter)?;
        Ok(u64::from_be_bytes(bytes))
    }
}

fn nv_index(index: u32) -> Result<NvIndexTpmHandle, DeviceError> {
    NvIndexTpmHandle::new(index).map_err(|error| DeviceError::tss("NV index", error))
}

fn authorization(counter: &CounterIndex) -> Result<Auth, DeviceError> {
    Auth::try_from(counter.auth.to_vec()).map_err(|error| DeviceError::tss("authorization value", error))
}

impl std::fmt::Debug for CounterIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CounterIndex(0x{:08x})", self.index)
    }
}
