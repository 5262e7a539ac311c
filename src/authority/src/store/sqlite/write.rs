//! The writing side of the SQLite store.

use std::sync::Arc;

use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::{Leaf, leaf_hash};
use countersign_core::note::NoteSignature;
use rusqlite::{
    Connection, Error as SqlError, ErrorCode, OptionalExtension as _, Transaction, TransactionBehavior,
    params,
};

use super::super::failpoint::{FailpointSet, WritePoint};
use super::super::fault::{Broken, StoreFault, Unavailable};
use super::super::project::project;
use super::super::{
    Acknowledgement, Additions, ChallengeKey, DeskWriter, LogWriter, PendingEnrolment, Prior, RebuildFault,
    Wanted,
};
use super::facts::{self, RowFault, RowResult};
use super::file::{Identity, WriterLock};
use super::{apply, int, schema, uint};

/// The one writing connection.
pub struct SqliteWriter {
    pub(super) connection: Connection,
    identity: Identity,
    failpoints: FailpointSet,
    origin: String,
    poisoned: bool,
    /// Held until the connection is closed: fields are dropped in order.
    _lock: WriterLock,
}

impl SqliteWriter {
    pub(super) fn new(
        connection: Connection,
        origin: String,
        lock: WriterLock,
        identity: Identity,
        failpoints: FailpointSet,
    ) -> Self {
        Self { connection, identity, failpoints, origin, poisoned: false, _lock: lock }
    }

    /// Empties the projections and fills them from the leaves. Returns how many leaves were read.
    ///
    /// One transaction: a crash leaves the tables as they were.
    ///
    /// # Errors
    /// [`RebuildFault`]; nothing has changed then.
    pub fn rebuild(&mut self) -> Result<u64, RebuildFault> {
        let mut refused = None;
        let result = self.durably("rebuild", |tx| {
            for table in schema::PROJECTIONS {
                tx.execute(&format!("DELETE FROM {table}"), [])?;
            }
            let mut next = 0;
            let mut control = 0;
            let mut statement = tx.prepare("SELECT idx, bytes FROM leaf ORDER BY idx")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let bytes: Vec<u8> = row.get(1)?;
                let leaf = Leaf::parse(&bytes).and_then(|leaf| Ok((project(leaf.kind, &leaf.body)?, leaf)));
                let (changes, leaf) = match leaf {
                    Ok(parsed) => parsed,
                    Err(source) => {
                        refused = Some(RebuildFault::Leaf { index: next, source });
                        return Err(RowFault::Corrupt("a leaf"));
                    }
                };
                if uint(row.get(0)?) != next || leaf.index != next {
                    refused = Some(RebuildFault::Gap { index: next });
                    return Err(RowFault::Corrupt("the order of leaves"));
                }
                if leaf.kind.is_control() {
                    control += 1;
                    apply::control_leaf(tx, control, next)?;
                }
                apply::changes(tx, next, &leaf_hash(&bytes), &changes)?;
                next += 1;
            }
            Ok(next)
        });
        result.map_err(|fault| refused.unwrap_or(RebuildFault::Store(fault)))
    }

    /// Runs one durable transaction and judges how it ended.
    fn durably<T>(
        &mut self,
        call: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> RowResult<T>,
    ) -> Result<T, StoreFault> {
        self.run(call, |connection, failpoints| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&tx)?;
            failpoints.reach(WritePoint::BeforeAside).map_err(|i| StoreFault::injected(i, call))?;
            // A crash before this commit: nothing of it exists. After: all of it.
            tx.commit()?;
            failpoints.reach(WritePoint::AfterAside).map_err(|i| StoreFault::injected(i, call))?;
            Ok(done)
        })
    }

    fn run<T>(
        &mut self,
        call: &'static str,
        work: impl FnOnce(&mut Connection, &FailpointSet) -> Result<T, WriteFault>,
    ) -> Result<T, StoreFault> {
        if self.poisoned {
            return Err(StoreFault::fatal(Broken::Poisoned, call, "an earlier write failed"));
        }
        let result = work(&mut self.connection, &self.failpoints).map_err(|fault| fault.judge(call));
        // The commit went into a file. If its name stands for another file now, or for none, nobody will find it there.
        let result = result.and_then(|done| {
            if self.identity.holds() {
                Ok(done)
            } else {
                Err(StoreFault::fatal(Broken::FileReplaced, call, "the database was deleted or replaced"))
            }
        });
        // A transaction that is still open could not even be rolled back.
        let open = !self.connection.is_autocommit();
        self.poisoned = open || result.as_ref().is_err_and(StoreFault::is_fatal);
        if open && !result.as_ref().is_err_and(StoreFault::is_fatal) {
            return Err(StoreFault::fatal(Broken::Io, call, "the transaction could not be rolled back"));
        }
        result
    }
}

