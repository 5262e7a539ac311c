//! Leaves that are well formed, with good signatures unless the dice say otherwise: what an authority may append, in an order that nobody promised.

use crate::dice::Dice;
use crate::item::Item;
use crate::keys::{self, DEPUTY, FIRST, GATEWAY, HEAD_KEYS, OFFICER, OPERATOR, SEEDS};
use crate::plan::{Compromise, Content, Entry, ORIGIN};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::{
    Approval, Introduction, KeyEvent, KeyPurpose, KeyRecord, PrincipalKind, PrincipalRecord, Revocation,
    Role, Subject, key_introduction, key_possession, officer_addition,
};
use countersign_core::leaf::device::{DeviceIdentity, HardwareName};
use countersign_core::leaf::host::{
    Admission, Endorsement, EndorsementKind, Enrolment, HostKeyKind, HostState, Tier,
};
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::leaf::record::{Faults, Heartbeat, HeartbeatReason, JoinToken, Outcome};
use countersign_core::name::HostId;
use countersign_core::refusal::RefusalCode;
use std::collections::BTreeMap;

pub(crate) type Name = (u64, Sha256Digest);

pub(crate) fn entry(kind: Kind, body: &[u8]) -> Entry {
    Entry::new(u64::from(kind.number()), Content::Body(Item::decode(body).unwrap()))
}

fn thumbprint(seed: u8) -> Sha256Digest {
    keys::public(seed).thumbprint()
}

fn digest(byte: u8) -> Sha256Digest {
    Sha256Digest::new([byte; 32])
}

fn host(byte: u8) -> HostId {
    let mut bytes = [byte; 33];
    bytes[0] = 1;
    HostId::from_slice(&bytes).unwrap()
}

fn approval(seed: u8, act: &[u8]) -> Approval {
    Approval { key: keys::public(seed), signature: keys::sign(seed, act).to_vec() }
}

pub(crate) fn key_event(
    purpose: KeyPurpose,
    seed: u8,
    event: KeyEvent,
    approved_by: Option<u8>,
    by: Option<u8>,
) -> Entry {
    let key = keys::public(seed);
    let introduction = (event == KeyEvent::Introduced).then(|| {
        let act = key_introduction(ORIGIN, purpose, &key, "test", &digest(1));
        Introduction {
            possession: keys::sign(seed, &key_possession(ORIGIN, purpose, &key)).to_vec(),
            backend: "test".to_owned(),
            custody: digest(1),
            approval: approved_by.map(|officer| approval(officer, &act)),
        }
    });
    entry(Kind::Key, &KeyRecord { event, purpose, key, introduction, by: by.map(thumbprint) }.encode())
}

pub(crate) fn principal(
    added: bool,
    seed: u8,
    kind: PrincipalKind,
    approved_by: Option<u8>,
    by: Option<u8>,
) -> Entry {
    let name = format!("p-{seed}");
    let act = officer_addition(ORIGIN, &name, &thumbprint(seed));
    let approval = approved_by.map(|officer| approval(officer, &act));
    let record =
        PrincipalRecord { added, kind, thumbprint: thumbprint(seed), name, by: by.map(thumbprint), approval };
    entry(Kind::Principal, &record.encode())
}

pub(crate) fn revocation(subject: Subject, revoke: bool) -> Entry {
    let record = Revocation { subject, revoke, reason: "a test".to_owned(), by: thumbprint(OFFICER) };
    entry(Kind::Revocation, &record.encode())
}

pub(crate) fn gateway_revoked(revoke: bool) -> Entry {
    revocation(Subject::Principal(thumbprint(GATEWAY)), revoke)
}

pub(crate) fn outcome(artifact: Name, refused: Option<RefusalCode>, time_ms: u64) -> Entry {
    let outcome = Outcome { gateway: thumbprint(GATEWAY), artifact, refused, time_ms };
    entry(Kind::Outcome, &outcome.encode())
}

