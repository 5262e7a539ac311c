//! The PostgreSQL store under the common suite, and what only it can do wrong: servers, connections, replicas.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use countersign_core::control::ControlState;
use countersign_core::name::Origin;
use countersign_fixture::{Postgres, PostgresTls};

use super::super::conformance::{Fresh, SUITE, is_unavailable};
use super::super::{DeskWriter as _, LogReader as _, LogWriter as _, StoreFault, Unavailable, Wanted};
use super::{OpenFault, PostgresOptions, TlsChoice, Watch, create, open, open_reader};
use crate::sequence::plan_alone;
use crate::sequence::tests::support::{NOW, enrol, host_key, origin};

pub(super) fn options(server: &Postgres) -> PostgresOptions {
    let host = server.socket_directory().to_str().unwrap();
    PostgresOptions::local(host, server.port(), &server.database(), "postgres", origin())
}

pub(super) fn made(server: &Postgres) -> PostgresOptions {
    let options = options(server);
    create(&options).unwrap();
    options
}

#[test]
fn the_common_suite_holds() {
    let server = Postgres::shared();
    for (name, check) in SUITE {
        let options = made(&server);
        let (writer, reader) = open(&options).unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let keep = Box::new(Arc::clone(&server));
            check(Fresh { writer: Box::new(writer), reader: Arc::new(reader), _keep: keep });
        }));
        assert!(outcome.is_ok(), "{name}");
    }
}

#[test]
fn a_store_is_never_made_by_opening_it() {
    let server = Postgres::shared();
    let options = options(&server);
    assert!(matches!(open(&options).map(|_| ()), Err(OpenFault::NotAStore)));
    assert!(matches!(open_reader(&options).map(|_| ()), Err(OpenFault::NotAStore)));
    create(&options).unwrap();
    assert!(matches!(create(&options), Err(OpenFault::Exists)));
    open(&options).unwrap();
}

#[test]
fn a_foreign_store_is_refused_by_its_own_error() {
    let server = Postgres::shared();
    let change = |sql: &str| {
        let options = made(&server);
        server.psql(&options.database, sql);
        let fault = open(&options).map(|_| ()).unwrap_err();
        assert!(open_reader(&options).is_err());
        fault
    };
    let newer = change("INSERT INTO countersign.migration VALUES (99, '')");
    assert!(matches!(newer, OpenFault::Newer { found: 99, known: 3 }));
    let other = change("UPDATE countersign.origin SET origin = 'other.example/log'");
    assert!(matches!(other, OpenFault::OtherLog { found, .. } if found == "other.example/log"));
    let changed = change("UPDATE countersign.migration SET sha256 = ''");
    assert!(matches!(changed, OpenFault::Migration { version: 1 }));
    assert!(matches!(change("DELETE FROM countersign.origin"), OpenFault::NotAStore));
    let mut elsewhere = made(&server);
    elsewhere.origin = Origin::parse("another.example/log").unwrap();
    assert!(matches!(open(&elsewhere).map(|_| ()), Err(OpenFault::OtherLog { .. })));
    elsewhere.database = "absent".to_owned();
    assert!(matches!(open(&elsewhere).map(|_| ()), Err(OpenFault::Postgres(_))));
}

#[test]
fn a_server_that_may_lose_commits_is_refused() {
    let server = Postgres::new();
    let options = made(&server);
    server.psql("postgres", "ALTER SYSTEM SET fsync = off");
    server.psql("postgres", "SELECT pg_reload_conf()");
    let refused = || matches!(open(&options).map(|_| ()), Err(OpenFault::Setting("fsync = on")));
    assert!(countersign_fixture::wait_until(countersign_fixture::PATIENCE, refused));
}

