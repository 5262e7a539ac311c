//! Policy and references that the control state names, compiled once per epoch.

use crate::appraise::{References, ReferencesInvalid};
use crate::policy::{CompiledPolicy, PolicyCache, PolicyUnavailable};
use crate::store::{ReadFault, Reader};
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::document::Settings;
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;

/// A control state, and the documents that it names. They belong together.
#[derive(Clone, Debug)]
pub struct Documents {
    control: Arc<ControlState>,
    policy: Option<Arc<CompiledPolicy>>,
    references: Option<Arc<References>>,
}

/// Why the documents in force aren't at hand.
#[derive(Debug, thiserror::Error)]
pub enum DocumentsFault {
    /// The store failed.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// The control state names a document that isn't in the store.
    #[error("document {0} is missing")]
    Missing(Sha256Digest),
    /// The policy doesn't load.
    #[error(transparent)]
    Policy(#[from] PolicyUnavailable),
    /// The references, or the IMA policy that they name, don't parse.
    #[error(transparent)]
    References(#[from] ReferencesInvalid),
}

impl DocumentsFault {
    /// What callers are told. Nothing is decided without the documents.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Read(fault) => fault.code(),
            Self::Missing(_) => RefusalCode::LogUnavailable,
            Self::Policy(_) | Self::References(_) => RefusalCode::Internal,
        }
    }
}

impl Documents {
    /// Loads what `control` names; what `before` holds already is taken from there.
    ///
    /// # Errors
    /// [`DocumentsFault`].
    pub fn load(
        control: Arc<ControlState>,
        before: Option<&Self>,
        policies: &PolicyCache,
        reader: &dyn Reader,
    ) -> Result<Self, DocumentsFault> {
        let blob = |digest: &Sha256Digest| reader.blob(digest)?.ok_or(DocumentsFault::Missing(*digest));
        let policy = match control.policy() {
            None => None,
            Some(digest) => Some(match policies.find(digest) {
                Some(policy) => policy,
                None => policies.load(digest, &blob(digest)?)?,
            }),
        };
        let references = match control.references() {
            None => None,
            Some(digest) => {
                let held = before.and_then(|documents| documents.references.as_ref());
                Some(match held.filter(|held| held.digest() == digest) {
                    Some(held) => Arc::clone(held),
                    None => {
                        let before = before.and_then(|documents| documents.references());
                        Arc::new(References::parse(&blob(digest)?, before, blob)?)
                    }
                })
            }
        };
        Ok(Self { control, policy, references })
    }

    /// The control state.
    #[must_use]
    pub fn control(&self) -> &ControlState {
        &self.control
    }

    /// The active policy.
    #[must_use]
    pub fn policy(&self) -> Option<&CompiledPolicy> {
        self.policy.as_deref()
    }

    /// The active references.
    #[must_use]
    pub fn references(&self) -> Option<&References> {
        self.references.as_deref()
    }

    /// What quotes have to cover (PROTOCOL §8.1).
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.policy.as_ref().map_or_else(Settings::default, |policy| policy.settings().clone())
    }
}
