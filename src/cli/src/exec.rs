//! `countersign exec`: the exec door. Becomes the program, or prints why not; then nothing ran.

use crate::failure::{Failure, Outcome};
use anyhow::{Context, ensure};
use countersign_gateway::config::GatewayConfig;
use countersign_gateway::exec::{ExecOptions, run_exec};
use countersign_gateway::holder::key::HolderKey;
use countersign_gateway::pull::PullLimits;
use countersign_gateway::source::client;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Receipts are shorter (PROTOCOL §6.4).
const MAX_ARTIFACT_LEN: u64 = 128 * 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Gateway configuration.
    #[arg(long, default_value = "/etc/countersign/gateway.toml")]
    config: PathBuf,
    /// The artifact.
    #[arg(long)]
    artifact: PathBuf,
    /// The holder's key.
    #[arg(long)]
    holder_key: PathBuf,
    /// The program, by path, and its exact arguments.
    #[arg(last = true, required = true)]
    argv: Vec<OsString>,
}

pub(crate) fn run(args: Args) -> Outcome {
    // That an authority wasn't reached, for one, and the lease runs out.
    crate::telemetry::start_plain();
    let config = GatewayConfig::load(&args.config).with_context(|| args.config.display().to_string())?;
    let bundle = crate::profile::bundle(&config.trust_bundle)?;
    let client = client(&config.authority, &bundle).context("authority")?;
    let program = PathBuf::from(args.argv.first().context("a program is needed")?);
    let options = ExecOptions {
        rules: config.rules(&bundle).context("configuration")?,
        state_dir: config.state_dir,
        bundle,
        artifact: artifact(&args.artifact)?,
        holder: HolderKey::load(&args.holder_key).with_context(|| args.holder_key.display().to_string())?,
        program,
        argv: args.argv,
        environment: config.environment,
        // A process that lives for one admission has nobody to push to it: it asks, and lives on its lease when there is no answer.
        limits: PullLimits { renew_after: Some(Duration::ZERO), ..PullLimits::default() },
    };
    let refusal = run_exec(&options, &client);
    Err(Failure::refused(refusal.code(), refusal.explanation()))
}

/// An unreadable file is an error of usage; bytes that aren't text are left to the gate, which refuses them.
fn artifact(path: &Path) -> anyhow::Result<String> {
    let name = || path.display().to_string();
    let mut bytes = Vec::new();
    std::fs::File::open(path).with_context(name)?.take(MAX_ARTIFACT_LEN + 1).read_to_end(&mut bytes)?;
    ensure!(u64::try_from(bytes.len()).is_ok_and(|len| len <= MAX_ARTIFACT_LEN), "{}: too long", name());
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
