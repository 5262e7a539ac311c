//! The lineage index: which artifacts belong to a host, a key, a policy, a boot; derived from the log, beside it, and never believed.
//!
//! A thread of its own reads leaves up to the newest signed head and files their indexes in a SQLite file in the state directory. The append
//! transaction knows nothing of it. It works in bounded steps, rests longer than it works while the log grows fast, and remembers how far it
//! got; every answer says how far that is. What is answered is read from the log again: the index only says where to look.
//!
//! The file can be deleted at any time; it is made again from the first leaf. One that is of another log, another version, or ahead of the store
//! is thrown away at the start.

mod extract;
mod file;
mod follow;
mod query;
#[cfg(test)]
mod tests;

use crate::store::{ReadFault, Reader};
use countersign_core::digest::Sha256Digest;
use countersign_core::name::{HostId, Origin};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

pub use query::{Cursor, Found, MAX_FOUND, MAX_OUTCOMES, Wanted};

/// Why the index doesn't answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexFault {
    /// The index's own file.
    #[error("the lineage index: {0}")]
    Database(String),
    /// The store behind it.
    #[error(transparent)]
    Store(#[from] ReadFault),
    /// What the store holds isn't a log.
    #[error("leaf {0} can't be indexed")]
    Leaf(u64),
}

impl From<rusqlite::Error> for IndexFault {
    fn from(fault: rusqlite::Error) -> Self {
        Self::Database(fault.to_string())
    }
}

/// A PCR with its value: what "blast radius" is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrValue {
    /// TPM_ALG_ID of the bank.
    pub bank: u16,
    /// Index of the register.
    pub pcr: u32,
    /// Its value.
    pub value: Vec<u8>,
}

/// By what artifacts are filed. The numbers stand in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Term {
    Host(HostId),
    Ak(Sha256Digest),
    Policy(Sha256Digest),
    References(Sha256Digest),
    ReferenceSet(String),
    Workload(Sha256Digest),
    Root(u64),
    /// Digest of quoted values and of the policy that says which registers these are of.
    Boot(Sha256Digest),
    Any,
}

impl Term {
    pub(crate) fn key(&self) -> (i64, Vec<u8>) {
        match self {
            Self::Host(host) => (1, host.as_bytes().to_vec()),
            Self::Ak(digest) => (2, digest.as_bytes().to_vec()),
            Self::Policy(digest) => (3, digest.as_bytes().to_vec()),
            Self::References(digest) => (4, digest.as_bytes().to_vec()),
            Self::ReferenceSet(name) => (5, name.as_bytes().to_vec()),
            Self::Workload(digest) => (6, digest.as_bytes().to_vec()),
            Self::Root(index) => (7, index.to_be_bytes().to_vec()),
            Self::Boot(digest) => (8, digest.as_bytes().to_vec()),
            Self::Any => (9, Vec::new()),
        }
    }
}

/// The index and the thread that fills it. Dropping it ends the thread.
pub struct Lineage {
    /// A connection for questions, and the opening of the file that it is of.
    asked: Mutex<Option<(u64, rusqlite::Connection)>>,
    turn: Mutex<()>,
    path: std::path::PathBuf,
    follower: Option<follow::Follower>,
}

impl Lineage {
    /// Opens the index of a store, or makes it, and begins to fill it. An index that can't be opened keeps nobody from serving: questions are
    /// answered with the fault.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(path: &Path, origin: &Origin, store: Arc<dyn Reader>) -> std::io::Result<Self> {
        let follower = follow::Follower::start(path, origin, store)?;
        Ok(Self {
            asked: Mutex::new(None),
            turn: Mutex::new(()),
            path: path.to_owned(),
            follower: Some(follower),
        })
    }

    /// The right to ask. Questions read many leaves, on threads that hosts' calls need, so there is one at a time; `None` while somebody else has it.
    #[must_use]
    pub fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Artifacts by what they are filed under, in the order of the cursor, after it.
    ///
    /// # Errors
    /// [`IndexFault`].
    pub fn artifacts(&self, wanted: &Wanted, after: Cursor, count: usize) -> Result<Found, IndexFault> {
        self.ask(|connection| query::artifacts(connection, wanted, after, count))
    }

    /// Outcome leaves about an artifact, one more than [`MAX_OUTCOMES`] of them at most.
    ///
    /// # Errors
    /// [`IndexFault`].
    pub fn outcomes(&self, artifact: u64) -> Result<Vec<u64>, IndexFault> {
        self.ask(|connection| query::outcomes(connection, artifact))
    }

    /// How many leaves were filed.
    ///
    /// # Errors
    /// [`IndexFault`].
    pub fn indexed(&self) -> Result<u64, IndexFault> {
        self.ask(query::indexed)
    }

    fn ask<T>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, IndexFault>,
    ) -> Result<T, IndexFault> {
        let mut held = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = self.follower.as_ref().and_then(follow::Follower::opened);
        let opened = opened.ok_or_else(|| IndexFault::Database("it isn't open yet".to_owned()))?;
        let connection = match held.take() {
            Some((of, connection)) if of == opened => connection,
            // The follower may have made the file anew.
            _ => file::open_to_read(&self.path)?,
        };
        let answer = work(&connection);
        if answer.is_ok() {
            *held = Some((opened, connection));
        }
        answer
    }
}

impl Drop for Lineage {
    fn drop(&mut self) {
        drop(self.follower.take());
    }
}
