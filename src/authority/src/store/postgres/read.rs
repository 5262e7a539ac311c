//! The reading side of the PostgreSQL store: a few connections, each used by one thread at a time, made again when they are lost.

use std::time::Duration;

use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::host::HostState;
use countersign_core::name::{HostId, RequestId};
use crossbeam_channel::{Receiver, Sender, bounded};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::super::ints::{int, uint};
use super::super::{
    Acknowledgement, ChallengeKey, HostNow, HostRow, JoinTokenRow, KnownOutcome, LogReader, MAX_PAGE,
    OpenFault, Pruning, ReadFault, SpentId, StoredHead, TableReader, TileCache, Tip, TripleHash,
};
use super::link::{Link, LinkFault, RowFault, RowResult, Session, Side, bytes, column};
use super::{PostgresOptions, facts, prune, schema};

/// How long a caller waits for a free connection: far longer than any query takes, shorter than any caller's deadline.
const FREE_TIMEOUT: Duration = Duration::from_secs(2);

const HOST: &str = "SELECT host.host, enrolment_idx, enrolment_hash, state, state_idx, leaf.bytes
                    FROM host JOIN leaf ON leaf.idx = enrolment_idx WHERE host.host = $1";
const HOSTS_AFTER: &str = "SELECT host.host, enrolment_idx, enrolment_hash, state, state_idx, leaf.bytes
                           FROM host JOIN leaf ON leaf.idx = enrolment_idx
                           WHERE host.host > $1 ORDER BY host.host LIMIT $2";

/// Reading connections behind one value that all threads share.
pub struct PostgresReader {
    free: Receiver<Option<Link>>,
    put_back: Sender<Option<Link>>,
    options: PostgresOptions,
    tiles: TileCache,
}

/// A connection on loan, or the right to make one; goes back when dropped, by a panic too.
struct Loan<'a> {
    link: Option<Link>,
    put_back: &'a Sender<Option<Link>>,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        // There is room: the channel holds as many as there are.
        let _ = self.put_back.try_send(self.link.take());
    }
}

impl PostgresReader {
    pub(super) fn new(options: PostgresOptions, first: Link) -> Self {
        let count = options.readers.max(1);
        let (put_back, free) = bounded(count);
        let links = std::iter::once(Some(first)).chain(std::iter::repeat_with(|| None)).take(count);
        links.for_each(|link| {
            let _ = put_back.try_send(link);
        });
        Self { free, put_back, options, tiles: TileCache::default() }
    }

    /// Reads on a connection that is free. One that turns out to be lost is made again, once: a read may be repeated.
    fn read<T>(
        &self,
        call: &'static str,
        work: impl AsyncFn(&Session) -> RowResult<T>,
    ) -> Result<T, ReadFault> {
        let link = self.free.recv_timeout(FREE_TIMEOUT).map_err(|_| ReadFault::Busy)?;
        let mut loan = Loan { link, put_back: &self.put_back };
        if let Some(link) = loan.link.take().filter(|link| !link.is_closed()) {
            match link.run(work(&link.session)).flatten() {
                Err(fault) if fault.is_lost() => {
                    tracing::debug!(call, %fault, "a reading connection was lost");
                }
                done => {
                    loan.link = Some(link);
                    return done.map_err(|fault| read_fault(call, &fault));
                }
            }
        }
        let unreached = |fault: OpenFault| ReadFault::Io { call, reason: fault.to_string() };
        let link = open(&self.options).map_err(unreached)?;
        let done = link.run(work(&link.session)).flatten();
        if !done.as_ref().is_err_and(RowFault::is_lost) {
            loan.link = Some(link);
        }
        done.map_err(|fault| read_fault(call, &fault))
    }

    fn head_where(
        &self,
        call: &'static str,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<StoredHead>, ReadFault> {
        self.read(call, async |session| {
            let rows = session.rows(sql, parameters).await?;
            facts::heads_of(session, &rows).await
        })
    }

    fn blob_where(
        &self,
        call: &'static str,
        sql: &'static str,
        key: &(dyn ToSql + Sync),
    ) -> Result<Option<Vec<u8>>, ReadFault> {
        self.read(call, async |session| {
            session.row(sql, &[key]).await?.map(|row| column(&row, 0)).transpose()
        })
    }
}

/// A reading connection to the right store.
pub(super) fn open(options: &PostgresOptions) -> Result<Link, OpenFault> {
    let link = Link::connect(options, Side::Reading)?;
    link.run(schema::check_reading(&link.session, options.origin.as_str())).map_err(LinkFault::from)??;
    Ok(link)
}

