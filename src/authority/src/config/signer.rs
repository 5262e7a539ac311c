//! Where the authority's own keys live: the `[signer]` section.

use super::values::{ca_key, head_key};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[signer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum Signer {
    /// `kind = "pkcs11"`: a token of a PKCS#11 module. Head and JWT key Ed25519, CA key P-256.
    Pkcs11 {
        /// The module, a shared library.
        module: PathBuf,
        /// Label of the token.
        token: String,
        /// File with the user PIN, not readable by everyone.
        pin_file: PathBuf,
        /// Label of the first head key. Later ones are found through the log.
        #[serde(default = "head_key")]
        head_key: String,
        /// Label of the CA key.
        #[serde(default = "ca_key")]
        ca_key: String,
        /// Label of the first JWT key. Later ones are found through the log.
        #[serde(default = "jwt_key")]
        jwt_key: String,
    },
    /// `kind = "tpm"`: this machine's TPM. All keys P-256.
    #[cfg(feature = "tpm")]
    Tpm {
        /// Address for the TPM software stack, such as `device:/dev/tpmrm0`.
        tcti: String,
        /// Directory of the key blobs, which only this TPM can load.
        keys_dir: PathBuf,
        /// Label of the first head key: lower case letters, digits and hyphens.
        #[serde(default = "head_key")]
        head_key: String,
        /// Label of the CA key.
        #[serde(default = "ca_key")]
        ca_key: String,
        /// Label of the first JWT key. Later ones are found through the log.
        #[serde(default = "jwt_key")]
        jwt_key: String,
    },
    /// `kind = "danger-software"`: private keys in files and in memory. Only in builds with the feature `danger-software-key`.
    #[cfg(feature = "danger-software-key")]
    DangerSoftware {
        /// Directory of the keys.
        keys_dir: PathBuf,
        /// How long each signature of a head key is made to take, ms.
        #[serde(default)]
        delay_ms: u64,
    },
}

fn jwt_key() -> String {
    "countersign-jwt".to_owned()
}
