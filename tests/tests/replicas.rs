//! Two authorities over one log when one of them stands still, is cut off from the database, or learns of a new head key: no wrong answer, no lost
//! record, no second history, and the other one goes on.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_core::artifact::Receipt;
use countersign_fixture::{ManagedChild, Postgres, wait_until};
use countersign_tests::{Balance, Deployment, Program, Wire, nothing_was_lost, under_load};
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than a decision may wait for its batch, and than the database lets a session that stands still hold its locks.
const LONG: Duration = Duration::from_secs(11);

/// Waits until so many more artifacts were handed out.
fn more(got: &AtomicUsize, count: usize, running: &mut ManagedChild) {
    let target = got.load(Ordering::Relaxed) + count;
    running.wait_until(PATIENCE, || got.load(Ordering::Relaxed) >= target);
}

fn balance(deployment: &Deployment) -> &Balance {
    deployment.balance.as_ref().unwrap()
}

/// What this authority publishes, if it does.
fn publish(deployment: &Deployment, which: usize, published: &mut Vec<String>) {
    published.extend(deployment.get_at(which, "/v1/head"));
}

fn stop_all(authorities: &mut [ManagedChild]) {
    for authority in authorities {
        assert!(authority.exited().is_none(), "a replica ended: {}", authority.log());
        authority.stop(PATIENCE);
    }
}

#[test]
fn a_replica_that_stands_still_and_goes_on_hands_out_nothing_that_is_not_in_the_log() {
    let mut deployment = Deployment::replicated();
    let mut authorities = [deployment.authority.take().unwrap(), deployment.spawn_replica(1)];
    let mut published = Vec::new();
    let artifacts = under_load(&deployment, &Program::new(), |got| {
        // Shortly, unnoticed by the balancer, with calls and transactions under way; and for long.
        for (round, long) in [false, false, true, false, true, false].into_iter().enumerate() {
            let (stands, goes) = (round % 2, 1 - round % 2);
            more(got, 1 + round % 3, &mut authorities[goes]);
            authorities[stands].signal(Signal::SIGSTOP);
            let since = Instant::now();
            if long {
                balance(&deployment).leave_out(stands);
                more(got, 3, &mut authorities[goes]);
            }
            let least = if long { LONG } else { Duration::from_millis(300 * (1 + round as u64)) };
            assert!(wait_until(PATIENCE, || since.elapsed() >= least));
            authorities[stands].signal(Signal::SIGCONT);
            // What it says in its first moment is old, and a part of the same history.
            publish(&deployment, stands, &mut published);
            balance(&deployment).take_in(stands);
        }
        more(got, 4, &mut authorities[0]);
    });
    stop_all(&mut authorities);
    assert!(artifacts.len() >= 15 && published.len() == 6, "{} artifacts", artifacts.len());
    nothing_was_lost(&mut deployment, &artifacts, &published);
}

/// Leads the second authority's way to the database over a wire, and has it wait less long for an answer than usual.
fn over_a_wire(deployment: &Deployment, database: &Postgres) -> Wire {
    let directory = database.socket_directory();
    let wire = Wire::to(&directory.join(format!(".s.PGSQL.{}", database.port())));
    let path: PathBuf = deployment.path("replica/authority.toml");
    let mut config: toml::Table = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let store = config["store"].as_table_mut().unwrap();
    assert_eq!(store["host"].as_str(), directory.to_str());
    store.insert("host".to_owned(), wire.directory().to_str().unwrap().into());
    store.insert("statement_secs".to_owned(), 2.into());
    // It says that it isn't ready as soon as a heartbeat is late.
    let limits = config.entry("limits").or_insert_with(|| toml::Table::new().into());
    limits.as_table_mut().unwrap().insert("ready_head_secs".to_owned(), 15.into());
    std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
    wire
}

#[test]
fn a_replica_that_is_cut_off_from_the_database_stops_alone_and_comes_back() {
    let mut deployment = Deployment::replicated();
    let wire = over_a_wire(&deployment, deployment.postgres.as_ref().unwrap());
    let mut authorities = [deployment.authority.take().unwrap(), deployment.spawn_replica(1)];
    let mut published = Vec::new();
    let artifacts = under_load(&deployment, &Program::new(), |got| {
        // Shorter than anybody's patience; longer than that of its own statements; until it says so.
        for (round, least) in
            [Duration::from_millis(700), Duration::from_secs(8), LONG].into_iter().enumerate()
        {
            more(got, 2, &mut authorities[0]);
            let (since, until_noticed) = (Instant::now(), round == 2);
            wire.cut();
            if until_noticed {
                let not_ready = || deployment.get_at(1, "/readyz").is_none();
                assert!(wait_until(PATIENCE, not_ready), "cut off and ready: {}", authorities[1].log());
                balance(&deployment).leave_out(1);
                more(got, 3, &mut authorities[0]);
            }
            assert!(wait_until(PATIENCE, || since.elapsed() >= least));
            publish(&deployment, 1, &mut published);
            wire.heal();
            let ready = || deployment.get_at(1, "/readyz").is_some();
            assert!(wait_until(PATIENCE, ready), "not ready again: {}", authorities[1].log());
            balance(&deployment).take_in(1);
            publish(&deployment, 1, &mut published);
        }
        more(got, 4, &mut authorities[0]);
    });
    stop_all(&mut authorities);
    assert!(artifacts.len() >= 12 && published.len() >= 5, "{} artifacts", artifacts.len());
    nothing_was_lost(&mut deployment, &artifacts, &published);
}

