//! A gateway that demands witnesses: what it pulls, what it keeps, what it admits.

use std::sync::Arc;

use crate::authority::{key, public};
use crate::pulling::{Door, now_ms};
use crate::world::World;
use countersign_core::note::NoteSignature;
use countersign_core::refusal::RefusalCode;
use countersign_core::witness::{Quorum, WitnessKey, cosigned_message};
use countersign_gateway::pull::Ready;
use countersign_gateway::refusal::Refusal;
use ed25519_dalek::Signer as _;

fn witness(seed: u8) -> WitnessKey {
    WitnessKey::new(&format!("w{seed}.example"), public(&key(seed))).unwrap()
}

/// Any one of these.
fn any_of(seeds: &[u8]) -> Option<Arc<Quorum>> {
    let lines: String =
        seeds.iter().map(|seed| format!("witness w{seed} {}\n", witness(*seed).vkey())).collect();
    let names: Vec<String> = seeds.iter().map(|seed| format!("w{seed}")).collect();
    let text = format!("{lines}group some any {}\nquorum some\n", names.join(" "));
    Some(Arc::new(Quorum::parse(&text).unwrap()))
}

fn cosign(seed: u8, text: &str, time_secs: u64) -> NoteSignature {
    let signature = key(seed).sign(cosigned_message(time_secs, text).as_bytes());
    witness(seed).line(time_secs, &signature.to_bytes()).unwrap()
}

fn code(ready: &Ready) -> Option<RefusalCode> {
    ready.fault.as_ref().map(countersign_gateway::pull::PullFault::code)
}

#[tokio::test]
async fn only_heads_with_a_quorum_are_followed_and_kept() {
    let mut door = Door::new();
    door.rules.quorum = any_of(&[51, 52]);
    let bundle = door.source.authority(|authority| authority.bundle());
    let unmet = Some(RefusalCode::WitnessQuorumUnmet);
    type Lines = Box<dyn Fn(&str) -> Vec<NoteSignature> + Send>;
    let cases: [(Option<Lines>, Option<RefusalCode>); 6] = [
        (None, unmet),
        (Some(Box::new(|text| vec![cosign(53, text, now_ms() / 1_000)])), unmet),
        (Some(Box::new(|text| vec![cosign(51, text, now_ms() / 1_000 + 3_600)])), unmet),
        (Some(Box::new(|text| vec![cosign(51, text, 1)])), unmet),
        (
            Some(Box::new(|_| vec![cosign(51, "another text", now_ms() / 1_000)])),
            Some(RefusalCode::CosignatureInvalid),
        ),
        (Some(Box::new(|text| vec![cosign(52, text, now_ms() / 1_000)])), None),
    ];
    for (number, (lines, expected)) in cases.into_iter().enumerate() {
        door.source.seen(|seen| seen.witnesses = lines);
        let ready = door.ready(None).await.unwrap();
        assert_eq!(code(&ready), expected, "case {number}");
        assert!(door.source.seen(|seen| seen.witnessed), "asked for witnessed heads");
        // What has no quorum is neither used nor kept.
        assert_eq!(ready.snapshot.is_some(), expected.is_none());
        assert_eq!(door.state.load(&bundle).unwrap().is_some(), expected.is_none());
        let lease_over = Refusal::new(RefusalCode::LeaseExpired, "test");
        assert_eq!(ready.explain(lease_over).code(), expected.unwrap_or(RefusalCode::LeaseExpired));
    }
    // Another quorum is demanded: what is held doesn't meet it.
    door.rules.quorum = any_of(&[51]);
    let ready = door.ready(None).await.unwrap();
    assert_eq!(code(&ready), unmet);
    door.rules.quorum = None;
    assert!(door.ready(None).await.unwrap().fault.is_none());
}

#[test]
fn nothing_is_admitted_under_a_head_without_a_quorum_or_above_the_newest_with_one() {
    let mut world = World::new();
    assert_eq!(world.code(), None);
    world.rules.quorum = any_of(&[51]);
    assert_eq!(world.code(), Some(RefusalCode::WitnessQuorumUnmet));

    // The same snapshot from a feed whose head is cosigned.
    let mut feed = world.authority.feed(0, 0);
    let note = countersign_core::note::SignedNote::parse(&feed.head).unwrap();
    let line = cosign(51, note.text(), world.now.wall_ms / 1_000);
    let lines = [note.signatures(), &[line]].concat();
    feed.head = countersign_core::note::SignedNote::new(note.text(), lines).unwrap().format();
    let first = countersign_gateway::snapshot::Snapshot::first(
        &world.authority.bundle(),
        &feed,
        &world.now,
        &world.now,
    );
    world.snapshot = first.unwrap().snapshot;
    assert_eq!(world.code(), None);
    world.rules.quorum = any_of(&[52]);
    assert_eq!(world.code(), Some(RefusalCode::WitnessQuorumUnmet));
    world.rules.quorum = any_of(&[51]);

    // An artifact under a head that no witness has seen yet.
    world.present(|_| ());
    assert_eq!(world.code(), Some(RefusalCode::WitnessQuorumUnmet));
    world.rules.quorum = None;
    assert_eq!(world.code(), Some(RefusalCode::HeadUnlinked));
}
