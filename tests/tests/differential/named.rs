//! What the two implementations once saw differently, by name: each on its own, and how it has to end.

use crate::bases::Base;
use crate::cases::{Case, Source, log_case};
use crate::dice::Dice;
use crate::entries::{compromise, entry, heartbeat, key_event, principal};
use crate::item::Item;
use crate::keys::{self, DEPUTY, FIRST, OFFICER, SECOND};
use crate::plan::{Batch, Content, Entry, Plan, Signers};
use countersign_core::leaf::control::{KeyEvent, KeyPurpose, PrincipalKind};
use countersign_core::leaf::record::HeartbeatReason;

/// A case, and whether both have to accept it.
pub(crate) type Named = (&'static str, bool, Case);

fn event(purpose: KeyPurpose, seed: u8, event: KeyEvent) -> Entry {
    let approved_by = (event == KeyEvent::Introduced).then_some(OFFICER);
    key_event(purpose, seed, event, approved_by, Some(OFFICER))
}

fn log(base: &Base, change: impl FnOnce(&mut Plan)) -> Case {
    let mut plan = base.plan.clone();
    change(&mut plan);
    log_case(&plan.build(), &mut Dice::new(0))
}

fn with(base: &Base, entries: Vec<Entry>) -> Case {
    log(base, |plan| plan.batches.extend(entries.into_iter().map(|entry| Batch::of(vec![entry]))))
}

fn signed_by(entry: Entry, seeds: &[u8]) -> Batch {
    Batch { signers: Signers::These(seeds.to_vec()), ..Batch::of(vec![entry]) }
}

/// Leaf `index` of the published log, its body changed.
fn leaf(source: &Source, index: usize, change: impl FnOnce(&mut Item)) -> Case {
    let mut item = Item::decode(&source.built[3].leaves[index]).unwrap();
    let Item::Array(items) = &mut item else { unreachable!("a leaf is an array") };
    let Item::Inner(body) = &mut items[5] else { unreachable!("a body is a map") };
    change(body);
    Case::Leaf(item.encode())
}

fn text(text: &str) -> Item {
    Item::Text(text.as_bytes().to_vec())
}

fn leaves(source: &Source) -> Vec<Named> {
    // 3 adds the officer, 11 allows, 12 denies; 1 introduces the first head key.
    vec![
        (
            "a head key that isn't a point of the curve",
            false,
            leaf(source, 1, |body| {
                let mut bytes = [7; 32];
                bytes[0] = (0..)
                    .find(|first| {
                        bytes[0] = *first;
                        countersign_core::key::VerifyingKey::ed25519(&bytes).is_err()
                    })
                    .unwrap();
                let Item::Inner(key) = body.at(3) else { unreachable!("a COSE_Key is a map") };
                *key.at(-2) = Item::Bytes(bytes.to_vec());
            }),
        ),
        ("a possession of 63 bytes", false, leaf(source, 1, |body| *body.at(4) = Item::Bytes(vec![1; 63]))),
        ("a code that is none", false, leaf(source, 12, |body| *body.at(-65_538) = text("no-such-code"))),
        (
            "a trust vector with a value that is no tier",
            false,
            leaf(source, 11, |body| {
                *body.at(-65_547).at(2) = Item::Map(vec![(Item::Int(0), Item::Int(3))]);
            }),
        ),
        (
            "a trust vector with a claim that isn't one of five",
            false,
            leaf(source, 11, |body| {
                *body.at(-65_547).at(2) = Item::Map(vec![(Item::Int(5), Item::Int(2))]);
            }),
        ),
        ("decided under epoch 0", false, leaf(source, 11, |body| *body.at(-65_545).at(2) = Item::Int(0))),
        (
            "asserted claims out of order",
            false,
            leaf(source, 11, |body| {
                *body.at(-65_550) = Item::Array(vec![text("workload"), text("runtime")]);
            }),
        ),
        ("an engine without a name", true, leaf(source, 11, |body| *body.at(-65_551) = text(""))),
        ("an officer without a name", true, leaf(source, 3, |body| *body.at(4) = text(""))),
    ]
}

fn keys_in_logs(base: &Base) -> Vec<Named> {
    use KeyEvent::{Activated, Compromised, Deactivated, Destroyed, Introduced};
    use KeyPurpose::{Ca, Head, Jwt};
    let chain = |events: &[(KeyPurpose, u8, KeyEvent)]| {
        with(base, events.iter().map(|(purpose, seed, what)| event(*purpose, *seed, *what)).collect())
    };
    let jwt = |seed, what| (Jwt, seed, what);
    vec![
        (
            "a CA key from its introduction to its end",
            true,
            chain(&[(Ca, 71, Introduced), (Ca, 71, Activated), (Ca, 71, Deactivated), (Ca, 71, Destroyed)]),
        ),
        ("a CA key introduced twice", false, chain(&[(Ca, 71, Introduced), (Ca, 71, Introduced)])),
        ("a CA key that was never introduced", false, chain(&[(Ca, 71, Activated)])),
        ("the reserved event about a CA key", false, chain(&[(Ca, 71, Introduced), (Ca, 71, Compromised)])),
        ("a head key that becomes a CA key", false, chain(&[(Ca, SECOND, Introduced)])),
        ("a CA key that becomes a head key", false, chain(&[(Ca, 71, Introduced), (Head, 71, Introduced)])),
        ("a key destroyed twice", false, chain(&[(Head, FIRST, Destroyed), (Head, FIRST, Destroyed)])),
        ("a destroyed JWT key withdrawn", true, chain(&[jwt(61, Destroyed), jwt(61, Deactivated)])),
        ("a JWT key withdrawn twice", false, chain(&[jwt(61, Deactivated), jwt(61, Deactivated)])),
        (
            "a head key before that of the trust bundle",
            false,
            log(base, |plan| {
                let entries = &mut plan.batches[0].entries;
                let officer = entries.remove(3);
                entries.splice(1..1, [officer, event(Head, 26, Introduced)]);
            }),
        ),
    ]
}

fn heads(base: &Base) -> Vec<Named> {
    let rotation = |seeds: &'static [u8]| {
        log(base, |plan| {
            plan.batches.push(Batch::of(vec![event(KeyPurpose::Head, 26, KeyEvent::Introduced)]));
            plan.batches.push(signed_by(event(KeyPurpose::Head, 26, KeyEvent::Activated), seeds));
        })
    };
    vec![
        ("a rotation signed by both", true, rotation(&[SECOND, 26])),
        ("a rotation signed by the old key alone", false, rotation(&[SECOND])),
        ("a rotation signed by the new key alone", false, rotation(&[26])),
        (
            "a head later than its leaves",
            false,
            log(base, |plan| {
                plan.batches.last_mut().unwrap().head_later_ms = 1;
            }),
        ),
        (
            "a head of nothing before the first",
            false,
            log(base, |plan| plan.batches.insert(0, Batch::of(Vec::new()))),
        ),
        (
            "a decision of another trust domain",
            false,
            log(base, |plan| {
                let mut entries = plan.batches.iter_mut().flat_map(|batch| &mut batch.entries);
                let denial = entries.find(|entry| entry.kind == 2).unwrap();
                let Content::Body(body) = &mut denial.content else { unreachable!("a denial is a body") };
                let Item::Text(sub) = body.at(2) else { unreachable!("a subject is text") };
                *sub = String::from_utf8(sub.clone())
                    .unwrap()
                    .replace("test.example", "gol.example")
                    .into_bytes();
            }),
        ),
    ]
}

