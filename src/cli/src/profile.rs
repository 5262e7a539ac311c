//! The admin profile: where an authority's admin listener is and as whom to talk to it. `authority init` writes the first one.

use anyhow::Context;
use countersign_client::{Client, ClientIdentity};
use countersign_core::api::{ApprovalDocument, B64};
use countersign_core::bundle::TrustBundle;
use countersign_core::key::JsonKey;
use countersign_gateway::holder::key::HolderKey;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file. Relative paths are relative to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// URL of the admin listener.
    pub(crate) url: String,
    /// Pinned trust bundle.
    pub(crate) trust_bundle: PathBuf,
    /// Client certificates, PEM.
    pub(crate) certificate: PathBuf,
    /// Client key, PEM.
    pub(crate) key: PathBuf,
}

/// A profile with its bundle verified and its client made.
pub(crate) struct Admin {
    pub(crate) client: Client,
    pub(crate) bundle: TrustBundle,
    /// Where it is pinned.
    pub(crate) bundle_path: PathBuf,
    /// URL of the admin listener.
    pub(crate) url: String,
    /// The operator's own key: it also signs approvals.
    key: PathBuf,
}

impl Admin {
    /// The operator's word for one exact act.
    pub(crate) fn approve(&self, act: &[u8]) -> anyhow::Result<ApprovalDocument> {
        let key = HolderKey::load(&self.key).with_context(|| self.key.display().to_string())?;
        Ok(ApprovalDocument {
            key: JsonKey::from(key.public().clone()),
            signature: B64(key.sign(act).to_vec()),
        })
    }
}

/// Reads the profile and everything that it names.
pub(crate) fn open(path: &Path) -> anyhow::Result<Admin> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "{}: the admin profile can't be read; name it by --profile or COUNTERSIGN_PROFILE",
            path.display()
        )
    })?;
    let profile: Profile = toml::from_str(&text).with_context(|| path.display().to_string())?;
    let beside = |file: &Path| path.parent().map_or_else(|| file.to_owned(), |folder| folder.join(file));
    let bundle_path = beside(&profile.trust_bundle);
    let bundle = bundle(&bundle_path)?;
    let identity =
        ClientIdentity::Pem { certificates: beside(&profile.certificate), key: beside(&profile.key) };
    let client = Client::new(&profile.url, identity, bundle.ca_certificates())?;
    Ok(Admin { client, bundle, bundle_path, key: beside(&profile.key), url: profile.url })
}

/// Reads and verifies a pinned trust bundle.
pub(crate) fn bundle(path: &Path) -> anyhow::Result<TrustBundle> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    TrustBundle::verify(&bytes).with_context(|| path.display().to_string())
}
