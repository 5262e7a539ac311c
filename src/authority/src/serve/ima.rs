//! States of the IMA appraisal, by the digests in hosts' states.

use super::Authority;
use crate::api::problem::Refused;
use crate::appraise::References;
use crate::store::ReadFault;
use countersign_core::leaf::host::HostState;
use countersign_core::name::HostId;
use countersign_core::refusal::RefusalCode;
use countersign_tpm::ima::state::ImaState;
use std::sync::Arc;

impl Authority {
    /// The state of the IMA appraisal that a host's state names.
    pub(super) fn ima_state(&self, state: &HostState) -> Result<Option<Arc<ImaState>>, Refused> {
        let Some(digest) = &state.ima else { return Ok(None) };
        let corrupt = || Refused::from(RefusalCode::LogUnavailable);
        let bytes = self.reader.blob(digest).map_err(|fault| read_fault(&fault))?.ok_or_else(corrupt)?;
        ImaState::parse(&bytes).map(|state| Some(Arc::new(state))).map_err(|fault| {
            tracing::error!(%fault, %digest, "a state of the IMA appraisal is malformed");
            corrupt()
        })
    }

    /// How many entries of the host's IMA list are known under the IMA policy in force; `None` if there is no such policy and nobody wants
    /// entries. For worker threads.
    ///
    /// # Errors
    /// Faults of the store.
    pub fn ima_entries(&self, host: &HostId) -> Result<Option<u64>, Refused> {
        let documents = self.documents_in_force()?;
        let Some(policy) = documents.references().and_then(References::ima) else { return Ok(None) };
        let now = self.reader.host_now(host).map_err(|fault| read_fault(&fault))?;
        let state = match now {
            Some(now) => self.ima_state(&now.state)?,
            None => None,
        };
        let known = state.filter(|state| state.policy == *policy.digest());
        Ok(Some(known.map_or(0, |state| state.counts.entries)))
    }
}

fn read_fault(fault: &ReadFault) -> Refused {
    tracing::error!(%fault, "the store can't be read");
    Refused::from(fault.code())
}
