//! The writing side of the PostgreSQL store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::{Leaf, leaf_hash};
use countersign_core::note::NoteSignature;

use super::super::failpoint::WritePoint;
use super::super::fault::{Broken, StoreFault, Unavailable};
use super::super::ints::{int, uint};
use super::super::project::project;
use super::super::{
    Acknowledgement, Additions, ChallengeKey, DeskWriter, LogWriter, MAX_PAGE, OpenFault, PendingEnrolment,
    Prior, RebuildFault, StoredHead, Wanted,
};
use super::link::{Link, LinkFault, RowFault, RowResult, Session, Side, column};
use super::{PostgresOptions, apply, facts, schema};

/// How long a commit whose answer was lost is asked for, before the batch is reported as unknown.
const RESOLVE_FOR: Duration = Duration::from_secs(5);
/// Between two attempts to connect meanwhile.
const RESOLVE_PAUSE: Duration = Duration::from_millis(50);
/// Takes the log's lock: the row that holds the trees' right edges. The next statement sees what its last holder committed.
pub(super) const LOCK: &str = "BEGIN; SELECT size FROM frontier WHERE one = 1 FOR UPDATE";

/// The one writing connection of this process.
pub struct PostgresWriter {
    options: PostgresOptions,
    /// `None` after it was lost.
    link: Option<Link>,
    poisoned: bool,
}

/// A writing connection to the right store, on a server that keeps what it commits.
pub(super) fn open(options: &PostgresOptions) -> Result<Link, OpenFault> {
    let link = Link::connect(options, Side::Writing)?;
    let upgraded = schema::upgrade(&link.session, options.origin.as_str(), &options.failpoints);
    link.run(upgraded).map_err(LinkFault::from)??;
    link.run(schema::durable(&link.session)).map_err(LinkFault::from)??;
    Ok(link)
}

impl PostgresWriter {
    pub(super) const fn new(options: PostgresOptions, link: Link) -> Self {
        Self { options, link: Some(link), poisoned: false }
    }

