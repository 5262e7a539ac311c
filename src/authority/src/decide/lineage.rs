//! Lineage: parents, their ancestors, and the rule that a child only ever narrows (PROTOCOL §7.3).
//!
//! Comes in: the parents that a request names, and leaves of the log by index. Goes out: a [`Family`], and from it the verdict on a child.
//! Refused: parents that aren't allow decisions with the leaf hash named, that expired, that are revoked themselves or through a host or any
//! ancestor, whose holders didn't
//! agree to this very child, that may not have children, or not such a child.

use crate::verify::Finding;
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::decision::{Decision, Delegation, LeafRef, Lineage, Verdict};
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{Request, SignedRequest, delegation_preimage};
use std::collections::{BTreeSet, VecDeque};

/// Most ancestors that are looked at: 8 parents in each of 16 generations share far fewer in any real family. A larger one is refused.
pub const MAX_ANCESTORS: usize = 1_024;

/// The parents of one request and all that stand above them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    parents: Vec<Parent>,
    /// Every artifact above, parents included, and their hosts.
    above: BTreeSet<Subject>,
    /// More than [`MAX_ANCESTORS`], or an ancestor that isn't what its child says.
    broken: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parent {
    reference: LeafRef,
    /// `None` if no allow decision of this log has that index and leaf hash.
    known: Option<Known>,
    budget_left: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    holder: VerifyingKey,
    expires: u64,
    delegation: Option<Delegation>,
    root: LeafRef,
    depth: u64,
}

impl Family {
    /// No parents.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Looks parents and ancestors up. `fetch` gives the exact leaf bytes at an index and what is left of its delegated budget; `None` if the
    /// log isn't that long.
    pub fn resolve<E>(
        parents: &[LeafRef],
        mut fetch: impl FnMut(u64) -> Result<Option<(Vec<u8>, u64)>, E>,
    ) -> Result<Self, E> {
        let mut family = Self::default();
        let mut queue = VecDeque::new();
        for reference in parents {
            let found = fetch(reference.0)?;
            let decision = found.as_ref().and_then(|(bytes, _)| allow_decision(reference, bytes));
            let budget_left = found.map_or(0, |(_, left)| left);
            family.above.insert(Subject::Artifact(reference.0, reference.1));
            let known =
                decision.map(|(decision, expires)| family.take(reference, decision, expires, &mut queue));
            family.parents.push(Parent {
                reference: *reference,
                budget_left: if known.is_some() { budget_left } else { 0 },
                known,
            });
        }
        let mut seen: BTreeSet<u64> = parents.iter().map(|(index, _)| *index).collect();
        while let Some(reference) = queue.pop_front() {
            if !seen.insert(reference.0) {
                continue;
            }
            if seen.len() > MAX_ANCESTORS {
                family.broken = true;
                break;
            }
            match fetch(reference.0)?.and_then(|(bytes, _)| allow_decision(&reference, &bytes)) {
                Some((decision, expires)) => {
                    family.take(&reference, decision, expires, &mut queue);
                }
                None => family.broken = true,
            }
        }
        Ok(family)
    }

    fn take(
        &mut self,
        reference: &LeafRef,
        decision: Decision,
        expires: u64,
        queue: &mut VecDeque<LeafRef>,
    ) -> Known {
        self.above.insert(Subject::Artifact(reference.0, reference.1));
        self.above.insert(Subject::Host(decision.host));
        queue.extend(&decision.lineage.parents);
        Known {
            holder: decision.holder,
            expires,
            delegation: decision.delegation,
            root: decision.lineage.root.unwrap_or(*reference),
            depth: decision.lineage.depth,
        }
    }

    pub(super) fn is_of(&self, parents: &[LeafRef]) -> bool {
        self.parents.iter().map(|parent| &parent.reference).eq(parents)
    }

    /// Generations above.
    pub(super) fn depth(&self) -> u64 {
        let known = |parent: &Parent| parent.known.as_ref().map_or(0, |known| known.depth);
        self.parents.iter().map(known).max().map_or(0, |deepest| deepest.saturating_add(1))
    }

    /// The root of the first parent, which is that parent itself if it has no parents or isn't known.
    pub(super) fn root(&self) -> Option<LeafRef> {
        let parent = self.parents.first()?;
        Some(parent.known.as_ref().map_or(parent.reference, |known| known.root))
    }

    pub(super) fn lineage(&self) -> Lineage {
        let parents = self.parents.iter().map(|parent| parent.reference).collect();
        Lineage { parents, root: self.root(), depth: self.depth() }
    }

    /// Parents and what is left of their budgets, for the inputs record.
    pub(super) fn budgets(&self) -> Vec<(LeafRef, u64)> {
        self.parents.iter().map(|parent| (parent.reference, parent.budget_left)).collect()
    }

