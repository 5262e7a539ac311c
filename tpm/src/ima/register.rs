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

/// What was found out on the way.
#[derive(Debug, Clone, Copy)]
pub struct Extended {
    /// Whether the logged template hash is the hash of the data; a violation's is zero and never wrong.
    pub agrees: bool,
    /// The hash of the data that the rule makes use of; none for a violation, whose data nothing proves.
    pub template_hash: Option<Value>,
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

    /// What the kernel extends.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Its bank.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// Extends one entry, whose logged template hash is of `column`.
    pub fn extend(&mut self, entry: &Entry<'_>, column: HashAlg) -> Extended {
        if entry.is_violation() {
            let ones = match self.rule {
                Rule::Rehashed => Value::ones(self.bank),
                Rule::PaddedSha1 => Value::padded(self.bank, Value::ones(HashAlg::Sha1).as_bytes()),
            };
            self.take(&ones);
            return Extended { agrees: true, template_hash: None };
        }
        let own = if self.rule == Rule::Rehashed { self.bank } else { HashAlg::Sha1 };
        let (extension, logged) = if own == column {
            let hash = entry.template_hash(own);
            (hash, hash)
        } else {
            let [extension, logged] = entry.template_hashes([own, column]);
            (extension, logged)
        };
        match self.rule {
            Rule::Rehashed => self.take(&extension),
            Rule::PaddedSha1 => self.take(&Value::padded(self.bank, extension.as_bytes())),
        }
        Extended { agrees: logged.as_bytes() == entry.logged(), template_hash: Some(extension) }
    }

    /// TPM 2.0 Part 1, 17.4.2: new = H(old || digest).
    fn take(&mut self, extension: &Value) {
        self.value = Value::hash(self.bank, &[self.value.as_bytes(), extension.as_bytes()]);
    }
}
