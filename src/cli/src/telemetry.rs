//! Structured logs of the daemons: JSON lines on standard error, `RUST_LOG` decides what is written. Secrets are never fields.

use tracing_subscriber::EnvFilter;

/// Starts logging; called once, by commands that stay.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A second subscriber can't be set; nothing else sets one.
    let _ = tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_env_filter(filter).try_init();
}