    /// When the parents expire, seconds.
    pub(super) fn expiries(&self) -> impl Iterator<Item = u64> {
        self.parents.iter().filter_map(|parent| parent.known.as_ref().map(|known| known.expires))
    }

    /// Revoked subjects above.
    pub(super) fn revoked<'a>(&'a self, control: &'a ControlState) -> impl Iterator<Item = &'a Subject> {
        self.above.iter().filter(|subject| control.is_revoked(subject))
    }

    /// What an allowed child takes from every parent's budget: itself, and what it may hand on.
    pub(super) fn charges(&self, request: &Request) -> Vec<(u64, u64)> {
        self.parents.iter().map(|parent| (parent.reference.0, charge(request))).collect()
    }

    /// PROTOCOL §7.3, property by property in the order of its text.
    pub(super) fn narrow(
        &self,
        signed: &SignedRequest,
        control: &ControlState,
        time_ms: u64,
    ) -> Result<(), Finding> {
        let request = signed.request();
        let mut known = Vec::with_capacity(self.parents.len());
        for parent in &self.parents {
            let refused = || Finding::new(RefusalCode::ParentUnknown, format!("leaf {}", parent.reference.0));
            known.push((parent, parent.known.as_ref().ok_or_else(refused)?));
        }
        if self.broken {
            return Err(Finding::new(
                RefusalCode::ParentUnknown,
                "the ancestors can't be followed to their root",
            ));
        }
        let now = time_ms / 1_000;
        if let Some((parent, _)) = known.iter().find(|(_, known)| known.expires <= now) {
            return Err(Finding::new(RefusalCode::ParentExpired, format!("leaf {}", parent.reference.0)));
        }
        if let Some(subject) = self.revoked(control).next() {
            return Err(Finding::new(RefusalCode::ParentRevoked, format!("{subject:?}")));
        }
        require_consents(&known, signed)?;
        for (parent, known) in &known {
            let delegation = known.delegation.as_ref().ok_or_else(|| {
                Finding::new(RefusalCode::DelegationAbsent, format!("leaf {}", parent.reference.0))
            })?;
            require_within(request, delegation).map_err(|what| {
                Finding::new(
                    RefusalCode::DelegationExceeded,
                    format!("{what} of leaf {}", parent.reference.0),
                )
            })?;
            if parent.budget_left < charge(request) {
                return Err(Finding::new(
                    RefusalCode::BudgetExhausted,
                    format!("leaf {}", parent.reference.0),
                ));
            }
        }
        let mut roots = known.iter().map(|(_, known)| known.root);
        let first = roots.next();
        if roots.any(|root| Some(root) != first) {
            return Err(Finding::new(RefusalCode::LineageRootMismatch, "the parents have different roots"));
        }
        Ok(())
    }
}

/// PROTOCOL §3.5: whoever holds a parent agreed to this very child.
fn require_consents(known: &[(&Parent, &Known)], signed: &SignedRequest) -> Result<(), Finding> {
    if known.is_empty() {
        return Ok(());
    }
    let preimage = delegation_preimage(signed.bytes());
    for (at, (parent, known)) in known.iter().enumerate() {
        let refused = |code| Finding::new(code, format!("leaf {}", parent.reference.0));
        let consent = signed.consents().get(at).ok_or_else(|| refused(RefusalCode::ConsentMissing))?;
        known.holder.verify(&preimage, consent).map_err(|_| refused(RefusalCode::ConsentInvalid))?;
    }
    Ok(())
}

fn charge(request: &Request) -> u64 {
    request.delegation.as_ref().map_or(0, |delegation| delegation.budget).saturating_add(1)
}

fn require_within(request: &Request, granted: &Delegation) -> Result<(), &'static str> {
    if granted.depth < 1 {
        return Err("depth");
    }
    if !granted.actions.contains(&request.action) {
        return Err("action");
    }
    if !granted.audiences.contains(&request.audience) {
        return Err("audience");
    }
    let Some(asked) = &request.delegation else { return Ok(()) };
    if !asked.actions.iter().all(|action| granted.actions.contains(action)) {
        return Err("delegated actions");
    }
    if !asked.audiences.iter().all(|audience| granted.audiences.contains(audience)) {
        return Err("delegated audiences");
    }
    if asked.depth >= granted.depth { Err("delegated depth") } else { Ok(()) }
}

/// The decision, if these bytes are an allow leaf with this index and leaf hash; and when it expires.
fn allow_decision(reference: &LeafRef, bytes: &[u8]) -> Option<(Decision, u64)> {
    let hash: Sha256Digest = leaf_hash(bytes);
    let leaf = Leaf::parse(bytes).ok()?;
    if hash != reference.1 || leaf.index != reference.0 || leaf.kind != Kind::Allow {
        return None;
    }
    let decision = Decision::parse(&leaf.body).ok()?;
    match decision.verdict {
        Verdict::Allow { exp, .. } => Some((decision, exp)),
        Verdict::Deny(_) => None,
    }
}
