//! Logs that end with an outcome leaf: some that an honest authority takes, and one for each way in which it takes none (PROTOCOL §8.14).
//!
//! Everything else about them is right: heads are signed, trees and chains agree, so a reader that refuses one does so for the outcome.

use crate::log::{GATEWAY, HEADS, Made, OFFICER, allow, asked, decided, initialise, principal, public};
use crate::samples::{digest, host};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::{
    EpochRecord, PrincipalKind, PrincipalRecord, Revocation, Role, Subject,
};
use countersign_core::leaf::decision::{LeafRef, Verdict};
use countersign_core::leaf::host::{Admission, Endorsement, EndorsementKind, Enrolment, HostKeyKind};
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason, Outcome};
use countersign_core::refusal::RefusalCode;
use serde_json::{Value, json};

const SECOND: u64 = 1_000;
const DAY: u64 = 86_400 * SECOND;
/// How long after its leaf the artifact ends.
const LIFE: u64 = 59 * SECOND;

/// A log with a gateway, an artifact and a denial.
pub(crate) struct Scene {
    pub(crate) log: Made,
    artifact: LeafRef,
    denied: LeafRef,
    made_ms: u64,
}

pub(crate) fn scene() -> Scene {
    let (mut log, by) = (Made::empty(), public(OFFICER).thumbprint());
    let signer = [HEADS[0]];
    initialise(&mut log, HEADS[0]);
    log.append(vec![(Kind::Enrolment, enrolment().encode())], &signer);
    let epoch = |document, epoch| EpochRecord { document, epoch, by }.encode();
    log.append(vec![(Kind::Policy, epoch(digest(8), 1)), (Kind::References, epoch(digest(5), 2))], &signer);
    log.append(vec![principal(GATEWAY, PrincipalKind::Gateway, "gate-1", Some(by))], &signer);
    let granted = decided(&log, &asked("r-1", ""), "r-1", allow(&log));
    let refused = decided(&log, &asked("r-2", ""), "r-2", Verdict::Deny(RefusalCode::PolicyDenied));
    let names = log.append(vec![(Kind::Allow, granted.encode()), (Kind::Deny, refused.encode())], &signer);
    let made_ms = log.time_ms;
    Scene { log, artifact: names[0], denied: names[1], made_ms }
}

/// How the host of a scene was enrolled.
pub(crate) fn enrolment() -> Enrolment {
    Enrolment {
        host: host(),
        ek_public: digest(1),
        ek_certificate: None,
        ak_public: digest(2),
        ak_name: [&[0x00, 0x0b][..], digest(2).as_bytes()].concat(),
        host_key: public(25),
        host_key_kind: HostKeyKind::Certified,
        admission: Admission::Preregistered,
        token: None,
        activation: digest(3),
        version: 1,
        endorsement: Endorsement {
            kind: EndorsementKind::EkAllowed,
            weak_key: false,
            tpm: None,
            device: None,
        },
    }
}

impl Scene {
    pub(crate) fn append(&mut self, kind: Kind, body: Vec<u8>) {
        self.log.append(vec![(kind, body)], &[HEADS[0]]);
    }

    /// The next leaf's time is this long after the artifact's leaf.
    fn at(&mut self, after_ms: u64) {
        self.log.time_ms = self.made_ms + after_ms - SECOND;
    }

    fn tell(&mut self, seed: u8, artifact: LeafRef, refused: Option<RefusalCode>, time_ms: u64) {
        let outcome = Outcome { gateway: public(seed).thumbprint(), artifact, refused, time_ms };
        self.append(Kind::Outcome, outcome.encode());
    }

    /// What the gateway tells of the artifact, at a time of its clock that is so long after the artifact's.
    fn started(&mut self, after_ms: i64) {
        let time_ms = self.made_ms.checked_add_signed(after_ms).unwrap();
        self.tell(GATEWAY, self.artifact, None, time_ms);
    }

    fn refused(&mut self, code: RefusalCode, after_ms: u64) {
        self.tell(GATEWAY, self.artifact, Some(code), self.made_ms + after_ms);
    }

    fn revoke(&mut self, revoke: bool) {
        let subject = Subject::Principal(public(GATEWAY).thumbprint());
        let by = public(OFFICER).thumbprint();
        self.append(Kind::Revocation, Revocation { subject, revoke, reason: String::new(), by }.encode());
    }

    fn remove(&mut self) {
        let (thumbprint, by) = (public(GATEWAY).thumbprint(), Some(public(OFFICER).thumbprint()));
        let name = "gate-1".to_owned();
        let kind = PrincipalKind::Gateway;
        let record = PrincipalRecord { added: false, kind, thumbprint, name, by, approval: None };
        self.append(Kind::Principal, record.encode());
    }
}

type Act = fn(&mut Scene);

