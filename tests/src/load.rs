//! Clients that ask without end while something happens, and what has to hold of everything that they got.

use crate::{Deployment, Program};
use countersign_core::artifact::Receipt;
use std::collections::BTreeMap;
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
