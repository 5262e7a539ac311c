//! Following the log: what moves a snapshot forward, and what doesn't (PROTOCOL §13.1).

use crate::authority::{Authority, OFFICER, approval, key, public, signed};
use crate::world::{START_MS, at, first};
use countersign_core::api::{B64, Feed};
use countersign_core::control::ControlError;
use countersign_core::digest::sha256;
use countersign_core::leaf::control::{Introduction, KeyEvent, KeyRecord, RecoveryRecord};
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::refusal::RefusalCode;
use countersign_gateway::clock::ClockReading;
use countersign_gateway::snapshot::Snapshot;
use countersign_gateway::snapshot::advance::AdvanceRefused;

fn now() -> ClockReading {
    at(START_MS + 1_000, 1_000)
}

fn advance(held: &Snapshot, feed: &Feed) -> Result<Snapshot, AdvanceRefused> {
    held.advance(feed, &now(), &now()).map(|advanced| advanced.snapshot)
}

fn begin(authority: &Authority, feed: &Feed) -> Result<Snapshot, AdvanceRefused> {
    Snapshot::first(&authority.bundle(), feed, &now(), &now()).map(|advanced| advanced.snapshot)
}

fn feed_for(authority: &Authority, held: &Snapshot) -> Feed {
    authority.feed(held.head().body().size, held.control().number())
}

#[test]
fn a_gateway_begins_with_the_bundle_and_follows() {
    let mut authority = Authority::new(START_MS);
    let held = first(&authority, &now());
    assert_eq!(held.control().number(), 3);
    authority.heartbeat();
    authority.revoke(countersign_core::leaf::control::Subject::Host(crate::world::host()));
    authority.sign();
    let advanced = held.advance(&feed_for(&authority, &held), &now(), &now()).unwrap();
    assert_eq!(advanced.leaves.len(), 1);
    assert_eq!(advanced.snapshot.control().number(), 4);
    assert_eq!(advanced.snapshot.remembered().iter().count(), 2);
    // Nothing new: the same head, pulled later.
    let later = at(START_MS + 9_000, 9_000);
    let feed = feed_for(&authority, &advanced.snapshot);
    let same = advanced.snapshot.advance(&feed, &later, &later).unwrap();
    assert_eq!(same.snapshot.head(), advanced.snapshot.head());
    assert_eq!(same.snapshot.pulled().boot_ms, 9_000);
}

#[test]
fn a_bundle_of_another_log_or_with_other_keys_is_no_beginning() {
    let authority = Authority::new(START_MS);
    let other = Authority::named("other.example/log", START_MS);
    assert_eq!(begin(&other, &authority.feed(0, 0)).unwrap_err().code(), RefusalCode::OriginMismatch);
}

#[test]
fn a_log_that_begins_with_other_keys_than_the_bundles_is_refused() {
    type Keys = fn(&mut Authority);
    let beginnings: [(Keys, Option<AdvanceRefused>); 4] = [
        (
            |log| {
                log.introduce(&key(1));
                log.key_event(&key(1), KeyEvent::Activated);
                log.introduce(&key(2));
                log.key_event(&key(2), KeyEvent::Activated);
            },
            None,
        ),
        (
            |log| {
                log.introduce(&key(2));
                log.introduce(&key(1));
                log.key_event(&key(1), KeyEvent::Activated);
            },
            Some(AdvanceRefused::Control(ControlError::KeyOrder)),
        ),
        (
            |log| {
                log.introduce(&key(1));
                log.introduce(&key(2));
                log.key_event(&key(1), KeyEvent::Activated);
            },
            Some(AdvanceRefused::Control(ControlError::KeyOrder)),
        ),
        (|log| log.introduce(&key(1)), Some(AdvanceRefused::BundleKeys)),
    ];
    for (keys, expected) in beginnings {
        let authority = Authority::beginning(crate::authority::ORIGIN, START_MS, keys);
        assert_eq!(begin(&authority, &authority.feed(0, 0)).err(), expected);
    }
}