fn read_fault(call: &'static str, fault: &RowFault) -> ReadFault {
    match fault {
        RowFault::Corrupt(what) => ReadFault::Corrupt(what),
        other => ReadFault::Io { call, reason: other.to_string() },
    }
}

fn page(count: u64) -> i64 {
    int(count.min(MAX_PAGE))
}

/// Rows with an index each, cut where the first one is missing.
fn gapless<T>(first: u64, rows: &[Row], value: impl Fn(&Row) -> RowResult<T>) -> RowResult<Vec<T>> {
    let mut out = Vec::new();
    let mut expected = Some(first);
    for row in rows {
        let index = uint(column(row, 0)?);
        if Some(index) != expected {
            break;
        }
        out.push(value(row)?);
        expected = index.checked_add(1);
    }
    Ok(out)
}

impl LogReader for PostgresReader {
    fn leaf(&self, index: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        self.blob_where("leaf", "SELECT bytes FROM leaf WHERE idx = $1", &int(index))
    }

    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, ReadFault> {
        self.read("leaves", async |session| {
            let sql = "SELECT idx, bytes FROM leaf WHERE idx >= $1 ORDER BY idx LIMIT $2";
            let rows = session.rows(sql, &[&int(from), &page(count)]).await?;
            gapless(from, &rows, |row| column(row, 1))
        })
    }

    fn control_leaves(&self, after: u64, count: u64) -> Result<Vec<(u64, Vec<u8>)>, ReadFault> {
        self.read("control leaves", async |session| {
            let sql = "SELECT control.number, control.idx, leaf.bytes
                       FROM control JOIN leaf ON leaf.idx = control.idx
                       WHERE control.number > $1 ORDER BY control.number LIMIT $2";
            let rows = session.rows(sql, &[&int(after), &page(count)]).await?;
            gapless(after.saturating_add(1), &rows, |row| Ok((uint(column(row, 1)?), column(row, 2)?)))
        })
    }

    fn nodes(&self, level: u8, first: u64, count: u64) -> Result<Vec<TripleHash>, ReadFault> {
        self.read("nodes", async |session| {
            let rows = if level == 0 {
                let sql = "SELECT idx, hashes FROM leaf_hash WHERE idx >= $1 ORDER BY idx LIMIT $2";
                session.rows(sql, &[&int(first), &page(count)]).await?
            } else {
                let sql = "SELECT idx, hashes FROM node WHERE level = $3 AND idx >= $1 ORDER BY idx LIMIT $2";
                session.rows(sql, &[&int(first), &page(count), &i16::from(level)]).await?
            };
            gapless(first, &rows, |row| {
                TripleHash::from_bytes(column(row, 1)?).ok_or(RowFault::Corrupt("a tree node"))
            })
        })
    }

    fn tiles(&self) -> &TileCache {
        &self.tiles
    }

    fn head(&self, size: u64) -> Result<Option<StoredHead>, ReadFault> {
        let found = self.head_where("head", "SELECT size, body FROM head WHERE size = $1", &[&int(size)])?;
        Ok(found.into_iter().next())
    }

    fn heads(&self, from: u64, count: u64) -> Result<Vec<StoredHead>, ReadFault> {
        let sql = "SELECT size, body FROM head WHERE size >= $1 ORDER BY size LIMIT $2";
        self.head_where("heads", sql, &[&int(from), &page(count)])
    }

    fn newest_committed(&self) -> Result<Option<Tip>, ReadFault> {
        self.read("newest head", async |session| facts::tip(session).await)
    }

    fn newest_signed(&self) -> Result<Option<StoredHead>, ReadFault> {
        let sql = "SELECT size, body FROM head WHERE size = (SELECT max(size) FROM signature)";
        Ok(self.head_where("newest signed head", sql, &[])?.into_iter().next())
    }

    fn blob(&self, digest: &Sha256Digest) -> Result<Option<Vec<u8>>, ReadFault> {
        let digest: &[u8] = digest.as_bytes();
        self.blob_where("blob", "SELECT bytes FROM blob WHERE digest = $1", &digest)
    }

    fn prunings(&self) -> Result<Vec<Pruning>, ReadFault> {
        self.read("prunings", prune::recorded)
    }

