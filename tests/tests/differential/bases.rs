//! Good logs to start from: the published example, and what it grows into with rotations, compromises, revocations, host states, unsigned heads and cosignatures.

use crate::entries::{
    Name, compromise, gateway_revoked, heartbeat, host_state, key_event, outcome, principal, revocation,
};
use crate::item::Item;
use crate::keys::{self, DEPUTY, FIRST, HEAD_KEYS, OFFICER, OPERATOR, SECOND};
use crate::plan::{Batch, Content, Entry, ORIGIN, Plan, Signers};
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::control::{KeyEvent, KeyPurpose, PrincipalKind, Role, Subject};
use countersign_core::leaf::record::HeartbeatReason;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::note::{NoteKey, SignedNote};
use countersign_core::refusal::RefusalCode;
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;
use std::path::Path;

/// A good log.
#[derive(Clone)]
pub(crate) struct Base {
    pub(crate) name: &'static str,
    pub(crate) plan: Plan,
    /// Leaves that others can name.
    pub(crate) names: Vec<Name>,
}

fn entry_of(bytes: &[u8]) -> Entry {
    let leaf = Leaf::parse(bytes).unwrap();
    let mut body = Item::decode(&leaf.body).unwrap();
    let mut text = |label| match body.at(label) {
        Item::Bytes(bytes) => bytes.clone(),
        other => panic!("{other:?} isn't bytes"),
    };
    let content = match leaf.kind {
        Kind::Recovery => Content::Initial,
        Kind::Policy | Kind::References => Content::Epoch { digest: text(1), by: text(3), off: 0 },
        _ => Content::Body(body),
    };
    let name = Some((leaf.index, leaf_hash(bytes).as_bytes().to_vec()));
    Entry { name, ..Entry::new(u64::from(leaf.kind.number()), content) }
}

fn signers_of(head: &str) -> Vec<u8> {
    let Ok(note) = SignedNote::parse(head) else { return Vec::new() };
    let ids: Vec<_> = note.signatures().iter().map(countersign_core::note::NoteSignature::key_id).collect();
    let signed = |seed: &u8| ids.contains(&NoteKey::new(ORIGIN, keys::public(*seed)).unwrap().key_id());
    HEAD_KEYS.into_iter().filter(signed).collect()
}

fn published() -> Base {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/formats/log.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let pages: Vec<Value> = vectors["export"]
        .as_array()
        .unwrap()
        .iter()
        .map(|page| serde_json::from_str(page.as_str().unwrap()).unwrap())
        .collect();
    let all = |name: &str| -> Vec<String> {
        let items = pages.iter().filter_map(|page| page[name].as_array()).flatten();
        items.map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let leaves: Vec<Vec<u8>> =
        all("leaves").iter().map(|leaf| BASE64URL_NOPAD.decode(leaf.as_bytes()).unwrap()).collect();
    let mut batches = Vec::new();
    let mut from = 0;
    for head in all("heads") {
        let body = SignedNote::parse(&head).map_or(head.clone(), |note| note.text().to_owned());
        let size = usize::try_from(HeadBody::parse(&body).unwrap().size).unwrap();
        let entries = leaves[from..size].iter().map(|leaf| entry_of(leaf)).collect();
        batches.push(Batch { signers: Signers::These(signers_of(&head)), ..Batch::of(entries) });
        from = size;
    }
    let bundle: Value = serde_json::from_str(vectors["trust_bundle"].as_str().unwrap()).unwrap();
    let statement = bundle["statements"][0]["statement"].as_str().unwrap();
    let initial = Item::decode(&BASE64URL_NOPAD.decode(statement.as_bytes()).unwrap()).unwrap();
    let names = leaves.iter().map(|leaf| (Leaf::parse(leaf).unwrap().index, leaf_hash(leaf))).collect();
    let plan = Plan { initial, initial_edit: None, batches, pinned: 0, stale: false, cut: None };
    Base { name: "published", plan, names }
}

fn due(plan: &mut Plan, entries: Vec<Entry>) {
    plan.batches.push(Batch::of(entries));
}

fn unsigned(plan: &mut Plan, entries: Vec<Entry>) {
    plan.batches.push(Batch { signers: Signers::These(Vec::new()), ..Batch::of(entries) });
}

fn introduced(seed: u8) -> Entry {
    key_event(KeyPurpose::Head, seed, KeyEvent::Introduced, Some(OFFICER), Some(OFFICER))
}

fn activated(seed: u8) -> Entry {
    key_event(KeyPurpose::Head, seed, KeyEvent::Activated, None, Some(OFFICER))
}

/// The second head key is compromised, and another one stands in for it.
fn compromised(mut base: Base, pinned: usize) -> Base {
    let plan = &mut base.plan;
    let officer = PrincipalKind::Operator(Role::SecurityOfficer);
    due(plan, vec![principal(true, DEPUTY, officer, Some(OFFICER), Some(OFFICER))]);
    due(plan, vec![host_state(true), host_state(false)]);
    let good = plan.batches.len() - 1;
    unsigned(plan, vec![heartbeat(HeartbeatReason::Idle)]);
    due(
        plan,
        vec![
            compromise(SECOND, good, &[26]),
            key_event(KeyPurpose::Head, 26, KeyEvent::Introduced, None, Some(OFFICER)),
            activated(26),
        ],
    );
    // What the thief still signs counts for nothing.
    plan.batches.push(Batch {
        signers: Signers::These(vec![SECOND]),
        ..Batch::of(vec![heartbeat(HeartbeatReason::Idle)])
    });
    due(plan, vec![key_event(KeyPurpose::Head, SECOND, KeyEvent::Destroyed, None, Some(OFFICER))]);
    due(plan, vec![key_event(KeyPurpose::Jwt, 61, KeyEvent::Deactivated, None, Some(OFFICER))]);
    plan.pinned = pinned;
    base.name = if pinned > 0 { "compromised, and pinned" } else { "compromised" };
    base
}

/// P-256 head keys, unsigned heads around a rotation, principals that come and go, outcomes.
fn rotated(mut base: Base) -> Base {
    let allow = base.names[11];
    let plan = &mut base.plan;
    unsigned(plan, vec![introduced(100), heartbeat(HeartbeatReason::Start)]);
    unsigned(plan, vec![activated(100)]);
    due(plan, vec![heartbeat(HeartbeatReason::SignerBack)]);
    due(plan, vec![key_event(KeyPurpose::Head, SECOND, KeyEvent::Deactivated, None, None)]);
    due(plan, vec![key_event(KeyPurpose::Head, FIRST, KeyEvent::Destroyed, None, Some(OFFICER))]);
    due(plan, vec![gateway_revoked(true), gateway_revoked(false)]);
    due(plan, vec![outcome(allow, Some(RefusalCode::Revoked), 1_700_000_020_000)]);
    let operator = PrincipalKind::Operator(Role::Operator);
    due(plan, vec![principal(true, OPERATOR, operator, None, Some(OFFICER))]);
    due(plan, vec![principal(false, OPERATOR, operator, None, Some(OFFICER))]);
    due(plan, vec![introduced(101)]);
    due(plan, vec![activated(101)]);
    due(plan, vec![revocation(Subject::Artifact(allow.0, allow.1), false), host_state(true)]);
    plan.batches.last_mut().unwrap().cosigned = true;
    base.name = "rotated";
    base
}

/// All of them.
pub(crate) fn all() -> Vec<Base> {
    let base = published();
    assert!(base.names.iter().all(|(_, hash)| *hash != Sha256Digest::ZERO));
    vec![compromised(base.clone(), 0), compromised(base.clone(), 1), rotated(base.clone()), base]
}
