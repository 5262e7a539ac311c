//! The authority's clockwork: heartbeats, challenge keys, rotation, custody read-backs, the server's certificate, the service manager.
//!
//! Each task ends when the authority stops. A task that fails says so and comes again; none of them can end the authority.

use super::listener::stopped;
use super::tls::ServerCertificate;
use super::{Authority, lock, replica, rotation};
use crate::config::Config;
use crate::custody::ca::SERVER_LIFETIME;
use crate::init::files;
use crate::sign::HeadKey as _;
use countersign_core::key::VerifyingKey;
use countersign_hsm::FaultClass;
use countersign_hsm::worker::SignerHandle;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// DESIGN, "Invariants", 6: custody attributes are read back by the hour.
const CUSTODY_EVERY: Duration = Duration::from_secs(3_600);
/// How long a rotation may wait unnoticed once it is due.
const ROTATION_EVERY: Duration = Duration::from_millis(250);
/// How often an operator's directory of intermediates and revocation lists is read.
const ENDORSEMENTS_EVERY: Duration = Duration::from_secs(600);
/// How often to look whether a new challenge key is due.
const CHALLENGE_KEYS_EVERY: Duration = Duration::from_secs(5);

/// Starts all tasks.
pub(super) fn spawn(
    authority: &Arc<Authority>,
    certificate: &Arc<ServerCertificate>,
    stop: &watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    replica::spawn(authority, stop, &mut tasks);
    let heartbeat = authority.config().limits.heartbeat();
    // Looked at four times in that time, so that a heartbeat is late by a quarter at most.
    let each = (heartbeat / 4).max(Duration::from_millis(50));
    tasks.spawn(every(each, stop.clone(), Arc::clone(authority), async move |authority| {
        // Leases end everywhere while a witness says that there are two histories.
        if authority.witnesses.has_alarm() {
            return;
        }
        if let Err(fault) = authority.sequencer.heartbeat(heartbeat - each) {
            tracing::warn!(%fault, "no heartbeat");
        }
    }));
    tasks.spawn(every(CHALLENGE_KEYS_EVERY, stop.clone(), Arc::clone(authority), async |authority| {
        if let Err(fault) = authority.rotate_challenge_key().await {
            tracing::warn!(%fault, "no new challenge key");
        }
    }));
    tasks.spawn(every(ROTATION_EVERY, stop.clone(), Arc::clone(authority), async |authority| {
        if let Err(refused) = rotation::step(authority).await {
            tracing::warn!(code = refused.code().as_str(), "rotation waits");
        }
    }));
    if authority.config().enrolment.ek_cache.is_some() {
        tasks.spawn(every(ENDORSEMENTS_EVERY, stop.clone(), Arc::clone(authority), async |authority| {
            let worker = Arc::clone(authority);
            let done = authority.run(move || {
                worker.reload_endorsements();
                Ok(())
            });
            if let Err(refused) = done.await {
                tracing::warn!(code = refused.code().as_str(), "endorsement files weren't read again");
            }
        }));
    }
    let certificate = Arc::clone(certificate);
    tasks.spawn(every(CUSTODY_EVERY, stop.clone(), Arc::clone(authority), async move |authority| {
        let (worker, certificate) = (Arc::clone(authority), Arc::clone(&certificate));
        let done = authority.run(move || {
            check_custody(&worker);
            worker.copy_memory();
            renew_server_certificate(&worker, &certificate);
            Ok(())
        });
        if let Err(refused) = done.await {
            tracing::warn!(code = refused.code().as_str(), "custody wasn't read back");
        }
    }));
    #[cfg(feature = "tpm")]
    super::counter::spawn(authority, stop, &mut tasks);
    tasks.spawn(crate::witness::run(Arc::clone(authority), stop.clone()));
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tasks.spawn(every(limit / 3, stop.clone(), Arc::clone(authority), async |_| {
            notify(&[sd_notify::NotifyState::Watchdog]);
        }));
    }
    tasks
}

/// Tells the service manager, if there is one.
pub(super) fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}

pub(super) async fn every(
    period: Duration,
    mut stop: watch::Receiver<bool>,
    authority: Arc<Authority>,
    work: impl AsyncFn(&Arc<Authority>),
) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => work(&authority).await,
            () = stopped(&mut stop) => return,
        }
    }
}

/// Reads the custody attributes of every key back. A head key that isn't in custody any more signs no more.
fn check_custody(authority: &Authority) {
    let head_keys = lock(&authority.head_keys).clone();
    for key in &head_keys {
        if !in_custody(authority, key.handle()) {
            // Before it is let go of, so that nobody opens it again in between.
            lock(&authority.barred).insert(key.verifying_key().thumbprint());
            authority.release_head_key(key.verifying_key());
        }
    }
    in_custody(authority, authority.ca.signer());
    if let Some(key) = authority.jwts.key()
        && !in_custody(authority, &key)
    {
        authority.jwts.forget();
    }
}

/// `false` if the device says that the key isn't in custody; a device that doesn't answer says nothing.
fn in_custody(authority: &Authority, handle: &SignerHandle) -> bool {
    let Err(fault) = handle.custody() else { return true };
    let key = handle.public_key().thumbprint();
    tracing::error!(%key, code = fault.code(), %fault, "custody can't be shown");
    authority.metrics().custody_failed();
    !matches!(
        fault.class(),
        FaultClass::KeyExtractable | FaultClass::KeyImported | FaultClass::CustodyIncomplete
    )
}

/// Issues the server a new certificate when a third of the old one's lifetime is left, for the key that it has.
fn renew_server_certificate(authority: &Authority, certificate: &ServerCertificate) {
    let now_secs = authority.now_ms() / 1_000;
    let third = SERVER_LIFETIME.as_secs() / 3;
    if certificate.not_after_secs().is_some_and(|end| end > now_secs.saturating_add(third)) {
        return;
    }
    let config = authority.config();
    let Some(key) = server_public_key(config) else {
        return tracing::error!("the server's TLS key can't be read, so its certificate isn't renewed");
    };
    let der = match authority.ca.server(&config.certificate_names(), &key, now_secs) {
        Ok(der) => der,
        Err(fault) => return tracing::error!(%fault, "the server's certificate isn't renewed"),
    };
    let pem = files::certificates_pem(&[&der, authority.ca.certificate()]);
    let path = config.server_certificate_path();
    if let Err(error) = files::replace(&path, pem.as_bytes(), 0o600) {
        return tracing::error!(%error, "the server's new certificate can't be written");
    }
    match certificate.reload(&path, &config.server_key_path()) {
        Ok(()) => tracing::info!("the server's certificate was renewed"),
        Err(error) => tracing::error!(%error, "the server's new certificate can't be used"),
    }
}

fn server_public_key(config: &Config) -> Option<VerifyingKey> {
    let der = PrivateKeyDer::from_pem_file(config.server_key_path()).ok()?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(der).ok()?;
    VerifyingKey::from_spki_der(key.public_key()?.as_ref()).ok()
}