    fn pruned(&self, digest: &Sha256Digest) -> Result<Option<Pruning>, ReadFault> {
        self.read("pruned", async |session| prune::took(session, digest).await)
    }
}

fn host_row(row: &Row) -> RowResult<HostRow> {
    let enrolment_leaf = (uint(column(row, 1)?), Sha256Digest::new(bytes(row, 2)?));
    let state = (column::<&[u8]>(row, 3)?, uint(column(row, 4)?));
    HostRow::of_columns(column(row, 0)?, enrolment_leaf, state, column(row, 5)?)
        .ok_or(RowFault::Corrupt("a host row"))
}

impl TableReader for PostgresReader {
    fn outcome(&self, host: &HostId, request_id: &RequestId) -> Result<Option<KnownOutcome>, ReadFault> {
        let asked = [(*host, request_id.clone())].into();
        self.read("outcome", async |session| Ok(facts::outcomes(session, &asked).await?.into_values().next()))
    }

    fn host(&self, host: &HostId) -> Result<Option<HostRow>, ReadFault> {
        self.read("host", async |session| {
            let host: &[u8] = host.as_bytes();
            session.row(HOST, &[&host]).await?.map(|row| host_row(&row)).transpose()
        })
    }

    fn host_now(&self, host: &HostId) -> Result<Option<HostNow>, ReadFault> {
        self.read("host now", async |session| {
            let sql = "SELECT enrolment_idx, enrolment_hash, key, state FROM host WHERE host = $1";
            let host: &[u8] = host.as_bytes();
            let Some(row) = session.row(sql, &[&host]).await? else { return Ok(None) };
            let state =
                HostState::parse(column(&row, 3)?).map_err(|_| RowFault::Corrupt("a host's state"))?;
            let digest = |at| Ok::<_, RowFault>(Sha256Digest::new(bytes(&row, at)?));
            Ok(Some(HostNow { enrolment_leaf: (uint(column(&row, 0)?), digest(1)?), key: digest(2)?, state }))
        })
    }

    fn hosts(&self, after: Option<&HostId>, count: u64) -> Result<Vec<HostRow>, ReadFault> {
        let after: &[u8] = after.map_or(&[], |host| host.as_bytes());
        self.read("hosts", async |session| {
            let rows = session.rows(HOSTS_AFTER, &[&after, &page(count)]).await?;
            rows.iter().map(host_row).collect()
        })
    }

    fn host_of_key(&self, thumbprint: &Sha256Digest) -> Result<Option<HostId>, ReadFault> {
        let asked = [*thumbprint].into();
        self.read("host of key", async |session| {
            Ok(facts::key_owners(session, &asked).await?.into_values().next())
        })
    }

    fn budget_left(&self, index: u64) -> Result<Option<u64>, ReadFault> {
        let asked = [index].into();
        self.read("budget", async |session| Ok(facts::budgets(session, &asked).await?.into_values().next()))
    }

    fn join_token(&self, token: &Sha256Digest) -> Result<Option<JoinTokenRow>, ReadFault> {
        let asked = [*token].into();
        self.read("join token", async |session| {
            Ok(facts::tokens(session, &asked).await?.into_values().next())
        })
    }

    fn is_spent(&self, id: &SpentId) -> Result<bool, ReadFault> {
        let asked = [*id].into();
        self.read("spent", async |session| Ok(!facts::spent(session, &asked).await?.is_empty()))
    }

    fn challenge_keys(&self) -> Result<Vec<ChallengeKey>, ReadFault> {
        self.read("challenge keys", async |session| {
            let sql = "SELECT id, key, made_ms FROM challenge_key ORDER BY made_ms DESC, id";
            let rows = session.rows(sql, &[]).await?;
            let keys = rows.iter().map(|row| {
                Ok(ChallengeKey { id: bytes(row, 0)?, key: bytes(row, 1)?, made_ms: uint(column(row, 2)?) })
            });
            keys.collect()
        })
    }

    fn acknowledgements(&self) -> Result<Vec<Acknowledgement>, ReadFault> {
        self.read("acknowledgements", async |session| {
            let sql = "SELECT gateway, control, time_ms FROM acknowledgement ORDER BY gateway";
            let rows = session.rows(sql, &[]).await?;
            let rows = rows.iter().map(|row| {
                Ok(Acknowledgement {
                    gateway: Sha256Digest::new(bytes(row, 0)?),
                    control: uint(column(row, 1)?),
                    time_ms: uint(column(row, 2)?),
                })
            });
            rows.collect()
        })
    }
}
