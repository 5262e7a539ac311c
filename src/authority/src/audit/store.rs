//! A store as a source of audits, held still at its newest signed head, so that a log that grows meanwhile reads as one that doesn't.

use super::{HeadExport, LogSource, Unreadable};
use crate::store::{LogReader, Pruning, ReadFault, StoredTree};
use countersign_core::digest::Sha256Digest;
use countersign_core::merkle::{ProofError, Sha256Tree, inclusion_proof};

/// The part of a store's log that its newest signed head covers. What lies beyond isn't vouched for by anybody yet.
pub struct StoreLog<'a> {
    reader: &'a dyn LogReader,
    size: u64,
}

impl<'a> StoreLog<'a> {
    /// Looks at the store as it is now.
    pub fn new(reader: &'a dyn LogReader) -> Result<Self, Unreadable> {
        let newest = reader.newest_signed().map_err(unreadable)?;
        Ok(Self { reader, size: newest.map_or(0, |head| head.body().size) })
    }

    /// Leaves that are looked at.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function value")]
fn unreadable(fault: ReadFault) -> Unreadable {
    Unreadable(fault.to_string())
}

impl LogSource for StoreLog<'_> {
    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, Unreadable> {
        let count = count.min(self.size.saturating_sub(from));
        if count == 0 { Ok(Vec::new()) } else { self.reader.leaves(from, count).map_err(unreadable) }
    }

    fn heads(&self, from: u64, count: u64) -> Result<Vec<HeadExport>, Unreadable> {
        let heads = self.reader.heads(from, count).map_err(unreadable)?;
        let covered = heads.into_iter().filter(|head| head.body().size <= self.size);
        // A head without signatures has no note; that is for the audit to judge.
        Ok(covered.map(|head| HeadExport { note: head.note().ok(), text: head.text().to_owned() }).collect())
    }

    fn blob(&self, digest: &Sha256Digest) -> Result<Option<Vec<u8>>, Unreadable> {
        self.reader.blob(digest).map_err(unreadable)
    }

    fn inclusion(&self, index: u64, size: u64) -> Result<Option<Vec<Sha256Digest>>, Unreadable> {
        let path = inclusion_proof::<Sha256Tree, _>(index, size, &StoredTree(self.reader));
        path.map(Some).map_err(|fault: ProofError<ReadFault>| Unreadable(fault.to_string()))
    }

    fn prunings(&self) -> Result<Vec<Pruning>, Unreadable> {
        self.reader.prunings().map_err(unreadable)
    }

    fn pruned(&self, digest: &Sha256Digest) -> Result<Option<Pruning>, Unreadable> {
        self.reader.pruned(digest).map_err(unreadable)
    }
}
