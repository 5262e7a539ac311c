//! The PIN: read from its file for one login, wiped after it, never in an error or a log.
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::Pkcs11Config;
use crate::{FaultClass, SignFault};

/// PINs of PKCS#11 tokens are at most a few dozen characters (SoftHSM: 255).
const MAX_PIN_BYTES: usize = 256;

/// Identifies one writing of the PIN file without knowing its content, so that a refused PIN is not tried again until an operator has
/// written the file anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PinStamp {
    path: PathBuf,
    file: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
}

/// A PIN and the writing of the file that it came from.
pub(super) struct Pin {
    pub(super) secret: AuthPin,
    pub(super) stamp: PinStamp,
}

pub(super) fn read(config: &Pkcs11Config) -> Result<Pin, SignFault> {
    let path = &config.pin_file;
    let bad = |reason: &dyn std::fmt::Display| {
        SignFault::new(FaultClass::Misconfigured, "PIN file", format!("{}: {reason}", path.display()))
    };
    let file = File::open(path).map_err(|error| bad(&error))?;
    let metadata = file.metadata().map_err(|error| bad(&error))?;
    if !metadata.is_file() {
        return Err(bad(&"not a file"));
    }
    if metadata.mode() & 0o007 != 0 {
        return Err(bad(&"open to everyone: take the permissions of others away"));
    }
    let stamp = PinStamp {
        path: path.clone(),
        file: (metadata.dev(), metadata.ino()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        size: metadata.len(),
    };
    // One byte more than the limit tells a longer file; reserved at once so that no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PIN_BYTES + 1));
    file.take(MAX_PIN_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| bad(&error))?;
    if bytes.len() > MAX_PIN_BYTES {
        return Err(bad(&"over 256 bytes"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| bad(&"not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(bad(&"empty"));
    }
    Ok(Pin { secret: AuthPin::new(text.into()), stamp })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn attempt(content: &[u8], mode: u32) -> Result<Pin, SignFault> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pin");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        read(&Pkcs11Config::new("unused", "unused", path))
    }

    #[test]
    fn a_pin_file_is_refused_when_it_is_open_empty_or_too_long() {
        assert!(attempt(b"1234\n", 0o640).is_ok());
        for (content, mode) in
            [(&b"1234"[..], 0o644), (b"\n", 0o600), (&[b'1'; 257], 0o600), (&[0xff, 0xfe], 0o600)]
        {
            let fault = attempt(content, mode).err().unwrap();
            assert_eq!(fault.class(), FaultClass::Misconfigured);
            assert!(!fault.to_string().contains("1234"));
        }
    }

    #[test]
    fn a_line_break_is_no_part_of_the_pin() {
        let length = |content| {
            use zeroize::Zeroize;
            let mut pin = attempt(content, 0o600).unwrap();
            pin.secret.zeroize();
            pin.stamp.size
        };
        assert_eq!(length(b"1234\r\n"), 6);
    }
}
