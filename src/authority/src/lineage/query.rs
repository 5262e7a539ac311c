//! Questions to the index. Each reads a bounded number of rows; what goes on has a cursor.

use super::file::{int, uint};
use super::{IndexFault, PcrValue, Term};
use countersign_core::digest::Sha256Digest;
use countersign_core::name::HostId;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::fmt;

/// Most indexes of one answer.
pub const MAX_FOUND: usize = 256;
/// Most outcomes of one artifact that are named: two of each of 128 gateways.
pub const MAX_OUTCOMES: usize = 256;
/// Boots with the wanted register of which nothing was found that are passed over within one answer.
const MAX_BOOTS: usize = 1_024;
/// Boots of unknown registers that one answer names.
const MAX_UNKNOWN: usize = 32;
/// Where a cursor stands that goes through boots of unknown registers: behind every boot whose registers are known.
const UNKNOWN_GROUP: u64 = i64::MAX.cast_unsigned();

/// What artifacts are asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The host.
    Host(HostId),
    /// SHA-256 of the attestation key's TPMT_PUBLIC.
    Ak(Sha256Digest),
    /// Key identifier (PROTOCOL §6.3) of a head key that signed the first signed head above it.
    HeadKey([u8; 4]),
    /// Digest of the policy document.
    Policy(Sha256Digest),
    /// Digest of the references document that was in force.
    References(Sha256Digest),
    /// Name of the reference set that matched.
    ReferenceSet(String),
    /// SHA-256 of the program.
    Workload(Sha256Digest),
    /// A register's value in the quote.
    Pcr(PcrValue),
    /// Artifacts of one family: the index of its root.
    Root(u64),
}

/// How far a question was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Of questions that go boot by boot: the boot.
    group: u64,
    /// Indexes below this one were handed out.
    from: u64,
}

impl Cursor {
    /// Begins behind an index.
    #[must_use]
    pub const fn after(index: u64) -> Self {
        Self { group: 0, from: index.saturating_add(1) }
    }

    /// The first index that wasn't handed out.
    #[must_use]
    pub const fn from(&self) -> u64 {
        self.from
    }

    /// Reads what [`fmt::Display`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<u64>().ok().filter(|_| digits)
        };
        let (group, from) = text.split_once('.')?;
        Some(Self { group: number(group)?, from: number(from)? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.group, self.from)
    }
}

/// What the index knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Leaves that were filed.
    pub indexed: u64,
    /// Indexes of allow leaves.
    pub artifacts: Vec<u64>,
    /// Where to go on.
    pub next: Option<Cursor>,
    /// Boots whose registers nobody knows any more, each by the digest of its quoted values and its first artifact: what was asked for may be
    /// among them. They come after everything that is known, and go on with the cursor.
    pub unknown: Vec<(Sha256Digest, u64)>,
}

pub(super) fn indexed(connection: &Connection) -> Result<u64, IndexFault> {
    Ok(uint(connection.query_row("SELECT next FROM meta", [], |row| row.get(0))?))
}