#[test]
fn a_signed_head_that_denies_its_own_control_chain_is_a_fork() {
    let mut authority = Authority::new(START_MS);
    let held = first(&authority, &now());
    authority.heartbeat();
    let right = authority.body();
    authority.sign();
    let mut body = right.clone();
    body.control_digest = sha256(b"another chain");
    let mut feed = feed_for(&authority, &held);
    advance(&held, &feed).unwrap();
    feed.head = signed(&body, &[&key(1)]);
    assert_eq!(advance(&held, &feed).unwrap_err().code(), RefusalCode::HeadForked);
}

#[test]
fn a_head_that_counts_control_leaves_beyond_its_size_is_refused() {
    let mut authority = Authority::new(START_MS);
    let held = first(&authority, &now());
    authority.heartbeat();
    let mut body = authority.body();
    authority.revoke(countersign_core::leaf::control::Subject::Artifact(0, sha256(b"a")));
    let later = authority.body();
    authority.sign();
    let mut feed = feed_for(&authority, &held);
    body.control_seq = later.control_seq;
    body.control_digest = later.control_digest;
    feed.head = signed(&body, &[&key(1)]);
    feed.consistency = authority.consistency(3, body.size);
    assert_eq!(advance(&held, &feed).unwrap_err(), AdvanceRefused::ControlOrder);
}

#[test]
fn control_leaves_must_be_complete_in_order_and_no_more() {
    let mut authority = Authority::new(START_MS);
    let held = first(&authority, &now());
    for name in [b"a", b"b", b"c"] {
        authority.revoke(countersign_core::leaf::control::Subject::Artifact(0, sha256(name)));
    }
    authority.sign();
    let right = feed_for(&authority, &held);
    advance(&held, &right).unwrap();
    let changed = |change: fn(&mut Feed)| {
        let mut feed = right.clone();
        change(&mut feed);
        advance(&held, &feed).unwrap_err()
    };
    assert_eq!(changed(|feed| drop(feed.control.pop())), AdvanceRefused::Gap);
    assert_eq!(changed(|feed| drop(feed.control.remove(0))), AdvanceRefused::Gap);
    assert_eq!(changed(|feed| feed.more = true), AdvanceRefused::Gap);
    assert_eq!(changed(|feed| feed.control.push(feed.control[0].clone())), AdvanceRefused::Surplus);
    assert_eq!(changed(|feed| feed.control.swap(0, 1)), AdvanceRefused::ControlOrder);
    assert_eq!(changed(|feed| feed.control[2] = feed.control[1].clone()), AdvanceRefused::ControlOrder);
    let salted = changed(|feed| {
        let mut leaf = Leaf::parse(&feed.control[2].0).unwrap();
        leaf.salt = [0xee; 16];
        feed.control[2] = B64(leaf.encode().unwrap());
    });
    assert_eq!(salted, AdvanceRefused::ControlDigest);
    assert!(matches!(changed(|feed| feed.control[0].0.truncate(9)), AdvanceRefused::Control(_)));
    assert!(matches!(changed(|feed| feed.head.truncate(40)), AdvanceRefused::Malformed(_)));
}

#[test]
fn no_feed_with_a_flipped_byte_changes_what_is_believed() {
    let mut authority = Authority::new(START_MS);
    let held = first(&authority, &now());
    authority.rotate(&key(2));
    authority.sign();
    authority.heartbeat();
    authority.sign();
    let right = feed_for(&authority, &held);
    let good = advance(&held, &right).unwrap();
    let text = serde_json::to_vec(&right).unwrap();
    for place in 0..text.len() {
        let mut flipped = text.clone();
        flipped[place] ^= 1;
        let Ok(feed) = serde_json::from_slice::<Feed>(&flipped) else { continue };
        // What still passes says the same: a signature line that isn't needed may be damaged.
        if let Ok(snapshot) = advance(&held, &feed) {
            assert_eq!(snapshot.head().digest(), good.head().digest(), "byte {place}");
            assert_eq!(snapshot.control().digest(), good.control().digest(), "byte {place}");
        }
    }
}

