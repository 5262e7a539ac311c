//! Deciding what of a batch is appended. Pure: facts and Appends in, additions and verdicts out; no I/O, no clock, no entropy.
//!
//! Each Append is judged as if it came alone after those before it: the overlay holds what they changed. One that isn't accepted leaves
//! no trace in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use countersign_core::checkpoint::HeadBody;
use countersign_core::control::{ControlError, ControlState};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::name::{HostId, RequestId};

use super::append::{CLOCK_TOLERANCE_MS, Guard, MAX_DECISION_AGE_MS, Prepared, Spend};
use super::grow::{BatchTree, Growth};
use crate::clock::{ClockFault, batch_time, not_ahead};
use crate::store::project::Change;
use crate::store::{Additions, JoinTokenRow, KnownOutcome, NewLeaf, Prior, SpentId, StoredHead};

/// How long after its expiry the spending of a challenge is remembered: longer than any call can be under way. A challenge that expired
/// before that counts as spent, since nobody knows any more.
pub(super) const SPENT_MEMORY_MS: u64 = 600_000;

/// What a batch is planned with besides the store's facts.
pub(super) struct Terms<'a> {
    /// The control state that was folded so far.
    pub(super) control: &'a ControlState,
    /// The wall clock.
    pub(super) now_ms: u64,
    /// At least one for each entry.
    pub(super) salts: &'a [[u8; 16]],
    /// Digest of the newest body that this process knows to be in the log.
    pub(super) met: Option<Sha256Digest>,
}

/// What becomes of one Append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its leaves have these indexes.
    Appended(std::ops::Range<u64>),
    /// Its requests were answered by these leaves.
    Existing(Vec<u64>),
    Stale,
    ChallengeSpent,
    Spent(Spend),
    BlobsGone(Vec<Sha256Digest>),
    Refused(ControlError),
}

/// Why there is no plan at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlan {
    Clock(ClockFault),
    /// The store's head, trees and control chain don't agree with each other or with what was folded.
    Contradiction(&'static str),
    /// The log has as many leaves as a tree can have, or a head body can't be stated.
    Full,
}

/// A planned batch.
pub(super) struct Plan {
    pub(super) additions: Option<Additions>,
    /// One for each Append, in order.
    pub(super) verdicts: Vec<Verdict>,
    pub(super) tree: BatchTree,
    /// The control state after the batch, if it isn't the one before.
    pub(super) control: Option<ControlState>,
}

/// Plans a batch.
pub(super) fn plan(prior: &Prior, batch: &[&Prepared], terms: &Terms<'_>) -> Result<Plan, NoPlan> {
    // A store that was restored or replaced while this process serves goes on from another past. Heads form a chain, so one of them is enough.
    if terms.met.is_some() && prior.body_at != terms.met {
        return Err(NoPlan::Contradiction("the newest head that was met isn't in it"));
    }
    if let Some(store_ms) = prior.clock_ms {
        not_ahead(terms.now_ms, store_ms).map_err(NoPlan::Clock)?;
    }
    let mut control = None;
    if !prior.control_leaves.is_empty() {
        // Another replica has appended control leaves since.
        let mut folded = terms.control.clone();
        for bytes in &prior.control_leaves {
            folded.apply(bytes).map_err(|_| NoPlan::Contradiction("a control leaf doesn't fold"))?;
        }
        control = Some(folded);
    }
    let mut planner = Planner::new(prior, control.as_ref().unwrap_or(terms.control), terms)?;
    let mut verdicts = Vec::with_capacity(batch.len());
    for append in batch {
        let verdict = planner.judge(append);
        verdicts.push(verdict?);
    }
    let changed = planner.control_changed;
    let (additions, tree, folded) = planner.finish(prior)?;
    Ok(Plan { additions, verdicts, tree, control: if changed { Some(folded) } else { control } })
}

/// What the Appends of this batch changed so far.
#[derive(Default)]
struct Overlay {
    outcomes: HashMap<(HostId, RequestId), KnownOutcome>,
    host_versions: HashMap<HostId, u64>,
    enrolments: HashMap<HostId, u64>,
    key_owners: HashMap<Sha256Digest, HostId>,
    budgets: HashMap<u64, u64>,
    spent: HashSet<SpentId>,
    tokens: HashMap<Sha256Digest, JoinTokenRow>,
}

struct Planner<'a> {
    prior: &'a Prior,
    terms: &'a Terms<'a>,
    overlay: Overlay,
    control: ControlState,
    control_changed: bool,
    time_ms: u64,
    growth: Growth,
    leaves: Vec<NewLeaf>,
    spent: Vec<SpentId>,
    blobs: Vec<(Sha256Digest, Arc<[u8]>)>,
}

