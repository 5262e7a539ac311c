//! Every body and record has exactly one encoding: what its reader accepts, its writer gives back byte for byte, whatever bits were flipped.

use crate::samples::{
    basis, captured, decision, digest, evidence, host, inputs, key, policy, references, state, statements,
};
use countersign_core::bundle::Statement;
use countersign_core::document::{Generation, Lifetime, PolicyDocument, ReferencesDocument};
use countersign_core::leaf::control::{
    Approval, EpochRecord, Introduction, KeyEvent, KeyPurpose, KeyRecord, PrincipalKind, PrincipalRecord,
    RecoveryRecord, Revocation, Role, Subject,
};
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::device::{DeviceIdentity, HardwareName};
use countersign_core::leaf::host::{
    Admission, Endorsement, EndorsementKind, Enrolment, HostKeyKind, HostState, TpmModel,
};
use countersign_core::leaf::host_state::{Basis, HostStateRecord};
use countersign_core::leaf::record::{Faults, Heartbeat, HeartbeatReason, JoinToken, Outcome};
use countersign_core::name::Origin;
use countersign_core::record::{EvidenceRecord, InputsRecord};
use countersign_core::refusal::RefusalCode;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// Parses back to itself; no truncation parses; and a flipped bit either is refused or is the encoding of another value.
fn one_encoding<T: PartialEq + Debug, E: Debug>(
    value: &T,
    encode: impl Fn(&T) -> Vec<u8>,
    parse: impl Fn(&[u8]) -> Result<T, E>,
) {
    let bytes = encode(value);
    assert_eq!(&parse(&bytes).unwrap(), value);
    for end in 0..bytes.len() {
        assert!(parse(&bytes[..end]).is_err(), "truncated to {end}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(parse(&longer).is_err(), "trailing byte");
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = parse(&flipped) {
            assert_ne!(&other, value, "bit {bit} changes nothing");
            assert_eq!(encode(&other), flipped, "bit {bit} has two encodings");
        }
    }
}

#[test]
fn decisions() {
    let allow = decision(Verdict::Allow { nbf: 1_700_000_000, exp: 1_700_000_060 });
    one_encoding(&allow, Decision::encode, Decision::parse);
    one_encoding(&decision(Verdict::Deny(RefusalCode::PolicyDenied)), Decision::encode, Decision::parse);
}

#[test]
fn an_allow_without_a_lifetime_and_a_deny_with_one_cannot_be_read() {
    let empty = decision(Verdict::Allow { nbf: 60, exp: 60 });
    assert!(Decision::parse(&empty.encode()).is_err());
}

#[test]
fn hosts() {
    one_encoding(&state(), HostState::encode, HostState::parse);
    one_encoding(&HostState::unattested(1), HostState::encode, HostState::parse);
    let enrolment = Enrolment {
        host: host(),
        ek_public: digest(1),
        ek_certificate: Some(digest(2)),
        ak_public: digest(3),
        ak_name: vec![0, 11, 5, 5],
        host_key: key(),
        host_key_kind: HostKeyKind::Certified,
        admission: Admission::JoinToken,
        token: Some(digest(4)),
        activation: digest(5),
        version: 1,
        endorsement: Endorsement {
            kind: EndorsementKind::EkCertificate,
            weak_key: true,
            tpm: None,
            device: None,
        },
    };
    one_encoding(&enrolment, Enrolment::encode, Enrolment::parse);
    let model =
        TpmModel { manufacturer: "STM".to_owned(), model: "ST33".to_owned(), version: "00490004".to_owned() };
    let hardware = HardwareName { kind: "2.23.133.1.2".to_owned(), serial: b"STM:7".to_vec() };
    for (serial, hardware) in
        [(Some("SN 1"), None), (None, Some(hardware.clone())), (Some("SN 1"), Some(hardware))]
    {
        let mut named = enrolment.clone();
        let serial = serial.map(str::to_owned);
        named.endorsement.device =
            Some(DeviceIdentity { certificate: digest(6), key: digest(7), serial, hardware });
        one_encoding(&named, Enrolment::encode, Enrolment::parse);
        named.endorsement.tpm = Some(model.clone());
        one_encoding(&named, Enrolment::encode, Enrolment::parse);
    }
    let record = HostStateRecord {
        host: host(),
        state: state(),
        evidence: digest(6),
        code: Some(RefusalCode::BootLogMismatch),
        basis: None,
    };
    one_encoding(&record, HostStateRecord::encode, HostStateRecord::parse);
    for basis in [basis(), Basis { policy: None, references: None, ..basis() }] {
        let record = HostStateRecord { basis: Some(basis), ..record.clone() };
        one_encoding(&record, HostStateRecord::encode, HostStateRecord::parse);
    }
}

#[test]
fn an_enrolment_says_of_one_endorsement_only() {
    let model =
        TpmModel { manufacturer: "STM".to_owned(), model: "ST33".to_owned(), version: "00490004".to_owned() };
    let body = |kind, certificate: bool, of_ak: bool, described: bool| Enrolment {
        host: host(),
        ek_public: digest(if of_ak { 3 } else { 1 }),
        ek_certificate: certificate.then(|| digest(2)),
        ak_public: digest(3),
        ak_name: vec![0, 11, 5, 5],
        host_key: key(),
        host_key_kind: HostKeyKind::Certified,
        admission: Admission::Preregistered,
        token: None,
        activation: digest(5),
        version: 1,
        endorsement: Endorsement {
            kind,
            weak_key: false,
            tpm: described.then(|| model.clone()),
            device: None,
        },
    };
    let kinds = [EndorsementKind::EkCertificate, EndorsementKind::EkAllowed, EndorsementKind::IakCertificate];
    for (kind, shape) in kinds.into_iter().flat_map(|kind| (0..8).map(move |shape| (kind, shape))) {
        let (certificate, of_ak, described) = (shape & 1 != 0, shape & 2 != 0, shape & 4 != 0);
        let body = body(kind, certificate, of_ak, described);
        let agrees = match kind {
            EndorsementKind::EkCertificate => certificate && !of_ak,
            EndorsementKind::EkAllowed => !certificate && !of_ak && !described,
            EndorsementKind::IakCertificate => certificate && of_ak,
        };
        if agrees {
            one_encoding(&body, Enrolment::encode, Enrolment::parse);
        } else {
            assert!(Enrolment::parse(&body.encode()).is_err(), "{body:?}");
        }
    }
}

#[test]
fn control_bodies() {
    let introduction = Introduction {
        possession: vec![1; 64],
        backend: "pkcs11".into(),
        custody: digest(1),
        approval: Some(Approval { key: key(), signature: vec![4; 64] }),
    };
    for (event, introduction) in [
        (KeyEvent::Introduced, Some(introduction)),
        (KeyEvent::Activated, None),
        (KeyEvent::Deactivated, None),
        (KeyEvent::Compromised, None),
        (KeyEvent::Destroyed, None),
    ] {
        let record =
            KeyRecord { event, purpose: KeyPurpose::Head, key: key(), introduction, by: Some(digest(2)) };
        one_encoding(&record, KeyRecord::encode, KeyRecord::parse);
    }
    one_encoding(
        &EpochRecord { document: digest(1), epoch: 3, by: digest(2) },
        EpochRecord::encode,
        EpochRecord::parse,
    );
    for subject in [Subject::Host(host()), Subject::Artifact(9, digest(1)), Subject::Principal(digest(2))] {
        let revocation = Revocation { subject, revoke: true, reason: "stolen".into(), by: digest(3) };
        one_encoding(&revocation, Revocation::encode, Revocation::parse);
    }
    for kind in [
        PrincipalKind::Gateway,
        PrincipalKind::Operator(Role::Viewer),
        PrincipalKind::Operator(Role::Operator),
        PrincipalKind::Operator(Role::SecurityOfficer),
    ] {
        for approval in [None, Some(Approval { key: key(), signature: vec![4; 64] })] {
            let (thumbprint, name) = (digest(4), "gate-1".into());
            let record = PrincipalRecord { added: true, kind, thumbprint, name, by: None, approval };
            one_encoding(&record, PrincipalRecord::encode, PrincipalRecord::parse);
        }
    }
    let recovery = RecoveryRecord { statement: vec![1, 2], signature: vec![3; 64] };
    one_encoding(&recovery, RecoveryRecord::encode, RecoveryRecord::parse);
    for (number, says) in (1..).zip(statements()) {
        let statement =
            Statement { number, origin: Origin::parse("test.example/log").unwrap(), time_ms: 5, says };
        one_encoding(&statement, Statement::encode, Statement::parse);
    }
}

#[test]
fn plain_records() {
    let counter = HeartbeatReason::Counter { id: [7; 16], value: 300 };
    for reason in [HeartbeatReason::Idle, HeartbeatReason::Start, HeartbeatReason::SignerBack, counter] {
        one_encoding(&Heartbeat(reason), Heartbeat::encode, Heartbeat::parse);
    }
    let counts = BTreeMap::from([(RefusalCode::Overloaded, 7), (RefusalCode::SignerUnavailable, 1)]);
    one_encoding(&Faults { counts, since_ms: 11 }, Faults::encode, Faults::parse);
    let token = JoinToken { token: digest(1), expires_ms: 2, by: digest(3) };
    one_encoding(&token, JoinToken::encode, JoinToken::parse);
    for refused in [None, Some(RefusalCode::Expired)] {
        let outcome = Outcome { gateway: digest(1), artifact: (3, digest(2)), refused, time_ms: 4 };
        one_encoding(&outcome, Outcome::encode, Outcome::parse);
    }
}

#[test]
fn evidence_and_inputs() {
    one_encoding(&evidence(), EvidenceRecord::encode, EvidenceRecord::parse);
    let without_ima = EvidenceRecord { ima: None, ..evidence() };
    one_encoding(&without_ima, EvidenceRecord::encode, EvidenceRecord::parse);
    one_encoding(&inputs(), InputsRecord::encode, InputsRecord::parse);
}

#[test]
fn documents() {
    one_encoding(&policy(), PolicyDocument::encode, PolicyDocument::parse);
    one_encoding(&references(), ReferencesDocument::encode, ReferencesDocument::parse);
    one_encoding(&captured(), ReferencesDocument::encode, ReferencesDocument::parse);
    let without_ima = ReferencesDocument { ima: None, ..references() };
    one_encoding(&without_ima, ReferencesDocument::encode, ReferencesDocument::parse);
}

#[test]
fn a_generation_has_a_lifetime_that_includes_its_ends_and_begins_before_it_ends() {
    let with = |not_before_ms, not_after_ms, evidence| {
        let lifetime = Lifetime { not_before_ms, not_after_ms };
        let generation = Generation { bank: 0x000b, pcrs: vec![(0, vec![1; 32])], lifetime, evidence };
        ReferencesDocument { ima: None, sets: BTreeMap::from([("fleet".into(), vec![generation])]) }
    };
    for (from, until) in
        [(None, None), (Some(5), None), (None, Some(5)), (Some(5), Some(5)), (Some(4), Some(5))]
    {
        for evidence in [None, Some(digest(9))] {
            one_encoding(&with(from, until, evidence), ReferencesDocument::encode, ReferencesDocument::parse);
        }
    }
    assert!(ReferencesDocument::parse(&with(Some(6), Some(5), None).encode()).is_err());
    let lifetime = Lifetime { not_before_ms: Some(4), not_after_ms: Some(6) };
    let counts: Vec<bool> = (3..8).map(|time| lifetime.contains(time)).collect();
    assert_eq!(counts, [false, true, true, true, false]);
}

#[test]
fn where_a_generation_was_captured_is_a_digest_and_no_part_of_what_it_accepts() {
    let generation = |evidence| Generation {
        bank: 0x000b,
        pcrs: vec![(0, vec![1; 32])],
        lifetime: Lifetime::default(),
        evidence,
    };
    let mut document = ReferencesDocument::default();
    document.add("fleet", generation(None));
    let before = document.digest();
    // {"fleet": [{1: 11, 2: [[0, 01..]]}]}: a document from before there was such a member has the digest that it had.
    let plain = [&b"\xa1\x65fleet\x81\xa2\x01\x0b\x02\x81\x82\x00\x58\x20"[..], &[1; 32]].concat();
    assert_eq!((document.encode(), before), (plain.clone(), countersign_core::digest::sha256(&plain)));
    document.add("fleet", generation(Some(digest(5))));
    assert_eq!(document.sets["fleet"], [generation(Some(digest(5)))], "told, and not added once more");
    document.add("fleet", generation(Some(digest(6))));
    assert_eq!(document.sets["fleet"], [generation(Some(digest(5)))], "what is known stays");
    let named = [&plain[..8], &[0xa3], &plain[9..], b"\x05\x58\x20", &[5; 32]].concat();
    assert_eq!(document.encode(), named);
    // A text, a digest that is too short, a member twice, and one that there isn't.
    let twice = [&named[43..], &named[43..]].concat();
    for (members, wrong) in
        [(3, &b"\x05\x60"[..]), (3, b"\x05\x41\x00"), (3, b"\x06\x00"), (4, &twice), (4, &named[43..])]
    {
        let bytes = [&plain[..8], &[0xa0 + members], &plain[9..], wrong].concat();
        assert!(ReferencesDocument::parse(&bytes).is_err(), "{wrong:x?}");
    }
}

#[test]
fn a_references_document_cannot_match_every_host_by_naming_no_pcr() {
    let all = ReferencesDocument {
        ima: None,
        sets: BTreeMap::from([(
            "all".into(),
            vec![Generation { bank: 0x000b, pcrs: vec![], lifetime: Lifetime::default(), evidence: None }],
        )]),
    };
    assert!(ReferencesDocument::parse(&all.encode()).is_err());
}
