//! What leaves name by digest, and why one of them can't be repeated.
//!
//! Comes in: a digest. Goes out: the bytes. Refused: bytes that aren't there, and bytes of another digest, which is another thing.

use super::replayed::{MismatchKind, Missing};
use super::{LogSource, Unreadable};
use crate::appraise::ReferencesInvalid;
use crate::verify::{BootLogSource, SourceFault};
use countersign_core::digest::{Sha256Digest, sha256};
use std::sync::Arc;

/// Why one leaf didn't replay.
pub(super) enum Stop {
    Missing(Missing),
    Mismatch(MismatchKind),
    Unreadable(Unreadable),
}

impl From<ReferencesInvalid> for Stop {
    fn from(_: ReferencesInvalid) -> Self {
        Self::Mismatch(MismatchKind::Malformed("references document"))
    }
}

impl From<MismatchKind> for Stop {
    fn from(kind: MismatchKind) -> Self {
        Self::Mismatch(kind)
    }
}

/// The bytes of this digest.
pub(super) fn named(source: &dyn LogSource, digest: &Sha256Digest) -> Result<Vec<u8>, Stop> {
    let found = source.blob(digest).map_err(Stop::Unreadable)?;
    let bytes = found.ok_or(Stop::Missing(Missing::Blob(*digest)))?;
    // Bytes of another digest are as good as none, but no pruning put them there.
    if sha256(&bytes) == *digest { Ok(bytes) } else { Err(Stop::Missing(Missing::Altered(*digest))) }
}

/// The boot logs of evidence.
pub(super) struct BootLogs<'a> {
    pub(super) source: &'a dyn LogSource,
    /// Whether the evidence was fresh: then it would have been kept.
    pub(super) fresh: bool,
}

impl BootLogSource for BootLogs<'_> {
    fn holds(&self, _: &Sha256Digest) -> Result<bool, SourceFault> {
        // What was fetched once in this replay was there.
        Ok(true)
    }

    fn fetch(&self, digest: &Sha256Digest) -> Result<Option<Arc<[u8]>>, SourceFault> {
        let found = self.source.blob(digest).map_err(|error| SourceFault(error.to_string()))?;
        Ok(found.filter(|bytes| sha256(bytes) == *digest).map(Arc::from))
    }

    fn keeps(&self) -> bool {
        self.fresh
    }
}
