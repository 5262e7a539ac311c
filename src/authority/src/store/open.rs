//! Where a store is, whichever kind it is: making one, opening both of its sides, opening it for reading alone.
//!
//! Refused, each with its own error: a store that isn't there, isn't one, is another log's, is newer than this program, or whose settings
//! don't keep what is committed. Nothing is made by opening, and nothing is changed by opening for reading alone.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_core::name::Origin;

use super::postgres::{self, PostgresOptions};
use super::sqlite::{self, SqliteOptions};
use super::{PruneFault, PrunePlan, Pruning, Reader, StoreFault, Writer};

/// Why a store can't be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    /// The file system said no.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process writes this store.
    #[error("{path} is in use by another process")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// Not a store of this program, or one whose making was cut short.
    #[error("this isn't a store of this program")]
    NotAStore,
    /// There is a store already.
    #[error("the database holds a store already")]
    Exists,
    /// The store of another log.
    #[error("the store belongs to the log {found}, not to {expected}")]
    OtherLog {
        /// Origin in the store.
        found: String,
        /// Origin asked for.
        expected: String,
    },
    /// Made by a later version of this program.
    #[error("the store has schema version {found}, this program knows {known}")]
    Newer {
        /// In the store.
        found: i32,
        /// The newest known.
        known: i32,
    },
    /// Made by an earlier version of this program, and opened for reading alone.
    #[error(
        "the store has schema version {found}, this program reads {known}: what reads alone changes nothing, so start an authority of this version over the store or over a copy of it once"
    )]
    Older {
        /// In the store.
        found: i32,
        /// The one that is read.
        known: i32,
    },
    /// There is a journal, and the files that reading it takes can't be made.
    #[error(
        "{path} has changes that aren't in the database yet, and can't be read where nothing can be written: copy both files elsewhere"
    )]
    Journal {
        /// The journal.
        path: PathBuf,
    },
    /// The tables couldn't be brought up to date.
    #[error("the store can't be brought up to date: {0}")]
    Upgrade(StoreFault),
    /// A recorded migration isn't the one that this program has.
    #[error("migration {version} in the store isn't the one of this program")]
    Migration {
        /// Which.
        version: i32,
    },
    /// The database doesn't take the settings that durability needs.
    #[error("the database doesn't accept {0}")]
    Setting(&'static str),
    /// Certificates for the way to the database can't be used.
    #[error("TLS to the database: {path}: {reason}")]
    Tls {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// SQLite said no.
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    /// PostgreSQL can't be reached or said no.
    #[error("PostgreSQL: {0}")]
    Postgres(String),
}

/// Where a store is and how to open it.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a file.
    Sqlite(SqliteOptions),
    /// In a database that replicas share.
    Postgres(PostgresOptions),
}

/// Both sides of an open store.
pub struct Opened {
    /// The writing side.
    pub writer: Box<dyn Writer>,
    /// The reading side.
    pub reader: Arc<dyn Reader>,
}

impl Place {
    /// The log that has to be there.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        match self {
            Self::Sqlite(options) => &options.origin,
            Self::Postgres(options) => &options.origin,
        }
    }

    /// Whether other processes may write to the same log.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Makes a new, empty store.
    ///
    /// # Errors
    /// [`OpenFault`], above all if there is one.
    pub fn create(&self) -> Result<(), OpenFault> {
        match self {
            Self::Sqlite(options) => sqlite::create(&options.path, &options.origin),
            Self::Postgres(options) => postgres::create(options),
        }
    }

    /// Opens both sides.
    ///
    /// # Errors
    /// [`OpenFault`].
    pub fn open(&self) -> Result<Opened, OpenFault> {
        match self {
            Self::Sqlite(options) => {
                let (writer, reader) = sqlite::open(options)?;
                Ok(Opened { writer: Box::new(writer), reader: Arc::new(reader) })
            }
            Self::Postgres(options) => {
                let (writer, reader) = postgres::open(options)?;
                Ok(Opened { writer: Box::new(writer), reader: Arc::new(reader) })
            }
        }
    }

    /// Removes what old decisions were made from; authorities may serve meanwhile. `progress` is told how many leaves are done, of both
    /// passes together.
    ///
    /// # Errors
    /// [`PruneFault`].
    pub fn prune(&self, plan: &PrunePlan, progress: &mut dyn FnMut(u64)) -> Result<Pruning, PruneFault> {
        match self {
            Self::Sqlite(options) => sqlite::prune(options, plan, progress),
            Self::Postgres(options) => postgres::prune(options, plan, progress),
        }
    }

    /// Opens the reading side alone.
    ///
    /// # Errors
    /// [`OpenFault`].
    pub fn open_reader(&self) -> Result<Arc<dyn Reader>, OpenFault> {
        match self {
            Self::Sqlite(options) => Ok(Arc::new(sqlite::open_reader(options)?)),
            Self::Postgres(options) => Ok(Arc::new(postgres::open_reader(options)?)),
        }
    }
}
