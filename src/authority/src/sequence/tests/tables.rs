//! The tables of a log are what its leaves say: live, after a crash, and filled again.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::super::{Append, Spend};
use super::support::{Call, NOW, Rig, StoreKind, enrol, enrolment, epoch, host, state, token};
use crate::store::{Place, RebuildFault, postgres, sqlite};

#[test]
fn tables_rebuilt_from_the_log_equal_the_live_ones() {
    let both = StoreKind::ALL.map(rebuilt);
    // One log, two ways to keep its tables: leaf by leaf and batch by batch.
    assert_eq!(both[0], both[1]);
}

/// The tables of a log with a bit of everything, live and rebuilt.
fn rebuilt(store: StoreKind) -> BTreeMap<&'static str, Vec<String>> {
    let (rig, log) = Rig::begun_in(store);
    log.appended(enrol(1));
    log.appended(enrol(2));
    let (joining, made) = token(1, NOW + 60_000);
    log.appended(Append::of(vec![made]));
    log.appended(Append {
        spends: vec![Spend::JoinToken(joining)],
        ..Append::of(vec![enrolment(host(3), 3, 1, Some(joining))])
    });
    let parent = Call { budget: Some(9), ..Call::new(host(1), "p") };
    let parent = log.appended(parent.append()).leaves[0].clone();
    for (at, clock_ms) in [5_000, 4_000, 6_000].into_iter().enumerate() {
        let state = state(1, clock_ms);
        let parents = vec![(parent.index, parent.leaf_hash)];
        log.appended(
            Call { state, parents, budget: Some(1), ..Call::new(host(1), &format!("c{at}")) }.append(),
        );
    }
    log.appended(Call { allow: false, ..Call::new(host(2), "d") }.append());
    log.appended(Append::of(vec![epoch(1), epoch(2)]));
    log.appended(Append::of(vec![enrolment(host(2), 8, 2, None)]));
    drop(log);

    let live = projections(&rig);
    assert!(live.iter().all(|(table, rows)| !rows.is_empty() || panic!("{table} is empty")));
    rig.tamper("DELETE FROM outcome; UPDATE host SET state_idx = 0; UPDATE budget SET remaining = 0;");
    assert_ne!(projections(&rig), live);
    assert!(rebuild(&rig.place).unwrap() > 10);
    assert_eq!(projections(&rig), live);
    live
}

/// Empties the tables and fills them from the leaves.
pub(super) fn rebuild(place: &Place) -> Result<u64, RebuildFault> {
    match place {
        Place::Sqlite(options) => sqlite::open(options).unwrap().0.rebuild(),
        Place::Postgres(options) => postgres::open(options).unwrap().0.rebuild(),
    }
}

/// What the tables of a log that nobody serves say is what its leaves say.
pub(super) fn tables_are_those_of_the_leaves(rig: &Rig) {
    let live = projections(rig);
    rebuild(&rig.place).unwrap();
    assert_eq!(projections(rig), live);
}

/// Every row of every projection, as text. What differs between two runs (salts, and so leaf hashes) is left out.
pub(super) fn projections(rig: &Rig) -> BTreeMap<&'static str, Vec<String>> {
    let tables = [
        ("control", "number, idx"),
        ("outcome", "host, request_id, request, idx"),
        ("host", "host, enrolment_idx, key, state, state_idx"),
        ("budget", "idx, remaining"),
        ("join_token", "token, expires_ms, idx, spent_idx"),
    ];
    tables.into_iter().map(|(table, columns)| (table, rows(rig, table, columns))).collect()
}

fn rows(rig: &Rig, table: &str, columns: &str) -> Vec<String> {
    let names: Vec<&str> = columns.split(", ").collect();
    match &rig.place {
        Place::Sqlite(options) => {
            let connection = Connection::open(&options.path).unwrap();
            let sql = format!("SELECT {columns} FROM {table} ORDER BY 1, 2");
            let mut statement = connection.prepare(&sql).unwrap();
            let rows = statement.query_map([], |row| {
                let cells = (0..names.len()).map(|at| {
                    Ok(match row.get::<_, rusqlite::types::Value>(at)? {
                        rusqlite::types::Value::Null => String::new(),
                        rusqlite::types::Value::Integer(number) => number.to_string(),
                        rusqlite::types::Value::Text(text) => text,
                        rusqlite::types::Value::Blob(bytes) => data_encoding::HEXLOWER.encode(&bytes),
                        other => format!("{other:?}"),
                    })
                });
                Ok(cells.collect::<Result<Vec<_>, rusqlite::Error>>()?.join("|"))
            });
            rows.unwrap().collect::<Result<Vec<_>, _>>().unwrap()
        }
        Place::Postgres(options) => {
            let bytes = ["host", "request", "key", "state", "token"];
            let cells = names.iter().map(|name| {
                if bytes.contains(name) { format!("encode({name}, 'hex')") } else { (*name).to_owned() }
            });
            let cells = cells.collect::<Vec<_>>().join(", ");
            let order = names[..2].join(", ");
            let sql = format!("SELECT {cells} FROM countersign.{table} ORDER BY {order}");
            let text = rig.server.as_ref().unwrap().psql(&options.database, &sql);
            text.lines().map(str::to_owned).collect()
        }
    }
}
