//! The store that replicas share: one PostgreSQL database, any number of authority processes.
//!
//! Every append takes the lock of the one row that holds the trees' right edges and then reads what it builds upon, at READ COMMITTED: so
//! there is one log, no leader, and no two heads of one size. Commits are durable when they return (`synchronous_commit = on`, `fsync` and
//! `full_page_writes` are demanded of the server); signatures may be lost and are made again. Notifications only save time: whatever has
//! to be true is compared under the lock.
//!
//! Each connection is used by one thread at a time and has a runtime of its own, so that nothing runs when nobody waits. A connection that
//! is lost is made again by the next call; a commit whose answer was lost is looked up before anybody is told anything.
//!
//! Refused at open: a database without this store, another log's store, a newer one, a server whose settings lose what was committed, and
//! any way over a network without TLS (unless the configuration says `danger_plaintext`).

mod apply;
mod facts;
mod import;
mod link;
mod prune;
mod read;
mod schema;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod standby_tests;
#[cfg(test)]
mod tests;
mod tls;
mod watch;
mod write;

use std::path::PathBuf;
use std::time::Duration;

use countersign_core::name::Origin;

use super::OpenFault;
use super::failpoint::FailpointSet;
use link::{Link, Side};

pub use import::{MigrateFault, import};
pub use prune::prune;
pub use read::PostgresReader;
pub use watch::Watch;
pub use write::PostgresWriter;

/// Where a database is and how to reach it.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Name or address of the server, or the directory of its Unix socket (begins with `/`).
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// File with the role's password, read at each connection; none where the server asks for none.
    pub password_file: Option<PathBuf>,
    /// How the way over a network is protected. Not used for a Unix socket.
    pub tls: TlsChoice,
    /// The log that must be in it.
    pub origin: Origin,
    /// Reading connections.
    pub readers: usize,
    /// How long one statement may take, and how long one may wait for another replica's lock.
    pub statement_timeout: Duration,
    /// Failures to inject; none in service.
    pub failpoints: FailpointSet,
}

/// How the way to the server is protected.
#[derive(Clone, Debug)]
pub enum TlsChoice {
    /// TLS 1.2 or later; the server's certificate must lead to this CA and carry the name that was connected to (`verify-full`).
    VerifyFull {
        /// PEM file with the CA's certificates.
        ca: PathBuf,
        /// PEM files with the client's certificate and key, where the server asks for them.
        client: Option<(PathBuf, PathBuf)>,
    },
    /// No protection: whoever is on the way reads and changes everything.
    DangerPlaintext,
}

impl PostgresOptions {
    /// A database behind a Unix socket, with four readers and no failpoints.
    #[must_use]
    pub fn local(host: impl Into<String>, port: u16, database: &str, user: &str, origin: Origin) -> Self {
        Self {
            host: host.into(),
            port,
            database: database.to_owned(),
            user: user.to_owned(),
            password_file: None,
            tls: TlsChoice::DangerPlaintext,
            origin,
            readers: 4,
            statement_timeout: Duration::from_secs(10),
            failpoints: FailpointSet::none(),
        }
    }

    fn is_local(&self) -> bool {
        self.host.starts_with('/')
    }
}

/// Makes a new, empty store in a database that exists and doesn't hold one. The role needs the right to create a schema in it.
///
/// # Errors
/// [`OpenFault::Exists`], and whatever else keeps it from being made.
pub fn create(options: &PostgresOptions) -> Result<(), OpenFault> {
    let link = Link::connect(options, Side::Founding)?;
    link.run(schema::found(&link.session, options.origin.as_str())).map_err(link::LinkFault::from)?
}

/// Takes away a store that was just made and that nobody serves: what an initialisation that failed leaves.
///
/// # Errors
/// [`OpenFault`]; the store stays.
pub(crate) fn discard(options: &PostgresOptions) -> Result<(), OpenFault> {
    let link = write::open(options)?;
    let dropped = link.run_unhurried(link.session.simply(&format!("DROP SCHEMA {} CASCADE", schema::SCHEMA)));
    Ok(dropped.map_err(link::LinkFault::from)?)
}

/// Opens both sides of a store, and brings an older one up to date.
///
/// # Errors
/// [`OpenFault`].
pub fn open(options: &PostgresOptions) -> Result<(PostgresWriter, PostgresReader), OpenFault> {
    let link = write::open(options)?;
    Ok((PostgresWriter::new(options.clone(), link), open_reader(options)?))
}

/// Opens the reading side alone.
///
/// # Errors
/// [`OpenFault`].
pub fn open_reader(options: &PostgresOptions) -> Result<PostgresReader, OpenFault> {
    Ok(PostgresReader::new(options.clone(), read::open(options)?))
}