/// How a write ended, before it is judged.
enum WriteFault {
    Row(RowFault),
    Store(StoreFault),
}

impl From<SqlError> for WriteFault {
    fn from(fault: SqlError) -> Self {
        Self::Row(RowFault::Database(fault))
    }
}

impl From<RowFault> for WriteFault {
    fn from(fault: RowFault) -> Self {
        Self::Row(fault)
    }
}

impl From<StoreFault> for WriteFault {
    fn from(fault: StoreFault) -> Self {
        Self::Store(fault)
    }
}

impl WriteFault {
    fn judge(self, call: &'static str) -> StoreFault {
        match self {
            Self::Store(fault) => fault,
            Self::Row(RowFault::Corrupt(what)) => StoreFault::fatal(Broken::Corrupt, call, what),
            Self::Row(RowFault::Database(fault)) => judge_sqlite(&fault, call),
        }
    }
}

/// https://www.sqlite.org/rescode.html. Whatever isn't known to have left the file alone is fatal.
pub(super) fn judge_sqlite(fault: &SqlError, call: &'static str) -> StoreFault {
    let SqlError::SqliteFailure(code, _) = fault else {
        // A row of another shape than this program writes.
        return StoreFault::fatal(Broken::Corrupt, call, fault);
    };
    match code.code {
        // A full disk fails the write of a page, never a sync, and the transaction is rolled back as a whole.
        ErrorCode::DiskFull => StoreFault::unavailable(Unavailable::DiskFull, call, fault),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            StoreFault::unavailable(Unavailable::Locked, call, fault)
        }
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            StoreFault::fatal(Broken::Corrupt, call, fault)
        }
        // SQLITE_READONLY_DBMOVED among them.
        ErrorCode::ReadOnly => StoreFault::fatal(Broken::FileReplaced, call, fault),
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => StoreFault::fatal(Broken::Io, call, fault),
        _ => StoreFault::fatal(Broken::Defect, call, fault),
    }
}

impl LogWriter for SqliteWriter {
    fn append(
        &mut self,
        wanted: &Wanted,
        plan: &mut dyn FnMut(&Prior) -> Option<Additions>,
    ) -> Result<Option<Additions>, StoreFault> {
        let origin = self.origin.clone();
        self.run("append", |connection, failpoints| {
            // IMMEDIATE takes the write lock first, so that what is read here is what is written upon.
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let prior = facts::prior(&tx, &origin, wanted)?;
            let Some(additions) = plan(&prior) else {
                tx.rollback()?;
                return Ok(None);
            };
            additions.follow(&prior)?;
            apply::additions(&tx, &additions)?;
            failpoints.reach(WritePoint::BeforeCommit).map_err(|i| StoreFault::injected(i, "commit"))?;
            // A crash before this commit: the batch never was, its challenges are unspent, its callers got no answer and try again.
            // A crash after: the batch is in the log, unsigned. The next start signs this very body or a later one, and callers who
            // try again get their leaves.
            tx.commit()?;
            failpoints.reach(WritePoint::AfterCommit).map_err(|i| StoreFault::injected(i, "commit"))?;
            Ok(Some(additions))
        })
    }

    fn attach_signatures(&mut self, size: u64, signatures: &[NoteSignature]) -> Result<(), StoreFault> {
        let origin = self.origin.clone();
        self.run("attach signatures", |connection, failpoints| {
            failpoints.reach(WritePoint::BeforeAttach).map_err(|i| StoreFault::injected(i, "attach"))?;
            // Not synced by itself: a crash may lose the signature and keep the body, which is then signed again. The next append syncs
            // it along. It can't outlive its head, whose commit was synced before.
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            let attached = attach(connection, &origin, size, signatures);
            connection.pragma_update(None, "synchronous", "FULL")?;
            attached?;
            failpoints.reach(WritePoint::AfterAttach).map_err(|i| StoreFault::injected(i, "attach"))?;
            Ok(())
        })
    }

