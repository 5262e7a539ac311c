//! `authority init`: keys inside their tokens, a trust bundle, certificates, and a log that begins with all of it.
//!
//! Comes in: names, addresses, where keys are to live, where the recovery key is to live. Goes out: a directory that `serve` accepts, and the
//! first operator's identity. Refused: a directory that others can write, or that holds an authority or any of its files; keys whose custody
//! isn't what it has to be.
//!
//! The configuration is written last, and `serve` starts from nothing else: a crash before that leaves nothing that would serve. What an
//! initialisation that failed has made, keys included, is taken away again; after a crash the operator removes what the next try names.

pub mod files;
mod genesis;
mod join;

use crate::config::{self, Config, Enrolment, Limits};
use crate::custody::ca::{CA_LIFETIME, CA_NAME, Ca};
use crate::custody::certificate::{CertificateError, Issuer, Purpose, Subject, certify};
use crate::custody::{CustodyRecord, FirstLabels, KeyStore, introduce};
use crate::sequence::{SequenceFault, StartFault};
use crate::serve::StartError;
use crate::serve::endorsement::{Endorsements, RootsError};
use crate::sign::MemoryFault;
use crate::store::{OpenFault, ReadFault};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use countersign_core::bundle::{
    BundleDocument, BundleError, Initial, Says, Statement, StatementDocument, TrustBundle, statement_preimage,
};
use countersign_core::control::ControlError;
use countersign_core::key::{Algorithm, JsonKey, KeyError, VerifyingKey};
use countersign_core::leaf::control::{KeyPurpose, KeyRecord, RecoveryRecord};
use countersign_core::name::{Origin, TrustDomain};
use countersign_hsm::worker::{SignerHandle, WorkerLimits};
use countersign_hsm::{FaultClass, SignFault, Signer};
use files::Undo;
pub use join::join;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Name of the first operator.
const ADMIN_NAME: &str = "admin";
const CONFIG_FILE: &str = "authority.toml";
const STORE_FILE: &str = "log.sqlite";
const ADMIN_KEY_FILE: &str = "admin.key";
const ADMIN_CERTIFICATE_FILE: &str = "admin.pem";

/// Where the recovery key is to live: a token of its own, taken offline afterwards.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The place.
    pub place: config::Signer,
    /// The key's label in it.
    pub label: String,
}

/// What an authority is to be.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Directory to make, or an empty one, or one that holds none of the authority's files.
    pub directory: PathBuf,
    /// Name of the log.
    pub origin: Origin,
    /// SPIFFE trust domain.
    pub trust_domain: TrustDomain,
    /// Names and addresses in the server's certificate.
    pub server_names: Vec<String>,
    /// Address of the service listener.
    pub service_listen: SocketAddr,
    /// Address of the admin listener.
    pub admin_listen: SocketAddr,
    /// Where the log is to be kept; in a file of the directory when absent.
    pub store: Option<config::Store>,
    /// Where head and CA key are to live.
    pub signer: config::Signer,
    /// Where the recovery key is to live.
    pub recovery: Recovery,
    /// Which hosts may enrol.
    pub enrolment: Enrolment,
    /// Bounds.
    pub limits: Limits,
}

/// What an initialisation has made.
#[derive(Clone, Debug)]
pub struct Initialised {
    /// `authority.toml`.
    pub config: PathBuf,
    /// The trust bundle: what agents, gateways, operators and auditors pin.
    pub trust_bundle: PathBuf,
    /// The first operator's certificate, a security officer.
    pub admin_certificate: PathBuf,
    /// The first operator's key.
    pub admin_key: PathBuf,
}

