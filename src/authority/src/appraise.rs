//! Appraisal: verified facts against reference values and endorsements, in EAR words (draft-ietf-rats-ear, AR4SI).
//!
//! Comes in: a verified quote, what its boot log proves, how the host is endorsed, the references in force. Goes out: an [`Appraisal`]. Pure.
//! Nothing is refused here: a contradiction is a tier, and the decision function turns it into a denial at its place in the order.

use crate::policy::SecureBootFact;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::{Generation, ReferencesDocument};
use countersign_core::leaf::LeafError;
use countersign_core::leaf::appraisal::Appraisal;
use countersign_core::leaf::host::Tier;
use countersign_tpm::eventlog::facts::{BootFacts, SecureBoot};
use countersign_tpm::ima::appraise::Appraised as ImaAppraised;
use countersign_tpm::ima::policy::{PolicyError, RuntimePolicy};
use countersign_tpm::quote::VerifiedQuote;
use std::sync::Arc;

/// AR4SI claims that are appraised (draft-ietf-rats-ar4si, 2.3).
mod claim {
    pub(super) const INSTANCE_IDENTITY: u64 = 0;
    pub(super) const CONFIGURATION: u64 = 1;
    pub(super) const EXECUTABLES: u64 = 2;
    pub(super) const FILE_SYSTEM: u64 = 3;
    pub(super) const HARDWARE: u64 = 4;
}

/// The references document in force, its name, and the IMA policy that it names.
#[derive(Clone, Debug)]
pub struct References {
    digest: Sha256Digest,
    document: ReferencesDocument,
    ima: Option<Arc<RuntimePolicy>>,
}

/// Why references can't be put into force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferencesInvalid {
    /// The bytes aren't a references document.
    #[error("references: {0}")]
    Document(#[from] LeafError),
    /// The bytes aren't an IMA policy.
    #[error("IMA policy: {0}")]
    ImaPolicy(#[from] PolicyError),
    /// The IMA policy isn't the one that the document names.
    #[error("the IMA policy isn't the one that the document names")]
    ImaOther,
}

impl References {
    /// Parses exact document bytes. `fetch` gets the bytes of the IMA policy that the document names; `held` may have it already.
    pub fn parse<E: From<ReferencesInvalid>>(
        bytes: &[u8],
        held: Option<&Self>,
        fetch: impl FnOnce(&Sha256Digest) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let document = ReferencesDocument::parse(bytes).map_err(ReferencesInvalid::from)?;
        let ima = match document.ima {
            None => None,
            Some(named) => Some(match held.and_then(|held| held.ima.as_ref()) {
                Some(policy) if policy.digest() == named.as_bytes() => Arc::clone(policy),
                _ => {
                    let bytes = fetch(&named)?;
                    if sha256(&bytes) != named {
                        return Err(ReferencesInvalid::ImaOther.into());
                    }
                    Arc::new(RuntimePolicy::parse(&bytes).map_err(ReferencesInvalid::from)?)
                }
            }),
        };
        Ok(Self { digest: sha256(bytes), document, ima })
    }

    /// The IMA policy in force.
    #[must_use]
    pub fn ima(&self) -> Option<&RuntimePolicy> {
        self.ima.as_deref()
    }

    /// SHA-256 of the document's bytes.
    #[must_use]
    pub const fn digest(&self) -> &Sha256Digest {
        &self.digest
    }

    /// The document.
    #[must_use]
    pub const fn document(&self) -> &ReferencesDocument {
        &self.document
    }

    /// Name of the first set, in the order of names, with a generation that counts at this time and that the quote agrees with in every register
    /// named (PROTOCOL §8.2).
    #[must_use]
    pub fn matching_set(&self, quote: &VerifiedQuote, time_ms: u64) -> Option<&str> {
        let matches = |generation: &Generation| {
            generation.lifetime.contains(time_ms)
                && generation.bank == quote.bank().id()
                && !generation.pcrs.is_empty()
                && generation.pcrs.iter().all(|(pcr, value)| quote.pcr(*pcr) == Some(value.as_slice()))
        };
        self.document
            .sets
            .iter()
            .find(|(_, generations)| generations.iter().any(matches))
            .map(|(name, _)| name.as_str())
    }
}

/// What is to be appraised.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The quote.
    pub quote: &'a VerifiedQuote,
    /// What the boot log proves.
    pub boot: &'a BootFacts,
    /// Whether a certificate endorses the TPM; otherwise its EK was allow-listed.
    pub certified: bool,
    /// References in force.
    pub references: Option<&'a References>,
    /// What the IMA list shows, if an IMA policy is in force.
    pub ima: Option<&'a ImaAppraised>,
    /// Decision time, ms since the Unix epoch.
    pub time_ms: u64,
}

/// Appraises facts.
#[must_use]
pub fn appraise(facts: &Facts<'_>) -> Appraisal {
    let reference_set =
        facts.references.and_then(|references| references.matching_set(facts.quote, facts.time_ms));
    let configuration = match facts.boot.secure_boot {
        // Who debugs the firmware decides what Secure Boot says.
        SecureBoot::On if facts.boot.debug_mode != Some(true) => Tier::Affirming,
        SecureBoot::On | SecureBoot::Off | SecureBoot::Empty | SecureBoot::Unknown => Tier::Warning,
    };
    let executables = match (facts.references, reference_set) {
        (None, _) => Tier::None,
        (Some(_), Some(_)) => Tier::Affirming,
        // A document that is in force for its IMA policy alone says nothing of boots.
        (Some(references), None) if references.document.sets.is_empty() && references.ima.is_some() => {
            Tier::None
        }
        (Some(_), None) => Tier::Contraindicated,
    };
    let hardware = if facts.certified { Tier::Affirming } else { Tier::Warning };
    // Files that nobody looked at and violations aren't contradictions, and nothing to affirm.
    let file_system = facts.ima.map(|ima| match &ima.state().counts {
        counts if counts.violations == 0 && counts.excluded == 0 => Tier::Affirming,
        _ => Tier::Warning,
    });
    let vector = [
        // The AK was enrolled by a credential that only the EK's TPM could open.
        Some((claim::INSTANCE_IDENTITY, Tier::Affirming)),
        Some((claim::CONFIGURATION, configuration)),
        Some((claim::EXECUTABLES, executables)),
        file_system.map(|tier| (claim::FILE_SYSTEM, tier)),
        Some((claim::HARDWARE, hardware)),
    ];
    let vector: Vec<(u64, Tier)> = vector.into_iter().flatten().collect();
    // What wasn't appraised can't be affirmed.
    let weigh = |tier: Tier| if tier == Tier::None { Tier::Warning } else { tier };
    let tier = vector.iter().map(|(_, tier)| weigh(*tier)).max().unwrap_or(Tier::None);
    Appraisal {
        tier,
        vector: vector.iter().map(|(claim, tier)| (*claim, tier.number())).collect(),
        reference_set: reference_set.map(str::to_owned),
    }
}

/// The appraisal of a host whose evidence wasn't looked at, or didn't hold.
#[must_use]
pub fn unappraised() -> Appraisal {
    Appraisal { tier: Tier::None, vector: Vec::new(), reference_set: None }
}

/// The tri-state that policies see.
#[must_use]
pub const fn secure_boot_fact(state: SecureBoot) -> SecureBootFact {
    match state {
        SecureBoot::On => SecureBootFact::On,
        SecureBoot::Off => SecureBootFact::Off,
        // A variable without a value decides nothing.
        SecureBoot::Empty | SecureBoot::Unknown => SecureBootFact::Unknown,
    }
}
