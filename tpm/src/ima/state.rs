//! What is kept of a host between two submissions, so that only new entries need travel.
//!
//! The state is the outcome of good evidence and an input of the next appraisal; it has one encoding, so that a decision
//! can carry it and an auditor can repeat the step. It ends with the boot, and with the policy under which the entries
//! before it were judged.

use countersign_core::cbor::{CborError, Decoder, Slot, encode_array};
use thiserror::Error;

use super::aggregate::Aggregate;
use super::policy::MAX_EXCLUDES;
use super::register::Rule;
use super::value::Value;
use crate::algorithm::HashAlg;

/// One boot of a host, by the TPM's counters. Both change the boot: what a resume leaves of the register isn't relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootId {
    /// TPMS_CLOCK_INFO.resetCount.
    pub reset_count: u32,
    /// TPMS_CLOCK_INFO.restartCount.
    pub restart_count: u32,
}

/// Sums over all entries since the boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries that the quote proves.
    pub entries: u64,
    /// Violations among them.
    pub violations: u64,
    /// Accepted by an exclude alone.
    pub excluded: u64,
    /// Accepted by a signature.
    pub signed: u64,
    /// Programs without a file (memfd).
    pub memfd: u64,
    /// Measured buffers: kernel command lines for kexec, keys, security modules' state.
    pub buffers: u64,
}

/// Where the appraisal of a host stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImaState {
    /// The boot.
    pub boot: BootId,
    /// SHA-256 of the policy document under which the entries were judged.
    pub policy: [u8; 32],
    /// The bank.
    pub bank: HashAlg,
    /// How the register is extended.
    pub rule: Rule,
    /// What the register held after the last entry.
    pub value: Value,
    /// What boot_aggregate says.
    pub aggregate: Aggregate,
    /// Sums.
    pub counts: Counts,
    /// One bit for each exclude of the policy that was needed, lowest first.
    pub excludes_used: [u8; MAX_EXCLUDES / 8],
}

/// Why bytes aren't a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StateError {
    /// Not deterministic CBOR of the form.
    #[error("{0}")]
    Cbor(#[from] CborError),
    /// A value out of its bounds.
    #[error("{0} isn't what it must be")]
    Value(&'static str),
}

impl ImaState {
    /// Before the first entry of a boot.
    pub fn fresh(boot: BootId, policy: [u8; 32], bank: HashAlg, rule: Rule) -> Self {
        Self {
            boot,
            policy,
            bank,
            rule,
            value: Value::zero(bank),
            aggregate: Aggregate::NotQuoted,
            counts: Counts::default(),
            excludes_used: [0; MAX_EXCLUDES / 8],
        }
    }

    /// Notes that an exclude was needed.
    pub(super) fn mark_exclude(&mut self, number: usize) {
        if let Some(byte) = self.excludes_used.get_mut(number / 8) {
            *byte |= 1 << (number % 8);
        }
    }

    /// Numbers of the excludes that were needed since the boot.
    pub fn used_excludes(&self) -> impl Iterator<Item = usize> {
        (0..MAX_EXCLUDES).filter(|number| {
            self.excludes_used.get(number / 8).is_some_and(|byte| byte >> (number % 8) & 1 == 1)
        })
    }

    /// Writes the state: an array of 14.
    pub fn write(&self, slot: Slot<'_>) {
        let counts = &self.counts;
        let used = self.excludes_used.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        slot.array(|list| {
            list.item().uint(u64::from(self.boot.reset_count));
            list.item().uint(u64::from(self.boot.restart_count));
            list.item().bytes(&self.policy);
            list.item().uint(u64::from(self.bank.id()));
            list.item().bool(self.rule == Rule::PaddedSha1);
            list.item().bytes(self.value.as_bytes());
            list.item().uint(match self.aggregate {
                Aggregate::Checked => 1,
                Aggregate::NotQuoted => 2,
                Aggregate::Zero => 3,
                Aggregate::Mismatch => 4,
            });
            for count in [
                counts.entries,
                counts.violations,
                counts.excluded,
                counts.signed,
                counts.memfd,
                counts.buffers,
            ] {
                list.item().uint(count);
            }
            list.item().bytes(self.excludes_used.get(..used).unwrap_or_default());
        });
    }

    /// Reads what [`ImaState::write`] wrote.
    pub fn read(decoder: &mut Decoder<'_>) -> Result<Self, StateError> {
        decoder.array_of(14)?;
        let boot = BootId { reset_count: read_u32(decoder)?, restart_count: read_u32(decoder)? };
        let policy = decoder.byte_array()?;
        let bank = u16::try_from(decoder.uint()?).map_err(|_| StateError::Value("bank"))?;
        let bank = HashAlg::from_id(bank).map_err(|_| StateError::Value("bank"))?;
        let rule = if decoder.bool()? { Rule::PaddedSha1 } else { Rule::Rehashed };
        let value = Value::new(bank, decoder.bytes()?).ok_or(StateError::Value("register"))?;
        let aggregate = match decoder.uint()? {
            1 => Aggregate::Checked,
            2 => Aggregate::NotQuoted,
            3 => Aggregate::Zero,
            4 => Aggregate::Mismatch,
            _ => return Err(StateError::Value("boot_aggregate")),
        };
        let counts = Counts {
            entries: decoder.uint()?,
            violations: decoder.uint()?,
            excluded: decoder.uint()?,
            signed: decoder.uint()?,
            memfd: decoder.uint()?,
            buffers: decoder.uint()?,
        };
        let used = decoder.bytes()?;
        let mut excludes_used = [0; MAX_EXCLUDES / 8];
        let slot = excludes_used.get_mut(..used.len()).ok_or(StateError::Value("excludes"))?;
        slot.copy_from_slice(used);
        if used.last() == Some(&0) {
            return Err(StateError::Value("excludes"));
        }
        Ok(Self { boot, policy, bank, rule, value, aggregate, counts, excludes_used })
    }

    /// The state's bytes: an array that holds it.
    pub fn encode(&self) -> Vec<u8> {
        encode_array(|list| self.write(list.item()))
    }

    /// Reads exact bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.array_of(1)?;
        let state = Self::read(&mut decoder)?;
        decoder.finish()?;
        Ok(state)
    }

    /// SHA-256 of its bytes.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(&HashAlg::Sha256.digest(&self.encode()));
        digest
    }
}

fn read_u32(decoder: &mut Decoder<'_>) -> Result<u32, StateError> {
    u32::try_from(decoder.uint()?).map_err(|_| StateError::Value("counter"))
}
