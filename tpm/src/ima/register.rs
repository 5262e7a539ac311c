//! The register that a list leads to, entry by entry.
//!
//! Only recomputed hashes are extended. What is logged beside them is compared and trusted for nothing.

use super::list::Entry;
use super::value::Value;
use crate::algorithm::HashAlg;

/// What the kernel extends in banks other than SHA-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The hash of the template data in the bank's own algorithm: Linux 5.8 and later.
    Rehashed,
    /// The SHA-1 template hash followed by zeros: earlier kernels. As strong as SHA-1.
    PaddedSha1,
}

/// A register on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register {
    bank: HashAlg,
    rule: Rule,
    value: Value,
}

impl Register {
    /// As it is before the first entry.
    pub fn new(bank: HashAlg, rule: Rule) -> Self {
        Self { bank, rule, value: Value::zero(bank) }
    }

    /// As it was left.
    pub fn resume(bank: HashAlg, rule: Rule, value: Value) -> Self {
        Self { bank, rule, value }
    }

    /// What it holds.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Its bank.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// Extends one entry. Says whether the logged template hash, of `column`, is the hash of the data; a violation's is
    /// zero and never wrong.
    pub fn extend(&mut self, entry: &Entry<'_>, column: HashAlg) -> bool {
        let violation = entry.is_violation();
        let extension = match (self.rule, violation) {
            (Rule::Rehashed, true) => Value::ones(self.bank),
            (Rule::Rehashed, false) => entry.template_hash(self.bank),
            (Rule::PaddedSha1, true) => Value::padded(self.bank, Value::ones(HashAlg::Sha1).as_bytes()),
            (Rule::PaddedSha1, false) => {
                Value::padded(self.bank, entry.template_hash(HashAlg::Sha1).as_bytes())
            }
        };
        // TPM 2.0 Part 1, 17.4.2: new = H(old || digest).
        self.value = Value::hash(self.bank, &[self.value.as_bytes(), extension.as_bytes()]);
        if violation {
            return true;
        }
        if column == self.bank && self.rule == Rule::Rehashed {
            return extension.as_bytes() == entry.logged();
        }
        entry.template_hash(column).as_bytes() == entry.logged()
    }
}
