//! The reading side of the SQLite store: a few connections, each used by one thread at a time.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::host::HostState;
use countersign_core::name::{HostId, Origin, RequestId};
use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::super::{
    Acknowledgement, ChallengeKey, HostNow, HostRow, JoinTokenRow, KnownOutcome, LogReader, MAX_PAGE,
    PendingEnrolment, Pruning, ReadFault, SpentId, StoredHead, TableReader, TileCache, Tip, TripleHash,
};
use super::facts::{self, RowFault, RowResult};
use super::{int, prune, uint};

/// How long a caller waits for a free connection: far longer than any query takes, shorter than any caller's deadline.
const FREE_TIMEOUT: Duration = Duration::from_secs(2);

const HOST_COLUMNS: &str = "host.host, enrolment_idx, enrolment_hash, state, state_idx, leaf.bytes
                            FROM host JOIN leaf ON leaf.idx = enrolment_idx";

/// Bytes under their SHA-256.
type Blob = (Sha256Digest, Arc<[u8]>);

/// Reading connections behind one value that all threads share.
pub struct SqliteReader {
    free: Receiver<Connection>,
    put_back: Sender<Connection>,
    origin: Origin,
    tiles: TileCache,
}

/// A connection on loan; goes back when dropped, by a panic too.
struct Loan<'a> {
    connection: Option<Connection>,
    put_back: &'a Sender<Connection>,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // There is room: the channel holds as many as there are.
            let _ = self.put_back.try_send(connection);
        }
    }
}

impl SqliteReader {
    pub(super) fn new(connections: Vec<Connection>, origin: Origin) -> Self {
        let (put_back, free) = bounded(connections.len());
        for connection in connections {
            let _ = put_back.try_send(connection);
        }
        Self { free, put_back, origin, tiles: TileCache::default() }
    }

    fn read<T>(
        &self,
        call: &'static str,
        work: impl FnOnce(&Connection) -> RowResult<T>,
    ) -> Result<T, ReadFault> {
        let connection = self.free.recv_timeout(FREE_TIMEOUT).map_err(|_| ReadFault::Busy)?;
        let loan = Loan { connection: Some(connection), put_back: &self.put_back };
        let Some(connection) = &loan.connection else { return Err(ReadFault::Busy) };
        work(connection).map_err(|fault| match fault {
            RowFault::Corrupt(what) => ReadFault::Corrupt(what),
            RowFault::Database(fault) => ReadFault::Io { call, reason: fault.to_string() },
        })
    }

