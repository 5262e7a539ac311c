//! Every refusal of PROTOCOL §13.2, in its order.

use crate::authority::{Authority, key, public, signed};
use crate::world::{LEASE_MS, START_MS, World, at, decision, first, host, prove};
use countersign_core::digest::sha256;
use countersign_core::key::Algorithm;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::decision::{Lineage, Verdict};
use countersign_core::name::{Action, Audience, Origin};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::argv_digest;
use countersign_core::tlog_proof::TlogProof;
use countersign_gateway::admit::{AdmissionInput, admit};
use countersign_gateway::clock::ClockReading;
use countersign_gateway::holder::key::HolderKey;
use countersign_gateway::snapshot::LinkProof;
use countersign_gateway::snapshot::advance::hashes;

#[test]
fn the_right_artifact_is_admitted_and_the_permit_says_for_what() {
    let world = World::new();
    let permit = world.admit().unwrap();
    assert_eq!(permit.action().as_str(), "exec");
    assert_eq!(*permit.workload(), sha256(b"program"));
    assert_eq!(*permit.arguments(), argv_digest(&["program", "argument"]));
    assert_eq!(permit.artifact().0, 4);
    assert_eq!(permit.expires_ms(), START_MS + 62_000);
}

#[test]
fn a_gateway_without_a_snapshot_admits_nothing() {
    let world = World::new();
    let refusal = admit(&AdmissionInput {
        rules: &world.rules,
        snapshot: None,
        verified: &world.verified,
        now: &world.now,
        artifact: &world.artifact,
        link: None,
        measured: &world.measured,
        holder: &world.proof,
    })
    .unwrap_err();
    assert_eq!(refusal.code(), RefusalCode::SnapshotMissing);
}

#[test]
fn the_lease_ends_at_its_exact_millisecond_by_either_clock() {
    // The artifact lives longer than the lease here, and proofs are made anew.
    let mut world = World::with(|decision| {
        decision.verdict = Verdict::Allow { nbf: START_MS / 1_000, exp: START_MS / 1_000 + 600 };
    });
    let leaf = countersign_core::leaf::leaf_hash(world.authority.leaf(4));
    let mut check = |wall_ms: u64, boot_ms: u64| {
        world.now = at(wall_ms, boot_ms);
        world.proof = prove(&world.holder, "gate", &leaf, wall_ms);
        world.code()
    };
    assert_eq!(check(START_MS + LEASE_MS, 50_000 + LEASE_MS), None);
    assert_eq!(check(START_MS + LEASE_MS + 1, 50_000 + LEASE_MS), Some(RefusalCode::LeaseExpired));
    assert_eq!(check(START_MS + LEASE_MS, 50_000 + LEASE_MS + 1), Some(RefusalCode::LeaseExpired));
}

#[test]
fn a_reboot_or_a_moved_clock_ends_the_lease() {
    let mut world = World::new();
    world.now = ClockReading { boot_id: "another".to_owned(), ..at(START_MS, 60_000) };
    assert_eq!(world.code(), Some(RefusalCode::LeaseExpired));
    world.now = at(START_MS, 49_999);
    assert_eq!(world.code(), Some(RefusalCode::LeaseExpired));
    // Ten seconds passed; the wall clock shows two less, then two and a millisecond less.
    world.now = at(START_MS + 8_000, 60_000);
    assert_eq!(world.code(), None);
    world.now = at(START_MS + 7_999, 60_000);
    assert_eq!(world.code(), Some(RefusalCode::LeaseExpired));
    world.now = at(START_MS + 12_001, 60_000);
    assert_eq!(world.code(), Some(RefusalCode::LeaseExpired));
}

#[test]
fn a_head_from_the_future_is_refused() {
    let mut world = World::new();
    world.now = at(START_MS - 2_000, 50_000);
    assert_eq!(world.code(), None);
    world.now = at(START_MS - 2_001, 50_000);
    assert_eq!(world.code(), Some(RefusalCode::HeadInFuture));
}

#[test]
fn what_isnt_a_receipt_is_refused() {
    let mut world = World::new();
    for text in [
        "",
        "artifact",
        &world.artifact.replace("index 4", "index 5"),
        &world.artifact.replace("index 4", "index 04"),
    ] {
        world.artifact = text.to_owned();
        assert_eq!(world.code(), Some(RefusalCode::ReceiptMalformed), "{text}");
    }
}

