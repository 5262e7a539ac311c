//! What a witness's operator writes down: `witness.toml`, typed and checked, paths made absolute.
//!
//! Refused: keys that aren't known, a log without keys or named twice, a verifier key under another name than its log's origin.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use countersign_core::note::NoteKey;
use countersign_core::witness::vkey::parse_log_key;
use serde::Deserialize;

/// Largest file that is read.
const MAX_CONFIG_BYTES: u64 = 256 * 1024;
/// Most logs of one witness.
pub const MAX_LOGS: usize = 256;
/// Most keys of one log: those of a few rotations.
const MAX_KEYS: usize = 16;

/// Why a configuration isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, a key that isn't known, one that is missing.
    #[error("{path}: {source}")]
    Toml {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value that can't be.
    #[error("{path}: {what}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Where the witness's key lives.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum KeyPlace {
    /// `kind = "file"`: Ed25519 in PKCS#8 PEM, readable by its owner alone.
    File {
        /// Which file.
        path: PathBuf,
    },
    /// `kind = "pkcs11"`: an Ed25519 key in a token.
    Pkcs11 {
        /// The module, a shared library.
        module: PathBuf,
        /// Label of the token.
        token: String,
        /// File with the user PIN.
        pin_file: PathBuf,
        /// Label of the key.
        label: String,
    },
}

/// `[tls]`: certificate and key for HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file, the server's certificate first.
    pub certificate: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
}

/// A log that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its origin.
    pub origin: String,
    /// Keys of which one has to have signed.
    pub keys: Vec<NoteKey>,
}

/// `[limits]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Time for a request to arrive, its head included, seconds; also for a TLS handshake.
    pub request_secs: u64,
    /// Age at which a connection takes no further request, seconds.
    pub connection_secs: u64,
    /// Time for requests under way to end when the process is asked to stop, seconds.
    pub drain_secs: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 256, request_secs: 10, connection_secs: 600, drain_secs: 5 }
    }
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name in signature lines, a schema-less URL.
    pub name: String,
    /// Address and port.
    pub listen: SocketAddr,
    /// Directory of the witness's memory.
    pub state_dir: PathBuf,
    /// The key.
    pub key: KeyPlace,
    /// HTTPS; without it plain HTTP, for loopback and behind a proxy.
    pub tls: Option<Tls>,
    /// Logs.
    pub logs: Vec<Log>,
    /// Bounds.
    pub limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// Name in its signature lines, a URL without `https://`.
    name: String,
    /// Address and port.
    listen: SocketAddr,
    /// Directory of its memory. Relative paths are taken from the file's directory.
    state_dir: PathBuf,
    /// Where its key lives.
    key: KeyPlace,
    /// HTTPS; without it plain HTTP, for loopback and behind a proxy.
    tls: Option<Tls>,
    /// Logs that it follows, `[[log]]`, at most 256.
    #[serde(default)]
    log: Vec<LogDocument>,
    /// Bounds. All have defaults, and all but `drain_secs` must be above zero.
    #[serde(default)]
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogDocument {
    /// Name of the log.
    origin: String,
    /// Its verifier keys, of which one has to have signed, as `countersign witness log-keys` prints them; at most 16.
    keys: Vec<String>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let value = |what: &str| ConfigError::Value { path: path.to_owned(), what: what.to_owned() };
        if std::fs::metadata(path).map_err(read)?.len() > MAX_CONFIG_BYTES {
            return Err(value("larger than 256 KiB"));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let document: Document = toml::from_str(&text)
            .map_err(|source| ConfigError::Toml { path: path.to_owned(), source: Box::new(source) })?;
        let absolute = std::path::absolute(path).map_err(read)?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        document.checked(base).map_err(|what| value(&what))
    }
}

impl Document {
    fn checked(self, base: &Path) -> Result<Config, String> {
        let limits = self.limits;
        let times = [limits.request_secs, limits.connection_secs];
        if limits.connections == 0 || times.contains(&0) {
            return Err("limits: every limit but `drain_secs` must be above zero".to_owned());
        }
        if self.log.len() > MAX_LOGS {
            return Err(format!("more than {MAX_LOGS} logs"));
        }
        let mut logs: Vec<Log> = Vec::with_capacity(self.log.len());
        for log in &self.log {
            let log = log.checked()?;
            if logs.iter().any(|known| known.origin == log.origin) {
                return Err(format!("log {} stands twice", log.origin));
            }
            logs.push(log);
        }
        let at_base = |path: &PathBuf| base.join(path);
        let key = match self.key {
            KeyPlace::File { path } => KeyPlace::File { path: at_base(&path) },
            KeyPlace::Pkcs11 { module, token, pin_file, label } => {
                KeyPlace::Pkcs11 { module: at_base(&module), token, pin_file: at_base(&pin_file), label }
            }
        };
        let tls = self.tls.map(|tls| Tls { certificate: at_base(&tls.certificate), key: at_base(&tls.key) });
        let state_dir = at_base(&self.state_dir);
        Ok(Config { name: self.name, listen: self.listen, state_dir, key, tls, logs, limits })
    }
}

impl LogDocument {
    fn checked(&self) -> Result<Log, String> {
        if self.keys.is_empty() || self.keys.len() > MAX_KEYS {
            return Err(format!("log {}: 1 to {MAX_KEYS} keys", self.origin));
        }
        let mut keys = Vec::with_capacity(self.keys.len());
        for text in &self.keys {
            let key =
                parse_log_key(text).map_err(|error| format!("log {}: {text:?}: {error}", self.origin))?;
            // C2SP tlog-checkpoint: the name of a log's key is its origin.
            if key.name() != self.origin {
                return Err(format!("log {}: a key of another name", self.origin));
            }
            keys.push(key);
        }
        Ok(Log { origin: self.origin.clone(), keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("witness.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    fn good() -> String {
        format!(
            "name = \"w.example\"\nlisten = \"127.0.0.1:0\"\nstate_dir = \"state\"\n[key]\nkind = \"file\"\npath = \"key\"\n\
             [[log]]\norigin = \"PeterNeumann\"\nkeys = [\"{KEY}\"]\n"
        )
    }

    #[test]
    fn a_good_file_is_read_and_its_paths_are_absolute() {
        let config = load(&good()).unwrap();
        assert_eq!(config.limits, Limits::default());
        assert!(config.state_dir.is_absolute());
        assert_eq!(config.logs[0].origin, "PeterNeumann");
        assert!(matches!(config.key, KeyPlace::File { path } if path.is_absolute()));
    }

    #[test]
    fn unknown_missing_and_senseless_values_are_refused() {
        let log = format!("[[log]]\norigin = \"PeterNeumann\"\nkeys = [\"{KEY}\"]\n");
        let twice = format!("{log}{log}");
        for (from, to) in [
            ("state_dir", "state_dirs"),
            ("name = \"w.example\"\n", ""),
            ("kind = \"file\"", "kind = \"paper\""),
            ("origin = \"PeterNeumann\"", "origin = \"Other\""),
            ("c74f20a3", "c74f20a4"),
            (&format!("\"{KEY}\""), ""),
            (&log, &twice),
            ("[[log]]", "[limits]\nconnections = 0\n[[log]]"),
            ("127.0.0.1:0", "localhost"),
        ] {
            let changed = good().replacen(from, to, 1);
            assert_ne!(changed, good(), "{from}");
            assert!(load(&changed).is_err(), "{from} -> {to}");
        }
    }
}
