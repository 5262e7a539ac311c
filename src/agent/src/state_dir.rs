//! The directory that only the agent reads: key blobs, certificates, and the lock that keeps a second agent out.
//!
//! A file is replaced whole: written beside, synced, renamed, and the directory synced. A crash in between leaves the old file or the new one,
//! never a mixture. Refused: a directory that others may enter or that belongs to another user, a file larger than it can be.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Largest file: certificates and a receipt, several times over.
const MAX_FILE: u64 = 1024 * 1024;

/// Why the state can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system says no.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others could read or replace the key blobs.
    #[error("{0}: must be a directory of this user with mode 0700")]
    Exposed(PathBuf),
    /// Another agent holds the lock.
    #[error("{0}: another agent uses this state directory")]
    Locked(PathBuf),
    /// A file is larger than anything that is written here.
    #[error("{0}: is larger than {MAX_FILE} bytes")]
    TooLarge(PathBuf),
    /// A file doesn't have its form.
    #[error("{path}: {source}")]
    Form {
        /// Where.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// An opened and locked state directory. The lock ends with the value.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the directory if it is missing, checks it and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let io = |source| StateError::Io { path: path.to_owned(), source };
        match DirBuilder::new().mode(0o700).recursive(true).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io(error)),
        }
        let about = std::fs::symlink_metadata(path).map_err(io)?;
        let own = about.uid() == nix::unistd::geteuid().as_raw();
        if !about.is_dir() || !own || about.mode() & 0o077 != 0 {
            return Err(StateError::Exposed(path.to_owned()));
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }

    /// The whole path of a file.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A document, or `None` if there is none.
    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        read_document(&self.file(name))
    }

    /// Replaces a document.
    pub(crate) fn write<T: serde::Serialize>(&self, name: &str, document: &T) -> Result<(), StateError> {
        write_document(&self.file(name), document)
    }
}

/// A document, or `None` if there is none.
pub(crate) fn read_document<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(StateError::TooLarge(path.to_owned()));
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| StateError::Form { path: path.to_owned(), source })
}

/// Replaces a document, mode 0600. When it returns without an error, the new content survives a power cut.
pub(crate) fn write_document<T: serde::Serialize>(path: &Path, document: &T) -> Result<(), StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let form = |source| StateError::Form { path: path.to_owned(), source };
    let bytes = serde_json::to_vec(document).map_err(form)?;
    let beside = path.with_extension("new");
    // A file left by a crash has content that nobody relies on.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside).map_err(io)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io)?;
    // Commit point: a crash before the rename leaves the old document, one after it the new.
    std::fs::rename(&beside, path).map_err(io)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_document_is_replaced_whole_and_only_its_owner_reads_it() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(&root.path().join("s")).unwrap();
        assert_eq!(state.read::<Vec<u8>>("d.json").unwrap(), None);
        std::fs::write(state.file("d.new"), "left by a crash").unwrap();
        for content in [vec![1_u8], vec![2, 3]] {
            state.write("d.json", &content).unwrap();
            assert_eq!(state.read::<Vec<u8>>("d.json").unwrap(), Some(content));
        }
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(state.file("d.json")), mode(root.path().join("s"))), (0o600, 0o700));
        assert!(!state.file("d.new").exists());
    }

    #[test]
    fn a_second_agent_is_kept_out_until_the_first_ends() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let first = StateDir::open(&path).unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateError::Locked(_))));
        drop(first);
        assert!(StateDir::open(&path).is_ok());
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(StateDir::open(root.path()), Err(StateError::Exposed(_))));
    }

    #[test]
    fn a_damaged_or_huge_document_is_an_error_and_not_an_absence() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("d");
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(read_document::<Vec<u8>>(&path), Err(StateError::Form { .. })));
        std::fs::write(&path, vec![b' '; 1024 * 1024 + 1]).unwrap();
        assert!(matches!(read_document::<Vec<u8>>(&path), Err(StateError::TooLarge(_))));
    }
}
