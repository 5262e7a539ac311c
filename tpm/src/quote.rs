//! TPM quotes: from bytes to [`VerifiedQuote`].
//!
//! Comes in: the attestation, its signature, the register values that the host claims, and what the verifier
//! demands: key, nonce, bank and registers. Goes out: the values that the TPM really vouches for. Refused, each with
//! its own code: whatever is not a quote of exactly the demanded registers, over exactly these values, with exactly
//! this nonce, signed by exactly this attestation key.

use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::algorithm::HashAlg;
use crate::attest::{Attest, AttestBody, AttestError, ClockInfo, PcrSelection};
use crate::public::{AttributeRefusal, Public, require_attestation_key};
use crate::signature::{self, Signature, SignatureError};

/// Registers 0..=7 are extended by every firmware that conforms to the TCG PC Client profile. 2.3.4 there.
const BOOT_PCRS: std::ops::RangeInclusive<u32> = 0..=7;
/// Highest register of the PC Client profile.
pub const MAX_PCR: u32 = 23;

/// The bank and the registers that a quote must cover, no more and no less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrSelectionSpec {
    bank: HashAlg,
    pcrs: Vec<u32>,
}

/// Why a demand for registers makes no sense. The blame is the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SelectionMisuse {
    /// No register demanded.
    #[error("no PCR selected")]
    Empty,
    /// Registers repeated or not ascending.
    #[error("PCRs not in ascending order")]
    Order,
    /// A register above [`MAX_PCR`].
    #[error("no PCR {0}")]
    OutOfRange(u32),
    /// The SHA-1 bank proves nothing: collisions are known.
    #[error("the SHA-1 bank is not acceptable")]
    Sha1Bank,
}

impl PcrSelectionSpec {
    /// A demand for `pcrs`, ascending, of `bank`.
    pub fn new(bank: HashAlg, pcrs: &[u32]) -> Result<Self, SelectionMisuse> {
        if bank == HashAlg::Sha1 {
            return Err(SelectionMisuse::Sha1Bank);
        }
        if pcrs.is_empty() {
            return Err(SelectionMisuse::Empty);
        }
        if let Some(pcr) = pcrs.iter().find(|pcr| **pcr > MAX_PCR) {
            return Err(SelectionMisuse::OutOfRange(*pcr));
        }
        if !pcrs.is_sorted_by(|a, b| a < b) {
            return Err(SelectionMisuse::Order);
        }
        Ok(Self { bank, pcrs: pcrs.to_vec() })
    }

    /// The bank.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// The registers, ascending.
    pub fn pcrs(&self) -> &[u32] {
        &self.pcrs
    }
}

/// What [`verify_quote`] judges.
#[derive(Debug, Clone, Copy)]
pub struct QuoteInput<'a> {
    /// The enrolled attestation key.
    pub ak: &'a Public,
    /// TPMS_ATTEST as it was signed.
    pub attest: &'a [u8],
    /// TPMT_SIGNATURE.
    pub signature: &'a [u8],
    /// The qualifying data that the quote must carry.
    pub expected_extra_data: &'a [u8; 32],
    /// The registers that it must cover.
    pub required: &'a PcrSelectionSpec,
    /// The values that the host claims, ascending by register.
    pub pcr_values: &'a [(u32, Vec<u8>)],
}

/// Why a quote is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QuoteRefusal {
    /// The attestation cannot be read.
    #[error("quote is malformed: {0}")]
    Malformed(AttestError),
    /// The bytes are not a TPM's, or attest something else.
    #[error("not a quote")]
    NotAQuote,
    /// The key is not fit to attest.
    #[error("attestation key is unfit: {0}")]
    KeyUnfit(AttributeRefusal),
    /// The signature cannot be read.
    #[error("quote signature is malformed: {0}")]
    SignatureMalformed(SignatureError),
    /// The signature uses another scheme or hash than the key is bound to, or SHA-1.
    #[error("quote signature scheme is not acceptable")]
    SignatureScheme,
    /// The signature is not by this key over these bytes.
    #[error("quote signature does not verify")]
    SignatureInvalid,
    /// The quote carries other qualifying data.
    #[error("quote was not made for this challenge")]
    NonceMismatch,
    /// The quote covers other registers than demanded.
    #[error("quote covers other PCRs than required")]
    SelectionMismatch,
    /// The claimed values are not those of the demanded registers, one each and in order.
    #[error("PCR values do not match the required selection")]
    ValuesMismatch,
    /// A value is not as long as a digest of the bank.
    #[error("value of PCR {pcr} has {len} bytes")]
    ValueLength {
        /// The register.
        pcr: u32,
        /// Length of its value.
        len: usize,
    },
    /// The quoted digest is not that of the claimed values.
    #[error("quoted digest is not that of the PCR values")]
    DigestMismatch,
    /// A boot register was never extended: no firmware measured this boot into the bank.
    #[error("boot PCR {pcr} is zero")]
    BootPcrZero {
        /// The register.
        pcr: u32,
    },
}

