//! Files that are there whole or not at all, PEM, and the undoing of an initialisation that failed.

use crate::custody::KeyStore;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// RFC 7468 §2: 64 characters a line.
const PEM_LINE: usize = 64;

/// Writes a new file, synced, under its name only when it is complete.
///
/// # Errors
/// `AlreadyExists` if there is one, and whatever the system says.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    if path.exists() {
        return Err(Error::from(ErrorKind::AlreadyExists));
    }
    replace(path, bytes, mode)
}

/// Writes a file, synced; whoever reads the name sees the old content or the new.
///
/// # Errors
/// Whatever the system says.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let staged = path.with_file_name(name);
    let written = write(&staged, bytes, mode).and_then(|()| std::fs::rename(&staged, path));
    if written.is_err() {
        // The reason is told already; a staged file that stays is overwritten by the next try.
        let _ = std::fs::remove_file(&staged);
        return written;
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a directory for its owner alone, with what is above it; one that is there stays as it is.
///
/// # Errors
/// Whatever the system says.
pub fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
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

    /// It succeeded: everything stays.
    pub fn forget(mut self) {
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
        for (keys, label) in &self.keys {
            if let Err(fault) = keys.destroy(label) {
                tracing::warn!(label, %fault, "key left behind");
            }
        }
    }
}