impl<'a> Planner<'a> {
    fn new(prior: &'a Prior, control: &ControlState, terms: &'a Terms<'a>) -> Result<Self, NoPlan> {
        let (newest_ms, frontiers) = match &prior.tip {
            Some(tip) => {
                let head = tip.head.body();
                // Nothing is built on a head that isn't what the trees and the chain say.
                if !tip.frontiers.agree_with(head) {
                    return Err(NoPlan::Contradiction("the newest head isn't that of the trees"));
                }
                if head.control_seq != control.number() || head.control_digest != *control.digest() {
                    return Err(NoPlan::Contradiction("the newest head isn't that of the control chain"));
                }
                (head.time_ms, tip.frontiers.clone())
            }
            None => (0, crate::store::Frontiers::default()),
        };
        Ok(Self {
            prior,
            terms,
            overlay: Overlay::default(),
            control: control.clone(),
            control_changed: false,
            time_ms: batch_time(terms.now_ms, newest_ms).map_err(NoPlan::Clock)?,
            growth: Growth::from(frontiers),
            leaves: Vec::new(),
            spent: Vec::new(),
            blobs: Vec::new(),
        })
    }

    fn judge(&mut self, append: &Prepared) -> Result<Verdict, NoPlan> {
        // The order is that of DESIGN: the earlier outcome first, so that an honest retry is never called stale or a replay.
        if let Some(verdict) = self.answered_before(append) {
            return Ok(verdict);
        }
        if !append.guards.iter().all(|guard| self.holds(guard)) {
            return Ok(Verdict::Stale);
        }
        if let Some(verdict) = self.spent_before(append) {
            return Ok(verdict);
        }
        if !self.charges_fit(append) || !self.keys_are_free(append) {
            return Ok(Verdict::Stale);
        }
        let gone = self.blobs_gone(append);
        if !gone.is_empty() {
            return Ok(Verdict::BlobsGone(gone));
        }
        self.accept(append)
    }

    fn answered_before(&self, append: &Prepared) -> Option<Verdict> {
        let mut existing = Vec::new();
        let mut open = false;
        for entry in &append.entries {
            let Some(request) = &entry.request else { continue };
            let key = (request.host, request.id.clone());
            match self.overlay.outcomes.get(&key).or_else(|| self.prior.outcomes.get(&key)) {
                Some(known) if known.request == request.digest => existing.push(known.index),
                // The identifier was used for other bytes. A denial may say so; an allow was decided without knowing.
                Some(_) if entry.kind == Kind::Deny => open = true,
                Some(_) => return Some(Verdict::Stale),
                None => open = true,
            }
        }
        match (existing.is_empty(), open) {
            (true, _) => None,
            (false, false) => Some(Verdict::Existing(existing)),
            // Some were answered meanwhile: the caller takes those and decides the rest again.
            (false, true) => Some(Verdict::Stale),
        }
    }

    fn holds(&self, guard: &Guard) -> bool {
        match guard {
            Guard::HostVersion(host, version) => self.host_version(host) == Some(*version),
            Guard::HostAbsent(host) => self.host_version(host).is_none(),
            Guard::Enrolment(host, index) => self.enrolment(host) == Some(*index),
            Guard::DecidedAt(ms) => {
                self.time_ms <= ms.saturating_add(MAX_DECISION_AGE_MS)
                    && *ms <= self.time_ms.saturating_add(CLOCK_TOLERANCE_MS)
            }
            Guard::Control(number) => self.control.number() == *number,
            Guard::BudgetLeft(index, left) => self.budget(*index) == Some(*left),
        }
    }

    fn host_version(&self, host: &HostId) -> Option<u64> {
        self.overlay.host_versions.get(host).or_else(|| self.prior.host_versions.get(host)).copied()
    }

    fn enrolment(&self, host: &HostId) -> Option<u64> {
        self.overlay.enrolments.get(host).or_else(|| self.prior.enrolments.get(host)).copied()
    }

    fn budget(&self, index: u64) -> Option<u64> {
        self.overlay.budgets.get(&index).or_else(|| self.prior.budgets.get(&index)).copied()
    }

