//! The Unix socket's file.
//!
//! Made under another name, given its mode, then moved into place, so nobody ever connects to it with another mode. Refused: a directory in which
//! others could put a socket of theirs in its place, a path where something else lies, a socket at which another agent answers.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Why the socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The file system says no.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The directory belongs to another user, or others may write to it.
    #[error(
        "{0}: the socket's directory must belong to this user or to root and be writable by its owner only"
    )]
    Directory(PathBuf),
    /// Something that isn't a socket lies there.
    #[error("{0}: isn't a socket")]
    NotASocket(PathBuf),
    /// Somebody answers there.
    #[error("{0}: another process serves this socket")]
    InUse(PathBuf),
}

/// A bound socket. Dropping it removes its file, if it is still this one.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl LocalSocket {
    /// Binds. A file left by an agent that ended without removing it is replaced.
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Self, SocketError> {
        let io = |source| SocketError::Io { path: path.to_owned(), source };
        check_directory(path)?;
        check_vacant(path)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&beside).map_err(io)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(mode)).map_err(io)?;
        let about = std::fs::symlink_metadata(&beside).map_err(io)?;
        std::fs::rename(&beside, path).map_err(io)?;
        Ok(Self { listener, path: path.to_owned(), inode: (about.dev(), about.ino()) })
    }

    pub(crate) const fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        let ours =
            std::fs::symlink_metadata(&self.path).is_ok_and(|about| (about.dev(), about.ino()) == self.inode);
        if ours {
            // What stays behind is replaced by the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn check_directory(path: &Path) -> Result<(), SocketError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let about = std::fs::metadata(directory)
        .map_err(|source| SocketError::Io { path: directory.to_owned(), source })?;
    let own = about.uid() == nix::unistd::geteuid().as_raw() || about.uid() == 0;
    if own && about.mode() & 0o022 == 0 { Ok(()) } else { Err(SocketError::Directory(directory.to_owned())) }
}

fn check_vacant(path: &Path) -> Result<(), SocketError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SocketError::Io { path: path.to_owned(), source }),
        Ok(about) if !about.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        // It vanished meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // Also when it can't be told: better not to start than to take over.
        _ => Err(SocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_goes_with_its_agent() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let socket = LocalSocket::bind(&path, 0o620).unwrap();
        assert_eq!(mode(&path), 0o620);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_a_socket_at_which_nobody_answers_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let live = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(LocalSocket::bind(&path, 0o600), Err(SocketError::InUse(_))));
        drop(live);
        assert!(path.exists());
        let first = LocalSocket::bind(&path, 0o600).unwrap();
        assert!(matches!(LocalSocket::bind(&path, 0o600), Err(SocketError::InUse(_))));
        // A file that another put there later isn't removed.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        drop(first);
        assert!(path.exists());
        assert!(matches!(LocalSocket::bind(&path, 0o600), Err(SocketError::NotASocket(_))));
    }

    #[tokio::test]
    async fn a_directory_that_others_may_write_to_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o770)).unwrap();
        let refused = LocalSocket::bind(&root.path().join("s"), 0o600);
        assert!(matches!(refused, Err(SocketError::Directory(_))));
    }
}