    /// Empties the projections and fills them from the leaves. Returns how many leaves were read.
    ///
    /// One transaction under the log's lock: a crash leaves the tables as they were, and no replica appends meanwhile.
    ///
    /// # Errors
    /// [`RebuildFault`]; nothing has changed then.
    pub fn rebuild(&mut self) -> Result<u64, RebuildFault> {
        self.usable("rebuild").map_err(RebuildFault::Store)?;
        let link = open(&self.options).map_err(|fault| judge_open(&fault, "rebuild"))?;
        let session = &link.session;
        let done = link.run_unhurried(async {
            session.simply(LOCK).await?;
            session.simply("SET LOCAL statement_timeout = 0").await?;
            for table in schema::PROJECTIONS {
                session.simply(&format!("DELETE FROM {table}")).await?;
            }
            let failpoints = &self.options.failpoints;
            let injected = |injected| RebuildFault::Store(StoreFault::injected(injected, "rebuild"));
            let done = refill(session).await?;
            let done = done.and_then(|count| {
                failpoints.reach(WritePoint::BeforeAside).map_err(injected).map(|()| count)
            });
            // A crash before this commit: the tables are as they were. After: all of them are new.
            session.commit(if done.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
            Ok(done
                .and_then(|count| failpoints.reach(WritePoint::AfterAside).map_err(injected).map(|()| count)))
        });
        done.map_err(|fault| RebuildFault::Store(judge(&fault, "rebuild")))?
    }

    /// Whether this writer may be used at all.
    fn usable(&self, call: &'static str) -> Result<(), StoreFault> {
        if self.poisoned {
            return Err(StoreFault::fatal(Broken::Poisoned, call, "an earlier write failed"));
        }
        Ok(())
    }

    fn note<T>(&mut self, result: Result<T, StoreFault>) -> Result<T, StoreFault> {
        self.poisoned |= result.as_ref().is_err_and(StoreFault::is_fatal);
        result
    }

    /// The connection, made again if it was lost.
    fn link(&mut self, call: &'static str) -> Result<&Link, StoreFault> {
        if self.link.as_ref().is_some_and(Link::is_closed) {
            self.link = None;
        }
        if self.link.is_none() {
            self.link = Some(open(&self.options).map_err(|fault| judge_open(&fault, call))?);
        }
        self.link
            .as_ref()
            .ok_or_else(|| StoreFault::unavailable(Unavailable::Disconnected, call, "no connection"))
    }

    /// Runs statements that are one transaction by themselves. A connection that died while nobody looked is noticed first. What the standby
    /// hasn't confirmed isn't done: a failover would take it back.
    fn with<T>(
        &mut self,
        call: &'static str,
        work: impl AsyncFn(&Session) -> RowResult<T>,
    ) -> Result<T, StoreFault> {
        self.usable(call)?;
        let linked = self.link(call).map(|link| link.run(link.session.simply("")).flatten().is_ok());
        if !self.note(linked)? {
            self.link = None;
            let linked = self.link(call).map(|_| ());
            self.note(linked)?;
        }
        let link = self.link(call)?;
        let done = link.run(link.session.heeding(work(&link.session))).flatten();
        if done.is_err() {
            // Whatever was open is rolled back with the connection.
            self.link = None;
        }
        let done = done.map_err(|fault| judge(&fault, call));
        self.note(done)
    }

    /// The same for what is beside the batches. A crash before the commit: nothing of it exists. After: all of it.
    fn aside<T>(
        &mut self,
        call: &'static str,
        work: impl AsyncFn(&Session) -> RowResult<T>,
    ) -> Result<T, StoreFault> {
        self.usable(call)?;
        self.reach(WritePoint::BeforeAside, call)?;
        let done = self.with(call, work)?;
        self.reach(WritePoint::AfterAside, call)?;
        Ok(done)
    }

    fn reach(&mut self, point: WritePoint, call: &'static str) -> Result<(), StoreFault> {
        let reached = self.options.failpoints.reach(point);
        self.note(reached.map_err(|injected| StoreFault::injected(injected, call)))
    }

    /// Takes the lock and reads. A connection that is found dead is made again once: nothing has happened yet.
    fn begin(&mut self, wanted: &Wanted) -> Result<Prior, StoreFault> {
        let mut again = true;
        loop {
            let link = self.link("append")?;
            let read = link.run(async {
                link.session.simply(LOCK).await?;
                facts::prior(&link.session, wanted).await
            });
            match read.flatten() {
                Ok(prior) => return Ok(prior),
                Err(fault) => {
                    self.link = None;
                    if !(again && fault.is_lost()) {
                        return Err(judge(&fault, "append"));
                    }
                    again = false;
                }
            }
        }
    }

    /// Gives the lock back. A connection that can't is dropped, which does the same.
    fn abandon(&mut self) {
        if let Some(link) = &self.link
            && link.run(link.session.simply("ROLLBACK")).flatten().is_err()
        {
            self.link = None;
        }
    }

    fn write(&mut self, additions: &Additions) -> Result<(), StoreFault> {
        let lost = || StoreFault::unavailable(Unavailable::Disconnected, "append", "no connection");
        let link = self.link.as_ref().ok_or_else(lost)?;
        let written = link.run(apply::additions(&link.session, additions)).flatten();
        if let Err(fault) = written {
            // No commit was asked for: the server rolls back.
            self.link = None;
            return Err(judge(&fault, "append"));
        }
        if let Err(injected) = self.options.failpoints.reach(WritePoint::BeforeCommit) {
            self.abandon();
            return Err(StoreFault::injected(injected, "commit"));
        }
        Ok(())
    }

    fn commit(&mut self, head: &StoredHead) -> Result<(), StoreFault> {
        let lost = || StoreFault::unavailable(Unavailable::Disconnected, "append", "no connection");
        let link = self.link.as_ref().ok_or_else(lost)?;
        // Other replicas are told with the commit, not before.
        let commit = format!("NOTIFY {}; COMMIT", schema::CHANNEL);
        // A crash of this process before this commit: the server rolls back, the batch never was, its challenges are unspent, its callers
        // got no answer and try again. A crash after: the batch is in the log, unsigned by this replica; the next head of any replica
        // covers it, and callers who try again get their leaves, from whichever replica they ask. A crash of the server is one or the
        // other, by whether the commit record was flushed.
        let committed = link.run(link.session.commit(&commit)).flatten();
        if let Err(fault) = committed {
            self.link = None;
            if matches!(fault, RowFault::Warned) {
                // It is in this server's log and not on the standby's. Nothing is signed over it before a later commit of this process comes back
                // without a warning: the standby takes them in order.
                return Err(StoreFault::unavailable(Unavailable::OutcomeUnknown, "append", fault));
            }
            tracing::warn!(%fault, size = head.body().size, "the answer to a commit was lost");
            self.resolve(head)?;
        }
        self.options
            .failpoints
            .reach(WritePoint::AfterCommit)
            .map_err(|injected| StoreFault::injected(injected, "commit"))
    }

    /// Finds out whether a commit took place whose answer was lost: `Ok` if it did, and is where a commit has to be.
    ///
    /// The lock comes first: who holds it knows that the lost session's transaction has ended, one way or the other.
    fn resolve(&mut self, head: &StoredHead) -> Result<(), StoreFault> {
        let began = Instant::now();
        loop {
            let found = self.look_up(head);
            match found {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    return Err(StoreFault::unavailable(
                        Unavailable::Disconnected,
                        "append",
                        "the connection was lost before the commit took place",
                    ));
                }
                Err(fault) if fault.is_fatal() => return Err(fault),
                Err(fault) if began.elapsed() >= RESOLVE_FOR => {
                    return Err(StoreFault::unavailable(Unavailable::OutcomeUnknown, "append", fault));
                }
                Err(_) => std::thread::sleep(RESOLVE_PAUSE),
            }
        }
    }