#[test]
fn a_leaf_that_isnt_under_its_head_is_refused() {
    let mut world = World::new();
    let mut proof = TlogProof::parse(&world.artifact).unwrap();
    proof.proof[0] = sha256(b"another neighbour");
    world.artifact = proof.encode();
    assert_eq!(world.code(), Some(RefusalCode::InclusionInvalid));
}

#[test]
fn artifacts_of_another_log_are_refused() {
    let mut world = World::new();
    let mut other = Authority::named("other.example/log", START_MS);
    let index = other.allow(&decision(&other, &world.holder, START_MS));
    other.sign();
    world.artifact = other.receipt(index);
    assert_eq!(world.code(), Some(RefusalCode::OriginMismatch));
    let issuer = World::with(|decision| decision.issuer = Origin::parse("other.example/log").unwrap());
    assert_eq!(issuer.code(), Some(RefusalCode::OriginMismatch));
}

#[test]
fn a_head_that_no_active_key_signed_is_refused() {
    let mut world = World::new();
    let mut proof = TlogProof::parse(&world.artifact).unwrap();
    let body = world.authority.newest().0.clone();
    proof.checkpoint = signed(&body, &[&key(66)]);
    world.artifact = proof.encode();
    assert_eq!(world.code(), Some(RefusalCode::HeadUnsigned));
    // A key that was introduced but not activated signs nothing.
    world.authority.introduce(&key(2));
    world.authority.sign();
    world.pull();
    world.present(|_| ());
    let mut proof = TlogProof::parse(&world.artifact).unwrap();
    proof.checkpoint = signed(&world.authority.newest().0, &[&key(2)]);
    world.artifact = proof.encode();
    assert_eq!(world.code(), Some(RefusalCode::HeadUnsigned));
}

#[test]
fn a_head_must_be_remembered_or_joined() {
    let mut world = World::new();
    world.present(|_| ());
    // Ahead of the gateway.
    assert_eq!(world.code(), Some(RefusalCode::HeadUnlinked));
    let size = world.authority.size();
    // Behind it, and never seen.
    world.authority.heartbeat();
    world.authority.sign();
    world.pull();
    assert_eq!(world.code(), Some(RefusalCode::HeadUnlinked));
    let to = world.authority.size();
    let right = hashes(&world.authority.consistency(size, to)).unwrap();
    for (from, to, hashes) in [
        (size, to, Vec::new()),
        (size - 1, to, right.clone()),
        (size, to + 1, right.clone()),
        (size, to, vec![sha256(b"x"); right.len()]),
    ] {
        world.link = Some(LinkProof { from, to, hashes });
        assert_eq!(world.code(), Some(RefusalCode::HeadUnlinked));
    }
    world.link = Some(LinkProof { from: size, to, hashes: right });
    assert_eq!(world.code(), None);
}

#[test]
fn a_head_that_contradicts_a_known_one_is_a_fork() {
    let mut world = World::new();
    let mut fork = world.authority.clone();
    world.authority.heartbeat();
    world.authority.sign();
    world.pull();
    // Same size, another leaf, signed by the true key.
    let index = fork.allow(&decision(&fork, &world.holder, START_MS));
    fork.sign();
    assert_eq!(fork.size(), world.authority.size());
    world.artifact = fork.receipt(index);
    assert_eq!(world.code(), Some(RefusalCode::HeadForked));
    // Another size, but another control chain at a known number.
    let mut chain = Authority::new(START_MS + 1);
    for _ in 0..9 {
        chain.heartbeat();
    }
    let index = chain.allow(&decision(&chain, &world.holder, START_MS));
    chain.sign();
    world.artifact = chain.receipt(index);
    assert_eq!(world.code(), Some(RefusalCode::HeadForked));
}

#[test]
fn only_an_allow_admits() {
    let mut world = World::new();
    let mut deny = decision(&world.authority, &world.holder, START_MS);
    deny.verdict = Verdict::Deny(RefusalCode::PolicyDenied);
    let denied = world.authority.append(Kind::Deny, deny.encode());
    let mislabelled = world.authority.append(Kind::Allow, deny.encode());
    let beat = world.authority.heartbeat();
    let not_a_decision = world.authority.append(Kind::Allow, vec![0xa0]);
    world.authority.sign();
    world.pull();
    for (index, code) in [
        (denied, RefusalCode::NotAnAllow),
        (beat, RefusalCode::NotAnAllow),
        (0, RefusalCode::NotAnAllow),
        (mislabelled, RefusalCode::ReceiptMalformed),
        (not_a_decision, RefusalCode::ReceiptMalformed),
    ] {
        world.artifact = world.authority.receipt(index);
        assert_eq!(world.code(), Some(code), "{index}");
    }
}

