//! Structured logs of the daemons: JSON lines on standard error, `RUST_LOG` decides what is written. Secrets are never fields.

use tracing_subscriber::EnvFilter;

/// The TPM's library tells each object that it lets go.
const DAEMONS: &str = "info,tss_esapi=warn";

/// Starts logging; called once, by commands that stay.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DAEMONS));
    // A second subscriber can't be set; nothing else sets one.
    let _ = tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_env_filter(filter).try_init();
}

/// Plain lines on standard error, warnings and worse, for a command that does one thing and ends.
pub(crate) fn start_plain() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    let _ = lines.without_time().with_target(false).with_ansi(false).try_init();
}
