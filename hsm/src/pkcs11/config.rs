//! Where a token is found.
use std::path::{Path, PathBuf};

/// Where a token is found and how it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkcs11Config {
    /// The PKCS#11 module, a shared library.
    pub module: PathBuf,
    /// The token's label; slot numbers change. Exactly one token may carry it.
    pub token_label: String,
    /// A file that holds the user PIN, with or without a final line break. It must not be readable by everyone.
    pub pin_file: PathBuf,
    /// The file that is locked while the module starts and logs in, since some modules fail when processes do that at the same moment. All
    /// processes that share a token should name the same one; by default it is the PIN file.
    pub lock_file: Option<PathBuf>,
}

impl Pkcs11Config {
    /// A token by its label, locked through its PIN file.
    #[must_use]
    pub fn new(
        module: impl Into<PathBuf>,
        token_label: impl Into<String>,
        pin_file: impl Into<PathBuf>,
    ) -> Self {
        Self {
            module: module.into(),
            token_label: token_label.into(),
            pin_file: pin_file.into(),
            lock_file: None,
        }
    }

    pub(super) fn lock_path(&self) -> &Path {
        self.lock_file.as_deref().unwrap_or(&self.pin_file)
    }
}
