//! Several processes with one log: no fork, nothing used twice, nothing allowed under a state that is over.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::thread;

use countersign_core::digest::sha256;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::{Revocation, Subject};
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use countersign_fixture::wait_until;

use super::super::{Append, Entry, Guard, Health, Outcome, SequenceFault, Spend};
use super::crash::{
    bodies_form_a_chain, every_head_is_that_of_the_leaves, no_two_bodies_of_one_size_were_signed,
};
use super::support::{
    Call, DEADLINE, Log, NOW, Rig, StoreKind, database_clock, enrol, enrolment, epoch, host, host_key, state,
    token,
};
use crate::clock::DrivenClock;
use crate::store::Place;
use crate::store::failpoint::{Injected, WritePoint};

/// Two processes that serve one log with a host in it.
fn two() -> ([Rig; 2], [Log; 2]) {
    let (rig, log) = Rig::begun_in(StoreKind::Postgres);
    log.appended(enrol(1));
    let other = rig.replica();
    let theirs = other.open().unwrap();
    ([rig, other], [log, theirs])
}

/// Whatever the replicas did, there is one log, and it is whole.
fn one_log(rig: &Rig, log: &Log) {
    every_head_is_that_of_the_leaves(log);
    bodies_form_a_chain(&log.bodies());
    no_two_bodies_of_one_size_were_signed(rig);
}

/// Both do something at the same moment.
fn at_once<T: Send>(logs: &[Log; 2], act: impl Fn(&Log) -> T + Sync) -> [T; 2] {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let run = |log| {
            let (start, act) = (&start, &act);
            scope.spawn(move || {
                start.wait();
                act(log)
            })
        };
        logs.each_ref().map(run).map(|thread| thread.join().unwrap())
    })
}

#[test]
fn two_replicas_under_load_make_one_log() {
    const CALLS: usize = 40;
    let (rigs, logs) = two();
    let receipts: Vec<_> = thread::scope(|scope| {
        let clients = (0..4).map(|client: usize| {
            let log = &logs[client % 2];
            scope.spawn(move || {
                (0..CALLS)
                    .map(|call| log.appended(Call::new(host(1), &format!("c{client}-{call}")).append()))
                    .collect::<Vec<_>>()
            })
        });
        let clients: Vec<_> = clients.collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let mut indexes = BTreeMap::new();
    for receipt in receipts.iter().flat_map(|receipts| &receipts.leaves) {
        assert!(
            indexes.insert(receipt.index, Arc::clone(&receipt.leaf)).is_none(),
            "an index was given twice"
        );
    }
    assert_eq!(indexes.len(), 4 * CALLS);
    for (index, leaf) in &indexes {
        assert_eq!(logs[0].reader.leaf(*index).unwrap().unwrap(), **leaf);
    }
    one_log(&rigs[0], &logs[1]);
    // Both have signed, each with a memory of its own.
    for log in &logs {
        assert!(log.sequencer.counts().signed > 1);
    }
}

#[test]
fn a_join_token_used_at_two_replicas_at_once_admits_one_host() {
    let (rigs, logs) = two();
    for round in 0..5_u8 {
        let (joining, made) = token(100 + round, NOW + 60_000);
        logs[0].appended(Append::of(vec![made]));
        let outcomes = at_once(&logs, |log| {
            let number = if std::ptr::eq(log, &raw const logs[0]) { 10 } else { 20 } + round;
            let append = Append {
                guards: vec![Guard::HostAbsent(host(number))],
                spends: vec![Spend::JoinToken(joining)],
                ..Append::of(vec![enrolment(host(number), number, 1, Some(joining))])
            };
            log.submit(append).unwrap()
        });
        let admitted = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Appended(_))).count();
        let refused = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Spent(_))).count();
        assert_eq!((admitted, refused), (1, 1), "{outcomes:?}");
    }
    one_log(&rigs[0], &logs[0]);
}

#[test]
fn a_challenge_spent_at_one_replica_is_spent_at_the_other() {
    let (rigs, logs) = two();
    let challenge = sha256(b"one challenge");
    let outcomes = at_once(&logs, |log| {
        let id = if std::ptr::eq(log, &raw const logs[0]) { "here" } else { "there" };
        log.submit(Call::new(host(1), id).append_with(challenge)).unwrap()
    });
    let appended = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Appended(_))).count();
    let spent = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::ChallengeSpent)).count();
    assert_eq!((appended, spent), (1, 1), "{outcomes:?}");
    one_log(&rigs[0], &logs[1]);
}