pub(crate) fn heartbeat(reason: HeartbeatReason) -> Entry {
    entry(Kind::Heartbeat, &Heartbeat(reason).encode())
}

pub(crate) fn compromise(key: u8, good: usize, instead: &[u8]) -> Entry {
    Entry::new(12, Content::Compromise(Compromise { key, good, instead: instead.to_vec(), off: 0 }))
}

pub(crate) fn host_state(evidence: bool) -> Entry {
    let state = HostState {
        version: 1,
        reset_count: 17,
        restart_count: 2,
        clock_ms: 123_456,
        firmware_version: 7,
        boot_log: Some(digest(1)),
        pcr_digest: None,
        trusted_until_ms: 1_800_000_000_000,
        tier: Tier::Warning,
        evidence: evidence.then(|| digest(9)),
        ima: None,
    };
    let code = (!evidence).then_some(RefusalCode::BootLogMismatch);
    let record = HostStateRecord { host: host(1), state, evidence: digest(9), code, basis: None };
    entry(Kind::HostState, &record.encode())
}

/// Mostly within the bounds, and sometimes a step beyond.
fn device(dice: &mut Dice) -> DeviceIdentity {
    let serials: [Option<String>; 5] = [
        None,
        Some("SN-1".to_owned()),
        Some("9".repeat(64)),
        Some("9".repeat(65)),
        Some("\u{e9}".to_owned()),
    ];
    let kinds = [None, Some("2.23.133.1.2"), Some("0.0"), Some("3.1"), Some("1.01")];
    let length = dice.one(&[1, 7, 80, 256, 256, 257]);
    let hardware = kinds[dice.one(&[0, 0, 1, 1, 1, 2, 2, 2, 3, 4])]
        .map(|kind| HardwareName { kind: kind.to_owned(), serial: vec![7; length] });
    let serial = serials[dice.one(&[0, 1, 1, 1, 2, 2, 2, 3, 4])].clone();
    DeviceIdentity { certificate: digest(4), key: digest(5), serial, hardware }
}

fn enrolment(dice: &mut Dice) -> Entry {
    let body = Enrolment {
        host: host(dice.one(&[1, 2])),
        ek_public: digest(1),
        ek_certificate: None,
        ak_public: digest(2),
        ak_name: [&[0x00, 0x0b][..], digest(2).as_bytes()].concat(),
        host_key: keys::public(dice.one(&SEEDS)),
        host_key_kind: HostKeyKind::Software,
        admission: dice.one(&[Admission::Preregistered, Admission::Reenrolment]),
        token: None,
        activation: digest(3),
        version: dice.one(&[1, 1, 2]),
        endorsement: Endorsement {
            kind: EndorsementKind::EkAllowed,
            weak_key: dice.percent(50),
            tpm: None,
            device: dice.percent(30).then(|| device(dice)),
        },
    };
    entry(Kind::Enrolment, &body.encode())
}

fn random_key_event(dice: &mut Dice) -> Entry {
    let purpose =
        dice.one(&[KeyPurpose::Head, KeyPurpose::Head, KeyPurpose::Head, KeyPurpose::Jwt, KeyPurpose::Ca]);
    let seed = match purpose {
        KeyPurpose::Head if dice.percent(90) => dice.one(&HEAD_KEYS),
        KeyPurpose::Jwt if dice.percent(80) => dice.one(&[61, 62, 63]),
        KeyPurpose::Ca if dice.percent(80) => dice.one(&[71, 72]),
        _ => dice.one(&SEEDS),
    };
    let event = dice.one(&[
        KeyEvent::Introduced,
        KeyEvent::Introduced,
        KeyEvent::Activated,
        KeyEvent::Activated,
        KeyEvent::Deactivated,
        KeyEvent::Destroyed,
        KeyEvent::Compromised,
    ]);
    let approved_by =
        if dice.percent(80) { Some(OFFICER) } else { dice.one(&[None, Some(DEPUTY), Some(GATEWAY)]) };
    let by = if dice.percent(60) { Some(OFFICER) } else { None };
    key_event(purpose, seed, event, approved_by, by)
}

