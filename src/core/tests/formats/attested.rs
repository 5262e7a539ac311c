//! Logs that end with a host-state leaf: some that an honest authority writes, and one for each way in which the log alone shows that what the leaf
//! says it follows from was not so (PROTOCOL §8.4).
//!
//! Everything else about them is right, so a reader that refuses one does so for that leaf.

use crate::outcomes::{Scene, scene};
use crate::samples::{basis, digest, host, state};
use countersign_core::leaf::Kind;
use countersign_core::leaf::host::HostState;
use countersign_core::leaf::host_state::{Basis, HostStateRecord};
use serde_json::{Value, json};

/// What is in force at the end of a scene, and the time of its next leaf.
fn true_basis(scene: &Scene) -> Basis {
    Basis {
        policy: Some(digest(8)),
        references: Some(digest(5)),
        time_ms: scene.log.time_ms + 1_000,
        control: scene.log.control.number(),
        ..basis()
    }
}

type Alter = fn(&mut Basis);

const TAKEN: [(&str, Alter); 3] = [
    ("decided as it was logged", |_| ()),
    ("decided ten seconds before", |basis| basis.time_ms -= 10_000),
    ("decided two seconds ahead", |basis| basis.time_ms += 2_000),
];

const REFUSED: [(&str, Alter); 10] = [
    ("decided more than ten seconds before", |basis| basis.time_ms -= 10_001),
    ("decided more than two seconds ahead", |basis| basis.time_ms += 2_001),
    ("another policy", |basis| basis.policy = Some(digest(5))),
    ("no policy where there is one", |basis| basis.policy = None),
    ("other references", |basis| basis.references = Some(digest(8))),
    ("no references where there are some", |basis| basis.references = None),
    ("a control number that isn't there yet", |basis| basis.control += 1),
    ("the control number before", |basis| basis.control -= 1),
    ("documents that weren't there at the control number", |basis| basis.control = 1),
    ("the references of later", |basis| basis.control -= 2),
];

fn vector(name: &str, taken: bool, alter: Option<Alter>) -> Value {
    let mut scene = scene();
    let (leaves, heads) = (scene.log.leaves.len(), scene.log.heads.len());
    let state = HostState { version: 1, evidence: Some(digest(9)), ..state() };
    let basis = alter.map(|alter| {
        let mut basis = true_basis(&scene);
        alter(&mut basis);
        basis
    });
    let record = HostStateRecord { host: host(), state, evidence: digest(9), code: None, basis };
    scene.append(Kind::HostState, record.encode());
    let export = scene.log.pages(leaves, heads);
    json!({ "name": name, "taken": taken, "leaf": scene.log.leaves.len() - 1, "export": export })
}

const WEEK_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// A state that says what it follows from, and so long after it one that doesn't.
fn early_after(name: &str, taken: bool, after_ms: u64) -> Value {
    let mut scene = scene();
    let (leaves, heads) = (scene.log.leaves.len(), scene.log.heads.len());
    let state = HostState { version: 1, evidence: Some(digest(9)), ..state() };
    let basis = Some(true_basis(&scene));
    let told = HostStateRecord { host: host(), state, evidence: digest(9), code: None, basis };
    scene.append(Kind::HostState, told.encode());
    // Each append is a second after the one before.
    scene.log.time_ms += after_ms - 1_000;
    scene.append(Kind::HostState, HostStateRecord { basis: None, ..told }.encode());
    let export = scene.log.pages(leaves, heads);
    json!({ "name": name, "taken": taken, "leaf": scene.log.leaves.len() - 1, "export": export })
}

#[test]
fn attestations_that_follow_from_what_was_in_force_and_those_that_do_not() {
    let early = vector("as early versions told it", true, None);
    let taken = TAKEN.iter().map(|(name, alter)| vector(name, true, Some(*alter)));
    let refused = REFUSED.iter().map(|(name, alter)| vector(name, false, Some(*alter)));
    let side_by_side = [
        early_after("as early versions told it, a week after a later one wrote", true, WEEK_MS),
        early_after("as early versions told it, longer after a later one wrote", false, WEEK_MS + 1),
    ];
    let logs: Vec<Value> = std::iter::once(early).chain(taken).chain(refused).chain(side_by_side).collect();
    crate::vectors::published(
        "attested.json",
        json!({ "trust_bundle": scene().log.bundle, "export": scene().log.pages(0, 0), "logs": logs }),
    );
}