#[test]
fn a_budget_is_shared_by_replicas() {
    let (_rigs, logs) = two();
    let parent = Call { budget: Some(1), ..Call::new(host(1), "parent") };
    let parent = logs[0].appended(parent.append()).leaves[0].clone();
    let outcomes = at_once(&logs, |log| {
        let id = if std::ptr::eq(log, &raw const logs[0]) { "here" } else { "there" };
        let parents = vec![(parent.index, parent.leaf_hash)];
        log.submit(Call { parents, ..Call::new(host(1), id) }.append()).unwrap()
    });
    let appended = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Appended(_))).count();
    assert_eq!(appended, 1, "{outcomes:?}");
    assert_eq!(logs[0].reader.budget_left(parent.index).unwrap(), Some(0));
}

#[test]
fn an_answer_given_by_one_replica_is_handed_out_by_the_other() {
    let (_rigs, logs) = two();
    let call = Call::new(host(1), "r1");
    let first = logs[0].appended(call.append());
    let Outcome::Existing(again) = logs[1].submit(call.append()).unwrap() else { panic!("decided twice") };
    logs[1].check(&again);
    assert_eq!(again.leaves[0].leaf, first.leaves[0].leaf);
}

#[test]
fn a_revocation_at_one_replica_holds_at_the_other_at_once() {
    let (_rigs, logs) = two();
    for round in 0..10_u64 {
        let known = logs[1].sequencer.control().number();
        let by = sha256(b"an operator");
        let subject = Subject::Principal(sha256(&round.to_be_bytes()));
        let record = Revocation { subject, revoke: true, reason: "test".to_owned(), by };
        logs[0].appended(Append::of(vec![Entry::plain(Kind::Revocation, record.encode())]));
        // Decided at the other one under what it knew: the compare under the lock sends it back, notifications or not.
        let call = Call::new(host(1), &format!("r{round}"));
        let mut append = call.append();
        append.guards.push(Guard::Control(known));
        assert_eq!(logs[1].submit(append).unwrap(), Outcome::Stale);
        let control = logs[1].sequencer.control();
        assert_eq!(control.number(), known + 1);
        assert!(control.is_revoked(&subject));
    }
}

/// Looks at the other replica, and waits until it was looked.
fn look(log: &Log, until: impl Fn(&Log) -> bool) {
    log.sequencer.refresh().unwrap();
    assert!(wait_until(DEADLINE, || until(log)));
}

#[test]
fn a_host_enrolled_again_at_one_replica_is_another_host_at_the_other_at_once() {
    let (rigs, logs) = two();
    let [here, there] = &logs;
    let old = there.reader.host_now(&host(1)).unwrap().unwrap();
    there.sequencer.keep_host_row(there.sequencer.host_rows_at(), host(1), old.clone());
    // Decided at the other replica under the row that it keeps, while this one enrols the host again.
    let decided = |id: &str, version: u64, enrolment: u64| {
        let call = Call { state: state(version, 1_000), ..Call::new(host(1), id) };
        let mut append = call.append();
        append.guards.push(Guard::Enrolment(host(1), enrolment));
        append
    };
    let (renewed, again) = (enrolment(host(1), 2, 1, None), enrolment(host(1), 3, 2, None));
    let renewed = here.appended(Append::of(vec![renewed])).leaves[0].index;
    assert_eq!(there.sequencer.host_row(&host(1)), Some(old.clone()), "nobody looked");
    assert_eq!(there.submit(decided("r1", 1, old.enrolment_leaf.0)).unwrap(), Outcome::Stale);
    there.appended(decided("r1", 1, renewed));
    let newest = here.appended(Append::of(vec![again])).leaves[0].index;
    assert_eq!(there.submit(decided("r2", 1, renewed)).unwrap(), Outcome::Stale);
    assert_eq!(there.submit(decided("r2", 1, newest)).unwrap(), Outcome::Stale);
    there.appended(decided("r2", 2, newest));
    // And the row that it kept is gone when it has looked.
    look(there, |log| log.sequencer.host_row(&host(1)).is_none());
    let row = there.reader.host_now(&host(1)).unwrap().unwrap();
    assert_eq!((row.key, row.state.version), (host_key(3).thumbprint(), 2));
    one_log(&rigs[0], there);
}

#[test]
fn rows_of_hosts_follow_the_leaves_of_every_replica() {
    let (_rigs, logs) = two();
    let [here, there] = &logs;
    let row = there.reader.host_now(&host(1)).unwrap().unwrap();
    let clock = |log: &Log| log.sequencer.host_row(&host(1)).map(|row| row.state.clock_ms);
    there.sequencer.keep_host_row(there.sequencer.host_rows_at(), host(1), row.clone());
    let stale = there.sequencer.host_rows_at();
    let told = |id: &str, clock_ms| Call { state: state(1, clock_ms), ..Call::new(host(1), id) }.append();
    here.appended(told("r1", 5_000));
    look(there, |log| clock(log) == Some(5_000));
    // Read before that leaf and kept after it: dropped.
    there.sequencer.keep_host_row(stale, host(1), row);
    assert_eq!(clock(there), Some(5_000));
    // Its own batch lies over leaves of the other one, which it hasn't looked at: they are heard at the next look.
    here.appended(told("r2", 9_000));
    there.appended(told("r3", 7_000));
    look(there, |log| clock(log) == Some(9_000));
    assert_eq!(there.reader.host_now(&host(1)).unwrap().unwrap().state.clock_ms, 9_000);
    // More of it than reading is worth: nothing is known of hosts any more.
    for _ in 0..17 {
        here.appended(Append::of((0..256).map(|_| idle_leaf()).collect()));
    }
    look(there, |log| clock(log).is_none());
}

