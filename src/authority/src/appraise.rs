//! Appraisal: verified facts against reference values and endorsements, in EAR words (draft-ietf-rats-ear, AR4SI).
//!
//! Comes in: a verified quote, what its boot log proves, how the host is endorsed, the references in force. Goes out: an [`Appraisal`]. Pure.
//! Nothing is refused here: a contradiction is a tier, and the decision function turns it into a denial at its place in the order.

use crate::policy::SecureBootFact;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::{Generation, ReferencesDocument};
use countersign_core::leaf::LeafError;
use countersign_core::leaf::decision::Appraisal;
use countersign_core::leaf::host::Tier;
use countersign_tpm::eventlog::facts::{BootFacts, SecureBoot};
use countersign_tpm::quote::VerifiedQuote;

/// AR4SI claims that are appraised (draft-ietf-rats-ar4si, 2.3).
mod claim {
    pub(super) const INSTANCE_IDENTITY: u64 = 0;
    pub(super) const CONFIGURATION: u64 = 1;
    pub(super) const EXECUTABLES: u64 = 2;
    pub(super) const HARDWARE: u64 = 4;
}

/// The references document in force, and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct References {
    digest: Sha256Digest,
    document: ReferencesDocument,
}

impl References {
    /// Parses exact document bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        Ok(Self { digest: sha256(bytes), document: ReferencesDocument::parse(bytes)? })
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

    /// Name of the first set, in the order of names, with a generation that the quote agrees with in every register named (PROTOCOL §8.2).
    #[must_use]
    pub fn matching_set(&self, quote: &VerifiedQuote) -> Option<&str> {
        let matches = |generation: &Generation| {
            generation.bank == quote.bank().id()
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
    /// Whether the EK has a manufacturer's certificate; otherwise it was allow-listed.
    pub ek_certified: bool,
    /// References in force.
    pub references: Option<&'a References>,
}

/// Appraises facts.
#[must_use]
pub fn appraise(facts: &Facts<'_>) -> Appraisal {
    let reference_set = facts.references.and_then(|references| references.matching_set(facts.quote));
    let configuration = match facts.boot.secure_boot {
        // Who debugs the firmware decides what Secure Boot says.
        SecureBoot::On if facts.boot.debug_mode != Some(true) => Tier::Affirming,
        SecureBoot::On | SecureBoot::Off | SecureBoot::Empty | SecureBoot::Unknown => Tier::Warning,
    };
    let executables = match (facts.references, reference_set) {
        (None, _) => Tier::None,
        (Some(_), Some(_)) => Tier::Affirming,
        (Some(_), None) => Tier::Contraindicated,
    };
    let hardware = if facts.ek_certified { Tier::Affirming } else { Tier::Warning };
    let vector = [
        // The AK was enrolled by a credential that only the EK's TPM could open.
        (claim::INSTANCE_IDENTITY, Tier::Affirming),
        (claim::CONFIGURATION, configuration),
        (claim::EXECUTABLES, executables),
        (claim::HARDWARE, hardware),
    ];
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
