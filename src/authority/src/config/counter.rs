//! `[rollback_counter]` of the configuration. `docs/CONFIG.md` is written from the comments here.

use serde::{Deserialize, Serialize};

/// `[rollback_counter]`: a counter in this machine's TPM that the log's position is compared with at each start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackCounter {
    /// Address for the TPM software stack, such as `device:/dev/tpmrm0`.
    pub tcti: String,
    /// NV index of the counter, from 0x01800000 to 0x01bfffff, the owner's range.
    #[serde(default = "index")]
    pub nv_index: u32,
}

impl RollbackCounter {
    /// NV index where none is named.
    pub const NV_INDEX: u32 = 0x0180_c516;
    /// TCG Registry of Reserved TPM 2.0 Handles and Localities, 2.2.
    const OWNERS: std::ops::RangeInclusive<u32> = 0x0180_0000..=0x01bf_ffff;

    /// What is wrong with it, if anything is.
    pub(super) fn misfit(&self) -> Option<&'static str> {
        (!Self::OWNERS.contains(&self.nv_index))
            .then_some("rollback_counter.nv_index must be from 0x01800000 to 0x01bfffff")
    }
}

const fn index() -> u32 {
    RollbackCounter::NV_INDEX
}