#[test]
fn a_gateway_behind_the_artifacts_control_number_refuses() {
    let world = World::with(|decision| decision.control += 1);
    assert_eq!(world.code(), Some(RefusalCode::ControlBehind));
    let mut world = World::with(|decision| decision.control = 0);
    assert_eq!(world.code(), None);
    // The leaf asks for nothing, but its head, joined by a true proof, claims more control leaves than the newest head has.
    world.present(|decision| decision.control = 0);
    let mut body = world.authority.newest().0.clone();
    body.control_seq += 1;
    let mut proof = TlogProof::parse(&world.artifact).unwrap();
    proof.checkpoint = signed(&body, &[&key(1)]);
    world.artifact = proof.encode();
    world.authority.heartbeat();
    world.authority.sign();
    let (from, to) = (body.size, world.authority.size());
    let hashes = hashes(&world.authority.consistency(from, to)).unwrap();
    world.pull();
    world.link = Some(LinkProof { from, to, hashes });
    assert_eq!(world.code(), Some(RefusalCode::ControlBehind));
}

#[test]
fn each_claim_must_be_what_the_door_sees() {
    let secs = START_MS / 1_000;
    let allow = |nbf, exp| Verdict::Allow { nbf, exp };
    let check = |world: World| world.code();
    let other = Audience::parse("elsewhere").unwrap();
    assert_eq!(check(World::with(|decision| decision.audience = other)), Some(RefusalCode::AudienceMismatch));
    for (verdict, code) in [
        (allow(secs + 2, secs + 60), None),
        (allow(secs + 3, secs + 60), Some(RefusalCode::NotYetValid)),
        (allow(secs - 60, secs - 1), None),
        (allow(secs - 60, secs - 2), Some(RefusalCode::Expired)),
        (allow(secs, secs + 86_400), None),
        (allow(secs, secs + 86_401), Some(RefusalCode::ReceiptMalformed)),
        (allow(u64::MAX - 1, u64::MAX), Some(RefusalCode::ReceiptMalformed)),
    ] {
        assert_eq!(check(World::with(|decision| decision.verdict = verdict)), code, "{verdict:?}");
    }
    let action = Action::parse("deploy").unwrap();
    assert_eq!(check(World::with(|decision| decision.action = action)), Some(RefusalCode::ActionMismatch));
    let arguments = argv_digest(&["programargument"]);
    assert_eq!(
        check(World::with(|decision| decision.arguments = arguments)),
        Some(RefusalCode::ArgumentsMismatch)
    );
    let workload = sha256(b"programme");
    assert_eq!(
        check(World::with(|decision| decision.workload = workload)),
        Some(RefusalCode::WorkloadMismatch)
    );
}

#[test]
fn what_was_revoked_is_refused_from_the_pull_on() {
    let parent = (0, sha256(b"parent"));
    let root = (1, sha256(b"root"));
    let lineage = || Lineage { parents: vec![parent], root: Some(root), depth: 2 };
    let subjects: [fn(&World) -> Subject; 4] = [
        |_| Subject::Host(host()),
        |world| Subject::Artifact(4, countersign_core::leaf::leaf_hash(world.authority.leaf(4))),
        |_| Subject::Artifact(0, sha256(b"parent")),
        |_| Subject::Artifact(1, sha256(b"root")),
    ];
    for subject in subjects {
        let mut world = World::with(|decision| decision.lineage = lineage());
        let subject = subject(&world);
        world.authority.revoke(subject);
        world.authority.sign();
        assert_eq!(world.code(), None, "not known yet");
        world.pull();
        assert_eq!(world.code(), Some(RefusalCode::Revoked), "{subject:?}");
    }
    // Another leaf at the same index isn't this one.
    let mut world = World::with(|decision| decision.lineage = lineage());
    world.authority.revoke(Subject::Artifact(0, sha256(b"another")));
    world.authority.sign();
    world.pull();
    assert_eq!(world.code(), None);
}

#[test]
fn without_the_holder_key_an_artifact_is_worth_nothing() {
    let mut world = World::new();
    let leaf = countersign_core::leaf::leaf_hash(world.authority.leaf(4));
    let thief = HolderKey::generate(Algorithm::EdDsa).unwrap();
    let now = world.now.wall_ms;
    for proof in [
        prove(&thief, "gate", &leaf, now),
        prove(&world.holder, "another gate", &leaf, now),
        prove(&world.holder, "gate", &sha256(b"another artifact"), now),
        prove(&world.holder, "gate", &leaf, now - 30_001),
        prove(&world.holder, "gate", &leaf, now + 2_001),
    ] {
        world.proof = proof;
        assert_eq!(world.code(), Some(RefusalCode::HolderProofInvalid));
    }
}

