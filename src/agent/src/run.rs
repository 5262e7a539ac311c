//! Putting the parts together, starting and ending them.
//!
//! Order at the start: bundle, state directory and its lock, TPM, credential (stored, or by enrolment), socket, then the loops; only then is the
//! daemon ready. Order at the end: no new connections, those under way, the loops, the TPM. A part that ends by itself ends the daemon: what doesn't
//! watch any more must not look alive.

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_core::bundle::{BundleError, MAX_BUNDLE_LEN, TrustBundle};
use countersign_core::refusal::RefusalCode;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::agent::Agent;
use crate::attest::attest;
use crate::authority::{AuthorityApi, CallError};
use crate::config::{Config, ConfigError, KeptCertificate, NamingKey};
use crate::device::{DeviceFault, OpenDevice};
use crate::enrol::{EnrolError, SystemClock, renew};
use crate::evidence::{BootLogFile, Logs};
use crate::gather::gatherer;
use crate::host_tpm::{HostTpmOpener, IdevidWanted, KeysWanted, WhereCertified};
use crate::https::HttpsAuthority;
use crate::identity::{Credential, HostIdentity, IdentityError};
use crate::ima::ImaFile;
use crate::judge::Judge;
use crate::local::StatusDocument;
use crate::probe::ReplayProbe;
use crate::server::Server;
use crate::socket::{LocalSocket, SocketError};
use crate::state_dir::{StateDir, StateError};
use crate::tls::TpmSigningKey;
use crate::tpm::{TpmError, TpmWorker};

/// How long the TPM's thread may take to flush and end.
const TPM_DEADLINE: Duration = Duration::from_secs(5);
/// Between tries to reach the TPM at the start: its device file may come after the daemon.
const TPM_RETRY: Duration = Duration::from_secs(1);
/// Largest certificate file and join token.
const MAX_SMALL_FILE: usize = 64 * 1024;

/// Why the agent doesn't start, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that the configuration names.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The trust bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The TPM's keys.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The authority's address or the bundle's CA certificates.
    #[error(transparent)]
    Client(#[from] countersign_client::ConfigError),
    /// The host isn't enrolled, and may not enrol without a token.
    #[error(
        "this host isn't enrolled and the authority wants a join token: run `countersign agent enrol --token ..`, or set token_file ({0})"
    )]
    TokenNeeded(EnrolError),
    /// The authority revoked this host.
    #[error("the authority has revoked this host; an operator must reinstate it ({0})")]
    Revoked(EnrolError),
    /// Enrolment failed otherwise.
    #[error("enrolment: {0}")]
    Enrol(#[from] EnrolError),
    /// The authority couldn't be probed.
    #[error("probe: {0}")]
    Probe(String),
    /// The local socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A part of the running agent ended by itself.
    #[error("the agent's {0} has ended unexpectedly")]
    PartEnded(&'static str),
}

impl AgentError {
    /// The authority's own code, if it was the authority that said no; otherwise which of the two, authority or TPM, is away.
    #[must_use]
    pub const fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::TokenNeeded(EnrolError::Call(error))
            | Self::Revoked(EnrolError::Call(error))
            | Self::Enrol(EnrolError::Call(error)) => match error {
                CallError::Unreachable(_) | CallError::TimedOut => Some(RefusalCode::AuthorityUnreachable),
                other => other.code(),
            },
            Self::Tpm(error) | Self::Enrol(EnrolError::Tpm(error)) => match error {
                // These don't pass: an operator has to look.
                TpmError::Device(
                    DeviceFault::ForeignKeys(_)
                    | DeviceFault::Iak(_)
                    | DeviceFault::Idevid(_)
                    | DeviceFault::Refused(_),
                )
                | TpmError::Replaced => None,
                _ => Some(RefusalCode::TpmUnavailable),
            },
            _ => None,
        }
    }
}

/// What an enrolment came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentSummary {
    /// Host identifier, hex.
    pub host: String,
    /// When the certificate ends, ms.
    pub certificate_expires_ms: u64,
}

/// Runs the agent until `shutdown` resolves.
///
/// # Errors
/// [`AgentError`]: what keeps it from starting, or which part failed for good.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), AgentError> {
    let agent = assemble_host(&config).await?;
    serve(agent, &config, shutdown).await
}

/// Enrols this host, or renews its enrolment, and stores the certificates. One try: who asked is watching.
///
/// # Errors
/// [`AgentError`].
pub async fn enrol(config: &Config, token: Option<&str>) -> Result<EnrolmentSummary, AgentError> {
    let agent = assemble_host(config).await?;
    let enrolled = agent.enrol(token).await.map_err(enrol_error);
    stop_tpm(&agent.tpm).await;
    let credential = enrolled?;
    let host = agent.identity.host.to_hex();
    Ok(EnrolmentSummary { host, certificate_expires_ms: credential.not_after_ms })
}

