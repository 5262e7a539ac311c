//! The file that a key lives in: two blobs, each encrypted by the TPM, written once and never changed.
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use countersign_tpm::device::KeyBlob;
use countersign_tpm::wire::{Reader, WireError, Writer};

use super::fault;
use crate::{FaultClass, SignFault};

/// Two blobs of P-256 keys have some 450 bytes.
const MAX_FILE_BYTES: usize = 8192;
const MAX_BLOB_BYTES: usize = 4096;

/// An attestation key and the signing key that it certifies.
pub(super) struct Blobs {
    pub(super) attestation: KeyBlob,
    pub(super) signing: KeyBlob,
}

/// The file of one label.
pub(super) struct BlobFile {
    directory: PathBuf,
    path: PathBuf,
}

impl BlobFile {
    pub(super) fn new(directory: &Path, label: &str) -> Result<Self, SignFault> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if label.is_empty() || label.len() > 64 || !label.bytes().all(plain) {
            return Err(SignFault::new(
                FaultClass::Misconfigured,
                "key file",
                "label: 1 to 64 of a-z, 0-9, hyphen",
            ));
        }
        Ok(Self { directory: directory.to_path_buf(), path: directory.join(format!("{label}.tpm-key")) })
    }

    pub(super) fn require_free(&self) -> Result<(), SignFault> {
        match self.path.try_exists() {
            Ok(false) => Ok(()),
            Ok(true) => Err(self.fault(FaultClass::KeyExists, "is taken")),
            Err(error) => Err(self.fault(FaultClass::Misconfigured, error)),
        }
    }

    /// Writes the file beside its place, syncs it, and puts it there unless somebody else was first. A crash leaves the whole file or none.
    pub(super) fn create(&self, blobs: &Blobs) -> Result<(), SignFault> {
        let bytes = encode(blobs).map_err(fault::of)?;
        match self.write(&bytes) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(self.fault(FaultClass::KeyExists, error))
            }
            Err(error) => Err(self.fault(FaultClass::Misconfigured, error)),
        }
    }

    pub(super) fn read(&self) -> Result<Blobs, SignFault> {
        let mut bytes = Vec::new();
        let read = File::open(&self.path)
            .and_then(|file| file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) if bytes.len() > MAX_FILE_BYTES => Err(self.fault(FaultClass::Misconfigured, "too long")),
            Ok(_) => decode(&bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(self.fault(FaultClass::KeyMissing, error))
            }
            Err(error) => Err(self.fault(FaultClass::Misconfigured, error)),
        }
    }

    pub(super) fn remove(&self) -> Result<(), SignFault> {
        match std::fs::remove_file(&self.path).and_then(|()| File::open(&self.directory)?.sync_all()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(self.fault(FaultClass::KeyMissing, error))
            }
            Err(error) => Err(self.fault(FaultClass::Misconfigured, error)),
        }
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let draft = self.path.with_extension(format!("draft-{}", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        // A link fails where a rename would replace another's key.
        let placed = written.and_then(|()| std::fs::hard_link(&draft, &self.path));
        let removed = std::fs::remove_file(&draft);
        placed.and(removed)?;
        File::open(&self.directory)?.sync_all()
    }

    fn fault(&self, class: FaultClass, reason: impl std::fmt::Display) -> SignFault {
        SignFault::new(class, "key file", format!("{}: {reason}", self.path.display()))
    }
}

fn encode(blobs: &Blobs) -> Result<Vec<u8>, WireError> {
    let writer = Writer::new().tpm2b(&blobs.attestation.to_bytes()?)?;
    Ok(writer.tpm2b(&blobs.signing.to_bytes()?)?.into_bytes())
}

fn decode(bytes: &[u8]) -> Result<Blobs, SignFault> {
    let malformed =
        |error: WireError| SignFault::new(FaultClass::Misconfigured, "key file", error.to_string());
    let mut reader = Reader::new(bytes);
    let attestation = reader.tpm2b(MAX_BLOB_BYTES).map_err(malformed)?;
    let signing = reader.tpm2b(MAX_BLOB_BYTES).map_err(malformed)?;
    reader.finish().map_err(malformed)?;
    let blob = |bytes| {
        KeyBlob::from_bytes(bytes)
            .map_err(|error| SignFault::new(FaultClass::Misconfigured, "key file", error.to_string()))
    };
    Ok(Blobs { attestation: blob(attestation)?, signing: blob(signing)? })
}