/// Key identifiers on the newest head of an authority.
fn signers(deployment: &Deployment, which: usize) -> Vec<[u8; 4]> {
    let note = deployment.get_at(which, "/v1/head").expect("a head");
    let note = countersign_core::note::SignedNote::parse(&note).unwrap();
    note.signatures().iter().map(|line| line.key_id()).collect()
}

#[test]
fn a_head_key_activated_at_one_replica_is_everybodys() {
    let mut deployment = Deployment::replicated();
    let mut authorities = [deployment.authority.take().unwrap(), deployment.spawn_replica(1)];
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    let old = signers(&deployment, 0);
    let artifacts = under_load(&deployment, &program, |got| {
        more(got, 2, &mut authorities[0]);
        deployment.admin(&["keys", "rotate", "--label", "head-2"]).expect("rotate");
        deployment.ask("waiting", &["--ttl-secs", "120"], &argv).expect("while the new key waits");
        // The gateway learns of the key and says so.
        deployment.exec("waiting", &argv).expect("run while the new key waits");
        let done = || {
            let keys = deployment.admin(&["keys", "list", "--json"]).expect("keys");
            keys.contains("\"active\"")
                && keys.contains("\"deactivated\"")
                && !keys.contains("pre-activation")
        };
        assert!(wait_until(PATIENCE, done), "{:#?}", deployment.admin(&["keys", "list"]));
        more(got, 4, &mut authorities[1]);
    });
    // Each of them signs with the new key alone, the one at which it wasn't made as well.
    for (which, authority) in authorities.iter().enumerate() {
        balance(&deployment).leave_out(1 - which);
        let out = format!("signed-by-{which}");
        let asked = || deployment.ask(&out, &["--ttl-secs", "120"], &argv).status == Some(0);
        assert!(wait_until(PATIENCE, asked), "{}", authority.log());
        let receipt = Receipt::parse(&std::fs::read_to_string(deployment.path(&out)).unwrap()).unwrap();
        let signed: Vec<_> = receipt.note().signatures().iter().map(|line| line.key_id()).collect();
        assert!(signed.len() == 1 && !old.contains(&signed[0]), "{which} signs with {signed:?}");
        deployment.exec(&out, &argv).expect("run what the new key signed");
        balance(&deployment).take_in(1 - which);
    }
    // Nothing that was good before, between and after is refused, wherever the gateway asks.
    for (number, text) in artifacts.iter().enumerate() {
        let name = format!("again-{number}");
        std::fs::write(deployment.path(&name), text).unwrap();
        deployment.exec(&name, &argv).expect("an artifact from about the rotation");
    }
    a_head_without_a_good_signature_admits_nothing(&deployment, &artifacts, &argv);
    stop_all(&mut authorities);
    nothing_was_lost(&mut deployment, &artifacts, &[]);
}

/// The newest artifact with a signature that was bent, and with the signature of another head.
fn a_head_without_a_good_signature_admits_nothing(
    deployment: &Deployment,
    artifacts: &[String],
    argv: &[&str],
) {
    let last_line = |text: &str| text.lines().rfind(|line| line.starts_with('\u{2014}')).unwrap().to_owned();
    let sizes = |text: &String| Receipt::parse(text).unwrap().head().size;
    let newest = artifacts.iter().max_by_key(|text| sizes(text)).unwrap();
    let oldest = artifacts.iter().min_by_key(|text| sizes(text)).unwrap();
    let line = last_line(newest);
    let (name, signature) = line.rsplit_once(' ').unwrap();
    let mut bytes = data_encoding::BASE64.decode(signature.as_bytes()).unwrap();
    bytes[20] ^= 1;
    let bent = format!("{name} {}", data_encoding::BASE64.encode(&bytes));
    for (number, other) in [bent, last_line(oldest)].into_iter().enumerate() {
        let name = format!("bad-{number}");
        std::fs::write(deployment.path(&name), newest.replace(&line, &other)).unwrap();
        let ran = deployment.exec(&name, argv);
        assert!(ran.refusal().is_some() && ran.status != Some(0), "{ran:#?}");
    }
}