/// Uses one challenge twice and says what the authority made of it. The host must be enrolled, and no agent of it running.
///
/// # Errors
/// [`AgentError`].
pub async fn probe_replay(config: &Config) -> Result<ReplayProbe, AgentError> {
    let agent = assemble_host(config).await?;
    let probed = match agent.stored_credential() {
        Ok(Some(_)) => agent.probe_replay().await.map_err(|error| AgentError::Probe(error.to_string())),
        Ok(None) => Err(AgentError::Probe("this host isn't enrolled".to_owned())),
        Err(error) => Err(error.into()),
    };
    stop_tpm(&agent.tpm).await;
    probed
}

/// Resolves when the process is asked to end: SIGTERM or SIGINT.
pub async fn terminated() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

async fn assemble_host(config: &Config) -> Result<Arc<Agent<HttpsAuthority>>, AgentError> {
    let state = StateDir::open(&config.state_dir)?;
    let opener = HostTpmOpener::new(&config.tcti, keys_wanted(config)?, idevid_wanted(config)?, &state);
    let url = config.authority.clone();
    assemble(config, state, opener, move |worker, identity, bundle| {
        let key = Arc::new(TpmSigningKey::new(worker.clone(), identity.host_key.clone()));
        Ok(HttpsAuthority::new(&url, key, bundle)?)
    })
    .await
}

/// Everything that `run` and `enrol` share, over any device and any authority.
pub(crate) async fn assemble<A: AuthorityApi>(
    config: &Config,
    state: StateDir,
    opener: impl OpenDevice,
    connect: impl FnOnce(&TpmWorker, &HostIdentity, &TrustBundle) -> Result<A, AgentError>,
) -> Result<Arc<Agent<A>>, AgentError> {
    let bundle = TrustBundle::verify(&small_file(&config.trust_bundle, MAX_BUNDLE_LEN)?)?;
    let intermediates = all_certificates(&config.intermediates)?;
    let above = config.idevid.as_ref().map(|idevid| all_certificates(&idevid.intermediates));
    let idevid_intermediates = above.transpose()?.unwrap_or_default();
    let tpm =
        TpmWorker::start(opener).map_err(|source| AgentError::File { path: "thread tpm".into(), source })?;
    let identity = HostIdentity::of(keys(&tpm).await?)?;
    let api = connect(&tpm, &identity, &bundle)?;
    let status = StatusDocument {
        host: identity.host.to_hex(),
        origin: bundle.origin().as_str().to_owned(),
        ..StatusDocument::default()
    };
    let agent = Agent {
        api,
        tpm,
        judge: Judge::new(bundle),
        identity,
        state,
        logs: Logs {
            boot_log: Arc::new(BootLogFile::new(config.boot_log.clone())),
            ima: Arc::new(ImaFile::new(config.ima_list.clone())),
        },
        in_step: tokio::sync::Mutex::new(()),
        intermediates,
        idevid_intermediates,
        rules: config.rules.clone(),
        status: Mutex::new(status),
    };
    Ok(Arc::new(agent))
}

/// The TPM's keys. A TPM that isn't there yet is waited for; keys of another TPM are an error at once.
async fn keys(tpm: &TpmWorker) -> Result<crate::device::DeviceKeys, TpmError> {
    for _ in 0..30 {
        match tpm.keys().await {
            Err(error @ TpmError::Device(DeviceFault::Unusable(_))) => {
                tracing::warn!(error = %error, "waiting for the TPM");
                tokio::time::sleep(TPM_RETRY).await;
            }
            result => return result,
        }
    }
    tpm.keys().await
}

/// From an assembled agent to a running one, and to its end.
pub(crate) async fn serve<A: AuthorityApi>(
    agent: Arc<Agent<A>>,
    config: &Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    let mut shutdown = std::pin::pin!(shutdown);
    let credential = tokio::select! {
        () = &mut shutdown => None,
        credential = credential(&agent, config) => Some(credential?),
    };
    let result = match credential {
        None => Ok(()),
        Some(credential) => running(&agent, config, credential, shutdown).await,
    };
    stop_tpm(&agent.tpm).await;
    tracing::info!("the agent has ended");
    result
}

async fn credential<A: AuthorityApi>(agent: &Agent<A>, config: &Config) -> Result<Credential, AgentError> {
    if let Some(credential) = agent.stored_credential()? {
        return Ok(credential);
    }
    let token = token(config)?;
    agent.enrol_at_start(token.as_ref().map(|token| token.as_str())).await.map_err(enrol_error)
}

