//! The signer's memory: the newest head body that was ever to be signed, in a file outside of the store.
//!
//! A store that is restored from a backup brings its own past back; this file doesn't come with it. It is written and synced before a
//! key signs, so whatever was signed is at or below what it holds.
//!
//! The file has two slots of 512 bytes that are written in turn: a write that is torn by a crash damages the older of the two. A slot is
//! magic, version, size, body digest, SHA-256 root, and SHA-256 over all that. Refused at open: a file that isn't there (only
//! [`SignerMemory::create`] makes one, at initialisation) and one without a sound slot.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use countersign_core::digest::{Sha256Digest, sha256};
use nix::fcntl::{Flock, FlockArg};

use crate::store::failpoint::{FailpointSet, WritePoint};

/// A disk sector, the unit that a disk writes whole.
const SLOT_LEN: u64 = 512;
const MAGIC: &[u8; 16] = b"countersign-mem1";
/// Magic, size, digest, root.
const CONTENT_LEN: usize = 16 + 8 + 32 + 32;

/// A head body as the signer remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Leaves under it.
    pub size: u64,
    /// SHA-256 of the body; zeros at size 0, when nothing was signed.
    pub digest: Sha256Digest,
    /// Its SHA-256 root; zeros at size 0.
    pub root: Sha256Digest,
}

impl Remembered {
    /// Before the first head.
    pub const NOTHING: Self = Self { size: 0, digest: Sha256Digest::ZERO, root: Sha256Digest::ZERO };

    fn encode(&self) -> Vec<u8> {
        let mut bytes =
            [MAGIC.as_slice(), &self.size.to_be_bytes(), self.digest.as_ref(), self.root.as_ref()].concat();
        let check = sha256(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let (content, rest) = slot.split_at_checked(CONTENT_LEN)?;
        if rest.get(..32)? != sha256(content).as_bytes() {
            return None;
        }
        let (size, rest) = content.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
        let (digest, root) = rest.split_at_checked(32)?;
        let (digest, root) = (Sha256Digest::from_slice(digest).ok()?, Sha256Digest::from_slice(root).ok()?);
        Some(Self { size: u64::from_be_bytes(*size), digest, root })
    }
}

/// Why there is no memory to sign with.
#[derive(Debug, thiserror::Error)]
pub enum MemoryFault {
    /// The file system said no.
    #[error("signer memory {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process signs with it.
    #[error("signer memory {path} is in use by another process")]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// Neither slot is sound.
    #[error("signer memory {path} is damaged")]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// It holds a larger size, or another body of this size: signing would fork the log.
    #[error("head of size {size} contradicts the signer's memory of size {remembered}")]
    Contradiction {
        /// What was to be signed.
        size: u64,
        /// What is remembered.
        remembered: u64,
    },
}

/// The open memory. One process at a time.
#[derive(Debug)]
pub struct SignerMemory {
    file: Flock<File>,
    path: PathBuf,
    newest: Remembered,
    /// Slot that the next write goes to.
    next_slot: u64,
    failpoints: FailpointSet,
}

impl SignerMemory {
    /// Makes the memory of a new log.
    ///
    /// # Errors
    /// [`MemoryFault::File`] if there is one already.
    pub fn create(path: &Path) -> Result<(), MemoryFault> {
        let refused = |source| MemoryFault::File { path: path.to_owned(), source };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(refused)?;
        file.set_len(2 * SLOT_LEN).map_err(refused)?;
        file.write_all_at(&Remembered::NOTHING.encode(), 0).map_err(refused)?;
        file.sync_all().map_err(refused)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|directory| directory.sync_all()).map_err(refused)
    }

    /// Opens the memory of a log that exists. A lost memory isn't made anew: without it nobody can tell a restored store from the newest.
    ///
    /// # Errors
    /// [`MemoryFault`].
    pub fn open(path: &Path, failpoints: FailpointSet) -> Result<Self, MemoryFault> {
        let refused = |source| MemoryFault::File { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(refused)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| MemoryFault::InUse { path: path.to_owned() })?;
        let slot = |number: u64| -> io::Result<Option<Remembered>> {
            let mut bytes = [0; CONTENT_LEN + 32];
            match file.read_exact_at(&mut bytes, number * SLOT_LEN) {
                Ok(()) => Ok(Remembered::decode(&bytes)),
                Err(short) if short.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
                Err(fault) => Err(fault),
            }
        };
        let (newest, used) = match (slot(0).map_err(refused)?, slot(1).map_err(refused)?) {
            (Some(first), Some(second)) if second.size >= first.size => (second, 1),
            (Some(first), _) => (first, 0),
            (None, Some(second)) => (second, 1),
            (None, None) => return Err(MemoryFault::Damaged { path: path.to_owned() }),
        };
        Ok(Self { file, path: path.to_owned(), newest, next_slot: 1 - used, failpoints })
    }

