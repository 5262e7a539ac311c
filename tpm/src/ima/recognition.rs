//! Which entries of a walk are told by their template hash alone.
//!
//! Comes in: entry after entry with the hash that the register took. Goes out: of each, whether the policy lists it. Nothing is believed for
//! that: the answer counts as the entry does, if the register proves it. The hashes are looked up a few at a time, since the set of a
//! large policy lies outside the caches and lookups that don't wait for each other take the time of one.

use super::list::Entry;
use super::policy::RuntimePolicy;
use super::register::{Extended, Register, Rule};
use super::template::Template;
use super::value::Value;
use crate::algorithm::HashAlg;

const TOGETHER: usize = 16;

/// A walk's entries so far.
pub(super) struct Recognition<'a> {
    policy: &'a RuntimePolicy,
    waiting: Vec<Option<Value>>,
    listed: Vec<bool>,
}

impl<'a> Recognition<'a> {
    /// Of no entry yet.
    pub(super) fn new(policy: &'a RuntimePolicy) -> Self {
        Self { policy, waiting: Vec::with_capacity(TOGETHER), listed: Vec::new() }
    }

    /// Takes the next entry.
    pub(super) fn note(&mut self, entry: &Entry<'_>, extended: &Extended, register: &Register) {
        let by_sha256 = register.bank() == HashAlg::Sha256 && register.rule() == Rule::Rehashed;
        let told = by_sha256 && entry.template() == Template::ImaNg;
        self.waiting.push(extended.template_hash.filter(|_| told));
        if self.waiting.len() == TOGETHER {
            self.look_up();
        }
    }

    fn look_up(&mut self) {
        let policy = self.policy;
        let listed = self.waiting.drain(..).map(|hash| hash.is_some_and(|hash| policy.lists_entry(&hash)));
        self.listed.extend(listed);
    }

    /// Of each entry, whether the policy lists it.
    pub(super) fn finish(mut self) -> Vec<bool> {
        self.look_up();
        self.listed
    }
}