#[test]
fn a_lock_that_is_held_is_waited_for_and_then_reported_without_harm() {
    let server = Postgres::shared();
    let mut options = made(&server);
    options.statement_timeout = std::time::Duration::from_millis(200);
    let (mut first, _) = open(&options).unwrap();
    let (mut second, reader) = open(&options).unwrap();
    let answer = first.append(&Wanted::default(), &mut |_| {
        assert!(is_unavailable(second.append(&Wanted::default(), &mut |_| None)));
        // What doesn't append doesn't wait.
        second.put_blobs(&[]).unwrap();
        reader.newest_committed().unwrap();
        None
    });
    assert!(answer.unwrap().is_none());
    assert!(second.append(&Wanted::default(), &mut |_| None).unwrap().is_none());
}

#[test]
fn a_server_that_goes_away_is_reported_and_comes_back_without_a_restart() {
    let mut server = Postgres::new();
    let options = made(&server);
    let (mut writer, reader) = open(&options).unwrap();
    for crash in [false, true] {
        if crash {
            server.kill()
        } else {
            server.stop()
        }
        assert!(is_unavailable(writer.append(&Wanted::default(), &mut |_| None)));
        assert!(is_unavailable(writer.put_blobs(&[])));
        assert!(reader.newest_committed().is_err());
        server.start();
        assert!(writer.append(&Wanted::default(), &mut |_| None).unwrap().is_none());
        writer.put_blobs(&[]).unwrap();
        assert!(reader.newest_committed().unwrap().is_none());
    }
    // Restarted while nobody looked: the dead connection is noticed before anything is sent.
    server.stop();
    server.start();
    writer.put_blobs(&[]).unwrap();
    writer.append(&Wanted::default(), &mut |_| None).unwrap();
    reader.newest_committed().unwrap();
}

#[test]
fn two_logs_begun_in_one_database_at_once_are_one() {
    let server = Postgres::shared();
    let options = options(&server);
    let begin = || create(&options).is_ok();
    let begun = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(begin)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|begun| *begun).count()
    });
    assert_eq!(begun, 1);
    assert!(matches!(create(&options), Err(OpenFault::Exists)));
    open(&options).unwrap();
}

#[test]
fn a_session_that_stands_still_with_the_lock_is_ended_and_its_batch_is_not_in_the_log() {
    let server = Postgres::shared();
    let options = made(&server);
    let (mut stopped, reader) = open(&options).unwrap();
    let (mut other, _) = open(&options).unwrap();
    let control = ControlState::genesis(origin().as_str(), host_key(200));
    let (wanted, plan) = plan_alone(enrol(1), control.clone(), NOW);
    let (theirs, their_plan) = plan_alone(enrol(2), control, NOW);
    // As long as the process stands still the other one gets the lock in the end, and appends.
    let answer = stopped.append(&wanted, &mut |prior| {
        assert!(other.append(&theirs, &mut |prior| their_plan(prior).0).unwrap().is_some());
        plan(prior).0
    });
    assert!(is_unavailable(answer));
    assert_eq!(reader.newest_committed().unwrap().unwrap().head.body().size, 1);
    // It goes on with what it finds.
    let (again, plan) = plan_alone(enrol(1), ControlState::genesis(origin().as_str(), host_key(200)), NOW);
    assert!(stopped.append(&again, &mut |prior| plan(prior).0).unwrap().is_some());
    assert_eq!(reader.newest_committed().unwrap().unwrap().head.body().size, 2);
}

#[test]
fn a_watch_hears_of_every_commit_and_survives_the_end_of_its_connection() {
    let server = Postgres::shared();
    let options = made(&server);
    let (mut writer, _) = open(&options).unwrap();
    let control = ControlState::genesis(origin().as_str(), host_key(200));
    let mut append = |number| {
        let (wanted, plan) = plan_alone(enrol(number), control.clone(), NOW);
        assert!(writer.append(&wanted, &mut |prior| plan(prior).0).unwrap().is_some());
    };
    let hears = |watch: &mut Watch| {
        let began = std::time::Instant::now();
        watch.wait(10 * countersign_fixture::PATIENCE);
        assert!(began.elapsed() < countersign_fixture::PATIENCE, "nothing was heard");
    };
    let mut watch = Watch::new(options.clone());
    // The first wait is over when it listens: what was before was heard by nobody.
    hears(&mut watch);
    append(1);
    hears(&mut watch);
    // Nobody tells it anything: it comes back all the same, and its owner looks.
    watch.wait(std::time::Duration::from_millis(20));
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()";
    assert_eq!(server.psql(&options.database, cut), "1");
    // The end of the connection is a reason to look, and so is the next one.
    hears(&mut watch);
    let again = || {
        watch.wait(std::time::Duration::from_millis(20));
        server.psql(&options.database, &cut.replace("pg_terminate_backend(pid)", "*")) == "1"
    };
    assert!(countersign_fixture::wait_until(countersign_fixture::PATIENCE, again));
    append(2);
    hears(&mut watch);
}