#[test]
fn a_rotation_is_followed_at_once_later_and_several_at_a_time() {
    let mut authority = Authority::new(START_MS);
    let held = first(&authority, &now());
    authority.rotate(&key(2));
    authority.sign();
    // The dual-signed head itself.
    let at_once = advance(&held, &feed_for(&authority, &held)).unwrap();
    for seed in [3, 4] {
        authority.heartbeat();
        authority.sign();
        authority.key_event(&key(seed - 1), KeyEvent::Deactivated);
        authority.rotate(&key(seed));
        // The deactivated key signs once more, together with its successor.
        authority.sign();
    }
    authority.heartbeat();
    authority.sign();
    for held in [&held, &at_once] {
        let feed = feed_for(&authority, held);
        let new = advance(held, &feed).unwrap();
        let active: Vec<_> = new.control().head_keys_at(new.control().number()).cloned().collect();
        assert!(active.contains(&public(&key(4))));
        assert!(!active.contains(&public(&key(3))));
    }
    begin(&authority, &authority.feed(0, 0)).unwrap();
}

#[test]
fn a_new_key_isnt_believed_without_a_head_of_the_old_one() {
    let mut authority = Authority::new(START_MS);
    let held = first(&authority, &now());
    authority.rotate(&key(2));
    authority.sign();
    authority.heartbeat();
    authority.sign();
    // The dual-signed head is withheld.
    let mut feed = feed_for(&authority, &held);
    assert_eq!(feed.rotations.len(), 1);
    feed.rotations.clear();
    assert_eq!(advance(&held, &feed).unwrap_err(), AdvanceRefused::Discontinuous);

    // A stranger who holds no head key introduces his own, with everything else in order.
    let mut thief = Authority::new(START_MS);
    let held = first(&thief, &now());
    thief.rotate(&key(66));
    thief.once.clear();
    thief.sign();
    assert_eq!(advance(&held, &feed_for(&thief, &held)).unwrap_err(), AdvanceRefused::Discontinuous);
    assert_eq!(begin(&thief, &thief.feed(0, 0)).unwrap_err(), AdvanceRefused::Discontinuous);
    thief.heartbeat();
    thief.sign();
    let refused = advance(&held, &feed_for(&thief, &held)).unwrap_err();
    assert_eq!(refused.code(), RefusalCode::HeadUnsigned);
}

#[test]
fn a_key_that_ended_signs_no_more() {
    let mut authority = Authority::new(START_MS);
    let held = first(&authority, &now());
    authority.rotate(&key(2));
    authority.sign();
    authority.key_event(&key(1), KeyEvent::Deactivated);
    authority.sign();
    advance(&held, &feed_for(&authority, &held)).unwrap();
    authority.signers = vec![key(1)];
    authority.heartbeat();
    authority.sign();
    assert_eq!(advance(&held, &feed_for(&authority, &held)).unwrap_err(), AdvanceRefused::Unsigned);
}

/// The feed of a rotation in which the leaf that introduces the new key is another one.
fn introduced(change: impl FnOnce(&mut Introduction)) -> Result<(), AdvanceRefused> {
    let mut authority = Authority::new(START_MS);
    let held = first(&authority, &now());
    authority.rotate(&key(2));
    authority.sign();
    let mut feed = feed_for(&authority, &held);
    let introduces = |leaf: &&mut B64| {
        let leaf = Leaf::parse(&leaf.0).unwrap();
        leaf.kind == Kind::Key && KeyRecord::parse(&leaf.body).unwrap().introduction.is_some()
    };
    let leaf = feed.control.iter_mut().find(introduces).unwrap();
    let mut parsed = Leaf::parse(&leaf.0).unwrap();
    let mut record = KeyRecord::parse(&parsed.body).unwrap();
    change(record.introduction.as_mut().unwrap());
    parsed.body = record.encode();
    leaf.0 = parsed.encode().unwrap();
    advance(&held, &feed).map(drop)
}

#[test]
fn a_key_that_no_officer_approved_is_not_believed_whatever_the_old_key_signed() {
    let approval = |officer: u8, new: u8| approval(crate::authority::ORIGIN, &key(new), &key(officer));
    let refused = Err(AdvanceRefused::Control(ControlError::Approval));
    assert_eq!(AdvanceRefused::Control(ControlError::Approval).code(), RefusalCode::ApprovalInvalid);
    // The thief of the head key has no officer's key; the old approval of another key doesn't help, nor does the head key itself.
    assert_eq!(introduced(|introduction| introduction.approval = None), refused);
    assert_eq!(introduced(|introduction| introduction.approval = Some(approval(66, 2))), refused);
    assert_eq!(introduced(|introduction| introduction.approval = Some(approval(1, 2))), refused);
    assert_eq!(introduced(|introduction| introduction.approval = Some(approval(OFFICER, 3))), refused);
    assert_eq!(introduced(|introduction| introduction.custody = sha256(b"software")), refused);
    // As it was, it is believed.
    assert_eq!(introduced(|_| ()), Ok(()));
}

