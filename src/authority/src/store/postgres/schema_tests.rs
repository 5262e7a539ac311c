//! How an older store becomes a newer one, whoever comes when; and migrations that aren't this program's.

use countersign_fixture::Postgres;

use super::super::LogReader as _;
use super::tests::made;
use super::{OpenFault, PostgresOptions, open, open_reader};

const TO_2: &str = "DROP TABLE pruning; DROP TABLE pruned; DELETE FROM migration WHERE version > 2";
const TO_1: &str = "DROP TABLE cosignature; DELETE FROM migration WHERE version > 1";

fn run(server: &Postgres, options: &PostgresOptions, sql: &str) -> String {
    server.psql(&options.database, &format!("SET search_path = countersign; {sql}"))
}

/// A store as earlier versions of this program made it.
fn older(server: &Postgres, version: i32) -> PostgresOptions {
    let options = made(server);
    run(server, &options, TO_2);
    if version == 1 {
        run(server, &options, TO_1);
    }
    options
}

/// Every table with its columns, and the migrations.
fn shape(server: &Postgres, options: &PostgresOptions) -> String {
    let sql = "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
               WHERE table_schema = 'countersign' ORDER BY 1, 2";
    let migrations = "SELECT version, encode(sha256, 'hex') FROM migration ORDER BY 1";
    format!("{}\n{}", run(server, options, sql), run(server, options, migrations))
}

#[test]
fn a_store_of_every_earlier_version_is_brought_up_to_date() {
    let server = Postgres::shared();
    let newest = shape(&server, &made(&server));
    for version in [1, 2] {
        let options = older(&server, version);
        let before = shape(&server, &options);
        assert_ne!(before, newest);
        // Who only reads changes nothing, and says what to do.
        let fault = open_reader(&options).map(|_| ()).unwrap_err();
        assert!(matches!(fault, OpenFault::Older { found, known: 3 } if found == version), "{fault}");
        assert_eq!(shape(&server, &options), before);
        let (_writer, reader) = open(&options).unwrap();
        assert!(reader.newest_committed().unwrap().is_none() && reader.prunings().unwrap().is_empty());
        assert_eq!(shape(&server, &options), newest);
        open_reader(&options).unwrap();
    }
}

#[test]
fn replicas_that_start_at_once_bring_a_store_up_to_date_together() {
    let server = Postgres::shared();
    let newest = shape(&server, &made(&server));
    let options = older(&server, 1);
    std::thread::scope(|scope| {
        let starting: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&options).map(|_| ()))).collect();
        starting.into_iter().for_each(|start| start.join().unwrap().unwrap());
    });
    assert_eq!(shape(&server, &options), newest);
}

#[test]
fn migrations_with_a_gap_are_refused() {
    let server = Postgres::shared();
    for (change, refused) in [
        ("DELETE FROM migration WHERE version = 2", 2),
        ("DELETE FROM migration WHERE version = 1", 1),
        ("DELETE FROM migration", 1),
        ("UPDATE migration SET sha256 = '' WHERE version = 3", 3),
    ] {
        let options = made(&server);
        run(&server, &options, change);
        for fault in [open(&options).map(|_| ()), open_reader(&options).map(|_| ())] {
            assert!(matches!(fault, Err(OpenFault::Migration { version }) if version == refused), "{change}");
        }
    }
}