#[test]
fn a_store_that_was_dropped_ends_the_writer() {
    let server = Postgres::shared();
    let options = made(&server);
    let (mut writer, _reader) = open(&options).unwrap();
    server.psql(&options.database, "DROP SCHEMA countersign CASCADE");
    assert!(writer.append(&Wanted::default(), &mut |_| None).unwrap_err().is_fatal());
    assert!(writer.put_blobs(&[]).unwrap_err().is_fatal());
}

/// What a [`Wire`] does to the connection that asks for a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The server never hears of it.
    Before,
    /// The server commits, and nobody hears its answer.
    After,
    /// The same, and then nobody reaches the server.
    AfterForLong,
}

/// A Unix socket in front of a server's that loses a connection at its next commit when it is told to.
struct Wire {
    directory: tempfile::TempDir,
    cut: Arc<Mutex<Option<Cut>>>,
    /// Whether connections are turned away.
    closed: Arc<AtomicBool>,
}

impl Wire {
    fn before(server: &Postgres) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = format!(".s.PGSQL.{}", server.port());
        let listener = UnixListener::bind(directory.path().join(&name)).unwrap();
        let (to, cut) = (server.socket_directory().join(name), Arc::new(Mutex::new(None)));
        let closed = Arc::new(AtomicBool::new(false));
        let (armed, shut) = (Arc::clone(&cut), Arc::clone(&closed));
        // Ends with the test's process; each connection ends with its client.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), UnixStream::connect(&to));
                let (Ok(server), false) = (server, shut.load(Ordering::SeqCst)) else { continue };
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let (armed, shut) = (Arc::clone(&armed), Arc::clone(&shut));
                std::thread::spawn(move || pass(client, server, &armed, &shut));
                std::thread::spawn(move || std::io::copy(&mut &back.0, &mut &back.1));
            }
        });
        Self { directory, cut, closed }
    }

    fn cut(&self, how: Cut) {
        *self.cut.lock().unwrap() = Some(how);
    }
}

fn pass(mut client: UnixStream, mut server: UnixStream, armed: &Mutex<Option<Cut>>, shut: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        let bytes = &buffer[..count];
        let commits = bytes.windows(6).any(|window| window == b"COMMIT");
        let cut = if commits { armed.lock().unwrap().take() } else { None };
        if cut == Some(Cut::AfterForLong) {
            shut.store(true, Ordering::SeqCst);
        }
        if cut.is_some() {
            client.shutdown(Shutdown::Both).unwrap();
        }
        if cut == Some(Cut::Before) || server.write_all(bytes).is_err() {
            break;
        }
    }
    // The server reads what was sent and then the end.
    let _ = server.shutdown(Shutdown::Write);
}

