//! Policy: Cedar over typed facts, default deny, an error is a denial (PROTOCOL §8.1).
//!
//! Comes in: a policy document once, then the facts of one request after the other. Goes out: permitted or not, with the identifiers of the
//! policies that determined it. Refused at load: text that doesn't parse, anything that doesn't validate strictly against the engine's own
//! schema, templates, settings that no quote could satisfy. Refused at evaluation: what no policy permits, what one forbids, action names
//! outside of the schema, and every request for which any policy fails to evaluate (Cedar alone would skip a failing `forbid`).
//!
//! An action name has a family, its part before the first dot. The schema declares one Cedar action per family, which closes the list of
//! things that can be decided about, while `context.action` carries the whole name for policies that look closer.

mod boot;
mod cache;
mod evaluate;
mod load;
mod reads;

pub use cache::{PolicyCache, PolicyUnavailable};
pub use evaluate::{ImaFacts, PolicyFacts, SecureBootFact, Verdict};
pub use load::{PolicyInvalid, SourcePosition};

use cedar_policy::{Authorizer, EntityTypeName, EntityUid, PolicySet};
use countersign_core::digest::Sha256Digest;
use countersign_core::document::Settings;
use reads::Reads;

/// The schema against which every policy is validated; a document carries this text, or that of an engine before.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// SHA-256 of the schemas of engines before, to which only members were added: what was valid under one of them is under [`SCHEMA`], and an
/// authority starts under the policy that was in force when it was another version.
const EARLIER_SCHEMAS: [&str; 2] = [
    "aead390c778ed266f2b9291ed9991cc4f3c68b240ddac56806c149a50e40ae2c",
    "21d950fa71b3acc2d1ee13db51c5435e02634efc65cd4ca35f849d2ac128c094",
];

/// Families of actions: each is a Cedar action of the schema.
pub const FAMILIES: [&str; 3] = ["exec", "call", "request"];

/// A policy document that parsed and validated, ready to be evaluated.
pub struct CompiledPolicy {
    digest: Sha256Digest,
    settings: Settings,
    slices: [Slice; FAMILIES.len()],
    types: EntityTypes,
    authorizer: Authorizer,
    warnings: Vec<String>,
}

/// The policies that can bear on one Cedar action: Cedar scans linearly, so others aren't even looked at.
struct Slice {
    action: EntityUid,
    policies: PolicySet,
    /// What they may look at.
    reads: Reads,
}

struct EntityTypes {
    host: EntityTypeName,
    runtime: EntityTypeName,
    workload: EntityTypeName,
}

impl CompiledPolicy {
    /// SHA-256 of the document's bytes.
    #[must_use]
    pub const fn digest(&self) -> &Sha256Digest {
        &self.digest
    }

    /// What the document requires of quotes and grants at most.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the validator found odd without refusing it, such as a policy that can never apply.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl std::fmt::Debug for CompiledPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledPolicy").field("digest", &self.digest).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