    fn look_up(&mut self, head: &StoredHead) -> Result<bool, StoreFault> {
        let size = int(head.body().size);
        let link = self.link("append")?;
        let found = link.run(async {
            link.session.simply(LOCK).await?;
            let row = link.session.row("SELECT body FROM head WHERE size = $1", &[&size]).await?;
            let same = match &row {
                Some(row) => column::<&str>(row, 0)? == head.text(),
                None => false,
            };
            if !same {
                link.session.simply("ROLLBACK").await?;
                return Ok(false);
            }
            // What is seen here may be on this server alone: its wait for the standby ended with the session, or with the server, which came back.
            // The lock gave this transaction a number, so it has a commit record of its own, behind the lost one, which is waited for.
            link.session.commit("COMMIT").await?;
            Ok(true)
        });
        let found = found.flatten();
        if found.is_err() {
            self.link = None;
        }
        found.map_err(|fault| judge(&fault, "append"))
    }
}

/// Reads every leaf in order and fills the projections with what they say.
pub(super) async fn refill(session: &Session) -> RowResult<Result<u64, RebuildFault>> {
    let mut next = 0_u64;
    let mut control = 0_u64;
    loop {
        let sql = "SELECT idx, bytes FROM leaf WHERE idx >= $1 ORDER BY idx LIMIT $2";
        let rows = session.rows(sql, &[&int(next), &int(MAX_PAGE)]).await?;
        if rows.is_empty() {
            return Ok(Ok(next));
        }
        let (mut changes, mut numbers) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in &rows {
            let bytes: &[u8] = column(row, 1)?;
            let parsed = Leaf::parse(bytes).and_then(|leaf| Ok((project(leaf.kind, &leaf.body)?, leaf)));
            let (changed, leaf) = match parsed {
                Ok(parsed) => parsed,
                Err(source) => return Ok(Err(RebuildFault::Leaf { index: next, source })),
            };
            if uint(column(row, 0)?) != next || leaf.index != next {
                return Ok(Err(RebuildFault::Gap { index: next }));
            }
            if leaf.kind.is_control() {
                control += 1;
                numbers.push((control, next));
            }
            changes.push((next, leaf_hash(bytes), changed));
            next += 1;
        }
        apply::control_numbers(session, &numbers).await?;
        apply::project_again(session, &changes).await?;
    }
}

