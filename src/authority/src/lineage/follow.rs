//! The thread that fills the index: reads what signed heads cover, in steps, and files it.
//!
//! One step is one transaction of the index, with how far it got in it: a crash at any moment leaves a state that the next start goes on from.
//! Nothing waits for this thread, and it holds no lock that anything on the way of a request takes.

use super::extract::{Artifact, Boot, Told, registers, told};
use super::file::{self, int, uint};
use super::{IndexFault, Term};
use crate::store::{MAX_PAGE, Reader};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::{Leaf, leaf_hash};
use countersign_core::name::Origin;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Leaves after which a step ends with the next signed head.
const STEP: u64 = 512;
/// How often to look for a new head.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After a fault.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Leaves a second from which on the authority is busy.
const BUSY_RATE: u128 = 500;
/// How much longer it rests than it works: nearly always while the authority is busy, as long again otherwise.
const REST: [u32; 2] = [1, 100];

/// The thread, and the wish that it ends.
pub(super) struct Follower {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// How often the file was opened; 0 while it isn't.
    opened: Arc<AtomicU64>,
}

impl Follower {
    pub(super) fn start(path: &Path, origin: &Origin, store: Arc<dyn Reader>) -> std::io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let opened = Arc::new(AtomicU64::new(0));
        let (told, path, origin) = (Arc::clone(&opened), path.to_owned(), origin.to_string());
        let thread = std::thread::Builder::new()
            .name("lineage".to_owned())
            .spawn(move || run(&path, &origin, store.as_ref(), &stopped, &told))?;
        Ok(Self { stop: Some(stop), thread: Some(thread), opened })
    }

    /// Which opening of the file is in force; `None` while it isn't open.
    pub(super) fn opened(&self) -> Option<u64> {
        Some(self.opened.load(Ordering::Acquire)).filter(|times| *times > 0)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the lineage index ended in a panic");
        }
    }
}

/// `true` if it is to end.
fn rest(stopped: &Receiver<()>, time: Duration) -> bool {
    !matches!(stopped.recv_timeout(time), Err(RecvTimeoutError::Timeout))
}

fn run(path: &Path, origin: &str, store: &dyn Reader, stopped: &Receiver<()>, told: &AtomicU64) {
    let mut times = 0;
    loop {
        let opened = file::open_to_follow(path, origin, store);
        let fault = match opened {
            Ok(mut connection) => {
                times += 1;
                told.store(times, Ordering::Release);
                match follow(&mut connection, store, stopped) {
                    Ok(()) => return,
                    Err(fault) => fault,
                }
            }
            Err(fault) => fault,
        };
        told.store(0, Ordering::Release);
        tracing::warn!(%fault, "the lineage index waits");
        if rest(stopped, AGAIN_AFTER) {
            return;
        }
    }
}

fn follow(connection: &mut Connection, store: &dyn Reader, stopped: &Receiver<()>) -> Result<(), IndexFault> {
    let (mut seen, mut looked) = (0, Instant::now());
    loop {
        let begun = Instant::now();
        let more = step(connection, store)?;
        let size = store.newest_signed()?.map_or(0, |head| head.body().size);
        let grown = u128::from(size.saturating_sub(seen)).saturating_mul(1_000);
        let busy = seen > 0 && grown / looked.elapsed().as_millis().max(1) >= BUSY_RATE;
        (seen, looked) = (size, Instant::now());
        let [idle, loaded] = REST;
        let pause = if more { begun.elapsed() * if busy { loaded } else { idle } } else { LOOK_EVERY };
        if rest(stopped, pause) {
            return Ok(());
        }
    }
}

/// Files the next leaves, up to a signed head. `true`: there may be more.
pub(super) fn step(connection: &mut Connection, store: &dyn Reader) -> Result<bool, IndexFault> {
    let (next, control): (u64, u64) = connection
        .query_row("SELECT next, control FROM meta", [], |row| Ok((uint(row.get(0)?), uint(row.get(1)?))))?;
    let spans = spans(store, next)?;
    let Some(end) = spans.last().map(|span| span.upto) else { return Ok(false) };
    let tx = connection.transaction()?;
    let mut filing = Filing { tx: &tx, store, control };
    let mut at = next;
    let mut last = None;
    while at < end {
        let leaves = store.leaves(at, (end - at).min(MAX_PAGE))?;
        if leaves.is_empty() {
            return Err(IndexFault::Leaf(at));
        }
        for bytes in leaves {
            let leaf = Leaf::parse(&bytes).ok().filter(|leaf| leaf.index == at);
            filing.file(&leaf.ok_or(IndexFault::Leaf(at))?)?;
            last = Some(leaf_hash(&bytes));
            at += 1;
        }
    }
    for span in &spans {
        extend(&tx, span)?;
    }
    let last = last.map(|hash| hash.as_bytes().to_vec());
    tx.execute(
        "UPDATE meta SET next = ?1, last = ?2, control = ?3",
        params![int(at), last, int(filing.control)],
    )?;
    // A crash before this commit loses the step; it is done again.
    tx.commit()?;
    Ok(true)
}

/// Leaves that one signed head was the first to cover.
struct Span {
    first: u64,
    upto: u64,
    keys: Vec<[u8; 4]>,
}