    fn settle(&mut self) -> Result<(), StoreFault> {
        self.run("settle", |connection, failpoints| {
            failpoints.reach(WritePoint::BeforeAside).map_err(|i| StoreFault::injected(i, "settle"))?;
            // Copies every frame that an earlier process left into the database and syncs both. What it could not sync, this does or
            // fails. A reader in the middle of a query is waited for.
            let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
            if busy != 0 {
                return Err(
                    StoreFault::unavailable(Unavailable::Locked, "settle", "a reader holds the WAL").into()
                );
            }
            failpoints.reach(WritePoint::AfterAside).map_err(|i| StoreFault::injected(i, "settle"))?;
            Ok(())
        })
    }
}

fn attach(
    connection: &mut Connection,
    origin: &str,
    size: u64,
    signatures: &[NoteSignature],
) -> RowResult<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let sql = "INSERT OR IGNORE INTO signature (size, key_id, signature) VALUES (?1, ?2, ?3)";
        let mut signature = tx.prepare_cached(sql)?;
        let sql = "INSERT OR IGNORE INTO cosignature (size, name, key_id, signature) VALUES (?1, ?2, ?3, ?4)";
        let mut cosignature = tx.prepare_cached(sql)?;
        for line in signatures {
            if line.name() == origin {
                signature.execute(params![int(size), line.key_id(), line.signature()])?;
            } else {
                cosignature.execute(params![int(size), line.name(), line.key_id(), line.signature()])?;
            }
        }
    }
    tx.commit()?;
    Ok(())
}

impl DeskWriter for SqliteWriter {
    fn put_pending_enrolment(&mut self, pending: &PendingEnrolment, now_ms: u64) -> Result<(), StoreFault> {
        self.durably("put pending enrolment", |tx| {
            tx.execute("DELETE FROM pending_enrolment WHERE expires_ms < ?1", [int(now_ms)])?;
            let sql = "INSERT INTO pending_enrolment (id, expires_ms, record) VALUES (?1, ?2, ?3)";
            tx.execute(sql, params![pending.id, int(pending.expires_ms), pending.record])?;
            Ok(())
        })
    }

    fn take_pending_enrolment(
        &mut self,
        id: &[u8; 16],
        now_ms: u64,
    ) -> Result<Option<PendingEnrolment>, StoreFault> {
        // Handed out only after the delete is durable: a secret is compared at most once, whatever crashes.
        let taken = self.durably("take pending enrolment", |tx| {
            let sql = "DELETE FROM pending_enrolment WHERE id = ?1 RETURNING expires_ms, record";
            let row = tx.query_row(sql, [id], |row| Ok((uint(row.get(0)?), row.get(1)?))).optional()?;
            Ok(row.map(|(expires_ms, record)| PendingEnrolment { id: *id, expires_ms, record }))
        })?;
        Ok(taken.filter(|pending| now_ms <= pending.expires_ms))
    }

    fn put_challenge_key(&mut self, key: &ChallengeKey, drop_before_ms: u64) -> Result<(), StoreFault> {
        self.durably("put challenge key", |tx| {
            tx.execute("DELETE FROM challenge_key WHERE made_ms < ?1", [int(drop_before_ms)])?;
            let sql = "INSERT INTO challenge_key (id, key, made_ms) VALUES (?1, ?2, ?3)";
            tx.execute(sql, params![key.id, key.key, int(key.made_ms)])?;
            Ok(())
        })
    }

    fn put_blobs(&mut self, blobs: &[(Sha256Digest, Arc<[u8]>)]) -> Result<(), StoreFault> {
        self.durably("put blobs", |tx| {
            let mut statement =
                tx.prepare_cached("INSERT OR IGNORE INTO blob (digest, bytes) VALUES (?1, ?2)")?;
            for (digest, bytes) in blobs {
                statement.execute(params![digest.as_bytes(), &**bytes])?;
            }
            Ok(())
        })
    }

    fn acknowledge(&mut self, acknowledgement: &Acknowledgement) -> Result<(), StoreFault> {
        self.durably("acknowledge", |tx| {
            let sql = "INSERT INTO acknowledgement (gateway, control, time_ms) VALUES (?1, ?2, ?3)
                       ON CONFLICT (gateway) DO UPDATE SET
                       control = max(control, excluded.control), time_ms = max(time_ms, excluded.time_ms)";
            let Acknowledgement { gateway, control, time_ms } = acknowledgement;
            tx.execute(sql, params![gateway.as_bytes(), int(*control), int(*time_ms)])?;
            Ok(())
        })
    }
}