fn judge_open(fault: &OpenFault, call: &'static str) -> StoreFault {
    match fault {
        OpenFault::Postgres(_) | OpenFault::Setting(_) | OpenFault::File { .. } | OpenFault::Tls { .. } => {
            StoreFault::unavailable(Unavailable::Disconnected, call, fault)
        }
        OpenFault::Upgrade(fault) => fault.clone(),
        // Behind the same name stands another store, or none: nothing may be built on it.
        _ => StoreFault::fatal(Broken::FileReplaced, call, fault),
    }
}

/// https://www.postgresql.org/docs/current/errcodes-appendix.html. Whatever failed before a commit was asked for has changed nothing.
fn judge(fault: &RowFault, call: &'static str) -> StoreFault {
    let database = match fault {
        RowFault::Corrupt(what) => return StoreFault::fatal(Broken::Corrupt, call, what),
        RowFault::Warned => return StoreFault::unavailable(Unavailable::OutcomeUnknown, call, fault),
        lost if lost.is_lost() => return StoreFault::unavailable(Unavailable::Disconnected, call, lost),
        RowFault::Database(database) => database,
        RowFault::Deadline => return StoreFault::unavailable(Unavailable::Disconnected, call, fault),
    };
    let code = database.code().map_or("", tokio_postgres::error::SqlState::code);
    match code {
        // disk_full; the other insufficient resources
        "53100" => StoreFault::unavailable(Unavailable::DiskFull, call, fault),
        // lock_not_available, query_canceled (the statement's limit), serialization_failure, deadlock_detected
        "55P03" | "57014" | "40001" | "40P01" => StoreFault::unavailable(Unavailable::Locked, call, fault),
        // read_only_sql_transaction: the server became a standby.
        "25006" => StoreFault::unavailable(Unavailable::Disconnected, call, fault),
        // data_corrupted, index_corrupted
        "XX001" | "XX002" => StoreFault::fatal(Broken::Corrupt, call, fault),
        // undefined_table, invalid_schema_name: the store was dropped under the process.
        "42P01" | "3F000" => StoreFault::fatal(Broken::FileReplaced, call, fault),
        // Insufficient resources and system errors of the server; it has undone the transaction.
        code if code.starts_with("53") || code.starts_with("58") => {
            StoreFault::unavailable(Unavailable::Disconnected, call, fault)
        }
        _ => StoreFault::fatal(Broken::Defect, call, fault),
    }
}

impl LogWriter for PostgresWriter {
    fn append(
        &mut self,
        wanted: &Wanted,
        plan: &mut dyn FnMut(&Prior) -> Option<Additions>,
    ) -> Result<Option<Additions>, StoreFault> {
        self.usable("append")?;
        let began = self.begin(wanted);
        let prior = self.note(began)?;
        let Some(additions) = plan(&prior) else {
            self.abandon();
            return Ok(None);
        };
        let done = additions
            .follow(&prior)
            .and_then(|()| self.write(&additions))
            .and_then(|()| self.commit(&additions.head));
        if done.is_err() {
            // Also after a fault that isn't the connection's: the lock mustn't be kept.
            self.link = None;
        }
        self.note(done)?;
        Ok(Some(additions))
    }

    fn attach_signatures(&mut self, size: u64, signatures: &[NoteSignature]) -> Result<(), StoreFault> {
        let call = "attach signatures";
        self.reach(WritePoint::BeforeAttach, call)?;
        let size = int(size);
        self.with(call, async |session| {
            // The log's own carry its origin.
            let (own, others): (Vec<_>, Vec<_>) =
                signatures.iter().partition(|line| line.name() == session.origin);
            let lines = |of: &[&NoteSignature]| -> (Vec<String>, Vec<Vec<u8>>, Vec<Vec<u8>>) {
                let names = of.iter().map(|line| line.name().to_owned()).collect();
                let keys = of.iter().map(|line| line.key_id().to_vec()).collect();
                (names, keys, of.iter().map(|line| line.signature().to_vec()).collect())
            };
            let sql = "INSERT INTO signature (size, key_id, signature)
                       SELECT $1::bigint, * FROM unnest($2::bytea[], $3::bytea[]) ON CONFLICT DO NOTHING";
            session.statement(sql).await?;
            let cosigned = "INSERT INTO cosignature (size, name, key_id, signature)
                       SELECT $1::bigint, * FROM unnest($2::text[], $3::bytea[], $4::bytea[]) ON CONFLICT DO NOTHING";
            if !others.is_empty() {
                session.statement(cosigned).await?;
            }
            // Not flushed by itself: a crash of the server may lose the signature and keep the body, which is then signed again. The next
            // append flushes it along. It can't outlive its head, whose commit was flushed before.
            let commit = format!("NOTIFY {}; COMMIT", schema::CHANNEL);
            session.simply("BEGIN; SET LOCAL synchronous_commit = off").await?;
            if !own.is_empty() || others.is_empty() {
                let (_, keys, bytes) = lines(&own);
                session.execute(sql, &[&size, &keys, &bytes]).await?;
            }
            if !others.is_empty() {
                let (names, keys, bytes) = lines(&others);
                session.execute(cosigned, &[&size, &names, &keys, &bytes]).await?;
            }
            session.simply(&commit).await
        })?;
        self.reach(WritePoint::AfterAttach, call)
    }

