//! For tests: a host, what is active, and the leaves that parents are looked up in.

use super::{AttestationOutcome, Family, Inputs, Outcome, Situation, decide, decide_attestation};
use crate::appraise::{References, ReferencesInvalid};
use crate::policy::CompiledPolicy;
use crate::verify::kit::{Host, NOW_MS, PERMIT, delegation, document, ed25519, parent};
use crate::verify::{Call, VerifiedCall};
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::document::{PolicyDocument, ReferencesDocument};
use countersign_core::leaf::control::{EpochRecord, Revocation, Subject};
use countersign_core::leaf::decision::{Decision, LeafRef, Verdict};
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::RequestDocument;
use std::collections::BTreeMap;
use std::convert::Infallible;

pub(super) const NOW: u64 = NOW_MS / 1_000;

/// A host, what is active, and the leaves that parents are looked up in.
pub(super) struct World {
    pub(super) host: Host,
    pub(super) control: ControlState,
    pub(super) policy: Option<CompiledPolicy>,
    pub(super) references: Option<References>,
    pub(super) leaves: BTreeMap<u64, (Vec<u8>, u64)>,
    pub(super) spent: bool,
    pub(super) reused: bool,
    pub(super) time_ms: u64,
}

impl World {
    pub(super) fn empty() -> Self {
        let host = Host::new(1);
        let control = ControlState::genesis(host.origin.as_str(), ed25519(50).1);
        Self {
            host,
            control,
            policy: None,
            references: None,
            leaves: BTreeMap::new(),
            spent: false,
            reused: false,
            time_ms: NOW_MS,
        }
    }

    pub(super) fn new() -> Self {
        let mut world = Self::empty();
        world.activate(&document(&[("base", PERMIT)]));
        world
    }

    pub(super) fn control_leaf(&mut self, kind: Kind, body: Vec<u8>) {
        let leaf = Leaf { kind, index: self.control.number(), time_ms: NOW_MS, salt: [0; 16], body };
        self.control.apply(&leaf.encode().unwrap()).unwrap();
    }

    pub(super) fn activate(&mut self, document: &PolicyDocument) {
        let record = EpochRecord {
            document: document.digest(),
            epoch: self.control.epoch() + 1,
            by: Sha256Digest::ZERO,
        };
        self.control_leaf(Kind::Policy, record.encode());
        let policy = CompiledPolicy::load(document).unwrap();
        self.host.settings = policy.settings().clone();
        self.policy = Some(policy);
    }

    pub(super) fn activate_references(&mut self, document: &ReferencesDocument) {
        let record = EpochRecord {
            document: document.digest(),
            epoch: self.control.epoch() + 1,
            by: Sha256Digest::ZERO,
        };
        self.control_leaf(Kind::References, record.encode());
        self.references = Some(parsed(document, None));
    }

    pub(super) fn revoke(&mut self, subject: Subject) {
        let record = Revocation { subject, revoke: true, reason: String::new(), by: Sha256Digest::ZERO };
        self.control_leaf(Kind::Revocation, record.encode());
    }

    pub(super) fn situation<'a>(&'a self, call: &'a VerifiedCall) -> Situation<'a> {
        Situation {
            origin: &self.host.origin,
            trust_domain: &self.host.trust_domain,
            host: &self.host.endorsed,
            judged: call.judged(),
            challenge_spent: self.spent,
            control: &self.control,
            policy: self.policy.as_ref(),
            references: self.references.as_ref(),
            time_ms: self.time_ms,
        }
    }

    pub(super) fn family(&self, parents: &[LeafRef]) -> Family {
        let fetch = |index| Ok::<_, Infallible>(self.leaves.get(&index).cloned());
        let Ok(family) = Family::resolve(parents, fetch);
        family
    }

    pub(super) fn decide_call(&self, call: Call) -> Outcome {
        let call = self.host.verify(call).unwrap();
        let request = &call.requests()[0];
        let family = self.family(&request.request().parents);
        decide(&Inputs {
            situation: self.situation(&call),
            request,
            family: &family,
            request_id_reused: self.reused,
        })
        .unwrap()
    }

    pub(super) fn decide(&mut self, request: &RequestDocument) -> Outcome {
        let call = self.host.call(NOW_MS, std::slice::from_ref(request));
        self.decide_call(call)
    }

    pub(super) fn request(&self) -> RequestDocument {
        self.host.request("r-1")
    }

    pub(super) fn attest(&mut self) -> AttestationOutcome {
        let call = self.host.call(NOW_MS, &[]);
        let call = self.host.verify(call).unwrap();
        decide_attestation(&self.situation(&call)).unwrap()
    }

    /// Puts a decision into the log.
    pub(super) fn append(&mut self, index: u64, decision: &Decision, budget_left: u64) -> LeafRef {
        let kind = if matches!(decision.verdict, Verdict::Allow { .. }) { Kind::Allow } else { Kind::Deny };
        let leaf = Leaf { kind, index, time_ms: NOW_MS, salt: [0; 16], body: decision.encode() };
        let bytes = leaf.encode().unwrap();
        let reference = (index, leaf_hash(&bytes));
        self.leaves.insert(index, (bytes, budget_left));
        reference
    }

    /// An allow decision at `index` that may have children.
    pub(super) fn parent(&mut self, index: u64, change: impl FnOnce(&mut Decision)) -> LeafRef {
        let mut request = self.host.request(&format!("p-{index}"));
        request.delegation = Some(delegation(&["call.a", "exec"], &["gate", "other"], 3, 100));
        let mut decision = self.decide(&request).decision.into_parts().0;
        assert!(matches!(decision.verdict, Verdict::Allow { .. }));
        change(&mut decision);
        let left = decision.delegation.as_ref().map_or(0, |delegation| delegation.budget);
        self.append(index, &decision, left)
    }

    pub(super) fn child(
        &mut self,
        parents: &[LeafRef],
        change: impl FnOnce(&mut RequestDocument),
    ) -> Outcome {
        let mut request = self.host.request("child");
        request.parents = parents.iter().map(|(index, leaf)| parent(*index, leaf)).collect();
        change(&mut request);
        self.decide(&request)
    }
}

/// References with the IMA policy that they name.
pub(super) fn parsed(document: &ReferencesDocument, ima: Option<&[u8]>) -> References {
    References::parse::<ReferencesInvalid>(&document.encode(), None, |_| Ok(ima.unwrap().to_vec())).unwrap()
}

pub(super) fn code(outcome: &Outcome) -> Option<RefusalCode> {
    match outcome.decision().verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny(code) => Some(code),
    }
}

pub(super) fn plain(change: impl FnOnce(&mut World)) -> Outcome {
    let mut world = World::new();
    change(&mut world);
    let request = world.request();
    world.decide(&request)
}
