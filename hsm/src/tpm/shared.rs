//! One connection for each TPM of this process, whatever number of keys it holds.
//!
//! A TPM has room for three loaded keys. Signers that load keys over connections of their own take that room from each other, and none can make
//! room for another; over one connection the keys are swapped in and out as they are needed. Commands of one TPM run one after the other anyway.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use countersign_tpm::device::HostTpm;

use super::fault;
use crate::SignFault;

/// A TPM that signers share.
pub(super) struct SharedTpm {
    tcti: String,
    connection: Mutex<Connection>,
}

/// The connection, if there is one, and how many there were: what was loaded over an earlier one has to be loaded again.
pub(super) struct Connection {
    tcti: String,
    tpm: Option<HostTpm>,
    era: u64,
}

impl SharedTpm {
    /// The one of this address.
    pub(super) fn of(tcti: &str) -> Arc<Self> {
        static SHARED: OnceLock<Mutex<HashMap<String, Weak<SharedTpm>>>> = OnceLock::new();
        let mut known = SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = known.get(tcti).and_then(Weak::upgrade) {
            return shared;
        }
        known.retain(|_, shared| shared.strong_count() > 0);
        let connection = Mutex::new(Connection { tcti: tcti.to_owned(), tpm: None, era: 0 });
        let shared = Arc::new(Self { tcti: tcti.to_owned(), connection });
        known.insert(tcti.to_owned(), Arc::downgrade(&shared));
        shared
    }

    /// Waits for its turn. A holder that panicked may have left the connection in any state: it is made anew.
    pub(super) fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(|poisoned| {
            let mut connection = poisoned.into_inner();
            connection.drop_connection();
            self.connection.clear_poison();
            connection
        })
    }
}

impl Connection {
    /// The open TPM and the era of its connection; connects if need be.
    pub(super) fn open(&mut self) -> Result<(&mut HostTpm, u64), SignFault> {
        if self.tpm.is_none() {
            self.tpm = Some(HostTpm::open(&self.tcti).map_err(fault::connecting)?);
            self.era += 1;
        }
        let era = self.era;
        self.tpm.as_mut().map(|tpm| (tpm, era)).ok_or_else(fault::closed)
    }

    /// The next use connects anew.
    pub(super) fn drop_connection(&mut self) {
        self.tpm = None;
    }

    /// Whether a connection is there, working or not.
    pub(super) const fn is_open(&self) -> bool {
        self.tpm.is_some()
    }
}

impl std::fmt::Debug for SharedTpm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedTpm({})", self.tcti)
    }
}