    /// A page of blobs in the order of their digests, after the one given.
    pub(in super::super) fn blobs_after(&self, after: &[u8]) -> Result<Vec<Blob>, ReadFault> {
        self.read("blobs", |connection| {
            // Few at a time: one may have megabytes.
            let sql = "SELECT digest, bytes FROM blob WHERE digest > ?1 ORDER BY digest LIMIT 16";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([after], |row| {
                Ok((Sha256Digest::new(row.get(0)?), Arc::from(row.get::<_, Vec<u8>>(1)?)))
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// A page of what was pruned in the order of digests, after the one given, each with the number of its pruning.
    pub(in super::super) fn pruned_after(&self, after: &[u8]) -> Result<Vec<(Sha256Digest, i64)>, ReadFault> {
        self.read("pruned", |connection| prune::page_after(connection, after))
    }

    /// Prunings with their numbers.
    pub(in super::super) fn numbered_prunings(&self) -> Result<Vec<(i64, Pruning)>, ReadFault> {
        self.read("prunings", prune::numbered)
    }

    /// Everything that is remembered as used: what expired longer ago than a call can take is forgotten, so it fits into memory.
    pub(in super::super) fn spends(&self) -> Result<Vec<SpentId>, ReadFault> {
        self.read("spends", |connection| {
            let mut statement = connection.prepare_cached("SELECT expires_ms, kind, id FROM spent")?;
            let mut rows = statement.query([])?;
            let mut spends = Vec::new();
            while let Some(row) = rows.next()? {
                let id: Vec<u8> = row.get(2)?;
                let spent = SpentId::of_columns(uint(row.get(0)?), row.get(1)?, &id);
                spends.push(spent.ok_or(RowFault::Corrupt("a spend"))?);
            }
            Ok(spends)
        })
    }

    /// Enrolments that were begun.
    pub(in super::super) fn pending_enrolments(&self) -> Result<Vec<PendingEnrolment>, ReadFault> {
        self.read("pending enrolments", |connection| {
            let mut statement =
                connection.prepare_cached("SELECT id, expires_ms, record FROM pending_enrolment")?;
            let rows = statement.query_map([], |row| {
                Ok(PendingEnrolment { id: row.get(0)?, expires_ms: uint(row.get(1)?), record: row.get(2)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    fn head_where(
        &self,
        call: &'static str,
        sql: &'static str,
        size: Option<u64>,
    ) -> Result<Option<StoredHead>, ReadFault> {
        self.read(call, |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let read = |row: &Row<'_>| Ok((uint(row.get(0)?), row.get::<_, String>(1)?));
            let row = match size {
                Some(size) => statement.query_row([int(size)], read),
                None => statement.query_row([], read),
            };
            let row = row.optional()?;
            row.map(|(size, text)| facts::stored_head(connection, self.origin.as_str(), size, &text))
                .transpose()
        })
    }
}

fn page(count: u64) -> i64 {
    int(count.min(MAX_PAGE))
}

/// Rows with an index each, cut where the first one is missing.
fn gapless<T>(first: u64, rows: impl Iterator<Item = rusqlite::Result<(i64, T)>>) -> RowResult<Vec<T>> {
    let mut out = Vec::new();
    let mut expected = Some(first);
    for row in rows {
        let (index, value) = row?;
        if Some(uint(index)) != expected {
            break;
        }
        out.push(value);
        expected = uint(index).checked_add(1);
    }
    Ok(out)
}

impl LogReader for SqliteReader {
    fn leaf(&self, index: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        self.read("leaf", |connection| {
            let mut statement = connection.prepare_cached("SELECT bytes FROM leaf WHERE idx = ?1")?;
            Ok(statement.query_row([int(index)], |row| row.get(0)).optional()?)
        })
    }

    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, ReadFault> {
        self.read("leaves", |connection| {
            let sql = "SELECT idx, bytes FROM leaf WHERE idx >= ?1 ORDER BY idx LIMIT ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([int(from), page(count)], |row| Ok((row.get(0)?, row.get(1)?)))?;
            gapless(from, rows)
        })
    }

    fn control_leaves(&self, after: u64, count: u64) -> Result<Vec<(u64, Vec<u8>)>, ReadFault> {
        self.read("control leaves", |connection| {
            let sql = "SELECT control.number, control.idx, leaf.bytes FROM control JOIN leaf ON leaf.idx = control.idx
                       WHERE control.number > ?1 ORDER BY control.number LIMIT ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([int(after), page(count)], |row| {
                Ok((row.get(0)?, (uint(row.get(1)?), row.get(2)?)))
            })?;
            gapless(after.saturating_add(1), rows)
        })
    }

    fn nodes(&self, level: u8, first: u64, count: u64) -> Result<Vec<TripleHash>, ReadFault> {
        self.read("nodes", |connection| {
            let read = |row: &Row<'_>| {
                let bytes = row.get_ref(1)?.as_blob()?;
                Ok((row.get(0)?, TripleHash::from_bytes(bytes)))
            };
            let hashes = if level == 0 {
                let sql = "SELECT idx, hashes FROM leaf_hash WHERE idx >= ?1 ORDER BY idx LIMIT ?2";
                let mut statement = connection.prepare_cached(sql)?;
                gapless(first, statement.query_map([int(first), page(count)], read)?)?
            } else {
                let sql = "SELECT idx, hashes FROM node WHERE level = ?3 AND idx >= ?1 ORDER BY idx LIMIT ?2";
                let mut statement = connection.prepare_cached(sql)?;
                gapless(first, statement.query_map(params![int(first), page(count), level], read)?)?
            };
            hashes.into_iter().collect::<Option<_>>().ok_or(RowFault::Corrupt("a tree node"))
        })
    }

    fn tiles(&self) -> &TileCache {
        &self.tiles
    }

    fn head(&self, size: u64) -> Result<Option<StoredHead>, ReadFault> {
        self.head_where("head", "SELECT size, body FROM head WHERE size = ?1", Some(size))
    }

    fn heads(&self, from: u64, count: u64) -> Result<Vec<StoredHead>, ReadFault> {
        self.read("heads", |connection| {
            let sql = "SELECT size, body FROM head WHERE size >= ?1 ORDER BY size LIMIT ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let rows =
                statement.query_map([int(from), page(count)], |row| Ok((uint(row.get(0)?), row.get(1)?)))?;
            let rows: Vec<(u64, String)> = rows.collect::<Result<_, _>>()?;
            let heads = rows
                .iter()
                .map(|(size, text)| facts::stored_head(connection, self.origin.as_str(), *size, text));
            heads.collect()
        })
    }

    fn newest_committed(&self) -> Result<Option<Tip>, ReadFault> {
        self.read("newest head", |connection| facts::tip(connection, self.origin.as_str()))
    }

    fn newest_signed(&self) -> Result<Option<StoredHead>, ReadFault> {
        let sql = "SELECT size, body FROM head WHERE size = (SELECT max(size) FROM signature)";
        self.head_where("newest signed head", sql, None)
    }

    fn blob(&self, digest: &Sha256Digest) -> Result<Option<Vec<u8>>, ReadFault> {
        self.read("blob", |connection| {
            let mut statement = connection.prepare_cached("SELECT bytes FROM blob WHERE digest = ?1")?;
            Ok(statement.query_row([digest.as_bytes()], |row| row.get(0)).optional()?)
        })
    }

    fn prunings(&self) -> Result<Vec<Pruning>, ReadFault> {
        self.read("prunings", prune::recorded)
    }

    fn pruned(&self, digest: &Sha256Digest) -> Result<Option<Pruning>, ReadFault> {
        self.read("pruned", |connection| prune::took(connection, digest))
    }
}

type RawHost = (Vec<u8>, i64, [u8; 32], Vec<u8>, i64, Vec<u8>);

fn raw_host(row: &Row<'_>) -> rusqlite::Result<RawHost> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
}

fn host_row(raw: RawHost) -> RowResult<HostRow> {
    let (host, enrolment_index, enrolment_hash, state, state_index, leaf) = raw;
    let enrolment_leaf = (uint(enrolment_index), Sha256Digest::new(enrolment_hash));
    HostRow::of_columns(&host, enrolment_leaf, (&state, uint(state_index)), &leaf)
        .ok_or(RowFault::Corrupt("a host row"))
}

impl TableReader for SqliteReader {
    fn outcome(&self, host: &HostId, request_id: &RequestId) -> Result<Option<KnownOutcome>, ReadFault> {
        self.read("outcome", |connection| facts::outcome(connection, host, request_id))
    }

    fn host(&self, host: &HostId) -> Result<Option<HostRow>, ReadFault> {
        self.read("host", |connection| {
            let sql = format!("SELECT {HOST_COLUMNS} WHERE host.host = ?1");
            let mut statement = connection.prepare_cached(&sql)?;
            statement.query_row([host.as_bytes()], raw_host).optional()?.map(host_row).transpose()
        })
    }

    fn host_now(&self, host: &HostId) -> Result<Option<HostNow>, ReadFault> {
        self.read("host now", |connection| {
            let sql = "SELECT enrolment_idx, enrolment_hash, key, state FROM host WHERE host = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let row = statement.query_row([host.as_bytes()], |row| {
                let digest = |at| Ok::<_, rusqlite::Error>(Sha256Digest::new(row.get(at)?));
                Ok(((uint(row.get(0)?), digest(1)?), digest(2)?, row.get::<_, Vec<u8>>(3)?))
            });
            let Some((enrolment_leaf, key, state)) = row.optional()? else { return Ok(None) };
            let state = HostState::parse(&state).map_err(|_| RowFault::Corrupt("a host's state"))?;
            Ok(Some(HostNow { enrolment_leaf, key, state }))
        })
    }

    fn hosts(&self, after: Option<&HostId>, count: u64) -> Result<Vec<HostRow>, ReadFault> {
        self.read("hosts", |connection| {
            let sql = format!("SELECT {HOST_COLUMNS} WHERE host.host > ?1 ORDER BY host.host LIMIT ?2");
            let mut statement = connection.prepare_cached(&sql)?;
            let after: &[u8] = after.map_or(&[], |host| host.as_bytes());
            let rows = statement.query_map(params![after, page(count)], raw_host)?;
            rows.map(|row| host_row(row?)).collect()
        })
    }

    fn host_of_key(&self, thumbprint: &Sha256Digest) -> Result<Option<HostId>, ReadFault> {
        self.read("host of key", |connection| facts::host_of_key(connection, thumbprint))
    }

    fn budget_left(&self, index: u64) -> Result<Option<u64>, ReadFault> {
        self.read("budget", |connection| facts::budget_left(connection, index))
    }

    fn join_token(&self, token: &Sha256Digest) -> Result<Option<JoinTokenRow>, ReadFault> {
        self.read("join token", |connection| facts::join_token(connection, token))
    }

    fn is_spent(&self, id: &SpentId) -> Result<bool, ReadFault> {
        self.read("spent", |connection| facts::is_spent(connection, id))
    }

    fn challenge_keys(&self) -> Result<Vec<ChallengeKey>, ReadFault> {
        self.read("challenge keys", |connection| {
            let mut statement = connection
                .prepare_cached("SELECT id, key, made_ms FROM challenge_key ORDER BY made_ms DESC, id")?;
            let rows = statement.query_map([], |row| {
                Ok(ChallengeKey { id: row.get(0)?, key: row.get(1)?, made_ms: uint(row.get(2)?) })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    fn acknowledgements(&self) -> Result<Vec<Acknowledgement>, ReadFault> {
        self.read("acknowledgements", |connection| {
            let sql = "SELECT gateway, control, time_ms FROM acknowledgement ORDER BY gateway";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([], |row| {
                let gateway = Sha256Digest::new(row.get(0)?);
                Ok(Acknowledgement { gateway, control: uint(row.get(1)?), time_ms: uint(row.get(2)?) })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}
