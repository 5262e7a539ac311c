//! Who may add keys and officers to the control chain, and what the recovery key says about them (PROTOCOL §8.5, §8.9, §10).

use countersign_core::bundle::{
    BundleDocument, Compromise, Initial, Says, Statement, StatementDocument, TrustBundle, statement_preimage,
};
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::{ControlError, ControlState};
use countersign_core::digest::{Blake2b512Digest, Sha3_512Digest, Sha256Digest};
use countersign_core::key::{JsonKey, VerifyingKey};
use countersign_core::leaf::control::{
    Approval, Introduction, KeyEvent, KeyPurpose, KeyRecord, PrincipalKind, PrincipalRecord, RecoveryRecord,
    Revocation, Role, Subject, key_introduction, key_possession, officer_addition,
};
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::name::Origin;
use countersign_core::refusal::RefusalCode;
use ed25519_dalek::{Signer as _, SigningKey};

const ORIGIN: &str = "test.example/log";
const RECOVERY: u8 = 1;
const HEAD: u8 = 2;
const NEXT: u8 = 3;
const OFFICER: u8 = 4;
const SECOND: u8 = 5;
const OPERATOR: u8 = 6;
const STRANGER: u8 = 7;

fn secret(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(seed: u8) -> VerifyingKey {
    VerifyingKey::ed25519(secret(seed).verifying_key().as_bytes()).unwrap()
}

fn sign(seed: u8, bytes: &[u8]) -> Vec<u8> {
    secret(seed).sign(bytes).to_bytes().to_vec()
}

fn apply(state: &mut ControlState, kind: Kind, body: Vec<u8>) -> Result<(), ControlError> {
    let leaf = Leaf { kind, index: state.number(), time_ms: 1, salt: [0; 16], body };
    let (number, digest) = (state.number(), *state.digest());
    let applied = state.apply(&leaf.encode().unwrap()).map(drop);
    if applied.is_err() {
        assert_eq!((state.number(), *state.digest()), (number, digest), "a refused leaf changes nothing");
    }
    applied
}

fn statement(number: u64, says: Says) -> Vec<u8> {
    Statement { number, origin: Origin::parse(ORIGIN).unwrap(), time_ms: 1, says }.encode()
}

fn initial() -> Says {
    Says::Initial(Initial {
        head_keys: vec![public(HEAD)],
        ca_certificates: vec![vec![0x30, 0]],
        officers: vec![public(OFFICER).thumbprint()],
        lease_secs: 30,
    })
}

fn recovery(statement: Vec<u8>) -> RecoveryRecord {
    let signature = sign(RECOVERY, &statement_preimage(&statement));
    RecoveryRecord { statement, signature }
}

fn introduction(seed: u8, purpose: KeyPurpose, approval: Option<Approval>) -> Vec<u8> {
    let key = public(seed);
    let possession = sign(seed, &key_possession(ORIGIN, purpose, &key));
    let introduction =
        Introduction { possession, backend: "test".to_owned(), custody: Sha256Digest::ZERO, approval };
    let event = KeyEvent::Introduced;
    KeyRecord { event, purpose, key, introduction: Some(introduction), by: None }.encode()
}

fn approved(officer: u8, key: u8, purpose: KeyPurpose) -> Option<Approval> {
    let act = key_introduction(ORIGIN, purpose, &public(key), "test", &Sha256Digest::ZERO);
    Some(Approval { key: public(officer), signature: sign(officer, &act) })
}

fn event(seed: u8, event: KeyEvent) -> Vec<u8> {
    KeyRecord { event, purpose: KeyPurpose::Head, key: public(seed), introduction: None, by: None }.encode()
}

fn principal(seed: u8, role: Role, approval: Option<Approval>) -> Vec<u8> {
    let kind = PrincipalKind::Operator(role);
    let (thumbprint, name) = (public(seed).thumbprint(), format!("p-{seed}"));
    PrincipalRecord { added: true, kind, thumbprint, name, by: None, approval }.encode()
}

fn vouched(officer: u8, seed: u8) -> Option<Approval> {
    let act = officer_addition(ORIGIN, &format!("p-{seed}"), &public(seed).thumbprint());
    Some(Approval { key: public(officer), signature: sign(officer, &act) })
}

/// As `authority init` begins a log: statement, head key, CA key, first officer.
fn begun() -> ControlState {
    let mut state = ControlState::genesis(ORIGIN, public(RECOVERY));
    for (kind, body) in [
        (Kind::Recovery, recovery(statement(1, initial())).encode()),
        (Kind::Key, introduction(HEAD, KeyPurpose::Head, None)),
        (Kind::Key, event(HEAD, KeyEvent::Activated)),
        (Kind::Key, introduction(SECOND, KeyPurpose::Ca, None)),
        (Kind::Principal, principal(OFFICER, Role::SecurityOfficer, None)),
    ] {
        apply(&mut state, kind, body).unwrap();
    }
    state
}

#[test]
fn a_key_is_introduced_with_an_officers_word_only() {
    let mut state = begun();
    apply(&mut state, Kind::Principal, principal(OPERATOR, Role::Operator, None)).unwrap();
    let refused = |state: &ControlState, approval: Option<Approval>| {
        apply(&mut state.clone(), Kind::Key, introduction(NEXT, KeyPurpose::Head, approval))
    };
    assert_eq!(refused(&state, None), Err(ControlError::Approval));
    for nobody in [STRANGER, HEAD, NEXT, OPERATOR, RECOVERY] {
        assert_eq!(refused(&state, approved(nobody, NEXT, KeyPurpose::Head)), Err(ControlError::Approval));
    }
    assert_eq!(refused(&state, approved(OFFICER, STRANGER, KeyPurpose::Head)), Err(ControlError::Approval));
    assert_eq!(refused(&state, approved(OFFICER, NEXT, KeyPurpose::Ca)), Err(ControlError::Approval));
    assert_eq!(refused(&state, approved(OFFICER, NEXT, KeyPurpose::Head)), Ok(()));
    assert_eq!(ControlError::Approval.code(), RefusalCode::ApprovalInvalid);
    // The CA's next key needs it too.
    let next_ca = apply(&mut state.clone(), Kind::Key, introduction(NEXT, KeyPurpose::Ca, None));
    assert_eq!(next_ca, Err(ControlError::Approval));
    let approval = approved(OFFICER, NEXT, KeyPurpose::Ca);
    apply(&mut state, Kind::Key, introduction(NEXT, KeyPurpose::Ca, approval)).unwrap();
}

fn jwt_event(seed: u8, event: KeyEvent) -> Vec<u8> {
    KeyRecord { event, purpose: KeyPurpose::Jwt, key: public(seed), introduction: None, by: None }.encode()
}

#[test]
fn a_key_for_jwts_is_one_of_its_own_and_signs_no_heads() {
    let mut state = begun();
    assert!(state.jwt_key().is_none() && state.jwt_keys_published().next().is_none());
    assert_eq!(
        apply(&mut state, Kind::Key, introduction(NEXT, KeyPurpose::Jwt, None)),
        Err(ControlError::Approval)
    );
    // An approval for one purpose is none for another, and neither is a head key's own word.
    for bad in [approved(OFFICER, NEXT, KeyPurpose::Head), approved(HEAD, NEXT, KeyPurpose::Jwt)] {
        let refused = apply(&mut state, Kind::Key, introduction(NEXT, KeyPurpose::Jwt, bad));
        assert_eq!(refused, Err(ControlError::Approval));
    }
    let shared = approved(OFFICER, HEAD, KeyPurpose::Jwt);
    let shared = apply(&mut state, Kind::Key, introduction(HEAD, KeyPurpose::Jwt, shared));
    assert_eq!(shared, Err(ControlError::KeyOrder), "purposes never share a key");
    let approval = approved(OFFICER, NEXT, KeyPurpose::Jwt);
    apply(&mut state, Kind::Key, introduction(NEXT, KeyPurpose::Jwt, approval)).unwrap();
    let other_way = approved(OFFICER, NEXT, KeyPurpose::Head);
    let other_way = apply(&mut state, Kind::Key, introduction(NEXT, KeyPurpose::Head, other_way));
    assert_eq!(other_way, Err(ControlError::KeyOrder));
    assert!(state.jwt_key().is_none(), "published, not yet signing");
    assert_eq!(state.jwt_keys_published().collect::<Vec<_>>(), [&public(NEXT)]);
    // An event for another purpose is about another key.
    assert_eq!(apply(&mut state, Kind::Key, event(NEXT, KeyEvent::Activated)), Err(ControlError::KeyOrder));
    apply(&mut state, Kind::Key, jwt_event(NEXT, KeyEvent::Activated)).unwrap();
    assert_eq!(state.jwt_key().map(|key| &key.key), Some(&public(NEXT)));
    assert!(state.head_keys_at(state.number()).all(|key| *key == public(HEAD)));
    // Its successors take its place; of those that ended the last one stays published.
    let mut before = NEXT;
    for seed in [STRANGER, OPERATOR] {
        let approval = approved(OFFICER, seed, KeyPurpose::Jwt);
        apply(&mut state, Kind::Key, introduction(seed, KeyPurpose::Jwt, approval)).unwrap();
        apply(&mut state, Kind::Key, jwt_event(seed, KeyEvent::Activated)).unwrap();
        assert_eq!(state.jwt_key().map(|key| &key.key), Some(&public(seed)), "the newest signs");
        apply(&mut state, Kind::Key, jwt_event(before, KeyEvent::Deactivated)).unwrap();
        let published: Vec<_> = state.jwt_keys_published().cloned().collect();
        assert_eq!(published, [public(before), public(seed)]);
        before = seed;
    }
    // Whoever asks for an end withdraws the key: it is published no more.
    let (event, purpose) = (KeyEvent::Deactivated, KeyPurpose::Jwt);
    let by = Some(public(OFFICER).thumbprint());
    let withdrawn =
        |seed: u8| KeyRecord { event, purpose, key: public(seed), introduction: None, by }.encode();
    apply(&mut state, Kind::Key, withdrawn(before)).unwrap();
    assert!(state.jwt_key().is_none());
    assert_eq!(state.jwt_keys_published().collect::<Vec<_>>(), [&public(STRANGER)]);
    // Also the key that a successor has replaced: rotating away from a thief leaves what he signs believed. Once is enough, and a head key isn't one.
    apply(&mut state, Kind::Key, withdrawn(STRANGER)).unwrap();
    assert_eq!(state.jwt_keys_published().next(), None);
    assert_eq!(apply(&mut state, Kind::Key, withdrawn(STRANGER)), Err(ControlError::KeyOrder));
    assert_eq!(
        apply(&mut state, Kind::Key, jwt_event(NEXT, KeyEvent::Deactivated)),
        Err(ControlError::KeyOrder)
    );
}

#[test]
fn an_officer_is_added_with_an_officers_word_only() {
    let mut state = begun();
    let add = |approval| principal(SECOND, Role::SecurityOfficer, approval);
    for bad in [None, vouched(STRANGER, SECOND), vouched(SECOND, SECOND), vouched(OFFICER, STRANGER)] {
        assert_eq!(apply(&mut state, Kind::Principal, add(bad)), Err(ControlError::Approval));
    }
    // Nobody gets the role by being added again.
    apply(&mut state, Kind::Principal, principal(SECOND, Role::Operator, None)).unwrap();
    assert_eq!(apply(&mut state, Kind::Principal, add(None)), Err(ControlError::Approval));
    apply(&mut state, Kind::Principal, add(vouched(OFFICER, SECOND))).unwrap();
    let approval = approved(SECOND, NEXT, KeyPurpose::Head);
    apply(&mut state, Kind::Key, introduction(NEXT, KeyPurpose::Head, approval)).unwrap();
}

#[test]
fn who_was_revoked_once_approves_nothing_any_more() {
    let revocation = |revoke| {
        let subject = Subject::Principal(public(OFFICER).thumbprint());
        Revocation { subject, revoke, reason: String::new(), by: Sha256Digest::ZERO }.encode()
    };
    let mut state = begun();
    apply(&mut state, Kind::Revocation, revocation(true)).unwrap();
    apply(&mut state, Kind::Revocation, revocation(false)).unwrap();
    assert!(state.principal(&public(OFFICER).thumbprint()).is_some(), "in force again");
    let approval = approved(OFFICER, NEXT, KeyPurpose::Head);
    let introduced = apply(&mut state, Kind::Key, introduction(NEXT, KeyPurpose::Head, approval));
    assert_eq!(introduced, Err(ControlError::Approval));
    // Nor comes back by being added as the one that the statement names.
    let again = apply(&mut state, Kind::Principal, principal(OFFICER, Role::SecurityOfficer, None));
    assert_eq!(again, Err(ControlError::Approval));
}

fn head(size: u64) -> HeadBody {
    HeadBody {
        origin: ORIGIN.to_owned(),
        size,
        sha256_root: Sha256Digest::ZERO,
        sha3_root: Sha3_512Digest::ZERO,
        blake2_root: Blake2b512Digest::ZERO,
        time_ms: 1,
        prev: Sha256Digest::ZERO,
        control_seq: 5,
        control_digest: Sha256Digest::ZERO,
    }
}

fn compromise() -> Says {
    Says::Compromise(Compromise { key: public(HEAD), last_good: head(9), head_keys: vec![public(NEXT)] })
}

#[test]
fn statements_are_numbered_and_the_recovery_keys_own() {
    let state = begun();
    assert_eq!(state.statements(), 1);
    let refused = |record: RecoveryRecord| {
        let refused = apply(&mut state.clone(), Kind::Recovery, record.encode());
        assert_eq!(refused, Err(ControlError::Recovery));
    };
    for number in [0, 1, 3] {
        refused(recovery(statement(number, compromise())));
    }
    refused(recovery(statement(2, initial())));
    let bytes = statement(2, compromise());
    for other in [HEAD, OFFICER] {
        let signature = sign(other, &statement_preimage(&bytes));
        refused(RecoveryRecord { statement: bytes.clone(), signature });
    }
    let elsewhere = "other.example/log";
    let last_good = HeadBody { origin: elsewhere.to_owned(), ..head(9) };
    let says = Says::Compromise(Compromise { key: public(HEAD), last_good, head_keys: Vec::new() });
    let origin = Origin::parse(elsewhere).unwrap();
    refused(recovery(Statement { number: 2, origin, time_ms: 1, says }.encode()));
    // The first statement is the initial one.
    let mut empty = ControlState::genesis(ORIGIN, public(RECOVERY));
    let first = recovery(statement(1, compromise()));
    assert_eq!(apply(&mut empty, Kind::Recovery, first.encode()), Err(ControlError::Recovery));
    assert_eq!(ControlError::Recovery.code(), RefusalCode::StatementInvalid);
}

#[test]
fn a_compromised_key_signs_nothing_and_its_successor_needs_no_officer() {
    let mut state = begun();
    apply(&mut state, Kind::Recovery, recovery(statement(2, compromise())).encode()).unwrap();
    assert_eq!(state.head_keys_at(3).count(), 0, "not even at earlier numbers");
    let pinned: Vec<_> = state.compromised_at(5).collect();
    assert_eq!(pinned, [(&public(HEAD), &head(9))]);
    assert_eq!(state.still_believed(&[public(HEAD)]), [public(NEXT)]);
    apply(&mut state, Kind::Key, introduction(NEXT, KeyPurpose::Head, None)).unwrap();
    apply(&mut state, Kind::Key, event(NEXT, KeyEvent::Activated)).unwrap();
    assert_eq!(state.head_keys_at(state.number()).collect::<Vec<_>>(), [&public(NEXT)]);
    // Only the recovery key says so: the event has no place in a chain.
    let said = apply(&mut state, Kind::Key, event(NEXT, KeyEvent::Compromised));
    assert_eq!(said, Err(ControlError::KeyOrder));
}

fn bundle(statements: &[Vec<u8>]) -> Result<TrustBundle, countersign_core::bundle::BundleError> {
    let text = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let signed = |bytes: &Vec<u8>| StatementDocument {
        statement: text(bytes),
        signature: text(&sign(RECOVERY, &statement_preimage(bytes))),
    };
    let document = BundleDocument {
        v: 1,
        origin: ORIGIN.to_owned(),
        trust_domain: "test.example".to_owned(),
        recovery_key: JsonKey::from(public(RECOVERY)),
        statements: statements.iter().map(signed).collect(),
    };
    TrustBundle::verify(&serde_json::to_vec(&document).unwrap())
}

#[test]
fn a_bundle_holds_statements_without_a_gap() {
    let (one, two) = (statement(1, initial()), statement(2, compromise()));
    assert_eq!(bundle(std::slice::from_ref(&one)).unwrap().lease_secs(), 30);
    let both = bundle(&[one.clone(), two.clone()]).unwrap();
    let state = ControlState::of_bundle(&both);
    assert_eq!((state.statements(), state.compromises().len()), (0, 1), "known before the chain says so");
    assert!(bundle(&[]).is_err());
    assert!(bundle(std::slice::from_ref(&two)).is_err());
    assert!(bundle(&[one.clone(), one.clone()]).is_err());
    assert!(bundle(&[one.clone(), statement(3, compromise())]).is_err());
    assert!(bundle(&[one, statement(2, initial())]).is_err());
}

#[test]
fn control_leaves_stand_in_the_log_in_the_order_of_their_numbers() {
    let state = begun();
    let last = state.last_index().unwrap();
    let leaf = |index| {
        let body = principal(OPERATOR, Role::Operator, None);
        Leaf { kind: Kind::Principal, index, time_ms: 1, salt: [0; 16], body }.encode().unwrap()
    };
    for index in [0, last] {
        let mut next = state.clone();
        let refused = next.apply(&leaf(index)).unwrap_err();
        assert_eq!(refused, ControlError::Index { last, found: index });
        assert_eq!((next.number(), next.last_index()), (state.number(), Some(last)));
    }
    let mut next = state.clone();
    next.apply(&leaf(last + 9)).unwrap();
    assert_eq!(next.last_index(), Some(last + 9));
}
