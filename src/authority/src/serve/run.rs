//! Running: listeners up, clockwork on, until told to stop or until the log is lost.

use super::listener::{Bounds, Listener};
use super::start::{StartError, start};
use super::tasks;
use super::tls::{ServerCertificate, TlsError, server_config};
use super::{Authority, lock};
use crate::api::routes::{Side, router};
use crate::config::Config;
use crate::sequence::Health;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Why the authority doesn't serve, or serves no longer.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It didn't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Certificate, key or CA.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address can't be bound.
    #[error("{address}: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The process can't be asked to stop.
    #[error("signals: {0}")]
    Signals(std::io::Error),
    /// The log can't be written any more, or nobody knows what is durable. Start again: start-up compares.
    #[error("the log was lost; start again")]
    LogLost,
}

/// An authority that serves.
pub struct Serving {
    authority: Arc<Authority>,
    service: SocketAddr,
    admin: SocketAddr,
    stop: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
    tasks: JoinSet<()>,
}

impl Serving {
    /// Starts, checks, binds. When it returns, connections are taken.
    ///
    /// # Errors
    /// [`ServeError`]; nothing serves then.
    pub async fn start(config: Config) -> Result<Self, ServeError> {
        let bounds = Bounds {
            connections: config.limits.connections,
            // Below all of them in any case, so that no single place shuts the others out.
            per_source: config.limits.connections_per_source.min((config.limits.connections * 3 / 4).max(1)),
            handshake: Duration::from_secs(config.limits.handshake_secs),
            idle: Duration::from_secs(config.limits.idle_secs),
            write: Duration::from_secs(config.limits.write_secs),
            age: Duration::from_secs(config.limits.connection_secs),
            drain: Duration::from_secs(config.limits.drain_secs),
        };
        let certificate =
            ServerCertificate::load(&config.server_certificate_path(), &config.server_key_path())?;
        let certificate = Arc::new(certificate);
        let started = tokio::task::spawn_blocking(move || start(config)).await;
        let authority =
            Arc::new(started.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?);
        if let Err(fault) = authority.rotate_challenge_key().await {
            tracing::warn!(%fault, "no challenge key yet");
        }
        let tls = || server_config(Arc::clone(&certificate), authority.bundle.ca_certificates());
        let bind = |address, tls| {
            Listener::bind(address, tls, bounds).map_err(|source| ServeError::Bind { address, source })
        };
        let service = bind(authority.config.service.listen, tls()?)?;
        let admin = bind(authority.config.admin.listen, tls()?)?;
        *lock(&authority.connections) = vec![service.open_connections(), admin.open_connections()];
        let address = |listener: &Listener, asked| {
            listener.local_addr().map_err(|source| ServeError::Bind { address: asked, source })
        };
        let service_addr = address(&service, authority.config.service.listen)?;
        let admin_addr = address(&admin, authority.config.admin.listen)?;
        let (stop, stopped) = watch::channel(false);
        let listeners = vec![
            tokio::spawn(service.serve(router(Side::Service, &authority), stopped.clone())),
            tokio::spawn(admin.serve(router(Side::Admin, &authority), stopped.clone())),
        ];
        let tasks = tasks::spawn(&authority, &certificate, &stopped);
        tracing::info!(service = %service_addr, admin = %admin_addr, origin = %authority.origin(), "serving");
        Ok(Self { authority, service: service_addr, admin: admin_addr, stop, listeners, tasks })
    }

    /// Where hosts and gateways connect.
    #[must_use]
    pub const fn service_addr(&self) -> SocketAddr {
        self.service
    }

    /// Where operators connect.
    #[must_use]
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The authority inside.
    #[must_use]
    pub const fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Ends when the log is lost; otherwise never.
    pub async fn log_lost(&self) {
        let mut health = self.authority.sequencer.health();
        // The sender lives as long as the sequencer: an error is its end.
        let _ = health.wait_for(|health| matches!(health, Health::Failed | Health::Stopped)).await;
    }

    /// Stops: no new connection, calls under way end, then the workers, then the sequencer, which closes the store.
    pub async fn stop(self) {
        let Self { authority, stop, listeners, mut tasks, .. } = self;
        let _ = stop.send(true);
        for listener in listeners {
            if listener.await.is_err() {
                tracing::error!("a listener ended in a panic");
            }
        }
        while let Some(ended) = tasks.join_next().await {
            if ended.is_err() {
                tracing::error!("a task ended in a panic");
            }
        }
        let ended = tokio::task::spawn_blocking(move || {
            authority.pool.stop();
            #[cfg(feature = "tpm")]
            authority.raise_counter();
            authority.copy_memory();
            match Arc::try_unwrap(authority) {
                Ok(authority) => authority.sequencer.stop(),
                // A call outlived the drain time and holds on; the store is sound at every moment.
                Err(_) => tracing::warn!("stopped with calls under way"),
            }
        });
        if ended.await.is_err() {
            tracing::error!("the end ended in a panic");
        }
    }
}

/// Serves until `shutdown` completes or the log is lost.
///
/// # Errors
/// [`ServeError`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    let serving = Serving::start(config).await?;
    tasks::notify(&[sd_notify::NotifyState::Ready]);
    let lost = tokio::select! {
        () = shutdown => false,
        () = serving.log_lost() => true,
    };
    tasks::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!(lost, "stopping");
    serving.stop().await;
    if lost { Err(ServeError::LogLost) } else { Ok(()) }
}

/// Completes when the process is asked to end: SIGTERM or SIGINT.
///
/// # Errors
/// [`ServeError::Signals`].
pub fn signals() -> Result<impl Future<Output = ()>, ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
