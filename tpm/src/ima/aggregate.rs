//! boot_aggregate: the entry that ties a list to the boot before it.
//!
//! The kernel's first entry is a digest over the boot registers of one bank (Linux security/integrity/ima/ima_crypto.c,
//! ima_calc_boot_aggregate): SHA-1 over PCRs 0 to 7 of the SHA-1 bank; any other hash over PCRs 0 to 9 of its own bank,
//! in Linux 5.8 over PCRs 0 to 7. Only the quoted bank can be compared. The kernel makes it before user space runs: what is measured into these
//! registers after that isn't in it.

use super::template::{DigestKind, Measured};
use crate::algorithm::HashAlg;

/// Name of the entry. A file can't have it as a path: paths begin with a slash where the kernel knows them.
pub const NAME: &[u8] = b"boot_aggregate";

/// What boot_aggregate says of the boot registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// It is the digest of the quoted boot registers.
    Checked,
    /// It is of another bank, or of registers that the quote doesn't cover: nothing was compared.
    NotQuoted,
    /// It is all zeros: the kernel found no TPM when IMA began.
    Zero,
    /// It is of the quoted bank and not the digest of its registers.
    Mismatch,
}

impl Aggregate {
    /// The text that policies compare with.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Checked => "checked",
            Self::NotQuoted => "not-quoted",
            Self::Zero => "zero",
            Self::Mismatch => "mismatch",
        }
    }
}

/// Compares the entry with the registers of `bank`.
pub fn compare<'a>(
    measured: &Measured<'_>,
    bank: HashAlg,
    pcr: impl Fn(u32) -> Option<&'a [u8]>,
) -> Aggregate {
    if measured.digest.bytes.iter().all(|byte| *byte == 0) {
        return Aggregate::Zero;
    }
    if measured.kind != DigestKind::Ima || measured.digest.algorithm.hash() != Some(bank) {
        return Aggregate::NotQuoted;
    }
    let over = |last: u32| -> Option<Vec<u8>> {
        let values: Vec<&[u8]> = (0..=last).map(&pcr).collect::<Option<_>>()?;
        Some(bank.digest_parts(&values))
    };
    let Some(short) = over(7) else { return Aggregate::NotQuoted };
    if short == measured.digest.bytes {
        return Aggregate::Checked;
    }
    if bank == HashAlg::Sha1 {
        return Aggregate::Mismatch;
    }
    match over(9) {
        Some(long) if long == measured.digest.bytes => Aggregate::Checked,
        Some(_) => Aggregate::Mismatch,
        None => Aggregate::NotQuoted,
    }
}
