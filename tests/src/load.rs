//! Clients that ask without end while something happens, and what has to hold of everything that they got.

use crate::{Deployment, Program};
use countersign_core::artifact::Receipt;
use countersign_core::leaf::control::{Revocation, Subject};
use countersign_core::leaf::record::{JoinToken, join_token_digest};
use countersign_core::leaf::{Kind, Leaf};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const CLIENTS: usize = 3;

/// Asks without end and returns every artifact that was handed out.
fn load(
    deployment: &Deployment,
    program: &Program,
    client: usize,
    stop: &AtomicBool,
    got: &AtomicUsize,
) -> Vec<String> {
    let canary = program.canary();
    let mut artifacts = Vec::new();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let out = format!("load-{client}-{round}");
        let ran = deployment.ask(&out, &["--ttl-secs", "120"], &[program.path(), &canary]);
        if ran.status == Some(0) {
            artifacts.push(std::fs::read_to_string(deployment.path(&out)).unwrap());
            got.fetch_add(1, Ordering::Relaxed);
        }
    }
    artifacts
}

/// Stops the clients also when what happens meanwhile fails: the scope waits for them.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lets all clients ask for runs of a program while something happens, and returns what they got. The counter says how much that is so far.
pub fn under_load(
    deployment: &Deployment,
    program: &Program,
    happens: impl FnOnce(&AtomicUsize),
) -> Vec<String> {
    let (stop, got) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut artifacts = Vec::new();
    let _ = deployment.holder("holder");
    std::thread::scope(|scope| {
        let (stop, got) = (&stop, &got);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || load(deployment, program, client, stop, got)))
            .collect();
        let ends = Stop(stop);
        happens(got);
        drop(ends);
        for client in clients {
            artifacts.extend(client.join().unwrap());
        }
    });
    artifacts
}

/// What an officer did and was told that it was done.
#[derive(Debug, Default)]
pub struct Acts {
    /// Index of each leaf that revoked the artifact (`true`) or reinstated it.
    revocations: Vec<(u64, bool)>,
    tokens: Vec<String>,
    artifact: Option<Subject>,
}

/// Revokes an artifact, reinstates it and makes join tokens until it is stopped. What isn't answered counts for nothing.
fn acts_without_end(deployment: &Deployment, artifact: &Receipt, stop: &AtomicBool) -> Acts {
    let (index, hash) = (artifact.leaf().index, *artifact.leaf_hash());
    let subject = [index.to_string(), hash.to_hex()];
    let mut acts = Acts { artifact: Some(Subject::Artifact(index, hash)), ..Acts::default() };
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Whatever became of an act without an answer, one of the next two is of use.
        let revoke = round % 2 == 0;
        let verb = if revoke { "revoke" } else { "reinstate" };
        let ran = deployment.admin(&[verb, "artifact", &subject[0], &subject[1]]);
        if ran.status == Some(0) {
            let leaf = ran.out.trim().rsplit(' ').next().and_then(|index| index.parse().ok());
            acts.revocations.push((leaf.unwrap_or_else(|| panic!("no leaf: {}", ran.out)), revoke));
        }
        let ran = deployment.admin(&["join-token"]);
        if ran.status == Some(0) {
            acts.tokens.push(ran.out.trim().to_owned());
        }
    }
    acts
}

/// Lets an officer act without end while something happens.
///
/// # Panics
/// When there is no artifact to act upon, or the officer stops by himself.
pub fn under_acts<T>(deployment: &Deployment, program: &Program, happens: impl FnOnce() -> T) -> (T, Acts) {
    let _ = deployment.holder("holder");
    deployment.ask("acted-upon", &[], &[program.path()]).expect("an artifact to revoke");
    let artifact = Receipt::parse(&std::fs::read_to_string(deployment.path("acted-upon")).unwrap()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let officer = scope.spawn(|| acts_without_end(deployment, &artifact, &stop));
        let ends = Stop(&stop);
        let done = happens();
        drop(ends);
        (done, officer.join().unwrap())
    })
}

/// Whatever an officer was told is done is in the log as it was told.
///
/// # Panics
/// When something isn't, or nothing was done.
pub fn every_act_is_in_the_log(deployment: &Deployment, acts: &Acts) {
    assert!(!acts.revocations.is_empty() && !acts.tokens.is_empty(), "no act was answered: {acts:?}");
    let leaves = deployment.audit_leaves();
    let leaves: Vec<Leaf> = leaves.iter().map(|bytes| Leaf::parse(bytes).unwrap()).collect();
    for (index, revoke) in &acts.revocations {
        let leaf = &leaves[usize::try_from(*index).unwrap()];
        assert_eq!(leaf.kind, Kind::Revocation, "leaf {index}");
        let record = Revocation::parse(&leaf.body).unwrap();
        assert_eq!((Some(record.subject), record.revoke), (acts.artifact, *revoke), "leaf {index}");
    }
    let made = leaves.iter().filter(|leaf| leaf.kind == Kind::JoinToken);
    let made: BTreeSet<_> = made.map(|leaf| JoinToken::parse(&leaf.body).unwrap().token).collect();
    for token in &acts.tokens {
        assert!(made.contains(&join_token_digest(token)), "a join token that was shown isn't in the log");
    }
}

/// Whatever was handed out is in the log, which verifies and replays, and no size has two heads, not even among those that were only published.
pub fn nothing_was_lost(deployment: &mut Deployment, artifacts: &[String], published: &[String]) {
    deployment.stop_agent();
    deployment.audit("verify").expect("the log verifies");
    deployment.audit("replay").expect("every decision replays");
    let leaves = deployment.audit_leaves();
    let mut heads = BTreeMap::new();
    let mut one_head = |size: u64, body: &str| {
        let first = heads.entry(size).or_insert_with(|| body.to_owned());
        assert_eq!(first, body, "two heads of size {size}");
    };
    for text in artifacts {
        let receipt = Receipt::parse(text).unwrap();
        let kept = &leaves[usize::try_from(receipt.leaf().index).unwrap()];
        assert_eq!(kept, receipt.leaf_bytes(), "leaf {} isn't what was handed out", receipt.leaf().index);
        one_head(receipt.head().size, receipt.note().text());
    }
    for note in published {
        let note = countersign_core::note::SignedNote::parse(note).unwrap();
        let body = countersign_core::checkpoint::HeadBody::parse(note.text()).unwrap();
        assert!(body.size <= leaves.len() as u64, "a head was published above the log");
        one_head(body.size, note.text());
    }
}
