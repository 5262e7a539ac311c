//! What an auditor kept of evidence that was pruned since: files in a directory, or an older copy of the store.
//!
//! Comes in: a path. Goes out: bytes by their SHA-256, which is computed of what is there; names of files mean nothing. Nothing here is believed:
//! a leaf names the digest, and bytes that have it are the ones.

use super::{HeadExport, LogSource, Unreadable};
use crate::store::{LogReader, Pruning};
use countersign_core::digest::{Sha256Digest, sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest member: an IMA policy (PROTOCOL §8.15).
const MAX_MEMBER: u64 = 32 * 1024 * 1024;

/// Members by digest.
pub enum Kept {
    /// Files.
    Files(HashMap<Sha256Digest, PathBuf>),
    /// Another copy of the store.
    Store(Arc<dyn LogReader>),
}

fn unreadable(path: &Path, fault: &std::io::Error) -> Unreadable {
    Unreadable(format!("{}: {fault}", path.display()))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Unreadable> {
    let found = std::fs::metadata(path).map_err(|fault| unreadable(path, &fault))?;
    if !found.is_file() || found.len() > MAX_MEMBER {
        return Ok(None);
    }
    std::fs::read(path).map(Some).map_err(|fault| unreadable(path, &fault))
}

impl Kept {
    /// Every file of a directory that isn't larger than any member.
    pub fn files(directory: &Path) -> Result<Self, Unreadable> {
        let mut files = HashMap::new();
        for entry in std::fs::read_dir(directory).map_err(|fault| unreadable(directory, &fault))? {
            let path = entry.map_err(|fault| unreadable(directory, &fault))?.path();
            if let Some(bytes) = read(&path)? {
                files.insert(sha256(&bytes), path);
            }
        }
        Ok(Self::Files(files))
    }

    /// The bytes with this digest, if they were kept.
    pub fn find(&self, digest: &Sha256Digest) -> Result<Option<Vec<u8>>, Unreadable> {
        let found = match self {
            Self::Files(files) => match files.get(digest) {
                Some(path) => read(path)?,
                None => None,
            },
            Self::Store(reader) => reader.blob(digest).map_err(|fault| Unreadable(fault.to_string()))?,
        };
        Ok(found.filter(|bytes| sha256(bytes) == *digest))
    }
}

/// A log with what was kept beside it.
pub struct WithKept<'a> {
    /// The log.
    pub log: &'a dyn LogSource,
    /// What was kept.
    pub kept: &'a Kept,
}

impl LogSource for WithKept<'_> {
    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, Unreadable> {
        self.log.leaves(from, count)
    }

    fn heads(&self, from: u64, count: u64) -> Result<Vec<HeadExport>, Unreadable> {
        self.log.heads(from, count)
    }

    fn blob(&self, digest: &Sha256Digest) -> Result<Option<Vec<u8>>, Unreadable> {
        let found = self.log.blob(digest)?;
        if found.as_ref().is_some_and(|bytes| sha256(bytes) == *digest) {
            return Ok(found);
        }
        Ok(self.kept.find(digest)?.or(found))
    }

    fn inclusion(&self, index: u64, size: u64) -> Result<Option<Vec<Sha256Digest>>, Unreadable> {
        self.log.inclusion(index, size)
    }

    fn prunings(&self) -> Result<Vec<Pruning>, Unreadable> {
        self.log.prunings()
    }

    fn pruned(&self, digest: &Sha256Digest) -> Result<Option<Pruning>, Unreadable> {
        self.log.pruned(digest)
    }
}