/// A leaf that changes nothing.
fn idle_leaf() -> Entry {
    Entry::plain(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode())
}

#[test]
fn an_idle_replica_learns_of_what_others_commit_and_sign() {
    let (_rigs, logs) = two();
    let Log { sequencer, .. } = &logs[1];
    let receipts = logs[0].appended(Append::of(vec![epoch(1)]));
    sequencer.refresh().unwrap();
    let seen = || {
        sequencer.control().number() == logs[0].sequencer.control().number()
            && sequencer.signed_head().is_some_and(|head| head.size() == receipts.head.size())
    };
    assert!(wait_until(DEADLINE, seen));
    // What it signs itself goes on from there.
    logs[1].appended(Call::new(host(1), "r1").append());
}

#[test]
fn a_replica_whose_clock_is_off_stops_alone() {
    let (mut rig, log) = Rig::begun_in(StoreKind::Postgres);
    log.appended(enrol(1));
    let mut off = rig.replica();
    // Behind: the newest head shows it.
    off.clock = Arc::new(DrivenClock::at(NOW - 2_500));
    let behind = off.open().unwrap();
    assert_eq!(behind.submit(Call::new(host(1), "r1").append()), Err(SequenceFault::ClockUnreliable));
    behind.wait_for(Health::ClockUnreliable);
    log.appended(Call::new(host(1), "r1").append());
    // It heals when its clock does.
    off.clock.advance(2_500);
    behind.wait_for(Health::Serving);
    drop(behind);
    // Ahead: the database's clock shows it, before a head from the future stops everybody else.
    rig.tamper(&database_clock(NOW));
    off.clock = Arc::new(DrivenClock::at(NOW + 3_600_000));
    let ahead = off.open().unwrap();
    assert_eq!(ahead.submit(Call::new(host(1), "r2").append()), Err(SequenceFault::ClockUnreliable));
    ahead.wait_for(Health::ClockUnreliable);
    log.appended(Call::new(host(1), "r2").append());
    assert!(log.sequencer.signed_head().unwrap().body().time_ms <= NOW);
    one_log(&rig, &log);
    drop(ahead);
    // Within the tolerance both go on, and time never goes back.
    off.clock = Arc::new(DrivenClock::at(NOW + 900));
    rig.clock = Arc::new(DrivenClock::at(NOW - 900));
    drop(log);
    let (early, late) = (off.open().unwrap(), rig.open().unwrap());
    for round in 0..5 {
        early.appended(Call::new(host(1), &format!("e{round}")).append());
        late.appended(Call::new(host(1), &format!("l{round}")).append());
    }
    one_log(&rig, &late);
}

#[test]
fn a_store_changed_behind_the_replicas_back_ends_them() {
    let changes = [
        "UPDATE head SET body = replace(body, 'time ', 'time 1') WHERE size = (SELECT size FROM frontier)",
        "UPDATE frontier SET size = size - 1",
        "UPDATE frontier SET sha256 = sha3_512",
        "UPDATE frontier SET sha256 = overlay(sha256 PLACING '\\x00000000'::bytea FROM length(sha256) - 4)",
        "DELETE FROM head WHERE size = (SELECT size FROM frontier)",
    ];
    for change in changes {
        let (rigs, logs) = two();
        let newest = logs[0]
            .sequencer
            .signed_head()
            .unwrap()
            .size()
            .max(logs[1].sequencer.signed_head().unwrap().size());
        for log in &logs {
            look(log, |log| log.sequencer.signed_head().unwrap().size() == newest);
        }
        let signed = rigs[0].key.messages.lock().unwrap().len();
        rigs[0].tamper(&format!("ALTER TABLE signature DROP CONSTRAINT signature_size_fkey; {change}"));
        for log in &logs {
            let refused = log.submit(Call::new(host(1), "r1").append());
            assert!(refused.is_err(), "{change}");
        }
        assert_eq!(rigs[0].key.messages.lock().unwrap().len(), signed, "{change}: signed");
        for log in &logs {
            log.wait_for(Health::Failed);
        }
    }
}