    fn spent_before(&self, append: &Prepared) -> Option<Verdict> {
        let used = |id: SpentId| self.overlay.spent.contains(&id) || self.prior.spent.contains(&id);
        let mut own = HashSet::new();
        for spend in &append.spends {
            match spend {
                Spend::Challenge { digest, expires_ms } => {
                    let id = SpentId::Challenge { expires_ms: *expires_ms, digest: *digest };
                    if used(id) || !own.insert(id) || *expires_ms < self.forget_before_ms() {
                        return Some(Verdict::ChallengeSpent);
                    }
                }
                Spend::Enrolment(bytes) => {
                    let id = SpentId::Enrolment(*bytes);
                    if used(id) || !own.insert(id) {
                        return Some(Verdict::Spent(*spend));
                    }
                }
                Spend::Mark { digest, expires_ms } => {
                    let id = SpentId::Mark { expires_ms: *expires_ms, digest: *digest };
                    if used(id) || !own.insert(id) || *expires_ms < self.forget_before_ms() {
                        return Some(Verdict::Spent(*spend));
                    }
                }
                Spend::JoinToken(token) => {
                    let row = self.overlay.tokens.get(token).or_else(|| self.prior.tokens.get(token));
                    if !row.is_some_and(|row| row.spent_by.is_none() && self.time_ms <= row.expires_ms) {
                        return Some(Verdict::Spent(*spend));
                    }
                }
            }
        }
        None
    }

    fn forget_before_ms(&self) -> u64 {
        self.time_ms.saturating_sub(SPENT_MEMORY_MS)
    }

    fn charges_fit(&self, append: &Prepared) -> bool {
        let mut left = HashMap::new();
        append.changes().all(|change| match change {
            Change::Charge { parent, amount } => {
                let before = left.get(parent).copied().or_else(|| self.budget(*parent));
                let after = before.and_then(|before| before.checked_sub(*amount));
                after.is_some_and(|after| {
                    left.insert(*parent, after);
                    true
                })
            }
            _ => true,
        })
    }

    fn keys_are_free(&self, append: &Prepared) -> bool {
        let mut own = HashMap::new();
        append.changes().all(|change| match change {
            Change::Enrolled { host, key, .. } => {
                let owner = self.overlay.key_owners.get(key).or_else(|| self.prior.key_owners.get(key));
                owner.is_none_or(|owner| owner == host)
                    && own.insert(*key, *host).is_none_or(|other| other == *host)
            }
            _ => true,
        })
    }

    /// What the leaves name and nobody has: an earlier Append of the batch may bring it.
    fn blobs_gone(&self, append: &Prepared) -> Vec<Sha256Digest> {
        let brought = |digest: &Sha256Digest| {
            self.blobs.iter().chain(&append.blobs).any(|(brought, _)| brought == digest)
        };
        let gone = |digest: &&Sha256Digest| !self.prior.blobs.contains(digest) && !brought(digest);
        append.named.iter().filter(gone).copied().collect()
    }

    fn accept(&mut self, append: &Prepared) -> Result<Verdict, NoPlan> {
        let first = self.growth.size();
        let mut control = None;
        let mut made = Vec::with_capacity(append.entries.len());
        for (index, entry) in (first..).zip(&append.entries) {
            let salt = self.terms.salts.get(self.leaves.len() + made.len());
            let salt = *salt.ok_or(NoPlan::Contradiction("too few salts"))?;
            let leaf =
                Leaf { kind: entry.kind, index, time_ms: self.time_ms, salt, body: entry.body.clone() };
            let bytes = match leaf.encode() {
                Ok(bytes) => bytes,
                Err(fault) => return Ok(Verdict::Refused(ControlError::Leaf(fault))),
            };
            let number = if entry.kind.is_control() {
                // Folded on a copy: if a later leaf of this Append is refused, this one never was.
                let state: &mut ControlState = control.get_or_insert_with(|| self.control.clone());
                if let Err(refused) = state.apply(&bytes) {
                    return Ok(Verdict::Refused(refused));
                }
                Some(state.number())
            } else {
                None
            };
            made.push((bytes, number));
        }
        if let Some(state) = control {
            self.control = state;
            self.control_changed = true;
        }
        for ((bytes, control), entry) in made.into_iter().zip(&append.entries) {
            let index = self.growth.size();
            let hashes = self.growth.append(&bytes).map_err(|_| NoPlan::Full)?;
            entry.changes.iter().for_each(|change| self.overlay.apply(self.prior, index, change));
            let changes = entry.changes.clone();
            self.leaves.push(NewLeaf { index, bytes: bytes.into(), hashes, changes, control });
        }
        self.use_up(&append.spends);
        self.blobs.extend(append.blobs.iter().cloned());
        Ok(Verdict::Appended(first..self.growth.size()))
    }