fn compromises(base: &Base) -> Vec<Named> {
    let said = |good: usize, signer: u8, more: &'static [u8]| {
        log(base, |plan| {
            plan.batches.push(signed_by(compromise(SECOND, good, &[26]), &[signer]));
            plan.batches.push(signed_by(heartbeat(HeartbeatReason::Idle), &[signer]));
            let events = [KeyEvent::Introduced, KeyEvent::Activated];
            let entries = events.map(|what| event(KeyPurpose::Head, 26, what)).to_vec();
            plan.batches.push(Batch { signers: Signers::These(more.to_vec()), ..Batch::of(entries) });
        })
    };
    // The statement is in the trust bundle, and the log ends where `keep` batches do.
    let pinned = |key: u8, good: usize, keep: usize| {
        log(base, |plan| {
            let all = plan.batches.len();
            plan.batches.push(Batch::of(vec![compromise(key, good.min(all - 1), &[26])]));
            plan.pinned = 1;
            plan.cut = Some(keep);
        })
    };
    let last = base.plan.batches.len() - 1;
    vec![
        ("heads of a compromised key, passed over", true, said(last, SECOND, &[26])),
        ("a log that ends with heads of a compromised key", false, said(last, SECOND, &[SECOND])),
        ("heads of a key that was never known", false, said(last, 27, &[26])),
        ("a pinned compromise that the log doesn't have yet", true, pinned(SECOND, last, last + 1)),
        ("a log that ends before a pinned last good head", false, pinned(SECOND, last, last)),
        (
            "a log that ends before the last good head of a key that it doesn't know",
            false,
            pinned(100, last, last),
        ),
        ("a pinned last good head with more behind it", false, pinned(SECOND, last - 1, last + 1)),
    ]
}

/// A head with a good signature and one that fails, by a key of the log that isn't active.
fn failing(source: &Source) -> Named {
    let built = &source.built[3];
    let newest = built.heads.last().unwrap();
    let line = keys::line(crate::plan::ORIGIN, FIRST, "something else\n").format();
    let (bundle, control) = (built.bundle.to_string(), built.control.clone());
    (
        "a failing signature of a key that isn't active",
        false,
        Case::Head { bundle, control, text: format!("{newest}{line}") },
    )
}

fn officers(base: &Base) -> Vec<Named> {
    let officer = PrincipalKind::Operator(countersign_core::leaf::control::Role::SecurityOfficer);
    let deputy = |approved_by| principal(true, DEPUTY, officer, approved_by, Some(OFFICER));
    vec![
        ("an officer whom another approved", true, with(base, vec![deputy(Some(OFFICER))])),
        ("an officer who approved himself", false, with(base, vec![deputy(Some(DEPUTY))])),
        ("an epoch that isn't the next", false, {
            let epoch = Content::Epoch { digest: vec![1; 32], by: vec![2; 32], off: 1 };
            with(base, vec![Entry::new(6, epoch)])
        }),
        ("a body that isn't of its kind", false, {
            let mut wrong = heartbeat(HeartbeatReason::Idle);
            wrong.kind = 11;
            with(base, vec![wrong, entry(countersign_core::leaf::Kind::Heartbeat, &[0xa1, 1, 1])])
        }),
    ]
}

pub(crate) fn all(source: &Source) -> Vec<Named> {
    let base = &source.bases[3];
    let inputs = |bytes: usize| {
        let mut item = Item::decode(&source.inputs).unwrap();
        *item.at(3) = Item::Bytes(vec![2; bytes]);
        Case::Inputs(item.encode())
    };
    let mut all = vec![
        ("a holder signature of 64 bytes", true, inputs(64)),
        ("a holder signature of 63 bytes", false, inputs(63)),
        failing(source),
    ];
    all.extend(leaves(source));
    all.extend(keys_in_logs(base));
    all.extend(heads(base));
    all.extend(compromises(base));
    all.extend(officers(base));
    all
}
