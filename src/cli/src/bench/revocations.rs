//! `countersign bench revocations`: how long a revocation takes from the answer at one authority until the others over the same log refuse what was
//! revoked, and publish it to gateways.
//!
//! Comes in: an admin profile at one authority, the service listeners of the others, two gateways. Goes out: percentiles over all revocations, each
//! counted until the last of the others shows it. One gateway is revoked and reinstated again and again; the other reads the feed. Refused: an
//! authority that doesn't follow within [`PATIENCE`].

use super::evidence::merge;
use super::stats::Latencies;
use crate::profile;
use anyhow::{Context, ensure};
use clap::Args;
use countersign_client::{Client, ClientError, ClientIdentity};
use countersign_core::api::admin::{RevocationCall, SubjectDocument};
use countersign_core::artifact::Receipt;
use countersign_core::leaf::Leaf;
use countersign_core::refusal::RefusalCode;
use serde_json::{Map, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Between two looks at an authority: they shall not keep it busy.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longer than any lease that anybody would grant.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `bench revocations`.
#[derive(Args)]
pub(crate) struct RevocationsArgs {
    /// Admin profile of a security officer at one of the authorities.
    #[arg(long)]
    profile: PathBuf,
    /// Service listener of each other authority.
    #[arg(long = "replica", required = true)]
    replicas: Vec<String>,
    /// Directory into which `admin gateway` wrote certificates and keys.
    #[arg(long)]
    gateways: PathBuf,
    /// The gateway that is revoked.
    #[arg(long)]
    revoked: String,
    /// The gateway that reads the feed.
    #[arg(long)]
    reader: String,
    /// Revocations.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// JSON file to write members into; printed otherwise.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Another authority, as both gateways see it.
#[derive(Clone)]
struct Replica {
    revoked: Client,
    reader: Client,
}

/// Measures and writes.
pub(crate) fn run(args: &RevocationsArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let latencies = runtime.block_on(measure(args))?;
    let count = latencies.len();
    let sorted = latencies.sorted();
    let members = Map::from_iter([
        ("revocation_visible_p50_ms".to_owned(), json!(sorted.percentile_ms(500))),
        ("revocation_visible_p99_ms".to_owned(), json!(sorted.percentile_ms(990))),
        ("revocation_visible_max_ms".to_owned(), json!(sorted.max_ms())),
        ("revocations".to_owned(), json!(count)),
        ("revocation_replicas".to_owned(), json!(args.replicas.len() + 1)),
    ]);
    merge(args.json.as_deref(), members)?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &RevocationsArgs) -> anyhow::Result<Latencies> {
    let admin = profile::open(&args.profile)?;
    let connect = |url: &str, name: &str| -> anyhow::Result<Client> {
        Ok(Client::new(url, identity(&args.gateways, name), admin.bundle.ca_certificates())?)
    };
    let replicas = args.replicas.iter().map(|url| {
        Ok(Replica { revoked: connect(url, &args.revoked)?, reader: connect(url, &args.reader)? })
    });
    let replicas: Vec<Replica> = replicas.collect::<anyhow::Result<_>>()?;
    let known = admin.client.principals().await.context("principals")?.principals;
    let target = known.into_iter().find(|principal| principal.name == args.revoked);
    let target = target.with_context(|| format!("no gateway is called {}", args.revoked))?.thumbprint;
    let mut latencies = Latencies::default();
    // One of each that isn't counted: connections are made, caches fill.
    for number in 0..=args.count {
        let taken = change(&admin.client, &replicas, &target, true).await?;
        if number > 0 {
            latencies.record(taken);
        }
        change(&admin.client, &replicas, &target, false).await?;
    }
    Ok(latencies)
}

fn identity(folder: &Path, name: &str) -> ClientIdentity {
    let file = |kind: &str| folder.join(format!("{name}.{kind}.pem"));
    ClientIdentity::Pem { certificates: file("cert"), key: file("key") }
}

/// Revokes or reinstates, and waits until all the others show it. The time runs from the answer.
async fn change(
    admin: &Client,
    replicas: &[Replica],
    target: &str,
    revoke: bool,
) -> anyhow::Result<Duration> {
    let subject = SubjectDocument::Principal { thumbprint: target.to_owned() };
    let call = RevocationCall { subject, revoke, reason: "measured".to_owned() };
    let recorded = admin.revoke(&call).await.context("revocation")?;
    let answered = Instant::now();
    // Control number before this leaf.
    let control = Receipt::parse(&recorded.receipt)?.head().control_seq.saturating_sub(1);
    let mut looking = JoinSet::new();
    for replica in replicas.iter().cloned() {
        looking.spawn(enforced(replica.revoked, control, revoke, answered));
        looking.spawn(published(replica.reader, control, recorded.index, answered));
    }
    let mut last = Duration::ZERO;
    while let Some(seen) = looking.join_next().await {
        last = last.max(seen??);
    }
    Ok(last)
}

/// Until the gateway is nobody there, or somebody again.
async fn enforced(
    client: Client,
    control: u64,
    revoked: bool,
    answered: Instant,
) -> anyhow::Result<Duration> {
    loop {
        let refused = match client.feed(0, control).await {
            Ok(_) => false,
            Err(error) if error.code() == Some(RefusalCode::Unauthenticated) => true,
            Err(error) => knows_less(error)?,
        };
        if refused == revoked {
            return Ok(answered.elapsed());
        }
        wait(answered).await?;
    }
}

/// Until it is in what gateways pull.
async fn published(client: Client, control: u64, index: u64, answered: Instant) -> anyhow::Result<Duration> {
    loop {
        match client.feed(0, control).await {
            Ok(feed) => {
                for bytes in &feed.control {
                    if Leaf::parse(&bytes.0)?.index == index {
                        return Ok(answered.elapsed());
                    }
                }
            }
            Err(error) => {
                knows_less(error)?;
            }
        }
        wait(answered).await?;
    }
}

/// An authority that doesn't know the control number yet says so; no other refusal is expected.
fn knows_less(error: ClientError) -> anyhow::Result<bool> {
    if error.code() == Some(RefusalCode::Malformed) { Ok(false) } else { Err(error.into()) }
}

async fn wait(answered: Instant) -> anyhow::Result<()> {
    ensure!(answered.elapsed() < PATIENCE, "an authority doesn't follow");
    tokio::time::sleep(LOOK_EVERY).await;
    Ok(())
}