impl QuoteRefusal {
    fn from_attest(error: AttestError) -> Self {
        match error {
            AttestError::NotGenerated | AttestError::Type(_) => Self::NotAQuote,
            AttestError::SelectionEmpty
            | AttestError::SelectionOrder
            | AttestError::SelectionSize(_)
            | AttestError::TooManySelections(_)
            | AttestError::Bank(_) => Self::SelectionMismatch,
            AttestError::Wire(_) | AttestError::Boolean => Self::Malformed(error),
        }
    }

    fn from_signature(error: SignatureError) -> Self {
        match error {
            SignatureError::Wire(_) => Self::SignatureMalformed(error),
            SignatureError::Scheme(_) | SignatureError::Hash(_) | SignatureError::Mismatch => {
                Self::SignatureScheme
            }
            SignatureError::Invalid => Self::SignatureInvalid,
        }
    }
}

/// Register values that a TPM vouches for. Only [`verify_quote`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedQuote {
    bank: HashAlg,
    pcrs: Vec<(u32, Vec<u8>)>,
    clock: ClockInfo,
    firmware_version: u64,
}

impl VerifiedQuote {
    /// Value of a register, `None` when the quote does not cover it.
    pub fn pcr(&self, index: u32) -> Option<&[u8]> {
        self.pcrs.iter().find(|(pcr, _)| *pcr == index).map(|(_, value)| value.as_slice())
    }

    /// Covered registers and their values, ascending.
    pub fn pcrs(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.pcrs.iter().map(|(pcr, value)| (*pcr, value.as_slice()))
    }

    /// The bank that the values are of.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// Clock and counters of the TPM when it quoted.
    pub fn clock(&self) -> ClockInfo {
        self.clock
    }

    /// Firmware version as the TPM states it.
    pub fn firmware_version(&self) -> u64 {
        self.firmware_version
    }
}

/// Judges a quote.
pub fn verify_quote(input: QuoteInput<'_>) -> Result<VerifiedQuote, QuoteRefusal> {
    verify_with_extra_data(&input, input.expected_extra_data)
}

fn verify_with_extra_data(input: &QuoteInput<'_>, extra_data: &[u8]) -> Result<VerifiedQuote, QuoteRefusal> {
    require_attestation_key(input.ak).map_err(QuoteRefusal::KeyUnfit)?;
    let attest = Attest::parse(input.attest).map_err(QuoteRefusal::from_attest)?;
    let AttestBody::Quote { selections, pcr_digest } = &attest.body else {
        return Err(QuoteRefusal::NotAQuote);
    };
    let signature = Signature::parse(input.signature).map_err(QuoteRefusal::from_signature)?;
    signature::verify(input.ak, input.attest, &signature).map_err(QuoteRefusal::from_signature)?;
    if !bool::from(attest.extra_data.ct_eq(extra_data)) {
        return Err(QuoteRefusal::NonceMismatch);
    }
    require_selection(selections, input.required)?;
    require_values(input.pcr_values, input.required)?;
    // TPM 2.0 Part 3, 18.4.1: the digest is over the concatenated values, with the hash of the signing scheme.
    let values: Vec<&[u8]> = input.pcr_values.iter().map(|(_, value)| value.as_slice()).collect();
    if signature.hash().digest_parts(&values) != *pcr_digest {
        return Err(QuoteRefusal::DigestMismatch);
    }
    for (pcr, value) in input.pcr_values {
        if BOOT_PCRS.contains(pcr) && value.iter().all(|byte| *byte == 0) {
            return Err(QuoteRefusal::BootPcrZero { pcr: *pcr });
        }
    }
    Ok(VerifiedQuote {
        bank: input.required.bank,
        pcrs: input.pcr_values.to_vec(),
        clock: attest.clock,
        firmware_version: attest.firmware_version,
    })
}

fn require_selection(selections: &[PcrSelection], required: &PcrSelectionSpec) -> Result<(), QuoteRefusal> {
    match selections {
        [one] if one.bank == required.bank && one.pcrs == required.pcrs => Ok(()),
        _ => Err(QuoteRefusal::SelectionMismatch),
    }
}

fn require_values(values: &[(u32, Vec<u8>)], required: &PcrSelectionSpec) -> Result<(), QuoteRefusal> {
    if !values.iter().map(|(pcr, _)| pcr).eq(&required.pcrs) {
        return Err(QuoteRefusal::ValuesMismatch);
    }
    for (pcr, value) in values {
        if value.len() != required.bank.digest_len() {
            return Err(QuoteRefusal::ValueLength { pcr: *pcr, len: value.len() });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "quote_tests.rs"]
mod tests;
