//! The gateway's configuration file: TOML, every key known, every value in its domain, or refused at start.

use crate::admit::Rules;
use crate::exec::environment::{EnvironmentName, EnvironmentRefused};
use countersign_core::bundle::TrustBundle;
use countersign_core::name::Audience;
use countersign_core::witness::{MAX_QUORUM_BYTES, Quorum, QuorumMalformed};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Larger than any sensible file.
const MAX_CONFIG_LEN: u64 = 64 * 1024;
/// Shortest lease: below, every admission would pull.
pub const MIN_LEASE_SECS: u64 = 5;
/// Longest lease: for so long a revocation may stay unnoticed by a gateway that is cut off.
pub const MAX_LEASE_SECS: u64 = 86_400;
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
    /// A longer lease than the trust bundle allows: rotations and revocations count on the published one.
    #[error("lease_secs is {configured}; the trust bundle allows at most {published}")]
    Lease {
        /// In the configuration.
        configured: u64,
        /// In the trust bundle.
        published: u64,
    },
    /// The quorum file.
    #[error("{path}: {source}")]
    Quorum {
        /// Which file.
        path: PathBuf,
        /// Which line, and why.
        source: QuorumMalformed,
    },
    /// A variable that can't be passed on.
    #[error("exec.environment: {0}")]
    Environment(#[from] EnvironmentRefused),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// Name under which `countersign admin gateway` added it; holder proofs carry it.
    name: String,
    /// What it stands for, 1 to 64 names. An artifact for another audience is refused.
    audiences: Vec<String>,
    /// For so long it works without the authority, seconds, 5 to 86400; at most, and when absent, what the trust bundle publishes. For so
    /// long a revocation may stay unnoticed when it is cut off.
    lease_secs: Option<u64>,
    /// Directory of its memory: newest head, control chain, outcomes that weren't told yet. Its user's alone.
    state_dir: PathBuf,
    /// The pinned trust bundle.
    trust_bundle: PathBuf,
    /// Witnesses of which enough must have cosigned a head (C2SP tlog-policy). Without it none need to.
    quorum_file: Option<PathBuf>,
    /// Where the authority is.
    authority: AuthorityConfig,
    /// The exec door.
    #[serde(default)]
    exec: ExecDocument,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecDocument {
    /// Names of variables that programs get beside the fixed list of harmless ones. A name that redirects loading, such as `LD_PRELOAD`,
    /// is refused.
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
    /// Name in holder proofs.
    pub name: String,
    /// What it stands for.
    pub audiences: Vec<Audience>,
    /// A shorter lease than the published one, seconds.
    pub lease_secs: Option<u64>,
    /// Memory of this gateway.
    pub state_dir: PathBuf,
    /// Pinned trust bundle, JSON.
    pub trust_bundle: PathBuf,
    /// Witnesses of which enough must have cosigned a head (C2SP tlog-policy). Without it none need to.
    pub quorum_file: Option<PathBuf>,
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
        if document.lease_secs.is_some_and(|lease| !(MIN_LEASE_SECS..=MAX_LEASE_SECS).contains(&lease)) {
            return Err(ConfigError::Value("lease_secs"));
        }
        if !document.authority.url.starts_with("https://") {
            return Err(ConfigError::Value("authority.url"));
        }
        let environment = document.exec.environment.iter().map(|name| EnvironmentName::parse(name));
        Ok(Self {
            name,
            audiences,
            lease_secs: document.lease_secs,
            state_dir: document.state_dir,
            trust_bundle: document.trust_bundle,
            quorum_file: document.quorum_file,
            authority: document.authority,
            environment: environment.collect::<Result<_, _>>()?,
        })
    }

    /// What admissions are judged by. The lease is the published one, or a shorter one of the configuration: the authority waits for the published
    /// one before it lets a new head key sign (PROTOCOL §10).
    ///
    /// # Errors
    /// [`ConfigError::Lease`] if the configuration wants more than the trust bundle allows; a quorum file that can't be read or isn't one.
    pub fn rules(&self, bundle: &TrustBundle) -> Result<Rules, ConfigError> {
        let published = bundle.lease_secs();
        let lease_secs = match self.lease_secs {
            Some(configured) if configured > published => {
                return Err(ConfigError::Lease { configured, published });
            }
            Some(configured) => configured,
            None => published,
        };
        let (name, audiences) = (self.name.clone(), self.audiences.clone());
        let quorum = self.quorum_file.as_deref().map(load_quorum).transpose()?;
        Ok(Rules {
            name,
            audiences,
            lease_ms: lease_secs.saturating_mul(1_000),
            quorum: quorum.map(Arc::new),
        })
    }
}

fn load_quorum(path: &Path) -> Result<Quorum, ConfigError> {
    let io = |source| ConfigError::Io { path: path.to_owned(), source };
    let mut text = String::new();
    let most = u64::try_from(MAX_QUORUM_BYTES).unwrap_or(u64::MAX);
    let file = std::fs::File::open(path).map_err(io)?;
    std::io::Read::read_to_string(&mut std::io::Read::take(file, most + 1), &mut text).map_err(io)?;
    Quorum::parse(&text).map_err(|source| ConfigError::Quorum { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::bundle::{
        BundleDocument, Initial, Says, Statement, StatementDocument, statement_preimage,
    };
    use countersign_core::key::{JsonKey, VerifyingKey};
    use countersign_core::name::Origin;
    use ed25519_dalek::Signer as _;

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
        assert_eq!(config.lease_secs, Some(60));
        assert_eq!(config.audiences[0].as_str(), "prod/exec");
        assert_eq!(config.environment[0].as_str(), "APP_MODE");
        let without =
            GOOD.replace("lease_secs = 60\n", "").replace("[exec]\nenvironment = [\"APP_MODE\"]\n", "");
        assert_eq!(GatewayConfig::parse(&without).unwrap().lease_secs, None);
    }

    #[test]
    fn the_lease_is_the_published_one_or_a_shorter_one() {
        let recovery = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
        let key = VerifyingKey::ed25519(recovery.verifying_key().as_bytes()).unwrap();
        let statement = Statement {
            number: 1,
            origin: Origin::parse("test.example/log").unwrap(),
            time_ms: 1,
            says: Says::Initial(Initial {
                head_keys: vec![key.clone()],
                ca_certificates: vec![vec![0x30, 0]],
                officers: Vec::new(),
                lease_secs: 60,
            }),
        }
        .encode();
        let signature = recovery.sign(&statement_preimage(&statement)).to_bytes();
        let text = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
        let document = BundleDocument {
            v: 1,
            origin: "test.example/log".to_owned(),
            trust_domain: "test.example".to_owned(),
            recovery_key: JsonKey::from(key),
            statements: vec![StatementDocument { statement: text(&statement), signature: text(&signature) }],
        };
        let bundle = TrustBundle::verify(&serde_json::to_vec(&document).unwrap()).unwrap();
        let lease = |text: &str| {
            let config = GatewayConfig::parse(&GOOD.replace("lease_secs = 60\n", text)).unwrap();
            config.rules(&bundle).map(|rules| rules.lease_ms)
        };
        assert_eq!(lease("").unwrap(), 60_000, "the published one");
        assert_eq!(lease("lease_secs = 60\n").unwrap(), 60_000);
        assert_eq!(lease("lease_secs = 20\n").unwrap(), 20_000, "a shorter one");
        let longer = lease("lease_secs = 61\n").unwrap_err();
        assert!(matches!(longer, ConfigError::Lease { configured: 61, published: 60 }), "{longer}");
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
