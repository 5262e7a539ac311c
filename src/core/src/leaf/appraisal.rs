//! The appraisal of a host as leaves carry it: tier and trust vector of AR4SI, and the reference set that matched (PROTOCOL §7.1).
//!
//! Comes in: the map of a decision or of a host-state body. Refused: claims and values that AR4SI doesn't have.

use super::LeafError;
use super::host::Tier;
use crate::cbor::{Decoder, Key, Slot};

/// The attestation result in EAR words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appraisal {
    /// Overall tier: the worst of the vector.
    pub tier: Tier,
    /// AR4SI claim number to value.
    pub vector: Vec<(u64, u64)>,
    /// Name of the reference set that matched.
    pub reference_set: Option<String>,
}

impl Appraisal {
    /// Writes the map.
    pub fn write(&self, slot: Slot<'_>) {
        slot.map(|claim| {
            claim.entry(1).uint(self.tier.number());
            claim.entry(2).map(|vector| {
                for (number, value) in &self.vector {
                    vector.entry(i64::try_from(*number).unwrap_or(i64::MAX)).uint(*value);
                }
            });
            if let Some(name) = &self.reference_set {
                claim.entry(3).text(name);
            }
        });
    }

    /// Reads the map.
    pub fn read(decoder: &mut Decoder<'_>) -> Result<Self, LeafError> {
        let entries = decoder.map()?;
        decoder.expect_key(1)?;
        let tier = Tier::from_number(decoder.uint()?)?;
        decoder.expect_key(2)?;
        let mut vector = Vec::new();
        for _ in 0..decoder.map()? {
            match decoder.key()? {
                // PROTOCOL §7.1: these claims, and values that are tiers.
                Key::Int(number @ 0..=4) => {
                    let value = Tier::from_number(decoder.uint()?)?.number();
                    vector.push((number.unsigned_abs(), value));
                }
                _ => return Err(LeafError::Value("trust vector")),
            }
        }
        let reference_set = match entries {
            2 => None,
            3 => {
                decoder.expect_key(3)?;
                Some(decoder.text()?.to_owned())
            }
            _ => return Err(LeafError::Value("appraisal")),
        };
        Ok(Self { tier, vector, reference_set })
    }
}