async fn running<A: AuthorityApi>(
    agent: &Arc<Agent<A>>,
    config: &Config,
    credential: Credential,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    let socket = LocalSocket::bind(&config.socket, config.socket_mode)?;
    let (gatherer, gathered) = gatherer();
    let (stop, stopped) = watch::channel(false);
    let interval = config.attest_interval_secs.map(Duration::from_secs);
    let mut server = tokio::spawn(Server::new(Arc::clone(agent), gatherer).serve(socket, stopped));
    let mut loops = JoinSet::new();
    loops.spawn(named("attestation", attest(Arc::clone(agent), interval)));
    loops.spawn(named("gathering", gathered.serve(Arc::clone(agent))));
    // Renewal may end: the authority has the last word on it, and the status tells.
    let renewal = tokio::spawn(renew(Arc::clone(agent), credential, SystemClock));
    notify(&[NotifyState::Ready]);
    tracing::info!(host = %agent.identity.host, socket = %config.socket.display(), rules = agent.rules.len(), "serving");
    let result = tokio::select! {
        () = shutdown => Ok(()),
        _ = &mut server => Err(AgentError::PartEnded("local server")),
        () = agent.tpm.ended() => Err(AgentError::PartEnded("TPM thread")),
        part = loops.join_next() => {
            Err(AgentError::PartEnded(part.and_then(Result::ok).unwrap_or("part")))
        }
    };
    notify(&[NotifyState::Stopping]);
    tracing::info!("ending");
    let _ = stop.send(true);
    if !server.is_finished() {
        // Bounded by the server itself. Decisions under way still need the loops.
        let _ = server.await;
    }
    renewal.abort();
    loops.shutdown().await;
    result
}

/// A part that says which it was when it ends.
async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

async fn stop_tpm(tpm: &TpmWorker) {
    tpm.stop();
    if tokio::time::timeout(TPM_DEADLINE, tpm.ended()).await.is_err() {
        tracing::warn!("the TPM didn't end in time; what it held is flushed when its connection closes");
    }
}

fn notify(state: &[NotifyState]) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(error = %error, "the service manager wasn't told");
    }
}

fn enrol_error(error: EnrolError) -> AgentError {
    match &error {
        EnrolError::Call(CallError::Refused {
            code: RefusalCode::JoinTokenInvalid | RefusalCode::KeysChanged,
            ..
        }) => AgentError::TokenNeeded(error),
        EnrolError::Call(CallError::Refused { code: RefusalCode::HostRevoked, .. }) => {
            AgentError::Revoked(error)
        }
        _ => AgentError::Enrol(error),
    }
}

fn small_file(path: &Path, most: usize) -> Result<Vec<u8>, AgentError> {
    use std::io::Read as _;
    let wrap = |source| AgentError::File { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(wrap)?;
    let mut bytes = Vec::new();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(wrap)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
        return Err(wrap(std::io::Error::other(format!("larger than {most} bytes"))));
    }
    Ok(bytes)
}

fn token(config: &Config) -> Result<Option<Zeroizing<String>>, AgentError> {
    let Some(path) = &config.token_file else { return Ok(None) };
    if !path.exists() {
        // Removed after the first enrolment, as it should be.
        return Ok(None);
    }
    let text = String::from_utf8(small_file(path, MAX_SMALL_FILE)?)
        .map_err(|_| AgentError::File { path: path.clone(), source: std::io::Error::other("isn't text") })?;
    let text = Zeroizing::new(text);
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}

/// What the device's thread has to open; a certificate in a file is read now, so that a wrong path is told at once.
fn keys_wanted(config: &Config) -> Result<KeysWanted, AgentError> {
    Ok(match &config.naming {
        NamingKey::Ek(profile) => KeysWanted::BesideEk(*profile),
        NamingKey::Iak(iak) => {
            KeysWanted::Iak { handle: iak.handle, certificates: where_certified(&iak.certificate)? }
        }
    })
}

fn idevid_wanted(config: &Config) -> Result<Option<IdevidWanted>, AgentError> {
    let Some(idevid) = &config.idevid else { return Ok(None) };
    let certificates = where_certified(&idevid.certificate)?;
    Ok(Some(IdevidWanted { handle: idevid.handle, certificates }))
}

fn where_certified(certificate: &KeptCertificate) -> Result<WhereCertified, AgentError> {
    Ok(match certificate {
        KeptCertificate::File(path) => WhereCertified::Given(certificates(path)?),
        KeptCertificate::NvIndex(index) => WhereCertified::Nv(*index),
    })
}

fn all_certificates(paths: &[std::path::PathBuf]) -> Result<Vec<Vec<u8>>, AgentError> {
    let each = paths.iter().map(|path| certificates(path)).collect::<Result<Vec<_>, _>>()?;
    Ok(each.concat())
}

/// The certificates of a file: one in DER, or any number in PEM.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, AgentError> {
    let bytes = small_file(path, MAX_SMALL_FILE)?;
    let wrap = |why: String| AgentError::File { path: path.to_owned(), source: std::io::Error::other(why) };
    if !bytes.starts_with(b"-----BEGIN") {
        return Ok(vec![bytes]);
    }
    let ders = CertificateDer::pem_slice_iter(&bytes)
        .map(|der| Ok(der.map_err(|error| wrap(error.to_string()))?.to_vec()));
    let ders = ders.collect::<Result<Vec<_>, AgentError>>()?;
    if ders.is_empty() { Err(wrap("holds no certificate".to_owned())) } else { Ok(ders) }
}
