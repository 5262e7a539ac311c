//! From `[store]` to a place: what fits together, and how the store is reached.
//!
//! Refused: a way over a network that is neither protected nor said to be unprotected.

use super::Store;
use crate::store::Place;
use crate::store::postgres::{PostgresOptions, TlsChoice};
use crate::store::sqlite::SqliteOptions;
use countersign_core::name::Origin;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// `[store]`: `kind = "postgres"`: a PostgreSQL database that any number of authorities share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// Name or address of the server, or the directory of its Unix socket.
    pub host: String,
    /// Port.
    #[serde(default = "postgres_port")]
    pub port: u16,
    /// Database. The store lives in the schema `countersign` of it.
    pub database: String,
    /// Role. It needs the right to create a schema when the store is made, and nothing but that schema later.
    pub user: String,
    /// File with the role's password, not readable by everyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// PEM file with the CA of the server's certificate, which must carry the name in `host`. Needed for every host but a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with this authority's certificate for the server, where the server asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_file: Option<PathBuf>,
    /// PEM file with its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
    /// Goes over the network without TLS: whoever is on the way reads and changes everything.
    #[serde(default)]
    pub danger_plaintext: bool,
    /// Connections that read; there is one more that writes, and one that listens.
    #[serde(default = "postgres_readers")]
    pub readers: usize,
    /// How long one statement may take, and how long a batch may wait for another replica's, seconds.
    #[serde(default = "postgres_statement_secs")]
    pub statement_secs: u64,
}

fn postgres_port() -> u16 {
    5432
}

fn postgres_readers() -> usize {
    Postgres::READERS
}

fn postgres_statement_secs() -> u64 {
    Postgres::STATEMENT_SECS
}

impl Postgres {
    /// Reading connections when nothing is said: as many as the embedded store has.
    pub const READERS: usize = 4;
    /// Limit of a statement when nothing is said: a full batch takes under a second.
    pub const STATEMENT_SECS: u64 = 10;

    pub(super) fn misfit(&self) -> Option<&'static str> {
        if self.readers == 0 || self.statement_secs == 0 {
            return Some("store.readers and store.statement_secs must be above zero");
        }
        if self.client_certificate_file.is_some() != self.client_key_file.is_some() {
            return Some("store.client_certificate_file and store.client_key_file belong together");
        }
        let protected = self.host.starts_with('/') || self.ca_file.is_some();
        if self.danger_plaintext == protected {
            return Some(
                "store.ca_file is needed for a server on the network (or danger_plaintext), and for no other",
            );
        }
        (self.client_key_file.is_some() && self.ca_file.is_none())
            .then_some("store.client_key_file needs store.ca_file")
    }

    /// Where the store of this log is.
    #[must_use]
    pub fn options(&self, origin: &Origin) -> PostgresOptions {
        let client = self.client_certificate_file.clone().zip(self.client_key_file.clone());
        let tls = self
            .ca_file
            .clone()
            .map_or(TlsChoice::DangerPlaintext, |ca| TlsChoice::VerifyFull { ca, client });
        PostgresOptions {
            password_file: self.password_file.clone(),
            tls,
            readers: self.readers,
            statement_timeout: Duration::from_secs(self.statement_secs),
            ..PostgresOptions::local(&self.host, self.port, &self.database, &self.user, origin.clone())
        }
    }
}

impl Store {
    /// Where the store of this log is.
    #[must_use]
    pub fn place(&self, origin: &Origin) -> Place {
        match self {
            Self::Sqlite { path } => Place::Sqlite(SqliteOptions::new(path, origin.clone())),
            Self::Postgres(postgres) => Place::Postgres(postgres.options(origin)),
        }
    }
}