/// Why there is no authority now.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is an authority already, or a part of one.
    #[error("{0} exists: an authority is never overwritten")]
    Exists(PathBuf),
    /// A file can't be written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key can't be made, or isn't in custody.
    #[error("key {label:?}: {source}")]
    Key {
        /// Its label.
        label: String,
        /// What the device said.
        source: SignFault,
    },
    /// A key of that label is there: of another authority, or left by a process that was killed.
    #[error(
        "key {label:?}: {source}; another authority uses it, or an earlier init that was cut off or given up left it. Use another token, or remove the key if nothing that it signed is in use (docs/OPERATING.md, Init)"
    )]
    KeyExists {
        /// Its label.
        label: String,
        /// What the device said.
        source: SignFault,
    },
    /// The recovery key would lie beside the keys that it is to replace when they are lost or stolen.
    #[error(
        "token {0:?} is named for the authority's keys and for the recovery key: the recovery key needs a token of its own"
    )]
    OneToken(String),
    /// `serve` would refuse it.
    #[error("{key}: {reason}")]
    Unfit {
        /// Key of the configuration.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The endorsement rules can't be used.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// A certificate can't be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError<SignFault>),
    /// A TLS key can't be made.
    #[error("no TLS key was made")]
    TlsKey,
    /// A key that relying parties wouldn't take.
    #[error(transparent)]
    KeyForm(#[from] KeyError),
    /// The trust bundle doesn't verify.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The configuration can't be written down.
    #[error("configuration: {0}")]
    Toml(#[from] toml::ser::Error),
    /// The bundle can't be written down.
    #[error("trust bundle: {0}")]
    Json(#[from] serde_json::Error),
    /// The configuration that was written isn't one.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// One more authority needs a store that several share.
    #[error("the store isn't shared: one authority at a time can use it")]
    NotShared,
    /// The bundle and the configuration name different logs or trust domains.
    #[error("the trust bundle and the configuration name different logs or trust domains")]
    OtherLog,
    /// The store's newest head doesn't verify against the bundle.
    #[error("the newest head in the store isn't signed by the log's keys")]
    Unsigned,
    /// The control chain doesn't follow.
    #[error("the control chain doesn't fold: {0}")]
    Control(#[from] ControlError),
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// A key of the log can't be opened here.
    #[error(transparent)]
    Start(Box<StartError>),
    /// The store can't be made.
    #[error(transparent)]
    Store(#[from] OpenFault),
    /// The signer's memory can't be made.
    #[error(transparent)]
    Memory(#[from] MemoryFault),
    /// The sequencer doesn't start.
    #[error(transparent)]
    Sequencer(#[from] StartFault),
    /// The first leaves can't be appended.
    #[error(transparent)]
    Append(#[from] SequenceFault),
    /// The first leaves were not taken.
    #[error("the log didn't take its first leaves")]
    NotAppended,
    /// No thread for a signer.
    #[error("no thread: {0}")]
    Thread(std::io::Error),
}

impl From<StartError> for InitError {
    fn from(fault: StartError) -> Self {
        Self::Start(Box::new(fault))
    }
}

/// A new key with what introduces it.
struct NewKey {
    label: String,
    signer: Box<dyn Signer>,
    record: KeyRecord,
    custody: CustodyRecord,
}

/// Makes an authority. Blocks: keys are generated and several signatures made.
///
/// # Errors
/// [`InitError`]; everything made so far is removed.
pub fn init(options: &InitOptions) -> Result<Initialised, InitError> {
    let directory = prepare(&options.directory)?;
    let mut undo = Undo::new();
    let config = configuration(options, &directory);
    let text = check(options, &config, &directory.join(CONFIG_FILE))?;
    let (keys, FirstLabels { head, ca, jwt }) = KeyStore::new(&options.signer);
    let (recovery_keys, _) = KeyStore::new(&options.recovery.place);
    let now_ms = now_ms();
    let mut recovery = recovery_signer(&recovery_keys, &options.recovery.label, &mut undo)?;
    let head = new_key(&keys, &head, keys.head_algorithm(), KeyPurpose::Head, &options.origin, &mut undo)?;
    let mut ca = new_key(&keys, &ca, keys.ca_algorithm(), KeyPurpose::Ca, &options.origin, &mut undo)?;
    let jwt = new_key(&keys, &jwt, keys.head_algorithm(), KeyPurpose::Jwt, &options.origin, &mut undo)?;
    let ca_certificate = self_signed(&mut ca, now_ms / 1_000)?;
    let (admin_pem, admin_key) = tls_key()?;
    let initial = Initial {
        head_keys: vec![head.record.key.clone()],
        ca_certificates: vec![ca_certificate.clone()],
        officers: vec![admin_key.thumbprint()],
        lease_secs: options.limits.lease_secs,
    };
    let (statement, bundle) = trust_bundle(options, recovery.as_mut(), initial, now_ms)?;
    let write = |path: &Path, bytes: &[u8], mode, undo: &mut Undo| {
        undo.file(path);
        files::create(path, bytes, mode).map_err(|source| InitError::File { path: path.to_owned(), source })
    };
    write(&config.bundle_path(), &bundle, 0o600, &mut undo)?;
    let ca_label = ca.label.clone();
    let handle = SignerHandle::start("ca-signer", ca.signer, WorkerLimits::default());
    let authority = Ca::new(handle.map_err(InitError::Thread)?, ca_certificate);
    let (server_pem, server_key) = tls_key()?;
    let server = authority.server(&config.certificate_names(), &server_key, now_ms / 1_000)?;
    write(&config.server_key_path(), server_pem.as_bytes(), 0o600, &mut undo)?;
    let chain = files::certificates_pem(&[&server, authority.certificate()]);
    write(&config.server_certificate_path(), chain.as_bytes(), 0o600, &mut undo)?;
    let lifetime = Duration::from_secs(u64::from(options.limits.certificate_days).saturating_mul(86_400));
    let admin = authority.client(ADMIN_NAME, &admin_key, now_ms / 1_000, lifetime)?;
    let made = Initialised {
        config: directory.join(CONFIG_FILE),
        trust_bundle: config.bundle_path(),
        admin_certificate: directory.join(ADMIN_CERTIFICATE_FILE),
        admin_key: directory.join(ADMIN_KEY_FILE),
    };
    write(&made.admin_key, admin_pem.as_bytes(), 0o600, &mut undo)?;
    let chain = files::certificates_pem(&[&admin, authority.certificate()]);
    write(&made.admin_certificate, chain.as_bytes(), 0o600, &mut undo)?;
    let bundle = TrustBundle::verify(&bundle)?;
    tracing::info!(label = ca_label, "CA key made");
    let (ca, jwt) = ((ca.record, ca.custody), (jwt.record, jwt.custody));
    let beginning = genesis::Beginning { statement, head, ca, jwt, admin_key };
    genesis::begin_log(&config, &bundle, beginning, &mut undo)?;
    // The commit point. A crash before: no configuration, nothing serves. After: all of it is on the disk.
    write(&made.config, text.as_bytes(), 0o600, &mut undo)?;
    Config::load(&made.config)?;
    undo.forget();
    Ok(made)
}

/// The directory, absolute, existing, and free of anything that would be overwritten.
fn prepare(directory: &Path) -> Result<PathBuf, InitError> {
    let fault = |source| InitError::File { path: directory.to_owned(), source };
    let directory = std::path::absolute(directory).map_err(fault)?;
    files::make_directory(&directory).map_err(fault)?;
    let ours = [
        CONFIG_FILE,
        STORE_FILE,
        ADMIN_KEY_FILE,
        ADMIN_CERTIFICATE_FILE,
        "trust-bundle.json",
        "server.key",
        "server.pem",
        "signer-memory",
        "rollback-counter",
    ];
    match ours.iter().map(|name| directory.join(name)).find(|path| path.exists()) {
        Some(path) => Err(InitError::Exists(path)),
        None => Ok(directory),
    }
}

/// What `serve` would refuse is refused before a key is made. Goes out: the configuration's text.
fn check(options: &InitOptions, config: &Config, path: &Path) -> Result<String, InitError> {
    if let (
        config::Signer::Pkcs11 { module, token, .. },
        config::Signer::Pkcs11 { module: recovery_module, token: recovery_token, .. },
    ) = (&options.signer, &options.recovery.place)
        && (module, token) == (recovery_module, recovery_token)
    {
        return Err(InitError::OneToken(token.clone()));
    }
    let text = toml::to_string_pretty(&relative(config.clone()))?;
    Config::parse(path, &text).map_err(|error| match error {
        config::ConfigError::Line { key, reason, .. } => InitError::Unfit { key, reason },
        other => other.into(),
    })?;
    Endorsements::load(&config.enrolment)?;
    Ok(text)
}

/// A key that can't be made; where one is already, with the way out.
fn no_key(label: &str, source: SignFault) -> InitError {
    let label = label.to_owned();
    match source.class() {
        FaultClass::KeyExists => InitError::KeyExists { label, source },
        _ => InitError::Key { label, source },
    }
}

fn configuration(options: &InitOptions, directory: &Path) -> Config {
    Config {
        origin: options.origin.clone(),
        trust_domain: options.trust_domain.clone(),
        state_dir: directory.to_owned(),
        server_names: options.server_names.clone(),
        service: config::Service { listen: options.service_listen },
        admin: config::Admin { listen: options.admin_listen },
        store: options
            .store
            .clone()
            .unwrap_or_else(|| config::Store::Sqlite { path: directory.join(STORE_FILE) }),
        signer: options.signer.clone(),
        #[cfg(feature = "tpm")]
        rollback_counter: None,
        enrolment: options.enrolment.clone(),
        gateways: std::collections::BTreeMap::new(),
        witnesses: config::Witnesses::default(),
        retention: config::Retention::default(),
        limits: options.limits.clone(),
    }
}

/// What lies in the directory is named relative to it, so that it can be moved as a whole.
fn relative(mut config: Config) -> Config {
    config.state_dir = PathBuf::from(".");
    if let config::Store::Sqlite { path } = &mut config.store {
        *path = PathBuf::from(STORE_FILE);
    }
    config
}

fn recovery_signer(keys: &KeyStore, label: &str, undo: &mut Undo) -> Result<Box<dyn Signer>, InitError> {
    let fault = |source| no_key(label, source);
    keys.generate(label, keys.head_algorithm()).map_err(fault)?;
    undo.key(keys.clone(), label);
    let mut signer = keys.signer(label).map_err(fault)?;
    signer.custody().map_err(fault)?;
    Ok(signer)
}

fn new_key(
    keys: &KeyStore,
    label: &str,
    algorithm: Algorithm,
    purpose: KeyPurpose,
    origin: &Origin,
    undo: &mut Undo,
) -> Result<NewKey, InitError> {
    let fault = |source| no_key(label, source);
    keys.generate(label, algorithm).map_err(fault)?;
    undo.key(keys.clone(), label);
    let mut signer = keys.signer(label).map_err(fault)?;
    let (record, custody) =
        introduce(signer.as_mut(), label, purpose, origin.as_str(), None).map_err(fault)?;
    Ok(NewKey { label: label.to_owned(), signer, record, custody })
}

fn self_signed(ca: &mut NewKey, now_secs: u64) -> Result<Vec<u8>, InitError> {
    let key = ca.record.key.clone();
    let (purpose, lifetime) = (Purpose::Authority, CA_LIFETIME);
    let subject = Subject { name: CA_NAME, key: &key, purpose, now_secs, lifetime };
    let issuer = Issuer { name: CA_NAME, key: &key };
    Ok(certify(&subject, &issuer, |tbs| ca.signer.sign(tbs).map(|signature| *signature.as_bytes()))?)
}

/// The initial statement and the bundle around it (PROTOCOL §10).
fn trust_bundle(
    options: &InitOptions,
    recovery: &mut dyn Signer,
    initial: Initial,
    now_ms: u64,
) -> Result<(RecoveryRecord, Vec<u8>), InitError> {
    let statement = Statement {
        number: 1,
        origin: options.origin.clone(),
        time_ms: now_ms,
        says: Says::Initial(initial),
    }
    .encode();
    let signature = recovery
        .sign(&statement_preimage(&statement))
        .map_err(|source| InitError::Key { label: options.recovery.label.clone(), source })?;
    let signature = signature.as_bytes().to_vec();
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let document = BundleDocument {
        v: 1,
        origin: options.origin.to_string(),
        trust_domain: options.trust_domain.to_string(),
        recovery_key: JsonKey::from(recovery.public_key().clone()),
        statements: vec![StatementDocument { statement: encode(&statement), signature: encode(&signature) }],
    };
    let mut bytes = serde_json::to_vec_pretty(&document)?;
    bytes.push(b'\n');
    TrustBundle::verify(&bytes)?;
    Ok((RecoveryRecord { statement, signature }, bytes))
}

/// A P-256 key for TLS, in software: its PEM and its public half.
fn tls_key() -> Result<(String, VerifyingKey), InitError> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| InitError::TlsKey)?;
    let der = pair.to_pkcs8v1().map_err(|_| InitError::TlsKey)?;
    let key = VerifyingKey::from_raw(Algorithm::Es256, pair.public_key().as_ref())?;
    Ok((files::pem("PRIVATE KEY", der.as_ref()), key))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