#[test]
fn a_refusal_names_the_artifact_only_if_it_is_genuine() {
    let mut world = World::new();
    world.measured.workload = sha256(b"another");
    assert_eq!(world.admit().unwrap_err().artifact().unwrap().0, 4);
    let mut proof = TlogProof::parse(&world.artifact).unwrap();
    proof.checkpoint = signed(&world.authority.newest().0, &[&key(66)]);
    world.artifact = proof.encode();
    assert_eq!(world.admit().unwrap_err().artifact(), None);
}

#[test]
fn no_artifact_with_a_flipped_bit_is_admitted() {
    let mut world = World::new();
    assert_eq!(world.code(), None);
    let text = world.artifact.clone().into_bytes();
    let mut tried = 0;
    for place in 0..text.len() {
        for bit in 0..8 {
            let mut flipped = text.clone();
            flipped[place] ^= 1 << bit;
            let Ok(flipped) = String::from_utf8(flipped) else { continue };
            world.artifact = flipped;
            tried += 1;
            assert!(world.code().is_some(), "byte {place}, bit {bit}");
        }
    }
    assert!(tried > 8_000, "{tried}");
}

#[test]
fn every_audience_of_the_gateway_counts_and_none_beside_them() {
    let mut world = World::new();
    world.rules.audiences = vec![Audience::parse("gate-domain/sub").unwrap()];
    assert_eq!(world.code(), Some(RefusalCode::AudienceMismatch));
    world.rules.audiences.clear();
    assert_eq!(world.code(), Some(RefusalCode::AudienceMismatch));
}

#[test]
fn artifacts_from_before_a_rotation_are_admitted_until_they_expire() {
    let mut world = World::new();
    let old = world.artifact.clone();
    world.authority.rotate(&key(2));
    world.authority.sign();
    world.pull();
    assert_eq!(world.artifact, old);
    assert_eq!(world.code(), None);
    world.present(|_| ());
    world.pull();
    assert_eq!(world.code(), None);
    // A key that was never believed stays so.
    let stranger = first(&world.authority, &world.now);
    assert!(stranger.control().head_keys().iter().all(|known| known.key != public(&key(3))));
}

#[test]
fn artifacts_of_a_compromised_key_hold_up_to_its_last_good_head() {
    let mut world = World::new();
    let good = world.artifact.clone();
    let good_proof = world.proof.clone();
    let pinned = world.authority.heads.len() - 1;
    // What the key signed after it was stolen, in the honest log and in the thief's.
    let mut thief = world.authority.clone();
    world.present(|_| ());
    world.pull();
    assert_eq!(world.code(), None);
    let (late, late_proof) = (world.artifact.clone(), world.proof.clone());
    world.authority.rotate(&key(2));
    world.authority.sign();
    let record = world.authority.compromise(2, &key(1), pinned, &[key(2)]);
    world.authority.append(Kind::Recovery, record.encode());
    world.authority.sign();
    world.pull();
    assert_eq!(world.code(), Some(RefusalCode::KeyCompromised), "beyond the last good head");
    (world.artifact, world.proof) = (good, good_proof);
    assert_eq!(world.code(), None, "under the last good head");
    // A leaf that was made while the key was stolen counts again under a head of its successor.
    let leaf = world.authority.receipt(TlogProof::parse(&late).unwrap().index);
    (world.artifact, world.proof) = (leaf, late_proof);
    assert_eq!(world.code(), None);
    // The thief's forks: larger than the last good head, of its size, and smaller.
    let index = thief.allow(&decision(&thief, &world.holder, START_MS));
    thief.sign();
    world.artifact = thief.receipt(index);
    assert_eq!(world.code(), Some(RefusalCode::KeyCompromised));
    let mut small = Authority::new(START_MS);
    let index = small.allow(&decision(&small, &world.holder, START_MS));
    small.sign();
    world.artifact = small.receipt(index);
    assert_eq!(world.code(), Some(RefusalCode::HeadUnlinked));
    while small.size() < world.authority.heads[pinned].0.size {
        small.heartbeat();
    }
    small.sign();
    world.artifact = small.receipt(index);
    assert_eq!(world.code(), Some(RefusalCode::HeadForked));
}
