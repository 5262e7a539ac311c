//! One connection to the database, with its prepared statements and a runtime that runs only while somebody waits for an answer.
//!
//! Comes in: statements and parameters. Goes out: rows, or a fault that says whether the connection is lost. Everything has a deadline on
//! this side as well, since a server that is cut off answers nothing.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error as PgError, NoTls, Row, Statement};

use super::super::OpenFault;
use super::{PostgresOptions, TlsChoice, tls};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an answer may take beyond the statement's own limit, which the server keeps.
const GRACE: Duration = Duration::from_secs(3);
/// How long a replica that stands still may hold the head row before the server ends its session: less than others wait for the row.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);
/// Notifications that may wait to be looked at; one is as good as many.
const NOTES: usize = 16;

/// A read or write inside the database that didn't do what it should.
#[derive(Debug)]
pub(super) enum RowFault {
    /// The server's word, or the connection's end.
    Database(PgError),
    /// A row that isn't what was written.
    Corrupt(&'static str),
    /// No answer in time: the connection must not be used again.
    Deadline,
    /// The server did what it was asked, but not all that this means: a commit that a standby hasn't confirmed.
    Warned,
}

impl From<PgError> for RowFault {
    fn from(fault: PgError) -> Self {
        Self::Database(fault)
    }
}

impl RowFault {
    /// Whether the connection is of no use any more.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Corrupt(_) => false,
            Self::Deadline | Self::Warned => true,
            // https://www.postgresql.org/docs/current/errcodes-appendix.html: 08 connection, 57P administrator or crash, 25P03 and 57P05
            // sessions that stood still. What the server doesn't say itself is a connection that broke.
            Self::Database(fault) => fault.code().is_none_or(|code| {
                let code = code.code();
                code.starts_with("08") || code.starts_with("57P") || code == "25P03"
            }),
        }
    }
}

pub(super) type RowResult<T> = Result<T, RowFault>;

/// The server's words for the operator: state and message, never the detail line, which may quote rows.
pub(super) fn words(fault: &PgError) -> String {
    match fault.as_db_error() {
        Some(error) => format!("{} {}: {}", error.severity(), error.code().code(), error.message()),
        None => match std::error::Error::source(fault) {
            Some(source) => format!("{fault}: {source}"),
            None => fault.to_string(),
        },
    }
}

impl std::fmt::Display for RowFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Database(fault) => f.write_str(&words(fault)),
            Self::Corrupt(what) => f.write_str(what),
            Self::Deadline => f.write_str("no answer in time"),
            Self::Warned => f.write_str("the server warned that a commit isn't on its standby"),
        }
    }
}

/// Why there is no connection, or none that may be used.
pub(super) struct LinkFault(String);

impl From<RowFault> for LinkFault {
    fn from(fault: RowFault) -> Self {
        Self(fault.to_string())
    }
}

impl From<LinkFault> for OpenFault {
    fn from(fault: LinkFault) -> Self {
        Self::Postgres(fault.0)
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Making a store.
    Founding,
    /// Appending.
    Writing,
    /// Reading only; the server refuses anything else.
    Reading,
}

/// A client and its prepared statements.
pub(super) struct Session {
    pub(super) client: Client,
    prepared: Mutex<HashMap<&'static str, Statement>>,
    pub(super) origin: String,
    /// The server has sent a warning since this was last looked at.
    warned: Arc<AtomicBool>,
}

/// A connection.
pub(super) struct Link {
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
    pub(super) session: Session,
    deadline: Duration,
    notes: Mutex<mpsc::Receiver<()>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Doesn't wait, so that it may happen on any thread; the socket closes with the runtime's tasks.
            runtime.shutdown_background();
        }
    }
}

impl Link {
    /// Connects and sets the session up.
    pub(super) fn connect(options: &PostgresOptions, side: Side) -> Result<Self, OpenFault> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| OpenFault::Postgres(error.to_string()))?;
        let config = settings(options, side)?;
        let (tell, notes) = mpsc::channel(NOTES);
        let warned = Arc::new(AtomicBool::new(false));
        let ears = Ears { tell, warned: Arc::clone(&warned) };
        let connecting = async {
            let unreached = |error: PgError| OpenFault::Postgres(words(&error));
            let client = if config.get_ssl_mode() == SslMode::Disable {
                let (client, connection) = config.connect(NoTls).await.map_err(unreached)?;
                tokio::spawn(drive(connection, ears));
                client
            } else {
                let TlsChoice::VerifyFull { ca, client } = &options.tls else {
                    return Err(OpenFault::Postgres("TLS without a CA".to_owned()));
                };
                let tls = tls::Rustls(tls::client_config(ca, client.as_ref())?);
                let (client, connection) = config.connect(tls).await.map_err(unreached)?;
                tokio::spawn(drive(connection, ears));
                client
            };
            Ok(client)
        };
        let connected = within(&runtime, 2 * CONNECT_TIMEOUT, connecting);
        let client =
            match connected.unwrap_or_else(|| Err(OpenFault::Postgres("no connection in time".to_owned()))) {
                Ok(client) => client,
                Err(fault) => {
                    runtime.shutdown_background();
                    return Err(fault);
                }
            };
        let session =
            Session { client, prepared: Mutex::default(), origin: options.origin.to_string(), warned };
        let deadline = 2 * options.statement_timeout + GRACE;
        Ok(Self { runtime: Some(runtime), session, deadline, notes: Mutex::new(notes) })
    }

    /// Runs work on the connection; this thread waits. After [`RowFault::Deadline`] the link is of no use.
    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> RowResult<T> {
        let Some(runtime) = &self.runtime else { return Err(RowFault::Deadline) };
        within(runtime, self.deadline, work).ok_or(RowFault::Deadline)
    }

    /// The same without a deadline of this side, for the work of tools that read or write a whole store.
    pub(super) fn run_unhurried<T>(&self, work: impl Future<Output = RowResult<T>>) -> RowResult<T> {
        let Some(runtime) = &self.runtime else { return Err(RowFault::Deadline) };
        blocking(runtime, work)
    }

    /// Waits for a notification. `false`: none came in this time.
    pub(super) fn notified(&self, patience: Duration) -> RowResult<bool> {
        let Some(runtime) = &self.runtime else { return Err(RowFault::Deadline) };
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        match within(runtime, patience, notes.recv()) {
            Some(Some(())) => {
                while notes.try_recv().is_ok() {}
                Ok(true)
            }
            // The driver ended: the connection is lost.
            Some(None) => Err(RowFault::Deadline),
            None => Ok(false),
        }
    }

    /// Whether the connection is known to be lost.
    pub(super) fn is_closed(&self) -> bool {
        self.session.client.is_closed()
    }
}