    /// The newest body that was ever to be signed.
    #[must_use]
    pub const fn newest(&self) -> Remembered {
        self.newest
    }

    /// Remembers a body durably; call it before signing. Idempotent for the newest body.
    ///
    /// # Errors
    /// [`MemoryFault::Contradiction`]: signing this would fork the log. [`MemoryFault::File`]: what is on disk is unknown, and this value
    /// must not be used again.
    pub fn remember(&mut self, head: Remembered) -> Result<(), MemoryFault> {
        if head == self.newest {
            return Ok(());
        }
        if head.size <= self.newest.size {
            return Err(MemoryFault::Contradiction { size: head.size, remembered: self.newest.size });
        }
        // A crash before this write: the body is committed and unsigned, the next start signs it. After: the same; the memory may be ahead
        // of every signature, never behind one.
        self.write(&head).map_err(|source| MemoryFault::File { path: self.path.clone(), source })?;
        self.newest = head;
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }

    fn write(&self, head: &Remembered) -> io::Result<()> {
        self.reach(WritePoint::BeforeMemory)?;
        self.file.write_all_at(&head.encode(), self.next_slot * SLOT_LEN)?;
        self.file.sync_data()?;
        self.reach(WritePoint::AfterMemory)
    }

    fn reach(&self, point: WritePoint) -> io::Result<()> {
        self.failpoints.reach(point).map_err(|_| io::Error::other("injected"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(size: u64, byte: u8) -> Remembered {
        Remembered { size, digest: Sha256Digest::new([byte; 32]), root: Sha256Digest::new([byte ^ 1; 32]) }
    }

    fn open(path: &Path) -> Result<SignerMemory, MemoryFault> {
        SignerMemory::open(path, FailpointSet::none())
    }

    fn made() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memory");
        SignerMemory::create(&path).unwrap();
        (directory, path)
    }

    #[test]
    fn what_was_remembered_is_there_after_reopening() {
        let (_directory, path) = made();
        assert_eq!(open(&path).unwrap().newest(), Remembered::NOTHING);
        for size in 1..6 {
            open(&path).unwrap().remember(head(size, size as u8)).unwrap();
            assert_eq!(open(&path).unwrap().newest(), head(size, size as u8));
        }
    }

    #[test]
    fn a_lower_size_and_another_body_of_one_size_are_refused() {
        let (_directory, path) = made();
        let mut memory = open(&path).unwrap();
        memory.remember(head(5, 1)).unwrap();
        memory.remember(head(5, 1)).unwrap();
        for bad in [head(4, 1), head(5, 2), Remembered::NOTHING] {
            assert!(matches!(memory.remember(bad), Err(MemoryFault::Contradiction { remembered: 5, .. })));
        }
        assert_eq!(memory.newest(), head(5, 1));
    }

    #[test]
    fn a_torn_write_costs_only_the_write() {
        let (_directory, path) = made();
        open(&path).unwrap().remember(head(1, 1)).unwrap();
        open(&path).unwrap().remember(head(2, 2)).unwrap();
        let sound = std::fs::read(&path).unwrap();
        // The slot of size 1 is the next one to be written: damage anywhere in it changes nothing.
        let slot =
            sound.windows(32).position(|w| w == [1; 32]).unwrap() / SLOT_LEN as usize * SLOT_LEN as usize;
        for at in slot..slot + CONTENT_LEN + 32 {
            let mut torn = sound.clone();
            torn[at] ^= 0x40;
            std::fs::write(&path, &torn).unwrap();
            assert_eq!(open(&path).unwrap().newest(), head(2, 2));
        }
    }

    #[test]
    fn a_missing_or_damaged_memory_is_not_made_anew() {
        let (_directory, path) = made();
        assert!(matches!(SignerMemory::create(&path), Err(MemoryFault::File { .. })));
        std::fs::write(&path, [0; 1024]).unwrap();
        assert!(matches!(open(&path), Err(MemoryFault::Damaged { .. })));
        std::fs::write(&path, []).unwrap();
        assert!(matches!(open(&path), Err(MemoryFault::Damaged { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(open(&path), Err(MemoryFault::File { .. })));
    }

    #[test]
    fn two_processes_cannot_sign_with_one_memory() {
        let (_directory, path) = made();
        let held = open(&path).unwrap();
        assert!(matches!(open(&path), Err(MemoryFault::InUse { .. })));
        drop(held);
        open(&path).unwrap();
    }
}
