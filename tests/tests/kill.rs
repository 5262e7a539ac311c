//! Killed at any instruction: whatever was handed out is in the log and verifies, and no size has two heads.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_core::artifact::Receipt;
use countersign_fixture::ManagedChild;
use countersign_tests::{Deployment, Program, SignerKind};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

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

/// As often as given here, or as `make soak` says.
fn kills(usually: usize) -> usize {
    std::env::var("COUNTERSIGN_KILLS").map_or(usually, |count| count.parse().unwrap())
}

/// Lets all clients ask while something happens, and returns what they got.
fn under_load(deployment: &Deployment, happens: impl FnOnce(&AtomicUsize)) -> Vec<String> {
    let program = Program::new();
    let (stop, got) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut artifacts = Vec::new();
    let _ = deployment.holder("holder");
    std::thread::scope(|scope| {
        let (program, stop, got) = (&program, &stop, &got);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || load(deployment, program, client, stop, got)))
            .collect();
        happens(got);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            artifacts.extend(client.join().unwrap());
        }
    });
    artifacts
}

/// Kills one process after the other under load. With several, the others go on serving meanwhile.
fn kill_under_load(deployment: &Deployment, mut authorities: Vec<ManagedChild>, kills: usize) -> Vec<String> {
    let artifacts = under_load(deployment, |got| {
        for kill in 0..kills {
            // Each life lasts until a few more artifacts were handed out, a different number each time: the kill falls anywhere in the work.
            let target = got.load(Ordering::Relaxed) + 1 + kill % 4;
            let which = kill % authorities.len();
            authorities[which].wait_until(Duration::from_secs(60), || got.load(Ordering::Relaxed) >= target);
            authorities[which].kill();
            authorities[which] = deployment.spawn_replica(which);
        }
    });
    for authority in &mut authorities {
        authority.stop(Duration::from_secs(60));
    }
    assert!(artifacts.len() >= kills, "only {} artifacts", artifacts.len());
    artifacts
}

/// Whatever was handed out is in the log, which verifies and replays, and no size has two heads.
fn nothing_was_lost(deployment: &mut Deployment, artifacts: &[String]) {
    deployment.stop_agent();
    deployment.audit("verify").expect("the log verifies");
    deployment.audit("replay").expect("every decision replays");
    let leaves = deployment.audit_leaves();
    let mut heads = BTreeMap::new();
    for text in artifacts {
        let receipt = Receipt::parse(text).unwrap();
        let kept = &leaves[usize::try_from(receipt.leaf().index).unwrap()];
        assert_eq!(kept, receipt.leaf_bytes(), "leaf {} isn't what was handed out", receipt.leaf().index);
        let body = receipt.note().text().to_owned();
        let first = heads.entry(receipt.head().size).or_insert_with(|| body.clone());
        assert_eq!(first, &body, "two heads of size {}", receipt.head().size);
    }
}

#[test]
fn fifty_times_under_load_on_sqlite() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let authority = deployment.authority.take().unwrap();
    let artifacts = kill_under_load(&deployment, vec![authority], kills(50));
    nothing_was_lost(&mut deployment, &artifacts);
}

#[test]
fn twenty_times_under_load_on_postgres_beside_another_replica() {
    let mut deployment = Deployment::replicated();
    let authorities = vec![deployment.authority.take().unwrap(), deployment.spawn_replica(1)];
    let artifacts = kill_under_load(&deployment, authorities, kills(20));
    nothing_was_lost(&mut deployment, &artifacts);
}

#[test]
fn a_database_that_crashes_under_load_loses_nothing_and_both_replicas_go_on() {
    let mut deployment = Deployment::replicated();
    let mut authorities = vec![deployment.authority.take().unwrap(), deployment.spawn_replica(1)];
    let mut database = deployment.postgres.take().unwrap();
    let artifacts = under_load(&deployment, |got| {
        for crash in 0..4 {
            let target = got.load(Ordering::Relaxed) + 2;
            let which = crash % authorities.len();
            authorities[which].wait_until(Duration::from_secs(60), || got.load(Ordering::Relaxed) >= target);
            if crash < 3 {
                database.kill();
                database.start();
            }
        }
    });
    deployment.postgres = Some(database);
    for authority in &mut authorities {
        assert!(authority.exited().is_none(), "a replica ended with its database");
        authority.stop(Duration::from_secs(60));
    }
    nothing_was_lost(&mut deployment, &artifacts);
}
