//! What the log shows at a point: the state that decisions and enrolments have to agree with, folded from the leaves before them.
//!
//! Comes in: leaves, in order. Goes out: control state, hosts, unspent tokens and challenges, budgets. Refused, by name: enrolments without a right.

use super::replayed::MismatchKind;
use crate::store::project::{decision_tells_of_host, enrolled_state, merge_state};
use countersign_core::control::{ControlError, ControlState};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::decision::{Decision, LeafRef, Verdict};
use countersign_core::leaf::host::{Admission, Enrolment, HostState};
use countersign_core::leaf::record::JoinToken;
use countersign_core::name::{HostId, RequestId};
use countersign_tpm::public::Public;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// States of a host that a decision under way may have read: as many calls of one host can be decided side by side.
const RECENT_STATES: usize = 64;
/// How long a spent challenge is remembered after its end: long after nobody could use it.
const MEMORY_MS: u64 = 600_000;

/// PROTOCOL §8.3, §8.4: how long after the first record in a later form one in the form before may come. So long authorities of two versions may
/// write one log.
pub(super) const SIDE_BY_SIDE_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// A host as the log shows it.
pub(super) struct HostFold {
    pub(super) enrolment: Enrolment,
    pub(super) leaf: LeafRef,
    pub(super) ak: Option<Arc<Public>>,
    shown: HostState,
    /// States shown since the version last rose, newest last.
    recent: VecDeque<HostState>,
}

impl HostFold {
    /// The version that the log showed last.
    pub(super) const fn version(&self) -> u64 {
        self.shown.version
    }

    fn show(&mut self, state: HostState) {
        if state.version != self.shown.version {
            self.recent.clear();
        }
        if self.recent.back() != Some(&state) {
            self.recent.push_back(state);
        }
        if self.recent.len() > RECENT_STATES {
            self.recent.pop_front();
        }
        self.shown = state;
    }
}

/// A renewal is of the same keys, and keeps the device identity that was there.
fn renews(before: &Enrolment, now: &Enrolment) -> bool {
    let keys = |of: &Enrolment| (of.ek_public, of.ak_public, of.ak_name.clone(), of.host_key.clone());
    let device = before.endorsement.device.as_ref();
    keys(before) == keys(now) && device.is_none_or(|device| now.endorsement.device.as_ref() == Some(device))
}

/// The leaves of one append: they were all compared with the state just before the first.
#[derive(Default)]
pub(super) struct Group {
    key: Option<(HostId, Sha256Digest, bool)>,
    priors: Vec<HostState>,
    budgets: HashMap<u64, u64>,
    spent: bool,
    /// That it was spent is only possible: by a decision whose challenge was pruned.
    assumed: bool,
}

impl Group {
    /// States that its decisions may have read, newest first.
    pub(super) fn priors(&self) -> &[HostState] {
        &self.priors
    }

    /// Whether an earlier append spent its challenge.
    pub(super) const fn spent(&self) -> bool {
        self.spent || self.assumed
    }

    /// Whether the log shows only that an earlier append may have spent it.
    pub(super) const fn assumes_spent(&self) -> bool {
        self.assumed
    }
}

/// Everything that decisions depend on and that the log explains.
pub(super) struct Fold {
    pub(super) control: ControlState,
    pub(super) hosts: HashMap<HostId, HostFold>,
    pub(super) group: Group,
    /// When a host state first said what it follows from, ms.
    pub(super) basis_since: Option<u64>,
    /// When an enrolment first said for which enrolment its records were made, ms.
    pub(super) session_since: Option<u64>,
    /// Activation records that bore an enrolment out.
    activations: HashSet<Sha256Digest>,
    /// Join tokens and their ends; `None` once they are spent.
    tokens: HashMap<Sha256Digest, Option<u64>>,
    budgets: HashMap<u64, u64>,
    answered: HashMap<(HostId, RequestId), Sha256Digest>,
    spent: HashMap<Sha256Digest, u64>,
    spent_by_expiry: BTreeMap<(u64, Sha256Digest), ()>,
    /// When a host last spent a challenge that was pruned, ms.
    spent_unseen: HashMap<HostId, u64>,
}

impl Fold {
    pub(super) fn new(control: ControlState) -> Self {
        Self {
            control,
            hosts: HashMap::new(),
            group: Group::default(),
            basis_since: None,
            session_since: None,
            activations: HashSet::new(),
            tokens: HashMap::new(),
            budgets: HashMap::new(),
            answered: HashMap::new(),
            spent: HashMap::new(),
            spent_by_expiry: BTreeMap::new(),
            spent_unseen: HashMap::new(),
        }
    }

    /// Takes note of which append the next leaf belongs to: leaves in a row of one host over one evidence record with one standing.
    pub(super) fn enter(
        &mut self,
        key: Option<(HostId, Sha256Digest, bool)>,
        challenge: Option<&Sha256Digest>,
    ) {
        if key.is_some() && self.group.key == key {
            return;
        }
        let priors = key
            .and_then(|(host, ..)| self.hosts.get(&host))
            .map_or_else(Vec::new, |host| host.recent.iter().rev().copied().collect());
        let spent = challenge.is_some_and(|digest| self.spent.contains_key(digest));
        self.group = Group { key, priors, budgets: HashMap::new(), spent, assumed: false };
    }

    /// What was left of a budget when the append was made.
    pub(super) fn budget_left(&self, index: u64) -> u64 {
        self.group.budgets.get(&index).or_else(|| self.budgets.get(&index)).copied().unwrap_or(0)
    }