/// What an honest authority takes, to its edges.
const TAKEN: [(&str, Act); 10] = [
    ("started", |s| s.started(500)),
    ("two seconds before the artifact", |s| s.started(-2_000)),
    ("two seconds ahead of the leaf that tells", |s| s.started(3_000)),
    ("started two seconds after the end", |s| {
        s.at(LIFE + 10 * SECOND);
        s.started((LIFE + 2 * SECOND).cast_signed());
    }),
    ("refused after the end", |s| {
        s.at(LIFE + 10 * SECOND);
        s.refused(RefusalCode::Expired, LIFE + 9 * SECOND);
    }),
    ("a day and a minute after the end", |s| {
        s.at(LIFE + DAY + 60 * SECOND);
        s.started(500);
    }),
    ("refused, since it is a denial", |s| {
        let time_ms = s.made_ms;
        s.tell(GATEWAY, s.denied, Some(RefusalCode::NotAnAllow), time_ms);
    }),
    ("started and refused", |s| {
        s.started(100);
        s.refused(RefusalCode::HolderProofInvalid, 200);
    }),
    ("by a gateway that ended a minute before", |s| {
        s.revoke(true);
        s.at(61 * SECOND);
        s.started(500);
    }),
    ("by a gateway that is back", |s| {
        s.revoke(true);
        s.at(90 * SECOND);
        s.revoke(false);
        s.started(500);
    }),
];

/// What none takes: fault, name, and how it comes about.
const REFUSED: [(&str, &str, Act); 17] = [
    ("unknown-gateway", "by a key that nobody introduced", |s| {
        let time_ms = s.made_ms;
        s.tell(99, s.artifact, None, time_ms);
    }),
    ("unknown-gateway", "by an operator's key", |s| {
        let time_ms = s.made_ms;
        s.tell(OFFICER, s.artifact, None, time_ms);
    }),
    ("unknown-gateway", "by an operator's key that was added later", |s| {
        let by = Some(public(OFFICER).thumbprint());
        let (kind, body) = principal(98, PrincipalKind::Operator(Role::Operator), "person", by);
        s.append(kind, body);
        let time_ms = s.made_ms;
        s.tell(98, s.artifact, None, time_ms);
    }),
    ("ended-gateway", "by a gateway that was revoked more than a minute before", |s| {
        s.revoke(true);
        s.at(61 * SECOND + 1);
        s.started(500);
    }),
    ("ended-gateway", "by a gateway that was removed more than a minute before", |s| {
        s.remove();
        s.at(61 * SECOND + 1);
        s.started(500);
    }),
    ("ended-gateway", "by a gateway that was removed first and revoked later", |s| {
        s.remove();
        s.at(50 * SECOND);
        s.revoke(true);
        s.at(61 * SECOND + 1);
        s.started(500);
    }),
    ("no-such-leaf", "of a leaf that isn't there", |s| {
        let time_ms = s.made_ms;
        s.tell(GATEWAY, (9_999, s.artifact.1), None, time_ms);
    }),
    ("no-such-leaf", "of itself", |s| {
        let (index, time_ms) = (s.log.leaves.len() as u64, s.made_ms);
        s.tell(GATEWAY, (index, s.artifact.1), None, time_ms);
    }),
    ("no-such-leaf", "of another leaf's hash", |s| {
        let time_ms = s.made_ms;
        s.tell(GATEWAY, (s.artifact.0, s.denied.1), None, time_ms);
    }),
    ("no-such-leaf", "refused, of a hash that no leaf has", |s| {
        let time_ms = s.made_ms;
        s.tell(GATEWAY, (s.artifact.0, Sha256Digest::ZERO), Some(RefusalCode::Revoked), time_ms);
    }),
    ("not-an-allow", "a denial that was started", |s| {
        let time_ms = s.made_ms;
        s.tell(GATEWAY, s.denied, None, time_ms);
    }),
    ("not-an-allow", "a denial that was refused for another reason", |s| {
        let time_ms = s.made_ms;
        s.tell(GATEWAY, s.denied, Some(RefusalCode::Expired), time_ms);
    }),
    ("before-artifact", "more than two seconds before the artifact", |s| s.started(-2_001)),
    ("from-future", "more than two seconds after the leaf that tells", |s| s.started(3_001)),
    ("after-end", "started more than two seconds after the end", |s| {
        s.at(LIFE + 10 * SECOND);
        s.started((LIFE + 2 * SECOND).cast_signed() + 1);
    }),
    ("too-late", "more than a day and a minute after the end", |s| {
        s.at(LIFE + DAY + 60 * SECOND + 1);
        s.refused(RefusalCode::Expired, LIFE + SECOND);
    }),
    ("twice", "told again, with other words", |s| {
        s.refused(RefusalCode::HolderProofInvalid, 100);
        s.append(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode());
        s.refused(RefusalCode::Revoked, 200);
    }),
];

fn vector(name: &str, fault: Option<&str>, act: Act) -> Value {
    let mut scene = scene();
    let (leaves, heads) = (scene.log.leaves.len(), scene.log.heads.len());
    act(&mut scene);
    let export = scene.log.pages(leaves, heads);
    json!({ "name": name, "fault": fault, "leaf": scene.log.leaves.len() - 1, "export": export })
}

#[test]
fn outcomes_that_are_taken_and_those_that_are_not() {
    let taken = TAKEN.iter().map(|(name, act)| vector(name, None, *act));
    let refused = REFUSED.iter().map(|(fault, name, act)| vector(name, Some(fault), *act));
    let logs: Vec<Value> = taken.chain(refused).collect();
    crate::vectors::published(
        "outcomes.json",
        json!({ "trust_bundle": scene().log.bundle, "export": scene().log.pages(0, 0), "logs": logs }),
    );
}
