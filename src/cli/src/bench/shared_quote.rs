//! `countersign bench agent`: how many requests one quote serves.
//!
//! Comes in: the socket of a running agent whose TPM is slow, how many runtimes ask without a pause, and a file that grows by a byte for each
//! quote that the TPM makes. Goes out: `requests_per_quote`, artifacts over quotes, and what it took. Any refusal ends the run.

use super::evidence::merge;
use anyhow::Context;
use clap::Args;
use countersign_agent::local::{Arguments, PrepareCall, Workload};
use countersign_agent::local_client;
use countersign_core::key::{Algorithm, JsonKey};
use countersign_gateway::holder::key::HolderKey;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Arguments of `bench agent`.
#[derive(Args)]
pub(crate) struct SharedQuoteArgs {
    /// Socket of the agent.
    #[arg(long)]
    agent: PathBuf,
    /// Gateway that the artifacts are for.
    #[arg(long)]
    audience: String,
    /// The program that they ask for; the agent measures it for each request.
    #[arg(long, default_value = "/bin/true")]
    program: String,
    /// File that grows by a byte for each quote.
    #[arg(long)]
    quotes: PathBuf,
    /// Runtimes, each with one request at a time.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runtimes: u32,
    /// How long they ask.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// JSON file to write members into; printed otherwise.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Measures and writes.
pub(crate) fn run(args: &SharedQuoteArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let members = runtime.block_on(measure(args))?;
    merge(args.json.as_deref(), members)?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &SharedQuoteArgs) -> anyhow::Result<Map<String, Value>> {
    let program = args.program.clone();
    let holder = Arc::new(HolderKey::generate(Algorithm::EdDsa).context("holder key")?);
    let call = Arc::new(PrepareCall {
        id: None,
        holder: JsonKey::from(holder.public().clone()),
        workload: Workload::Path(program.clone()),
        action: "exec".to_owned(),
        args: Arguments::Argv(vec![program]),
        aud: args.audience.clone(),
        ttl_secs: 60,
        parents: Vec::new(),
        delegation: None,
    });
    let before = quotes(&args.quotes)?;
    let started = Instant::now();
    let end = started + Duration::from_secs(args.seconds);
    let runtimes: Vec<_> = (0..args.runtimes)
        .map(|_| tokio::spawn(ask_until(end, args.agent.clone(), Arc::clone(&call), Arc::clone(&holder))))
        .collect();
    let mut artifacts = 0u64;
    for runtime in runtimes {
        artifacts += runtime.await??;
    }
    let quotes = quotes(&args.quotes)?.saturating_sub(before);
    anyhow::ensure!(quotes > 0, "the TPM made no quote");
    let taken = started.elapsed().as_secs_f64();
    let tenths = |value: f64| json!((value * 10.0).round() / 10.0);
    let per_quote = artifacts as f64 / quotes as f64;
    Ok(Map::from_iter([
        ("requests_per_quote".to_owned(), tenths(per_quote)),
        ("shared_quote_runtimes".to_owned(), json!(args.runtimes)),
        ("shared_quote_artifacts".to_owned(), json!(artifacts)),
        ("shared_quote_quotes".to_owned(), json!(quotes)),
        ("shared_quote_quotes_per_s".to_owned(), tenths(quotes as f64 / taken)),
        ("shared_quote_artifacts_per_s".to_owned(), tenths(artifacts as f64 / taken)),
    ]))
}

fn quotes(file: &Path) -> anyhow::Result<u64> {
    Ok(std::fs::metadata(file).with_context(|| file.display().to_string())?.len())
}

/// One artifact after the other; how many.
async fn ask_until(
    end: Instant,
    agent: PathBuf,
    call: Arc<PrepareCall>,
    holder: Arc<HolderKey>,
) -> anyhow::Result<u64> {
    let mut artifacts = 0;
    while Instant::now() < end {
        let prepared = local_client::prepare(&agent, &call).await?;
        let signature = holder.sign(&prepared.to_sign.0);
        let decision = local_client::submit(&agent, &prepared.request.0, &signature, &[]).await?;
        anyhow::ensure!(decision.verdict == "allow", "denied: {}", decision.code.unwrap_or_default());
        artifacts += 1;
    }
    Ok(artifacts)
}
