//! Outcome leaves in the light of the leaves before them: who may tell, of what, when, and only once (PROTOCOL §8.14).
//!
//! Fed leaf by leaf, in order. Memory: the gateways, and what was told of artifacts that ended within the last day.

use super::{LogSource, Unreadable};
use crate::outcome::{Founded, Unfounded, judge, mark};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::control::{PrincipalKind, PrincipalRecord, Revocation, Subject};
use countersign_core::leaf::record::Outcome;
use countersign_core::leaf::{Kind, Leaf};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Between the check of an outcome and the time of its batch, ms: longer than any call lives.
const SEQUENCED_WITHIN_MS: u64 = 60_000;
/// Outcomes told are forgotten by the hour.
const BUCKET_MS: u64 = 3_600_000;

/// What is wrong with an outcome leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum OutcomeFault {
    /// No gateway of this log has the key.
    #[error("told by a key that was never a gateway's")]
    UnknownGateway,
    /// The gateway was revoked or removed before.
    #[error("told by a gateway that had been revoked or removed")]
    EndedGateway,
    /// It can't be true.
    #[error(transparent)]
    Unfounded(#[from] Unfounded),
    /// Gateway, artifact and result are those of an earlier leaf.
    #[error("told before")]
    Twice,
}

/// A gateway as the control leaves show it.
#[derive(Clone, Debug)]
pub(super) struct Gateway {
    pub(super) name: String,
    listed: bool,
    /// Since when it isn't in force, ms.
    ended_ms: Option<u64>,
}

/// What is known when an outcome leaf is reached.
#[derive(Default)]
pub(super) struct Book {
    gateways: HashMap<Sha256Digest, Gateway>,
    revoked: HashSet<Sha256Digest>,
    /// Marks of what was told, by the hour until which it is worth telling.
    told: BTreeMap<u64, HashSet<Sha256Digest>>,
}

impl Book {
    /// Takes note of a leaf that isn't an outcome. Bodies that don't parse are somebody else's finding.
    pub(super) fn note(&mut self, leaf: &Leaf) {
        let changed = match leaf.kind {
            Kind::Principal => PrincipalRecord::parse(&leaf.body).ok().map(|record| self.principal(record)),
            Kind::Revocation => match Revocation::parse(&leaf.body) {
                Ok(Revocation { subject: Subject::Principal(key), revoke, .. }) => {
                    if revoke {
                        self.revoked.insert(key);
                    } else {
                        self.revoked.remove(&key);
                    }
                    Some(key)
                }
                _ => None,
            },
            _ => None,
        };
        let Some(key) = changed else { return };
        let revoked = self.revoked.contains(&key);
        if let Some(gateway) = self.gateways.get_mut(&key) {
            let in_force = gateway.listed && !revoked;
            gateway.ended_ms = if in_force { None } else { Some(gateway.ended_ms.unwrap_or(leaf.time_ms)) };
        }
    }

    fn principal(&mut self, record: PrincipalRecord) -> Sha256Digest {
        let listed = record.added && record.kind == PrincipalKind::Gateway;
        if listed {
            let known = self.gateways.entry(record.thumbprint);
            let gateway = known.or_insert_with(|| Gateway { name: String::new(), listed, ended_ms: None });
            gateway.name = record.name;
        }
        if let Some(gateway) = self.gateways.get_mut(&record.thumbprint) {
            gateway.listed = listed;
        }
        record.thumbprint
    }

    /// The gateway of a key, in force or not.
    pub(super) fn gateway(&self, key: &Sha256Digest) -> Option<&Gateway> {
        self.gateways.get(key)
    }

    /// Judges the outcome in `leaf`. The outer error: the log can't be read.
    pub(super) fn take(
        &mut self,
        source: &dyn LogSource,
        leaf: &Leaf,
        outcome: &Outcome,
        audiences: Option<&BTreeMap<String, BTreeSet<String>>>,
    ) -> Result<Result<Founded, OutcomeFault>, Unreadable> {
        let index = outcome.artifact.0;
        let named = if index < leaf.index { source.leaves(index, 1)?.into_iter().next() } else { None };
        Ok(self.judge(leaf, outcome, named.as_deref(), audiences))
    }

    fn judge(
        &mut self,
        leaf: &Leaf,
        outcome: &Outcome,
        named: Option<&[u8]>,
        audiences: Option<&BTreeMap<String, BTreeSet<String>>>,
    ) -> Result<Founded, OutcomeFault> {
        let gateway = self.gateways.get(&outcome.gateway).ok_or(OutcomeFault::UnknownGateway)?;
        // Who told is checked before the outcome is queued, so it may end in between.
        if gateway.ended_ms.is_some_and(|ended| ended.saturating_add(SEQUENCED_WITHIN_MS) < leaf.time_ms) {
            return Err(OutcomeFault::EndedGateway);
        }
        let none = BTreeSet::new();
        let own = audiences.map(|known| known.get(&gateway.name).unwrap_or(&none));
        let told = leaf.time_ms.saturating_sub(SEQUENCED_WITHIN_MS)..=leaf.time_ms;
        let founded = judge(outcome, named, own, &told)?;
        self.forget(leaf.time_ms);
        let bucket = founded.expires_ms / BUCKET_MS;
        if self.told.entry(bucket).or_default().insert(mark(outcome)) {
            Ok(founded)
        } else {
            Err(OutcomeFault::Twice)
        }
    }

    /// Marks of what was told and may be told again, by the hour until which that is so.
    pub(super) fn told(&self) -> impl Iterator<Item = (u64, impl Iterator<Item = &Sha256Digest>)> {
        self.told.iter().map(|(bucket, marks)| (*bucket, marks.iter()))
    }

    /// Takes note of what was told before.
    pub(super) fn remember(&mut self, bucket: u64, marks: impl Iterator<Item = Sha256Digest>) {
        self.told.entry(bucket).or_default().extend(marks);
    }

    /// Drops what can't be told again: every further outcome of it comes too late.
    fn forget(&mut self, now_ms: u64) {
        let keep_from = now_ms.saturating_sub(2 * SEQUENCED_WITHIN_MS) / BUCKET_MS;
        while self.told.first_key_value().is_some_and(|(bucket, _)| *bucket < keep_from) {
            self.told.pop_first();
        }
    }
}