fn random_principal(dice: &mut Dice) -> Entry {
    let kind = dice.one(&[
        PrincipalKind::Gateway,
        PrincipalKind::Operator(Role::Viewer),
        PrincipalKind::Operator(Role::Operator),
        PrincipalKind::Operator(Role::SecurityOfficer),
        PrincipalKind::Operator(Role::SecurityOfficer),
    ]);
    let approved_by = dice.one(&[None, Some(OFFICER), Some(OFFICER), Some(DEPUTY)]);
    principal(
        dice.percent(65),
        dice.one(&[OFFICER, GATEWAY, DEPUTY, OPERATOR]),
        kind,
        approved_by,
        Some(OFFICER),
    )
}

fn random_subject(dice: &mut Dice, names: &[Name]) -> Subject {
    match dice.below(3) {
        0 => Subject::Host(host(dice.one(&[1, 2]))),
        1 => {
            let (index, hash) = dice.one(names);
            Subject::Artifact(index, hash)
        }
        _ => Subject::Principal(thumbprint(dice.one(&[OFFICER, GATEWAY, DEPUTY, OPERATOR, FIRST]))),
    }
}

fn random_outcome(dice: &mut Dice, names: &[Name], near_ms: u64) -> Entry {
    let name = dice.one(names);
    let refused = dice.one(&[None, Some(RefusalCode::NotAnAllow), Some(RefusalCode::Expired)]);
    let off = dice.one(&[0, 1_000, 2_000, 2_001, 5_000, 60_000]);
    let time_ms = if dice.percent(50) { near_ms + off } else { near_ms - off };
    let gateway = thumbprint(if dice.percent(85) { GATEWAY } else { dice.one(&[OFFICER, DEPUTY, OPERATOR]) });
    entry(Kind::Outcome, &Outcome { gateway, artifact: name, refused, time_ms }.encode())
}

/// Any leaf, for a place where the log's time is about this.
pub(crate) fn random(dice: &mut Dice, names: &[Name], near_ms: u64, batches: usize) -> Entry {
    match dice.below(20) {
        0..7 => random_key_event(dice),
        7..10 => random_principal(dice),
        10..12 => revocation(random_subject(dice, names), dice.percent(70)),
        12 => {
            let off = dice.one(&[0, 0, 0, 1, -1]);
            let (digest, by) = (digest(8).as_bytes().to_vec(), thumbprint(OFFICER).as_bytes().to_vec());
            Entry::new(dice.one(&[6, 7]), Content::Epoch { digest, by, off })
        }
        13 | 14 => {
            let (key, good) = (dice.one(&[FIRST, FIRST + 1, 26, 61, 100]), dice.below(batches + 1));
            let instead = (0..dice.below(3)).map(|_| dice.one(&HEAD_KEYS)).collect();
            let off = dice.one(&[0, 0, 0, 0, 1, -1]);
            Entry::new(12, Content::Compromise(Compromise { key, good, instead, off }))
        }
        15 | 16 => random_outcome(dice, names, near_ms),
        17 => enrolment(dice),
        18 => host_state(dice.percent(50)),
        _ => match dice.below(3) {
            0 => heartbeat(HeartbeatReason::Counter { id: [7; 16], value: dice.next() }),
            1 => {
                let counts = BTreeMap::from([(RefusalCode::Overloaded, dice.next())]);
                entry(Kind::Faults, &Faults { counts, since_ms: near_ms }.encode())
            }
            _ => {
                let token = JoinToken { token: digest(5), expires_ms: near_ms, by: thumbprint(OFFICER) };
                entry(Kind::JoinToken, &token.encode())
            }
        },
    }
}
