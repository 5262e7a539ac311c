//! Room in a TPM that is full.
//!
//! Comes in: a TPM without room for another key or session, which is at least three of each (PC Client Platform TPM Profile 1.05, 5.2). Goes out:
//! one with room, if what takes it may be flushed: this connection's own keys, which are loaded again, and what a predecessor left.
//!
//! A program that is killed flushes nothing. Behind a resource manager (`/dev/tpmrm0`, tabrmd) what it loaded goes with its connection. A TPM
//! without one keeps it until the machine is reset: two starts of an agent that ended that way, and nothing can be loaded any more. Linux opens
//! `/dev/tpm0` once, and what clients of `/dev/tpmrm0` have lies outside of the TPM between their commands, so while this connection stands,
//! whatever it doesn't know belongs to nobody who is at work. Simulators serve whoever comes, command by command: only who says that nobody else
//! is there has room made. Nothing is flushed before the TPM is full, and sessions that were saved never are.

use std::path::{Path, PathBuf};

use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::TpmHandle;
use tss_esapi::structures::CapabilityData;

use super::HostTpm;

/// First handles of what can be flushed: TPM_HT_TRANSIENT, TPM_HT_LOADED_SESSION. TPM 2.0 Part 2, 7.2.
const FLUSHABLE: [u32; 2] = [0x8000_0000, 0x0200_0000];
/// Most handles asked for at once. What there is room for in a TPM is a handful.
const MAX_HANDLES: u32 = 64;

/// Whether nothing stands between this address and the TPM, and nobody else is served while a connection stands.
pub(super) fn is_bare(address: &str) -> bool {
    match address.split_once(':').unwrap_or((address, "")) {
        // The stack's default.
        ("device", "") => true,
        ("device", path) => {
            // A name of its own for the device, made by udev, is a link.
            let path = std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
            is_bare_device(&path)
        }
        _ => false,
    }
}

/// `/dev/tpm` and a number; the one with the resource manager is `/dev/tpmrm` and a number.
fn is_bare_device(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.strip_prefix("tpm").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

impl HostTpm {
    /// Frees what can be freed. Called while nothing but keys is loaded by this connection.
    pub(super) fn make_room(&mut self) {
        self.unload_all();
        if !self.alone {
            return;
        }
        for first in FLUSHABLE {
            for handle in self.loaded(first) {
                // What can't be named or flushed stays; whoever needed the room is told that there is none.
                if let Ok(Some(object)) = self.lookup(handle) {
                    self.flush(object);
                }
            }
        }
    }

    /// Handles in use from this one on, of its kind.
    fn loaded(&mut self, first: u32) -> Vec<TpmHandle> {
        let asked = self.call_with("GetCapability", (None, None, None), |context| {
            context.get_capability(CapabilityType::Handles, first, MAX_HANDLES)
        });
        match asked {
            Ok((CapabilityData::Handles(handles), _)) => handles.into_inner(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_manager_is_left_alone() {
        for bare in ["device:/dev/tpm0", "device:/dev/tpm12", "device"] {
            assert!(is_bare(bare), "{bare}");
        }
        for managed in [
            "device:/dev/tpmrm0",
            "device:/dev/tpm",
            "device:/dev/tpm0x",
            "device:/dev/null",
            "tabrmd",
            "tabrmd:bus_type=session",
            "mssim:port=2321",
            "swtpm:host=127.0.0.1,port=2321",
            "",
        ] {
            assert!(!is_bare(managed), "{managed}");
        }
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("tpm0");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(!is_bare(&format!("device:{}", link.display())), "what it is, and not what it is called");
    }
}