    fn settle(&mut self) -> Result<(), StoreFault> {
        // The server has replayed its own journal before it took this connection, and flushes each commit.
        self.aside("settle", async |session| session.simply("").await)
    }
}

impl DeskWriter for PostgresWriter {
    fn put_pending_enrolment(&mut self, pending: &PendingEnrolment, now_ms: u64) -> Result<(), StoreFault> {
        self.aside("put pending enrolment", async |session| {
            let sql = "WITH swept AS (DELETE FROM pending_enrolment WHERE expires_ms < $4)
                       INSERT INTO pending_enrolment (id, expires_ms, record) VALUES ($1, $2, $3)";
            let (id, record): (&[u8], &[u8]) = (&pending.id, &pending.record);
            session.execute(sql, &[&id, &int(pending.expires_ms), &record, &int(now_ms)]).await?;
            Ok(())
        })
    }

    fn take_pending_enrolment(
        &mut self,
        id: &[u8; 16],
        now_ms: u64,
    ) -> Result<Option<PendingEnrolment>, StoreFault> {
        // Handed out only after the delete is durable: a secret is compared at most once, whatever crashes and whichever replica asks.
        let taken = self.aside("take pending enrolment", async |session| {
            let sql = "DELETE FROM pending_enrolment WHERE id = $1 RETURNING expires_ms, record";
            let key: &[u8] = id;
            let Some(row) = session.row(sql, &[&key]).await? else { return Ok(None) };
            let (expires_ms, record) = (uint(column(&row, 0)?), column(&row, 1)?);
            Ok(Some(PendingEnrolment { id: *id, expires_ms, record }))
        })?;
        Ok(taken.filter(|pending| now_ms <= pending.expires_ms))
    }

    fn put_challenge_key(&mut self, key: &ChallengeKey, drop_before_ms: u64) -> Result<(), StoreFault> {
        self.aside("put challenge key", async |session| {
            let sql = "WITH dropped AS (DELETE FROM challenge_key WHERE made_ms < $4)
                       INSERT INTO challenge_key (id, key, made_ms) VALUES ($1, $2, $3)";
            let (id, secret): (&[u8], &[u8]) = (&key.id, &key.key);
            session.execute(sql, &[&id, &secret, &int(key.made_ms), &int(drop_before_ms)]).await?;
            Ok(())
        })
    }

    fn put_blobs(&mut self, blobs: &[(Sha256Digest, Arc<[u8]>)]) -> Result<(), StoreFault> {
        self.aside("put blobs", async |session| apply::blobs(session, blobs).await)
    }

    fn acknowledge(&mut self, acknowledgement: &Acknowledgement) -> Result<(), StoreFault> {
        self.aside("acknowledge", async |session| {
            let sql = "INSERT INTO acknowledgement AS old (gateway, control, time_ms) VALUES ($1, $2, $3)
                       ON CONFLICT (gateway) DO UPDATE SET control = greatest(old.control, excluded.control),
                       time_ms = greatest(old.time_ms, excluded.time_ms)";
            let Acknowledgement { gateway, control, time_ms } = acknowledgement;
            let gateway: &[u8] = gateway.as_bytes();
            session.execute(sql, &[&gateway, &int(*control), &int(*time_ms)]).await?;
            Ok(())
        })
    }
}
