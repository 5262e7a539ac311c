//! The gateway's configuration file: TOML, every key known, every value in its domain, or refused at start.

use crate::admit::Rules;
use crate::exec::environment::{EnvironmentName, EnvironmentRefused};
use countersign_core::name::Audience;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Larger than any sensible file.
const MAX_CONFIG_LEN: u64 = 64 * 1024;
/// Shortest lease: below, every admission would pull.
pub const MIN_LEASE_SECS: u64 = 5;
/// Longest lease: for so long a revocation may stay unnoticed by a gateway that is cut off.
pub const MAX_LEASE_SECS: u64 = 86_400;
/// Lease if none is stated.
pub const DEFAULT_LEASE_SECS: u64 = 300;
/// Most audiences of one gateway.
const MAX_AUDIENCES: usize = 64;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Can't be read.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Not the TOML that is expected, or too long.
    #[error("configuration: {0}")]
    Toml(#[from] toml::de::Error),
    /// Longer than a configuration can be.
    #[error("the configuration is longer than {MAX_CONFIG_LEN} bytes")]
    TooLong,
    /// A key whose value is out of its domain.
    #[error("configuration key {0} is out of its domain")]
    Value(&'static str),
    /// A variable that can't be passed on.
    #[error("exec.environment: {0}")]
    Environment(#[from] EnvironmentRefused),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: String,
    audiences: Vec<String>,
    #[serde(default = "default_lease_secs")]
    lease_secs: u64,
    state_dir: PathBuf,
    trust_bundle: PathBuf,
    authority: AuthorityConfig,
    #[serde(default)]
    exec: ExecDocument,
}

const fn default_lease_secs() -> u64 {
    DEFAULT_LEASE_SECS
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecDocument {
    #[serde(default)]
    environment: Vec<String>,
}

/// Where the authority is and who this gateway is to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityConfig {
    /// `https://host:port` of the service listener.
    pub url: String,
    /// The gateway's certificate, PEM.
    pub client_certificate: PathBuf,
    /// Its private key, PEM.
    pub client_key: PathBuf,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Name, audiences, lease.
    pub rules: Rules,
    /// Memory of this gateway.
    pub state_dir: PathBuf,
    /// Pinned trust bundle, JSON.
    pub trust_bundle: PathBuf,
    /// The authority.
    pub authority: AuthorityConfig,
    /// Variables that the exec door passes on beside the fixed ones.
    pub environment: Vec<EnvironmentName>,
}

impl GatewayConfig {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let io = |source| ConfigError::Io { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_CONFIG_LEN + 1), &mut text)
            .map_err(io)?;
        if u64::try_from(text.len()).is_ok_and(|len| len <= MAX_CONFIG_LEN) {
            Self::parse(&text)
        } else {
            Err(ConfigError::TooLong)
        }
    }

    /// Parses and checks.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let document: Document = toml::from_str(text)?;
        let name = document.name;
        if !(1..=64).contains(&name.len()) || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ConfigError::Value("name"));
        }
        if !(1..=MAX_AUDIENCES).contains(&document.audiences.len()) {
            return Err(ConfigError::Value("audiences"));
        }
        let audiences = document.audiences.iter().map(|text| Audience::parse(text));
        let audiences = audiences.collect::<Result<_, _>>().map_err(|_| ConfigError::Value("audiences"))?;
        if !(MIN_LEASE_SECS..=MAX_LEASE_SECS).contains(&document.lease_secs) {
            return Err(ConfigError::Value("lease_secs"));
        }
        if !document.authority.url.starts_with("https://") {
            return Err(ConfigError::Value("authority.url"));
        }
        let environment = document.exec.environment.iter().map(|name| EnvironmentName::parse(name));
        Ok(Self {
            rules: Rules { name, audiences, lease_ms: document.lease_secs * 1_000 },
            state_dir: document.state_dir,
            trust_bundle: document.trust_bundle,
            authority: document.authority,
            environment: environment.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "build-gate"
audiences = ["prod/exec"]
lease_secs = 60
state_dir = "/var/lib/countersign-gateway"
trust_bundle = "/etc/countersign/bundle.json"

[authority]
url = "https://authority.example:8443"
client_certificate = "/etc/countersign/gateway.crt"
client_key = "/etc/countersign/gateway.key"

[exec]
environment = ["APP_MODE"]
"#;

    #[test]
    fn a_full_configuration_is_read() {
        let config = GatewayConfig::parse(GOOD).unwrap();
        assert_eq!(config.rules.lease_ms, 60_000);
        assert_eq!(config.rules.audiences[0].as_str(), "prod/exec");
        assert_eq!(config.environment[0].as_str(), "APP_MODE");
        let without =
            GOOD.replace("lease_secs = 60\n", "").replace("[exec]\nenvironment = [\"APP_MODE\"]\n", "");
        assert_eq!(GatewayConfig::parse(&without).unwrap().rules.lease_ms, 300_000);
    }

    #[test]
    fn unknown_missing_and_senseless_keys_are_refused() {
        for (from, to) in [
            ("name = \"build-gate\"\n", ""),
            ("name = \"build-gate\"", "name = \"\""),
            ("lease_secs", "leese_secs"),
            ("lease_secs = 60", "lease_secs = 0"),
            ("lease_secs = 60", "lease_secs = 86401"),
            ("[\"prod/exec\"]", "[]"),
            ("[\"prod/exec\"]", "[\"two words\"]"),
            ("https://", "http://"),
            ("APP_MODE", "LD_PRELOAD"),
            ("client_key", "client_keys"),
        ] {
            let changed = GOOD.replace(from, to);
            assert_ne!(changed, GOOD);
            assert!(GatewayConfig::parse(&changed).is_err(), "{from} -> {to}");
        }
    }
}
