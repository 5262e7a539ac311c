//! Logs that end with an enrolment leaf: some that an honest authority writes, and one for each way in which the log alone shows that the host
//! had no right to enrol so (PROTOCOL §12).
//!
//! Everything else about them is right, so a reader that refuses one does so for that leaf.

use crate::log::{OFFICER, public};
use crate::outcomes::{Scene, enrolment, scene};
use crate::samples::digest;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::{Revocation, Subject};
use countersign_core::leaf::host::{Admission, Enrolment};
use countersign_core::leaf::record::JoinToken;
use countersign_core::name::HostId;
use serde_json::{Value, json};

/// How long a token of these logs is good.
const TOKEN_MS: u64 = 60_000;

type Enrol = fn(&mut Scene, &mut Enrolment);

fn token(scene: &mut Scene, enrolment: &mut Enrolment) {
    let (expires_ms, by) = (scene.log.time_ms + TOKEN_MS, public(OFFICER).thumbprint());
    scene.append(Kind::JoinToken, JoinToken { token: digest(7), expires_ms, by }.encode());
    enrolment.admission = Admission::JoinToken;
    enrolment.token = Some(digest(7));
    enrolment.version = 2;
}

fn other(enrolment: &mut Enrolment) {
    enrolment.host = HostId::from_slice(&[&[1][..], digest(70).as_bytes()].concat()).unwrap();
    enrolment.version = 1;
}

fn renew(enrolment: &mut Enrolment) {
    enrolment.admission = Admission::Reenrolment;
}

const TAKEN: [(&str, Enrol); 5] = [
    ("with a token", |s, e| token(s, e)),
    ("another host with a token", |s, e| {
        token(s, e);
        other(e);
    }),
    ("at the end of its token", |s, e| {
        token(s, e);
        // Each append is a second after the one before, and the token was made a second ago.
        s.log.time_ms += TOKEN_MS - 2_000;
    }),
    ("another host by the list", |_, e| other(e)),
    ("renewed", |_, e| renew(e)),
];

const REFUSED: [(&str, Enrol); 13] = [
    ("with a token that nobody made", |s, e| {
        token(s, e);
        e.token = Some(digest(6));
    }),
    ("with a token that was spent", |s, e| {
        token(s, e);
        s.append(Kind::Enrolment, e.encode());
        e.version = 3;
        e.activation = digest(31);
    }),
    ("after the end of its token", |s, e| {
        token(s, e);
        s.log.time_ms += TOKEN_MS - 1_999;
    }),
    ("with a token and without naming it", |s, e| {
        token(s, e);
        e.token = None;
    }),
    ("other keys by the list", |_, e| e.version = 2),
    ("another host by the list and with a token", |s, e| {
        token(s, e);
        other(e);
        e.admission = Admission::Preregistered;
    }),
    ("renewed and never enrolled", |_, e| {
        other(e);
        renew(e);
    }),
    ("renewed with a token", |s, e| {
        token(s, e);
        renew(e);
        e.version = 1;
    }),
    ("renewed with another attestation key", |_, e| {
        renew(e);
        e.ak_public = digest(71);
    }),
    ("renewed with the activation record of another enrolment", |_, e| {
        renew(e);
        e.activation = digest(3);
    }),
    ("renewed as a new version", |_, e| {
        renew(e);
        e.version = 2;
    }),
    ("with a token as the version before", |s, e| {
        token(s, e);
        e.version = 1;
    }),
    ("another host as the second version", |_, e| {
        other(e);
        e.version = 2;
    }),
];

fn revoked(scene: &mut Scene, enrolment: &mut Enrolment) {
    let (subject, by) = (Subject::Host(enrolment.host), public(OFFICER).thumbprint());
    let revocation = Revocation { subject, revoke: true, reason: String::new(), by };
    scene.append(Kind::Revocation, revocation.encode());
    renew(enrolment);
}

fn vector(name: &str, fault: Option<&str>, enrol: Enrol) -> Value {
    let (mut scene, mut enrolment) = (scene(), enrolment());
    enrolment.activation = digest(30);
    let (leaves, heads) = (scene.log.leaves.len(), scene.log.heads.len());
    enrol(&mut scene, &mut enrolment);
    scene.append(Kind::Enrolment, enrolment.encode());
    let export = scene.log.pages(leaves, heads);
    json!({ "name": name, "fault": fault, "leaf": scene.log.leaves.len() - 1, "export": export })
}

#[test]
fn enrolments_by_a_right_that_the_log_shows_and_those_without() {
    let taken = TAKEN.iter().map(|(name, enrol)| vector(name, None, *enrol));
    let refused = REFUSED.iter().map(|(name, enrol)| vector(name, Some("unentitled"), *enrol));
    let revoked = vector("a host that was revoked", Some("revoked"), revoked);
    let logs: Vec<Value> = taken.chain(refused).chain([revoked]).collect();
    crate::vectors::published(
        "enrolled.json",
        json!({ "trust_bundle": scene().log.bundle, "export": scene().log.pages(0, 0), "logs": logs }),
    );
}