#[test]
fn a_commit_whose_answer_is_lost_is_looked_up() {
    let server = Postgres::shared();
    let mut options = made(&server);
    let wire = Wire::before(&server);
    options.host = wire.directory.path().to_str().unwrap().to_owned();
    let (mut writer, reader) = open(&options).unwrap();
    let control = ControlState::genesis(origin().as_str(), host_key(200));
    let mut size = 0;
    for (number, cut) in (1..).zip([Cut::Before, Cut::After, Cut::After, Cut::Before]) {
        let (wanted, plan) = plan_alone(enrol(number), control.clone(), NOW);
        wire.cut(cut);
        let answer = writer.append(&wanted, &mut |prior| plan(prior).0);
        match cut {
            Cut::Before => assert!(is_unavailable(answer), "{cut:?}"),
            Cut::After | Cut::AfterForLong => {
                assert!(answer.unwrap().is_some(), "{cut:?}");
                size += 1;
            }
        }
        assert!(wire.cut.lock().unwrap().is_none(), "no commit was seen");
        let newest = reader.newest_committed().unwrap().map_or(0, |tip| tip.head.body().size);
        assert_eq!(newest, size, "{cut:?}");
    }
}

#[test]
fn a_commit_that_nobody_can_be_asked_about_is_reported_as_unknown() {
    let server = Postgres::shared();
    let mut options = made(&server);
    let wire = Wire::before(&server);
    options.host = wire.directory.path().to_str().unwrap().to_owned();
    let (mut writer, reader) = open(&options).unwrap();
    let control = ControlState::genesis(origin().as_str(), host_key(200));
    let (wanted, plan) = plan_alone(enrol(1), control, NOW);
    wire.cut(Cut::AfterForLong);
    let answer = writer.append(&wanted, &mut |prior| plan(prior).0);
    let unknown = matches!(&answer, Err(StoreFault::Unavailable { kind: Unavailable::OutcomeUnknown, .. }));
    assert!(unknown, "{answer:?}");
    // When the way is open again, whatever comes next sees what became of it.
    wire.closed.store(false, Ordering::SeqCst);
    let mut seen = None;
    let next = writer.append(&wanted, &mut |prior| {
        seen = prior.tip.clone();
        None
    });
    assert!(next.unwrap().is_none());
    assert_eq!(seen.unwrap().head, reader.newest_committed().unwrap().unwrap().head);
}

#[test]
fn the_way_over_a_network_is_under_tls_and_the_name_is_checked() {
    let ca = Certificates::new();
    let (certificate, key) = ca.issue("localhost");
    let (client_certificate, client_key) = ca.issue("countersign");
    let tls = PostgresTls { certificate, key, client_ca: Some(ca.pem.clone()) };
    let server = Postgres::with_tls(&tls);
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let client = Some((file("client.pem", &client_certificate), file("client.key", &client_key)));
    let verify = |ca: &str, client| TlsChoice::VerifyFull { ca: file("ca.pem", ca), client };
    let options = PostgresOptions {
        password_file: Some(file("password", "secret\n")),
        tls: verify(&ca.pem, client.clone()),
        ..PostgresOptions::local("localhost", server.port(), &server.database(), "countersign", origin())
    };
    create(&options).unwrap();
    let (mut writer, reader) = open(&options).unwrap();
    writer.put_blobs(&[]).unwrap();
    reader.newest_committed().unwrap();
    let refused = |change: &dyn Fn(&mut PostgresOptions)| {
        let mut options = options.clone();
        change(&mut options);
        let fault = open(&options).map(|_| ()).unwrap_err();
        assert!(matches!(fault, OpenFault::Postgres(_)), "{fault}");
    };
    // Another name than the certificate's, another CA, no certificate of one's own, a wrong password, no TLS.
    refused(&|options| options.host = "127.0.0.1".to_owned());
    refused(&|options| options.tls = verify(&Certificates::new().pem, client.clone()));
    refused(&|options| options.tls = verify(&ca.pem, None));
    refused(&|options| options.password_file = Some(file("wrong", "guess")));
    refused(&|options| options.tls = TlsChoice::DangerPlaintext);
    let mut unreadable = options.clone();
    unreadable.tls = verify("not PEM", None);
    assert!(matches!(open(&unreadable).map(|_| ()), Err(OpenFault::Tls { .. })));
}

/// A CA of a test's own.
struct Certificates {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Certificates {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "a test's CA");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(parameters, key), pem }
    }

    /// Certificate and key, PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        (parameters.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}