    /// Whether the identifier was answered before for other bytes.
    pub(super) fn reused(&self, host: &HostId, id: &RequestId, request: &Sha256Digest) -> bool {
        self.answered.get(&(*host, id.clone())).is_some_and(|answered| answered != request)
    }

    /// `false`: it was made before.
    pub(super) fn make_token(&mut self, token: &JoinToken) -> bool {
        match self.tokens.entry(token.token) {
            // One that was spent stays so.
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(Some(token.expires_ms));
                true
            }
        }
    }

    /// Whether an enrolment is by a right that the log shows, of a host that may (PROTOCOL §12). The token that it names is spent.
    pub(super) fn admit(&mut self, enrolment: &Enrolment, time_ms: u64) -> Result<(), MismatchKind> {
        let token = enrolment.token.map(|token| self.tokens.get_mut(&token).and_then(Option::take));
        let usable = |expires_ms: u64| time_ms <= expires_ms;
        let once = self.activations.insert(enrolment.activation);
        let known = self.hosts.get(&enrolment.host);
        let (entitled, what) = match enrolment.admission {
            Admission::JoinToken => (token.flatten().is_some_and(usable), "join token"),
            Admission::Preregistered => {
                (token.is_none() && known.is_none(), "pre-registered endorsement key")
            }
            Admission::Reenrolment => {
                let same = known.is_some_and(|known| renews(&known.enrolment, enrolment));
                (token.is_none() && same, "enrolment that is renewed")
            }
        };
        let version = match (known, enrolment.admission) {
            (None, _) => 1,
            (Some(known), Admission::Reenrolment) => known.shown.version,
            (Some(known), _) => known.shown.version.saturating_add(1),
        };
        let revoked = self.control.is_revoked(&Subject::Host(enrolment.host));
        let all = [
            (entitled, what),
            (enrolment.version == version, "host version"),
            (!revoked, "revoked subjects"),
            (once, "activation record"),
        ];
        match all.into_iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(MismatchKind::Input(what)),
            None => Ok(()),
        }
    }

    /// Whether records may lack for which enrolment they were made: those of early versions do.
    pub(super) fn takes_session(&mut self, told: bool, time_ms: u64) -> bool {
        if told {
            self.session_since.get_or_insert(time_ms);
        }
        told || self.session_since.is_none_or(|since| time_ms <= since.saturating_add(SIDE_BY_SIDE_MS))
    }

    pub(super) fn enrol(&mut self, enrolment: Enrolment, leaf: LeafRef) {
        let known = self.hosts.get(&enrolment.host).map(|host| host.shown);
        let state = enrolled_state(known.as_ref(), enrolment.version);
        let mut host = HostFold { enrolment, leaf, ak: None, shown: state, recent: VecDeque::new() };
        host.show(state);
        self.hosts.insert(host.enrolment.host, host);
    }

    pub(super) fn apply_control(&mut self, bytes: &[u8]) -> Result<(), ControlError> {
        self.control.apply(bytes).map(drop)
    }

    pub(super) fn show(&mut self, host: &HostId, state: &HostState) {
        if let Some(host) = self.hosts.get_mut(host) {
            let merged = merge_state(&host.shown, state);
            host.show(merged);
        }
    }

    /// A challenge that was fresh is spent from here on, and forgotten long after nobody could use it.
    pub(super) fn spend(&mut self, challenge: Sha256Digest, expires_ms: u64, now_ms: u64) {
        self.spent.insert(challenge, expires_ms);
        self.spent_by_expiry.insert((expires_ms, challenge), ());
        while let Some(((expires, digest), ())) =
            self.spent_by_expiry.first_key_value().map(|(key, ())| (*key, ()))
        {
            if expires.saturating_add(MEMORY_MS) >= now_ms {
                break;
            }
            self.spent_by_expiry.pop_first();
            self.spent.remove(&digest);
        }
    }

    /// A fresh challenge was spent, and what it was has been pruned.
    pub(super) fn spend_unseen(&mut self, host: HostId, now_ms: u64) {
        self.spent_unseen.insert(host, now_ms);
    }

    /// The append that was entered says that its challenge was spent: so it may be, if the host spent one lately that was pruned.
    pub(super) fn assume_spent(&mut self, host: &HostId, now_ms: u64) {
        let lately = |at: &u64| at.saturating_add(MEMORY_MS) >= now_ms;
        self.group.assumed = !self.group.spent && self.spent_unseen.get(host).is_some_and(lately);
    }

    /// Applies a decision leaf. `false`: a parent's budget is overdrawn.
    pub(super) fn apply_decision(&mut self, index: u64, decision: &Decision) -> bool {
        if decision_tells_of_host(decision) {
            self.show(&decision.host, &decision.host_state);
        }
        self.answered.entry((decision.host, decision.request_id.clone())).or_insert(decision.request);
        if !matches!(decision.verdict, Verdict::Allow { .. }) {
            return true;
        }
        let own = decision.delegation.as_ref().map(|delegation| delegation.budget);
        let charge = own.unwrap_or(0).saturating_add(1);
        let mut covered = true;
        for (parent, _) in &decision.lineage.parents {
            let left = self.budgets.get(parent).copied().unwrap_or(0);
            self.group.budgets.entry(*parent).or_insert(left);
            covered &= left >= charge;
            self.budgets.insert(*parent, left.saturating_sub(charge));
        }
        if let Some(budget) = own {
            self.budgets.insert(index, budget);
        }
        covered
    }
}