    fn use_up(&mut self, spends: &[Spend]) {
        for spend in spends {
            let id = match spend {
                Spend::Challenge { digest, expires_ms } => {
                    SpentId::Challenge { expires_ms: *expires_ms, digest: *digest }
                }
                Spend::Mark { digest, expires_ms } => {
                    SpentId::Mark { expires_ms: *expires_ms, digest: *digest }
                }
                Spend::Enrolment(id) => SpentId::Enrolment(*id),
                // Told by the enrolment leaf.
                Spend::JoinToken(_) => continue,
            };
            self.overlay.spent.insert(id);
            self.spent.push(id);
        }
    }

    fn finish(self, prior: &Prior) -> Result<(Option<Additions>, BatchTree, ControlState), NoPlan> {
        let forget_spent_before_ms = self.forget_before_ms();
        let (frontiers, nodes, tree) = self.growth.finish();
        if self.leaves.is_empty() {
            return Ok((None, tree, self.control));
        }
        let body = HeadBody {
            origin: self.control.origin().to_owned(),
            size: frontiers.sha256.size(),
            sha256_root: frontiers.sha256.root(),
            sha3_root: frontiers.sha3_512.root(),
            blake2_root: frontiers.blake2b_512.root(),
            time_ms: self.time_ms,
            prev: prior.tip.as_ref().map_or(Sha256Digest::ZERO, |tip| *tip.head.digest()),
            control_seq: self.control.number(),
            control_digest: *self.control.digest(),
        };
        let head = StoredHead::new(&body.encode(), Vec::new()).map_err(|_| NoPlan::Full)?;
        let additions = Additions {
            leaves: self.leaves,
            nodes,
            head,
            frontiers,
            spent: self.spent,
            blobs: self.blobs,
            forget_spent_before_ms,
        };
        Ok((Some(additions), tree, self.control))
    }
}

impl Overlay {
    /// The same meaning as in the store's projections, as far as later Appends of the batch can see it.
    fn apply(&mut self, prior: &Prior, index: u64, change: &Change) {
        match change {
            Change::Outcome { host, request_id, request } => {
                let key = (*host, request_id.clone());
                if !prior.outcomes.contains_key(&key) {
                    self.outcomes.entry(key).or_insert(KnownOutcome { request: *request, index });
                }
            }
            Change::Enrolled { host, key, version } => {
                self.host_versions.insert(*host, *version);
                self.enrolments.insert(*host, index);
                self.key_owners.insert(*key, *host);
            }
            Change::HostState { host, state } => {
                let known = self.host_versions.get(host).or_else(|| prior.host_versions.get(host)).copied();
                if known.is_some_and(|known| known < state.version) {
                    self.host_versions.insert(*host, state.version);
                }
            }
            Change::Budget { total } => {
                self.budgets.insert(index, *total);
            }
            Change::Charge { parent, amount } => {
                let before = self.budgets.get(parent).or_else(|| prior.budgets.get(parent)).copied();
                self.budgets.insert(*parent, before.unwrap_or(0).saturating_sub(*amount));
            }
            Change::TokenMade { token, expires_ms } => {
                let row = JoinTokenRow { expires_ms: *expires_ms, made_by: index, spent_by: None };
                if !prior.tokens.contains_key(token) {
                    self.tokens.entry(*token).or_insert(row);
                }
            }
            Change::TokenSpent { token } => {
                if let Some(row) = self.tokens.get(token).or_else(|| prior.tokens.get(token)).copied() {
                    self.tokens.insert(*token, JoinTokenRow { spent_by: Some(index), ..row });
                }
            }
        }
    }
}

/// What one Append wants and how it is planned alone, for tests of stores: additions and the control state after them.
#[cfg(test)]
pub(crate) fn plan_alone(
    append: super::append::Append,
    control: ControlState,
    now_ms: u64,
) -> (crate::store::Wanted, impl Fn(&Prior) -> (Option<Additions>, Option<ControlState>)) {
    let prepared = Prepared::new(append).unwrap();
    let mut wanted = crate::store::Wanted { control_after: control.number(), ..Default::default() };
    prepared.want(&mut wanted);
    let plan = move |prior: &Prior| {
        let salts = vec![[7; 16]; prepared.entries.len()];
        let terms = Terms { control: &control, now_ms, salts: &salts, met: None };
        let planned = plan(prior, &[&prepared], &terms).ok().unwrap();
        (planned.additions, planned.control)
    };
    (wanted, plan)
}
