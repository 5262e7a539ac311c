//! Files that are there whole or not at all, PEM, and the undoing of an initialisation that failed.

use crate::custody::KeyStore;
use crate::store::Place;
use crate::store::postgres;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Write permission of group and others (inode(7)).
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// RFC 7468 §2: 64 characters a line.
const PEM_LINE: usize = 64;

/// Writes a new file, synced, under its name only when it is complete.
///
/// # Errors
/// `AlreadyExists` if there is something under that name, be it a link that leads nowhere; and whatever the system says.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let staged = staged(path)?;
    // A rename would take the place of whatever is there; a link is refused by it.
    let made = write(&staged, bytes, mode).and_then(|()| std::fs::hard_link(&staged, path));
    let _ = std::fs::remove_file(&staged);
    made.and_then(|()| sync_parent(path))
}

/// Writes a file, synced; whoever reads the name sees the old content or the new.
///
/// # Errors
/// Whatever the system says.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let staged = staged(path)?;
    let written = write(&staged, bytes, mode).and_then(|()| std::fs::rename(&staged, path));
    if written.is_err() {
        // The reason is told already; a staged file that stays is removed by the next try.
        let _ = std::fs::remove_file(&staged);
        return written;
    }
    sync_parent(path)
}

fn staged(path: &Path) -> Result<PathBuf> {
    let mut name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    Ok(path.with_file_name(name))
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Only into a file that this very call makes: nothing that lies there already is written through, links least of all.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).custom_flags(nix::libc::O_NOFOLLOW).mode(mode);
    let mut file = match options.open(path) {
        // Left behind by a crash.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            options.open(path)?
        }
        opened => opened?,
    };
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a directory for its owner alone, with what is above it; one that is there stays as it is, if it is our own and nobody else writes
/// there.
///
/// # Errors
/// `PermissionDenied` for a directory of somebody else or one that others can write, `NotADirectory` for a link; whatever the system says.
pub fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = std::fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return Err(Error::new(ErrorKind::NotADirectory, "a link in the place of the directory"));
    }
    if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(Error::new(ErrorKind::PermissionDenied, "others own this directory or can write in it"));
    }
    Ok(())
}

/// PEM (RFC 7468).
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let base64 = data_encoding::BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(PEM_LINE) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// Certificates, one after the other.
#[must_use]
pub fn certificates_pem(ders: &[&[u8]]) -> String {
    ders.iter().map(|der| pem("CERTIFICATE", der)).collect()
}

/// What to take away if an initialisation fails: files and keys that it has made.
#[derive(Default)]
pub struct Undo {
    files: Vec<PathBuf>,
    keys: Vec<(KeyStore, String)>,
    stores: Vec<Place>,
}

impl Undo {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A file that is about to be made.
    pub fn file(&mut self, path: &Path) {
        self.files.push(path.to_owned());
    }

    /// A key that was made.
    pub fn key(&mut self, keys: KeyStore, label: &str) {
        self.keys.push((keys, label.to_owned()));
    }

    /// A store that was made. The files of one in a file are told apart.
    pub fn store(&mut self, place: &Place) {
        self.stores.push(place.clone());
    }

    /// It succeeded: everything stays.
    pub fn forget(mut self) {
        self.stores.clear();
        self.files.clear();
        self.keys.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for path in &self.files {
            match std::fs::remove_file(path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(path = %path.display(), %error, "left behind"),
            }
        }
        for place in &self.stores {
            if let Place::Postgres(options) = place
                && let Err(fault) = postgres::discard(options)
            {
                tracing::warn!(%fault, "store left behind");
            }
        }
        for (keys, label) in &self.keys {
            if let Err(fault) = keys.destroy(label) {
                tracing::warn!(label, %fault, "key left behind");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_new_file_takes_no_place_and_follows_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        // Where the file is to be, and where it is staged.
        for name in ["file", "file.new"] {
            symlink(&victim, directory.path().join(name)).unwrap();
        }
        assert_eq!(create(&path, b"new", 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        symlink(directory.path().join("nowhere"), &path).unwrap();
        assert_eq!(create(&path, b"new", 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(!directory.path().join("nowhere").exists());
        std::fs::remove_file(&path).unwrap();
        symlink(&victim, directory.path().join("file.new")).unwrap();
        create(&path, b"new", 0o600).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(create(&path, b"again", 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
        replace(&path, b"replaced", 0o600).unwrap();
        assert_eq!(
            (std::fs::read(&path).unwrap(), std::fs::read(&victim).unwrap()),
            (b"replaced".to_vec(), b"precious".to_vec())
        );
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "nothing staged is left");
    }

    #[test]
    fn a_directory_is_made_for_its_owner_and_a_shared_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let made = directory.path().join("a/b");
        make_directory(&made).unwrap();
        assert_eq!(std::fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
        for (mode, refused) in [(0o755, false), (0o770, true), (0o702, true), (0o1777, true), (0o700, false)]
        {
            std::fs::set_permissions(&made, std::fs::Permissions::from_mode(mode)).unwrap();
            let found = make_directory(&made).map_err(|error| error.kind());
            assert_eq!(found.is_err(), refused, "{mode:o}: {found:?}");
        }
        let link = directory.path().join("link");
        symlink(&made, &link).unwrap();
        assert_eq!(make_directory(&link).unwrap_err().kind(), ErrorKind::NotADirectory);
    }
}