/// The next signed heads, until they cover a step.
fn spans(store: &dyn Reader, next: u64) -> Result<Vec<Span>, IndexFault> {
    let mut spans: Vec<Span> = Vec::new();
    let (mut first, mut from) = (next, next.saturating_add(1));
    loop {
        let heads = store.heads(from, MAX_PAGE)?;
        let Some(last) = heads.last() else { return Ok(spans) };
        from = last.body().size.saturating_add(1);
        for head in heads.iter().filter(|head| !head.signatures().is_empty()) {
            let upto = head.body().size;
            let keys = head.signatures().iter().map(countersign_core::note::NoteSignature::key_id);
            spans.push(Span { first, upto, keys: keys.collect() });
            first = upto;
            if upto - next >= STEP {
                return Ok(spans);
            }
        }
    }
}

fn extend(tx: &Transaction<'_>, span: &Span) -> Result<(), IndexFault> {
    let mut longer = tx.prepare_cached("UPDATE span SET upto = ?3 WHERE key = ?1 AND upto = ?2")?;
    let mut other = tx.prepare_cached("INSERT OR IGNORE INTO span (key, first, upto) VALUES (?1, ?2, ?3)")?;
    for key in &span.keys {
        let row = params![key, int(span.first), int(span.upto)];
        if longer.execute(row)? == 0 {
            other.execute(row)?;
        }
    }
    Ok(())
}

struct Filing<'a> {
    tx: &'a Transaction<'a>,
    store: &'a dyn Reader,
    /// Control leaves so far.
    control: u64,
}

impl Filing<'_> {
    fn file(&mut self, leaf: &Leaf) -> Result<(), IndexFault> {
        self.control += u64::from(leaf.kind.is_control());
        let idx = int(leaf.index);
        match told(leaf).map_err(|_| IndexFault::Leaf(leaf.index))? {
            Told::Artifact(artifact) => self.artifact(leaf.index, *artifact)?,
            Told::Ak { host, ak } => {
                let sql = "INSERT INTO ak (host, ak) VALUES (?1, ?2) ON CONFLICT (host) DO UPDATE SET ak = excluded.ak";
                self.tx.prepare_cached(sql)?.execute(params![host.as_bytes(), ak.as_bytes()])?;
            }
            Told::References(digest) => {
                let sql = "INSERT INTO reference (number, digest) VALUES (?1, ?2)";
                self.tx.prepare_cached(sql)?.execute(params![int(self.control), digest.as_bytes()])?;
            }
            Told::Outcome { artifact } => {
                let sql = "INSERT OR IGNORE INTO outcome (artifact, idx) VALUES (?1, ?2)";
                self.tx.prepare_cached(sql)?.execute(params![int(artifact), idx])?;
            }
            Told::Nothing => {}
        }
        Ok(())
    }

    fn artifact(&self, index: u64, artifact: Artifact) -> Result<(), IndexFault> {
        let mut terms = artifact.terms;
        terms.extend(
            self.digest("SELECT ak FROM ak WHERE host = ?1", artifact.host.as_bytes())?.map(Term::Ak),
        );
        let sql = "SELECT digest FROM reference WHERE number <= ?1 ORDER BY number DESC LIMIT 1";
        terms.extend(self.digest(sql, int(artifact.control))?.map(Term::References));
        for term in &terms {
            self.term(index, term)?;
        }
        if let Some(boot) = &artifact.boot {
            let id = self.term(index, &Term::Boot(boot.name))?;
            self.boot(id, index, boot)?;
        }
        Ok(())
    }

    fn digest(&self, sql: &str, by: impl rusqlite::ToSql) -> Result<Option<Sha256Digest>, IndexFault> {
        let found = self.tx.prepare_cached(sql)?.query_row([by], |row| row.get(0)).optional()?;
        Ok(found.map(Sha256Digest::new))
    }

    /// Files the artifact under a value, and says by which number the value goes.
    fn term(&self, index: u64, term: &Term) -> Result<i64, IndexFault> {
        let (kind, value) = term.key();
        let mut find = self.tx.prepare_cached("SELECT id FROM value WHERE kind = ?1 AND value = ?2")?;
        let id: i64 = match find.query_row(params![kind, value], |row| row.get(0)).optional()? {
            Some(id) => id,
            None => {
                let sql = "INSERT INTO value (kind, value) VALUES (?1, ?2)";
                self.tx.prepare_cached(sql)?.execute(params![kind, value])?;
                self.tx.last_insert_rowid()
            }
        };
        let sql = "INSERT INTO term (value, idx) VALUES (?1, ?2)";
        self.tx.prepare_cached(sql)?.execute(params![id, int(index)])?;
        Ok(id)
    }

    /// Files the registers of a boot, once. Evidence that is gone leaves a boot whose registers aren't known, until another artifact has them.
    fn boot(&self, id: i64, index: u64, boot: &Boot) -> Result<(), IndexFault> {
        let mut find = self.tx.prepare_cached("SELECT known FROM boot WHERE id = ?1")?;
        let known: Option<bool> = find.query_row([id], |row| row.get(0)).optional()?;
        if known == Some(true) {
            return Ok(());
        }
        let found = self.store.blob(&boot.evidence)?.and_then(|bytes| registers(&bytes, boot));
        let sql = "INSERT INTO boot (id, digest, first, known) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (id) DO UPDATE SET known = excluded.known";
        let row = params![id, boot.values.as_bytes(), int(index), found.is_some()];
        self.tx.prepare_cached(sql)?.execute(row)?;
        let sql = "INSERT OR IGNORE INTO pcr (bank, pcr, value, boot) VALUES (?1, ?2, ?3, ?4)";
        let mut keep = self.tx.prepare_cached(sql)?;
        for register in found.unwrap_or_default() {
            keep.execute(params![register.bank, register.pcr, register.value, id])?;
        }
        Ok(())
    }
}