/// An honest log in which key 1 was stolen after its second head: rotated to key 2, then stated as compromised. And the thief's fork of it.
fn stolen() -> (Authority, Authority, RecoveryRecord) {
    let mut authority = Authority::new(START_MS);
    authority.heartbeat();
    authority.sign();
    let mut thief = authority.clone();
    authority.heartbeat();
    authority.sign();
    authority.rotate(&key(2));
    authority.sign();
    let record = authority.compromise(2, &key(1), 1, &[key(2)]);
    for _ in 0..9 {
        thief.heartbeat();
        thief.sign();
    }
    (authority, thief, record)
}

#[test]
fn after_the_recovery_keys_word_a_thiefs_heads_are_refused_whatever_their_size() {
    let (mut authority, mut thief, record) = stolen();
    let before = first(&authority, &now());
    authority.append(Kind::Recovery, record.encode());
    authority.sign();
    let held = advance(&before, &feed_for(&authority, &before)).unwrap();
    assert_eq!(held.control().compromises().len(), 1);
    // Larger than anything of the honest log, with its own control chain, later than it.
    thief.time_ms = authority.time_ms;
    thief.sign();
    let mut feed = thief.feed(0, 0);
    feed.control.clear();
    assert_eq!(held.advance(&feed, &now(), &now()).unwrap_err(), AdvanceRefused::Compromised);
    assert_eq!(AdvanceRefused::Compromised.code(), RefusalCode::KeyCompromised);
    // The honest log goes on.
    authority.heartbeat();
    authority.sign();
    advance(&held, &feed_for(&authority, &held)).unwrap();
}

#[test]
fn a_bundle_with_the_statement_refuses_the_thief_before_any_log_has_it() {
    let (mut authority, thief, record) = stolen();
    let bundle = authority.bundle_with(&record);
    let begin = |log: &Authority| Snapshot::first(&bundle, &log.feed(0, 0), &now(), &now());
    assert_eq!(begin(&thief).unwrap_err(), AdvanceRefused::Compromised);
    // Without it, a gateway that begins now can't know.
    Snapshot::first(&thief.bundle(), &thief.feed(0, 0), &now(), &now()).unwrap();
    // The honest log is followed past the stolen key, since the statement names its successor.
    begin(&authority).unwrap();
    authority.append(Kind::Recovery, record.encode());
    authority.sign();
    let held = begin(&authority).unwrap().snapshot;
    assert_eq!(held.control().statements(), 2);
    // What the log says has to be what the bundle says.
    let mut other = stolen().0;
    let another = other.compromise(2, &key(1), 0, &[key(2)]);
    other.append(Kind::Recovery, another.encode());
    other.sign();
    let refused = begin(&other).unwrap_err();
    assert_eq!(refused, AdvanceRefused::Control(ControlError::Recovery));
    assert_eq!(refused.code(), RefusalCode::StatementInvalid);
}

#[test]
fn a_gateway_that_followed_the_thief_finds_out() {
    let (mut authority, thief, record) = stolen();
    // Another head of the pinned size than the one that this gateway saw.
    let mut fooled = first(&thief, &now());
    authority.append(Kind::Recovery, record.encode());
    authority.sign();
    let feed = authority.feed(fooled.head().body().size.min(authority.size()), fooled.control().number());
    let refused = fooled.advance(&feed, &now(), &now()).unwrap_err();
    assert!(matches!(refused.code(), RefusalCode::HeadForked | RefusalCode::FeedInvalid), "{refused}");
    let mut other = Authority::new(START_MS);
    other.sign();
    other.allow(&crate::world::decision(
        &other,
        &countersign_gateway::holder::key::HolderKey::generate(countersign_core::key::Algorithm::EdDsa)
            .unwrap(),
        START_MS,
    ));
    other.sign();
    fooled = first(&other, &now());
    other.rotate(&key(2));
    other.sign();
    other.append(Kind::Recovery, record.encode());
    other.sign();
    let refused = advance(&fooled, &feed_for(&other, &fooled)).unwrap_err();
    assert_eq!(refused.code(), RefusalCode::HeadForked, "the pinned head isn't the one that was seen");
}

