//! A digest of any bank, by value: the hot loop allocates nothing.

use sha2::Digest;

use super::padded::Padded;
use crate::algorithm::HashAlg;

/// Longest digest: SHA-512.
const MAX: usize = 64;

/// Up to 64 bytes: a template hash, or the value of a register.
#[derive(Clone, Copy)]
pub struct Value {
    bytes: [u8; MAX],
    len: usize,
}

impl Value {
    /// What a register of `bank` holds before the first extension. TPM 2.0 PC Client Platform TPM Profile 1.05, 4.6.2.
    pub fn zero(bank: HashAlg) -> Self {
        Self { bytes: [0; MAX], len: bank.digest_len() }
    }

    /// What the kernel extends for a violation: all ones.
    pub(super) fn ones(bank: HashAlg) -> Self {
        Self { bytes: [0xff; MAX], len: bank.digest_len() }
    }

    /// A value of `bank`; `None` for any other length.
    pub fn new(bank: HashAlg, bytes: &[u8]) -> Option<Self> {
        let mut value = Self::zero(bank);
        if bytes.len() != value.len {
            return None;
        }
        value.fill(bytes);
        Some(value)
    }

    /// `bytes` followed by zeros: what kernels before 5.8 extended in banks other than SHA-1.
    pub(super) fn padded(bank: HashAlg, bytes: &[u8]) -> Self {
        let mut value = Self::zero(bank);
        value.fill(bytes);
        value
    }

    /// Digest of the concatenation of `parts`.
    pub(super) fn hash(bank: HashAlg, parts: &[&[u8]]) -> Self {
        let [value] = Self::hash_each([bank], parts);
        value
    }

    /// Digests of the concatenation of `parts` by several algorithms.
    pub(super) fn hash_each<const N: usize>(banks: [HashAlg; N], parts: &[&[u8]]) -> [Self; N] {
        let mut padded = Padded::empty();
        let short = padded.fill(parts).is_some();
        let mut values = banks.map(Self::zero);
        for (bank, value) in banks.iter().zip(&mut values) {
            match bank {
                HashAlg::Sha1 if short => value.fill(&padded.sha1()),
                HashAlg::Sha256 if short => value.fill(&padded.sha256()),
                HashAlg::Sha1 => value.run::<sha1::Sha1>(parts),
                HashAlg::Sha256 => value.run::<sha2::Sha256>(parts),
                HashAlg::Sha384 => value.run::<sha2::Sha384>(parts),
                HashAlg::Sha512 => value.run::<sha2::Sha512>(parts),
            }
        }
        values
    }

    fn run<D: Digest>(&mut self, parts: &[&[u8]]) {
        let mut state = D::new();
        for part in parts {
            state.update(part);
        }
        self.fill(&state.finalize());
    }

    fn fill(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(self.len);
        if let (Some(slot), Some(bytes)) = (self.bytes.get_mut(..len), bytes.get(..len)) {
            slot.copy_from_slice(bytes);
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        // Behind the length there are zeros.
        self.len == other.len && self.bytes == other.bytes
    }
}

impl Eq for Value {}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(self.as_bytes()))
    }
}