#[test]
fn a_replica_that_dies_leaves_the_other_a_log_to_go_on_with() {
    for point in WritePoint::BATCH {
        let (rigs, [mine, theirs]) = two();
        rigs[0].arm(point, Injected::Died);
        let call = Call::new(host(1), "r1");
        assert!(mine.submit(call.append()).is_err(), "{point:?}");
        let committed = mine.reader.outcome(&host(1), &call.request().id).unwrap().is_some();
        drop(mine);
        // The caller asks the other replica: it gets what was committed, or a decision of its own; never both.
        match theirs.submit(call.append()).unwrap() {
            Outcome::Existing(receipts) if committed => theirs.check(&receipts),
            Outcome::Appended(receipts) if !committed => theirs.check(&receipts),
            other => panic!("{point:?}: {other:?}"),
        }
        one_log(&rigs[0], &theirs);
        let back = rigs[0].open().unwrap();
        back.wait_for(Health::Serving);
        back.appended(Call::new(host(1), "r2").append());
        one_log(&rigs[0], &back);
    }
}

#[test]
fn a_store_that_was_put_back_and_outgrew_what_was_met_is_found_by_looking() {
    let ([rig, _other], [log, theirs]) = two();
    let server = rig.server.as_ref().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let old = scratch.path().join("old");
    let Place::Postgres(options) = &rig.place else { panic!("replicas share a database") };
    let dump = |client: &str| server.client(client);
    let done = |command: &mut std::process::Command| assert!(command.status().unwrap().success());
    done(dump("pg_dump").args(["-Fc", "-n", "countersign", "-d", &options.database, "-f"]).arg(&old));
    let met = log.appended(Call::new(host(1), "r1").append()).head;
    rig.tamper("DROP SCHEMA countersign CASCADE");
    done(dump("pg_restore").args(["--exit-on-error", "-d", &options.database]).arg(&old));
    // The other one never saw what is gone, and goes on from what it knows, past the size that this one has met.
    while theirs.size() <= met.size() {
        let size = theirs.size();
        theirs.appended(Call::new(host(1), &format!("after-{size}")).append());
    }
    let signed = rig.key.messages.lock().unwrap().len();
    log.sequencer.refresh().unwrap();
    log.wait_for(Health::Failed);
    assert_eq!(log.submit(Call::new(host(1), "r2").append()), Err(SequenceFault::Stopped));
    assert_eq!(log.sequencer.signed_head().unwrap().digest(), met.digest(), "another past was published");
    assert_eq!(rig.key.messages.lock().unwrap().len(), signed);
}

#[test]
fn an_enrolment_at_one_replica_ends_what_the_other_knew_of_keys() {
    let (_rigs, [log, theirs]) = two();
    theirs.sequencer.refresh().unwrap();
    assert!(wait_until(DEADLINE, || theirs.sequencer.enrolments().is_some()));
    let known = theirs.sequencer.enrolments();
    log.appended(enrol(2));
    let heard = || {
        theirs.sequencer.refresh().unwrap();
        theirs.sequencer.enrolments().is_some_and(|now| Some(now) != known)
    };
    assert!(wait_until(DEADLINE, heard));
}

#[test]
fn a_call_repeated_within_a_batch_is_handed_out_under_another_replicas_head_with_a_proof_to_that() {
    let ([rig, _other], [log, theirs]) = two();
    // Whether the other replica is in time is up to the machine, so there are some tries.
    let handed_out = (0..10).any(|round| {
        let id = |name: &str| format!("{name}-{round}");
        rig.key.delay_ms.store(300, Ordering::SeqCst);
        let size = theirs.size();
        let blocker = log.sequencer.submit(Call::new(host(1), &id("blocker")).append()).unwrap();
        assert!(wait_until(DEADLINE, || theirs.size() > size));
        let twice = Call::new(host(1), &id("twice"));
        let pending = [(); 2].map(|()| log.sequencer.submit(twice.append()).unwrap());
        rig.key.delay_ms.store(1_500, Ordering::SeqCst);
        blocker.wait().unwrap();
        // Their head can't be attached here. While it is being signed the other replica's head goes over it.
        rig.arm(WritePoint::BeforeAttach, Injected::DiskFull);
        assert!(wait_until(DEADLINE, || theirs.size() > size + 1));
        rig.key.delay_ms.store(0, Ordering::SeqCst);
        theirs.appended(Call::new(host(1), &id("theirs")).append());
        let [first, second] = pending.map(|pending| pending.wait());
        log.wait_for(Health::Serving);
        for outcome in [&first, &second] {
            if let Ok(Outcome::Appended(receipts) | Outcome::Existing(receipts)) = outcome {
                log.check(receipts);
            }
        }
        matches!((first, second), (Err(SequenceFault::SignerUnavailable), Ok(Outcome::Existing(_))))
    });
    assert!(handed_out, "the other replica was never in time");
}