#[test]
fn a_signature_of_a_known_key_that_fails_spoils_the_head() {
    let mut authority = Authority::new(START_MS);
    authority.introduce(&key(2));
    authority.key_event(&key(2), KeyEvent::Activated);
    authority.signers.push(key(2));
    authority.sign();
    let held = first(&authority, &now());
    authority.heartbeat();
    let text = authority.sign();
    let mut feed = feed_for(&authority, &held);
    advance(&held, &feed).unwrap();
    // The second key's line of another head under the first key's true line.
    let other = signed(&held.head().body().clone(), &[&key(2)]);
    let line = other.lines().last().unwrap();
    let (kept, _) = text.trim_end().rsplit_once('\n').unwrap();
    feed.head = format!("{kept}\n{line}\n");
    assert_eq!(advance(&held, &feed).unwrap_err(), AdvanceRefused::Unsigned);
}

#[test]
fn an_authority_that_went_back_is_caught() {
    let mut authority = Authority::new(START_MS);
    let old = authority.clone();
    authority.heartbeat();
    authority.sign();
    let held = first(&authority, &now());
    let mut feed = old.feed(0, 3);
    feed.consistency.clear();
    let refused = advance(&held, &feed).unwrap_err();
    assert!(matches!(refused, AdvanceRefused::Rollback { .. }), "{refused}");
    assert_eq!(refused.code(), RefusalCode::FeedInvalid);
    // Larger, but with an earlier time.
    let mut earlier = authority.clone();
    earlier.time_ms -= 1;
    earlier.heartbeat();
    earlier.sign();
    let refused = advance(&held, &feed_for(&earlier, &held)).unwrap_err();
    assert!(matches!(refused, AdvanceRefused::Rollback { .. }), "{refused}");
}

#[test]
fn a_forked_authority_is_caught() {
    let mut authority = Authority::new(START_MS);
    let mut fork = authority.clone();
    authority.heartbeat();
    authority.sign();
    let held = first(&authority, &now());
    // One size, two heads.
    fork.revoke(countersign_core::leaf::control::Subject::Artifact(7, sha256(b"x")));
    fork.sign();
    let refused = advance(&held, &feed_for(&fork, &held)).unwrap_err();
    assert_eq!(refused.code(), RefusalCode::HeadForked);
    // A larger one that nothing joins.
    fork.heartbeat();
    fork.sign();
    let refused = advance(&held, &feed_for(&fork, &held)).unwrap_err();
    assert_eq!(refused.code(), RefusalCode::HeadForked);
    // A smaller one that contradicts a remembered head: another time is enough.
    let mut smaller = authority.clone();
    authority.heartbeat();
    authority.sign();
    let newer = advance(&held, &feed_for(&authority, &held)).unwrap();
    smaller.time_ms += 1;
    let note = smaller.sign();
    let feed =
        Feed { head: note, consistency: Vec::new(), control: Vec::new(), rotations: Vec::new(), more: false };
    assert_eq!(advance(&newer, &feed).unwrap_err().code(), RefusalCode::HeadForked);
}

#[test]
fn an_unsigned_contradiction_is_no_evidence_of_a_fork() {
    let mut authority = Authority::new(START_MS);
    let held = first(&authority, &now());
    authority.time_ms += 1;
    let head = signed(&authority.body(), &[&key(66)]);
    let feed =
        Feed { head, consistency: Vec::new(), control: Vec::new(), rotations: Vec::new(), more: false };
    assert_eq!(advance(&held, &feed).unwrap_err(), AdvanceRefused::Unsigned);
}

#[test]
fn a_head_from_the_future_is_refused_at_its_exact_millisecond() {
    let mut authority = Authority::new(START_MS);
    let held = first(&authority, &now());
    for (ahead, good) in [(2_000, true), (2_001, false)] {
        authority.time_ms = now().wall_ms + ahead;
        authority.heartbeat();
        authority.sign();
        let answer = advance(&held, &feed_for(&authority, &held));
        assert_eq!(answer.is_ok(), good, "{ahead}");
        if let Err(refused) = answer {
            assert_eq!(refused.code(), RefusalCode::HeadInFuture);
        }
    }
}
