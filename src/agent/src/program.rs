//! Measuring a program: the SHA-256 of a file's bytes, from one open file.
//!
//! Comes in: a path in the caller's own view of the file system. Goes out: the digest of what is there. Refused: what isn't a regular file that the
//! caller may execute, and files too large to hash in a request's time. A caller so learns only digests of programs that it could run anyway.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use countersign_core::digest::Sha256Digest;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use sha2::{Digest as _, Sha256};

use crate::peer::Peer;

/// Largest program, the largest that a gateway starts: hashed at 1.6 GB/s this takes two thirds of a second.
pub const MAX_PROGRAM_LEN: u64 = countersign_core::request::MAX_PROGRAM_LEN;

/// Why a file isn't measured.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It can't be opened or read.
    #[error("the program can't be read: {0}")]
    Read(#[from] std::io::Error),
    /// It isn't a regular file.
    #[error("the program isn't a regular file")]
    NotAFile,
    /// The caller may not execute it.
    #[error("the program isn't executable for the caller")]
    NotExecutable,
    /// It is too large, or grew while it was read.
    #[error("the program is larger than {MAX_PROGRAM_LEN} bytes or grew")]
    TooLarge,
    /// The path isn't absolute.
    #[error("the program's path isn't absolute")]
    Relative,
}

/// SHA-256 of an open regular file.
pub(crate) fn hash(file: &File) -> Result<Sha256Digest, ProgramError> {
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(ProgramError::NotAFile);
    }
    if about.len() > MAX_PROGRAM_LEN {
        return Err(ProgramError::TooLarge);
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut left = about.len();
    let mut reader = file;
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        let some = buffer.get(..count).unwrap_or_default();
        hash.update(some);
        left = left.checked_sub(u64::try_from(count).unwrap_or(u64::MAX)).ok_or(ProgramError::TooLarge)?;
    }
    Ok(Sha256Digest::new(hash.finalize().into()))
}

/// Measures the program at a path as `peer` sees it: under its root directory, with its mounts. Blocks.
pub(crate) fn measure(peer: &Peer, path: &Path) -> Result<Sha256Digest, ProgramError> {
    if !path.is_absolute() {
        return Err(ProgramError::Relative);
    }
    let root = File::open(format!("/proc/{}/root", peer.pid))?;
    // openat2(2): links can't lead out of the caller's root, and no link of /proc to a place that the caller can't go. O_NONBLOCK: a FIFO or a
    // device must not hold this thread.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(&root, path, how).map_err(std::io::Error::from)?);
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(ProgramError::NotAFile);
    }
    let executable = match (peer.uid, about.uid() == peer.uid, about.gid() == peer.gid) {
        (0, _, _) => about.mode() & 0o111 != 0,
        (_, true, _) => about.mode() & 0o100 != 0,
        (_, _, true) => about.mode() & 0o010 != 0,
        _ => about.mode() & 0o001 != 0,
    };
    if !executable {
        return Err(ProgramError::NotExecutable);
    }
    hash(&file)
}
