//! Compiled policies by digest, so that a document is parsed once per epoch and not once per request.

use super::{CompiledPolicy, PolicyInvalid};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::PolicyDocument;
use countersign_core::leaf::LeafError;
use std::sync::{Arc, Mutex, PoisonError};

/// Policies kept: the one in force, the one before it for calls under way, and two more for an operator who goes back and forth.
const KEPT: usize = 4;

/// Why there is no policy to evaluate although a digest is active.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyUnavailable {
    /// The bytes hash to another digest.
    #[error("the stored policy document isn't the one of its digest")]
    Digest,
    /// The bytes aren't a policy document.
    #[error("the stored policy document is malformed: {0}")]
    Document(#[from] LeafError),
    /// The document doesn't validate with this engine.
    #[error("the active policy doesn't load: {0}")]
    Invalid(#[from] PolicyInvalid),
}

/// A small, shared cache.
#[derive(Debug, Default)]
pub struct PolicyCache {
    /// Newest last.
    kept: Mutex<Vec<Arc<CompiledPolicy>>>,
}

impl PolicyCache {
    /// The compiled policy of this digest, if it is here.
    #[must_use]
    pub fn find(&self, digest: &Sha256Digest) -> Option<Arc<CompiledPolicy>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|policy| policy.digest() == digest).cloned()
    }

    /// Compiles exact document bytes and keeps the result.
    pub fn load(
        &self,
        digest: &Sha256Digest,
        bytes: &[u8],
    ) -> Result<Arc<CompiledPolicy>, PolicyUnavailable> {
        if sha256(bytes) != *digest {
            return Err(PolicyUnavailable::Digest);
        }
        let policy = Arc::new(CompiledPolicy::load(&PolicyDocument::parse(bytes)?)?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|other| other.digest() != digest);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push(Arc::clone(&policy));
        Ok(policy)
    }
}
