//! What counts as committed on a server that has to wait for a synchronous standby, when that one is away.

use std::time::Duration;

use countersign_core::control::ControlState;
use countersign_fixture::{ManagedChild, PATIENCE, Postgres, wait_until};

use super::super::{
    Additions, DeskWriter as _, LogReader as _, LogWriter as _, PendingEnrolment, StoreFault, Unavailable,
};
use super::tests::made;
use super::{PostgresOptions, open, open_reader};
use crate::sequence::plan_alone;
use crate::sequence::tests::support::{NOW, enrol, host_key, origin};

/// Sessions of a store that wait for the standby.
const WAITING: &str =
    "FROM pg_stat_activity WHERE application_name = 'countersign' AND wait_event = 'SyncRep'";

/// Makes a server wait for a standby that is away, or for none, and returns when it does.
fn await_standby(server: &Postgres, away: bool) {
    let set = if away { "SET synchronous_standby_names = 'away'" } else { "RESET synchronous_standby_names" };
    server.psql("postgres", &format!("ALTER SYSTEM {set}"));
    server.psql("postgres", "SELECT pg_reload_conf()");
    // Whether a commit waits; nothing but the end of that wait is cancelled.
    let probe = "SELECT pg_logical_emit_message(true, 'probe', '')";
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                  WHERE application_name = 'probe' AND wait_event = 'SyncRep'";
    let does = || {
        let mut psql = server.client("psql");
        psql.env("PGAPPNAME", "probe").args(["-X", "-q", "-o", "/dev/null", "-d", "postgres", "-c", probe]);
        let (mut psql, mut waited) = (ManagedChild::spawn("psql", psql), false);
        let ended = || {
            waited |= server.psql("postgres", cancel) != "0";
            psql.exited().is_some()
        };
        assert!(wait_until(PATIENCE, ended));
        waited == away
    };
    assert!(wait_until(PATIENCE, does));
}

/// Appends on a connection of its own.
fn append(options: &PostgresOptions, number: u8) -> Result<Option<Additions>, StoreFault> {
    let control = ControlState::genesis(origin().as_str(), host_key(200));
    let (mut writer, _) = open(options).unwrap();
    let (wanted, plan) = plan_alone(enrol(number), control, NOW);
    writer.append(&wanted, &mut |prior| plan(prior).0)
}

fn is_unknown<T>(answer: &Result<T, StoreFault>) -> bool {
    matches!(answer, Err(StoreFault::Unavailable { kind: Unavailable::OutcomeUnknown, .. }))
}

/// Whether a session comes to wait for the standby before what it works for has ended.
fn waits<T>(server: &Postgres, working: &std::thread::ScopedJoinHandle<'_, T>) -> bool {
    let is_waiting = || server.psql("postgres", &format!("SELECT count(*) {WAITING}")) == "1";
    assert!(wait_until(PATIENCE, || is_waiting() || working.is_finished()));
    !working.is_finished()
}

#[test]
fn a_commit_that_no_standby_confirmed_is_not_taken_for_one() {
    let server = Postgres::new();
    let mut options = made(&server);
    assert!(append(&options, 1).unwrap().is_some());
    await_standby(&server, true);
    options.statement_timeout = Duration::from_millis(500);
    let answer = append(&options, 2);
    assert!(is_unknown(&answer), "{answer:?}");
    await_standby(&server, false);
    assert!(append(&options, 3).unwrap().is_some());
    // What was unknown is in the log, under what came after it.
    assert_eq!(open_reader(&options).unwrap().newest_committed().unwrap().unwrap().head.body().size, 3);
}

#[test]
fn a_commit_whose_answer_is_lost_in_the_wait_for_a_standby_counts_when_the_standby_has_it() {
    let mut server = Postgres::new();
    let options = made(&server);
    assert!(append(&options, 1).unwrap().is_some());
    // The session is ended, the server shut down, the server crashes: the head can be seen afterwards, on this server alone.
    for number in 2..=4_u8 {
        await_standby(&server, true);
        std::thread::scope(|scope| {
            let appending = scope.spawn(|| append(&options, number));
            assert!(waits(&server, &appending));
            match number {
                2 => drop(server.psql("postgres", &format!("SELECT pg_terminate_backend(pid) {WAITING}"))),
                3 => server.stop(),
                _ => server.kill(),
            }
            if number > 2 {
                server.start();
            }
            assert!(waits(&server, &appending), "{number}: taken for durable: {:?}", appending.join());
            let seen = open_reader(&options).unwrap().newest_committed().unwrap().unwrap();
            assert_eq!(seen.head.body().size, u64::from(number));
            await_standby(&server, false);
            assert!(appending.join().unwrap().unwrap().is_some(), "{number}");
        });
    }
}

#[test]
fn a_commit_whose_answer_is_lost_in_the_wait_for_a_standby_stays_unknown_while_that_is_away() {
    let server = Postgres::new();
    let mut options = made(&server);
    await_standby(&server, true);
    options.statement_timeout = Duration::from_millis(500);
    let answer = std::thread::scope(|scope| {
        let appending = scope.spawn(|| append(&options, 1));
        if waits(&server, &appending) {
            server.psql("postgres", &format!("SELECT pg_terminate_backend(pid) {WAITING}"));
        }
        appending.join().unwrap()
    });
    assert!(is_unknown(&answer), "{answer:?}");
}

#[test]
fn a_pending_enrolment_is_not_handed_out_before_the_standby_knows_that_it_is_gone() {
    let server = Postgres::new();
    let options = made(&server);
    let (mut writer, _) = open(&options).unwrap();
    let pending = PendingEnrolment { id: [1; 16], expires_ms: NOW + 100, record: vec![7; 40] };
    writer.put_pending_enrolment(&pending, NOW).unwrap();
    await_standby(&server, true);
    let answer = std::thread::scope(|scope| {
        let taking = scope.spawn(|| writer.take_pending_enrolment(&pending.id, NOW));
        assert!(waits(&server, &taking));
        // What an operator does who wants the server to go on without its standby.
        server.psql("postgres", &format!("SELECT pg_cancel_backend(pid) {WAITING}"));
        taking.join().unwrap()
    });
    assert!(is_unknown(&answer), "{answer:?}");
    await_standby(&server, false);
    assert_eq!(writer.take_pending_enrolment(&pending.id, NOW).unwrap(), None);
}
