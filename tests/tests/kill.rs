//! Killed at any instruction: whatever was handed out is in the log and verifies, and no size has two heads.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_fixture::ManagedChild;
use countersign_tests::{
    Acts, Deployment, Program, SignerKind, every_act_is_in_the_log, nothing_was_lost, under_acts, under_load,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// As often as given here, or as `make soak` says.
fn kills(usually: usize) -> usize {
    std::env::var("COUNTERSIGN_KILLS").map_or(usually, |count| count.parse().unwrap())
}

/// Kills one process after the other under load. With several, the others go on serving meanwhile.
fn kill_under_load(
    deployment: &Deployment,
    mut authorities: Vec<ManagedChild>,
    kills: usize,
) -> (Vec<String>, Acts) {
    let program = Program::new();
    let kill_all = |got: &AtomicUsize| {
        for kill in 0..kills {
            // Each life lasts until a few more artifacts were handed out, a different number each time: the kill falls anywhere in the work.
            let target = got.load(Ordering::Relaxed) + 1 + kill % 4;
            let which = kill % authorities.len();
            authorities[which].wait_until(Duration::from_secs(60), || got.load(Ordering::Relaxed) >= target);
            authorities[which].kill();
            authorities[which] = deployment.spawn_replica(which);
        }
    };
    let (artifacts, acts) = under_acts(deployment, &program, || under_load(deployment, &program, kill_all));
    for authority in &mut authorities {
        authority.stop(Duration::from_secs(60));
    }
    assert!(artifacts.len() >= kills, "only {} artifacts", artifacts.len());
    (artifacts, acts)
}

#[test]
fn fifty_times_under_load_on_sqlite() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let authority = deployment.authority.take().unwrap();
    let (artifacts, acts) = kill_under_load(&deployment, vec![authority], kills(50));
    nothing_was_lost(&mut deployment, &artifacts, &[]);
    every_act_is_in_the_log(&deployment, &acts);
}

#[test]
fn twenty_times_under_load_on_postgres_beside_another_replica() {
    let mut deployment = Deployment::replicated();
    let authorities = vec![deployment.authority.take().unwrap(), deployment.spawn_replica(1)];
    let (artifacts, acts) = kill_under_load(&deployment, authorities, kills(20));
    nothing_was_lost(&mut deployment, &artifacts, &[]);
    every_act_is_in_the_log(&deployment, &acts);
}

#[test]
fn a_database_that_crashes_under_load_loses_nothing_and_both_replicas_go_on() {
    let mut deployment = Deployment::replicated();
    let mut authorities = vec![deployment.authority.take().unwrap(), deployment.spawn_replica(1)];
    let mut database = deployment.postgres.take().unwrap();
    let artifacts = under_load(&deployment, &Program::new(), |got| {
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
    nothing_was_lost(&mut deployment, &artifacts, &[]);
}