/// Waits on this thread, also if it is one of another runtime's workers.
fn blocking<T>(runtime: &Runtime, work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| runtime.block_on(work))
}

/// The same for so long; `None` if that wasn't enough.
fn within<T>(runtime: &Runtime, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    blocking(runtime, async { tokio::time::timeout(limit, work).await.ok() })
}

/// What the server says unasked.
struct Ears {
    tell: mpsc::Sender<()>,
    warned: Arc<AtomicBool>,
}

/// Moves bytes until the connection ends.
async fn drive<S, T>(mut connection: Connection<S, T>, ears: Ears)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            // Full means that somebody is told already.
            Some(Ok(AsyncMessage::Notification(_))) => drop(ears.tell.try_send(())),
            Some(Ok(AsyncMessage::Notice(notice))) => {
                tracing::warn!(code = notice.code().code(), "{}", notice.message());
                ears.warned.store(true, Ordering::SeqCst);
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(error = words(&error), "a connection to the database ended");
                return;
            }
            None => return,
        }
    }
}

fn settings(options: &PostgresOptions, side: Side) -> Result<Config, OpenFault> {
    let mut config = Config::new();
    config.host(&options.host).port(options.port).dbname(&options.database).user(&options.user);
    if let Some(path) = &options.password_file {
        let read = |source| OpenFault::File { path: path.clone(), source };
        let password = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(read)?);
        config.password(password.trim_end_matches(['\r', '\n']));
    }
    let plaintext = options.is_local() || matches!(options.tls, TlsChoice::DangerPlaintext);
    config.ssl_mode(if plaintext { SslMode::Disable } else { SslMode::Require });
    config
        .application_name("countersign")
        .connect_timeout(CONNECT_TIMEOUT)
        // A server that vanished without a word is noticed after 5 s + 3 x 2 s of silence, or 10 s with bytes under way.
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(10))
        .target_session_attrs(tokio_postgres::config::TargetSessionAttrs::Any);
    let statement_ms = options.statement_timeout.as_millis();
    let idle_ms = IDLE_IN_TRANSACTION.as_millis();
    let read_only = if side == Side::Reading { "on" } else { "off" };
    // Every statement here looks rows up by an index. A plan made while a table was small must not become a scan when it has grown.
    config.options(format!(
        "-c synchronous_commit=on -c statement_timeout={statement_ms} -c lock_timeout={statement_ms} \
         -c idle_in_transaction_session_timeout={idle_ms} -c default_transaction_isolation=read\\ committed \
         -c default_transaction_read_only={read_only} -c search_path={},pg_catalog -c client_min_messages=warning \
         -c jit=off -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c TimeZone=UTC",
        super::schema::SCHEMA
    ));
    Ok(config)
}

impl Session {
    /// The prepared form of a statement.
    pub(super) async fn statement(&self, sql: &'static str) -> Result<Statement, PgError> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(sql, statement.clone());
        Ok(statement)
    }

    /// Rows of a query.
    pub(super) async fn rows(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> RowResult<Vec<Row>> {
        let statement = self.statement(sql).await?;
        Ok(self.client.query(&statement, parameters).await?)
    }

    /// The only row of a query, or none.
    pub(super) async fn row(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> RowResult<Option<Row>> {
        Ok(self.rows(sql, parameters).await?.into_iter().next())
    }

    /// Changes rows; how many.
    pub(super) async fn execute(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> RowResult<u64> {
        let statement = self.statement(sql).await?;
        Ok(self.client.execute(&statement, parameters).await?)
    }

    /// Commits, and takes no answer with a warning for one.
    pub(super) async fn commit(&self, sql: &str) -> RowResult<()> {
        self.heeding(self.simply(sql)).await
    }

    /// Runs work that ends with a commit, and takes none with a warning for one: the server says so when it stopped waiting for its synchronous
    /// standby (https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION). Messages come in order, so the warning is
    /// here first.
    pub(super) async fn heeding<T>(&self, work: impl Future<Output = RowResult<T>>) -> RowResult<T> {
        self.warned.store(false, Ordering::SeqCst);
        let done = work.await?;
        if self.warned.load(Ordering::SeqCst) { Err(RowFault::Warned) } else { Ok(done) }
    }

    /// Runs statements without parameters.
    pub(super) async fn simply(&self, sql: &str) -> RowResult<()> {
        Ok(self.client.batch_execute(sql).await?)
    }
}

/// A column as the type that was written.
pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> RowResult<T> {
    row.try_get(at).map_err(|_| RowFault::Corrupt("a column"))
}

/// A column of exactly so many bytes.
pub(super) fn bytes<const N: usize>(row: &Row, at: usize) -> RowResult<[u8; N]> {
    column::<&[u8]>(row, at)?.try_into().map_err(|_| RowFault::Corrupt("a column's length"))
}