/// Outcomes of an artifact, one more than [`MAX_OUTCOMES`] at most.
pub(super) fn outcomes(connection: &Connection, artifact: u64) -> Result<Vec<u64>, IndexFault> {
    let sql = "SELECT idx FROM outcome WHERE artifact = ?1 ORDER BY idx LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let limit = int(MAX_OUTCOMES as u64 + 1);
    let rows = statement.query_map([int(artifact), limit], |row| Ok(uint(row.get(0)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn artifacts(
    connection: &Connection,
    wanted: &Wanted,
    after: Cursor,
    count: usize,
) -> Result<Found, IndexFault> {
    // One state of the file for all that is read.
    let tx = connection.unchecked_transaction()?;
    let mut found = Found { indexed: indexed(&tx)?, ..Found::default() };
    let count = count.clamp(1, MAX_FOUND);
    let term = match wanted {
        Wanted::Host(host) => Term::Host(*host),
        Wanted::Ak(digest) => Term::Ak(*digest),
        Wanted::Policy(digest) => Term::Policy(*digest),
        Wanted::References(digest) => Term::References(*digest),
        Wanted::ReferenceSet(name) => Term::ReferenceSet(name.clone()),
        Wanted::Workload(digest) => Term::Workload(*digest),
        Wanted::Root(index) => Term::Root(*index),
        Wanted::HeadKey(key) => {
            by_key(&tx, key, after, count, &mut found)?;
            return Ok(found);
        }
        Wanted::Pcr(value) => {
            if after.group < UNKNOWN_GROUP {
                by_register(&tx, value, after, count, &mut found)?;
            }
            // Named when what is known was all handed out, each once.
            if found.next.is_none() {
                let from = if after.group == UNKNOWN_GROUP { after.from } else { 0 };
                unknown(&tx, from, &mut found)?;
            }
            return Ok(found);
        }
    };
    if let Some(id) = value_id(&tx, &term)? {
        take(&tx, id, 0, after.from, u64::MAX, count, &mut found)?;
    }
    Ok(found)
}

fn value_id(connection: &Connection, term: &Term) -> Result<Option<i64>, IndexFault> {
    let (kind, value) = term.key();
    let mut find = connection.prepare_cached("SELECT id FROM value WHERE kind = ?1 AND value = ?2")?;
    Ok(find.query_row(params![kind, value], |row| row.get(0)).optional()?)
}

/// Adds indexes of one value in a range until there are `count`; sets the cursor if the range goes on.
fn take(
    connection: &Connection,
    id: i64,
    group: u64,
    from: u64,
    upto: u64,
    count: usize,
    found: &mut Found,
) -> Result<(), IndexFault> {
    let sql = "SELECT idx FROM term WHERE value = ?1 AND idx >= ?2 AND idx < ?3 ORDER BY idx LIMIT ?4";
    let mut statement = connection.prepare_cached(sql)?;
    let room = count.saturating_sub(found.artifacts.len());
    let limit = int(room as u64).saturating_add(1);
    let rows = statement
        .query_map(params![id, int(from), int(upto), limit], |row| Ok(uint(row.get(0)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    for index in rows {
        if found.artifacts.len() == count {
            found.next = Some(Cursor { group, from: index });
            return Ok(());
        }
        found.artifacts.push(index);
    }
    Ok(())
}

fn by_key(
    connection: &Connection,
    key: &[u8; 4],
    after: Cursor,
    count: usize,
    found: &mut Found,
) -> Result<(), IndexFault> {
    let Some(any) = value_id(connection, &Term::Any)? else { return Ok(()) };
    let sql = "SELECT first, upto FROM span WHERE key = ?1 AND upto > ?2 ORDER BY first LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let limit = int(MAX_BOOTS as u64);
    let rows = statement
        .query_map(params![key, int(after.from), limit], |row| Ok((uint(row.get(0)?), uint(row.get(1)?))))?;
    let spans = rows.collect::<Result<Vec<(u64, u64)>, _>>()?;
    let whole = spans.len() < MAX_BOOTS;
    for (first, upto) in &spans {
        take(connection, any, 0, after.from.max(*first), *upto, count, found)?;
        if found.next.is_some() {
            return Ok(());
        }
    }
    found.next = spans.last().filter(|_| !whole).map(|(_, upto)| Cursor { group: 0, from: *upto });
    Ok(())
}

/// Boot by boot, since a register's value may be that of many.
fn by_register(
    connection: &Connection,
    wanted: &PcrValue,
    after: Cursor,
    count: usize,
    found: &mut Found,
) -> Result<(), IndexFault> {
    let sql = "SELECT boot FROM pcr WHERE bank = ?1 AND pcr = ?2 AND value = ?3 AND boot >= ?4 ORDER BY boot LIMIT ?5";
    let mut statement = connection.prepare_cached(sql)?;
    let row = params![wanted.bank, wanted.pcr, wanted.value, int(after.group), int(MAX_BOOTS as u64)];
    let boots = statement.query_map(row, |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    let whole = boots.len() < MAX_BOOTS;
    for boot in &boots {
        let from = if uint(*boot) == after.group { after.from } else { 0 };
        take(connection, *boot, uint(*boot), from, u64::MAX, count, found)?;
        if found.next.is_some() {
            return Ok(());
        }
    }
    let last = boots.last().filter(|_| !whole);
    found.next = last.map(|boot| Cursor { group: uint(*boot).saturating_add(1), from: 0 });
    Ok(())
}

/// Boots of unknown registers from this identifier on.
fn unknown(connection: &Connection, from: u64, found: &mut Found) -> Result<(), IndexFault> {
    let sql = "SELECT id, digest, first FROM boot WHERE known = 0 AND id >= ?1 ORDER BY id LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let row = params![int(from), int(MAX_UNKNOWN as u64 + 1)];
    let boots = statement
        .query_map(row, |row| Ok((uint(row.get(0)?), Sha256Digest::new(row.get(1)?), uint(row.get(2)?))))?;
    for boot in boots {
        let (id, digest, first) = boot?;
        if found.unknown.len() == MAX_UNKNOWN {
            found.next = Some(Cursor { group: UNKNOWN_GROUP, from: id });
            break;
        }
        found.unknown.push((digest, first));
    }
    Ok(())
}
