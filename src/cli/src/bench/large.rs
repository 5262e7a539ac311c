//! `countersign bench large`: what the length of a log costs: proofs, resident memory, start-up.
//!
//! Comes in: authorities that aren't running, each with a SQLite store, a policy in force, and a gateway of it. Goes out: `proof_us_X`, `proof_first_us_X`,
//! `rss_mib_X`, `rss_after_proofs_mib_X`, `startup_ms_X` for each name X that was given. Refused: an authority that doesn't get ready.

use super::evidence::merge;
use super::process::Server;
use super::stats::{median, rounded};
use crate::profile;
use anyhow::{Context, bail, ensure};
use clap::Args;
use countersign_authority::store::sqlite::{self, SqliteOptions, SqliteReader};
use countersign_authority::store::{SignedHead, newest_signed_head, receipts_for};
use countersign_client::{Client, ClientIdentity};
use countersign_core::bundle::TrustBundle;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Leaves whose proofs are made, each twice.
const PROOFS: u64 = 2_000;
/// Leaves whose proofs are read from the disk.
const FIRST_PROOFS: u64 = 100;
/// Proofs that a gateway asks a serving authority for.
const ASKED: u64 = 1_000;
/// Authorities that are asked, one after the other.
const SERVED: u32 = 7;
/// Between two looks whether an authority is ready.
const LOOK_EVERY: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(120);

/// Arguments of `bench large`: one `--name`, `--config`, `--url` and `--gateways` for each log, in the same order.
#[derive(Args)]
pub(crate) struct LargeArgs {
    /// How many leaves there are, as the figures are to be named: 10k, 10m.
    #[arg(long = "name", required = true)]
    names: Vec<String>,
    /// Configuration of the authority, in the directory in which its SQLite store and trust bundle are.
    #[arg(long = "config", required = true)]
    configs: Vec<PathBuf>,
    /// Its service listener.
    #[arg(long = "url", required = true)]
    urls: Vec<String>,
    /// Directory into which `admin gateway` wrote a certificate and a key.
    #[arg(long, required = true)]
    gateways: Vec<PathBuf>,
    /// That gateway, of the same name in each log.
    #[arg(long)]
    gateway: String,
    /// How often each authority is started, in turns; the median counts.
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(1..=100))]
    starts: u32,
    /// JSON file to write members into; printed otherwise.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl LargeArgs {
    fn logs(&self) -> anyhow::Result<Vec<Log>> {
        let count = self.names.len();
        let given = [self.configs.len(), self.urls.len(), self.gateways.len()];
        ensure!(given == [count; 3], "a name, a configuration, an address and gateways for each log");
        let rest = self.configs.iter().zip(&self.urls).zip(&self.gateways);
        let made = self.names.iter().zip(rest).map(|(name, ((config, url), gateways))| {
            let folder = config.parent().context("no directory")?;
            let bundle = profile::bundle(&folder.join("trust-bundle.json"))?;
            let options = SqliteOptions::new(folder.join("log.sqlite"), bundle.origin().clone());
            let file = |kind: &str| gateways.join(format!("{}.{kind}.pem", self.gateway));
            Ok(Log {
                name: name.clone(),
                config: config.clone(),
                url: url.clone(),
                identity: (file("cert"), file("key")),
                bundle,
                store: SqliteOptions { readers: 1, ..options },
                served: Served::default(),
            })
        });
        made.collect()
    }
}

/// A log that is measured.
struct Log {
    name: String,
    config: PathBuf,
    url: String,
    /// Certificate and key of a gateway.
    identity: (PathBuf, PathBuf),
    bundle: TrustBundle,
    store: SqliteOptions,
    served: Served,
}

/// What the processes needed.
#[derive(Default)]
struct Served {
    /// Until each was ready, nanoseconds.
    startups: Vec<u64>,
    /// Resident when it had just got ready, the most of all starts.
    started_bytes: u64,
    /// Resident after proofs were asked for, the most of all starts.
    asked_bytes: u64,
}

/// Measures and writes.
pub(crate) fn run(args: &LargeArgs) -> anyhow::Result<ExitCode> {
    let mut logs = args.logs()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // In turns, so that what the machine does meanwhile befalls all of them.
    for _ in 0..args.starts {
        for log in &mut logs {
            let startup = runtime.block_on(log.start_once())?;
            log.served.startups.push(startup);
        }
    }
    for log in &mut logs {
        runtime.block_on(log.serve_proofs())?;
        let (warm, first, size) = proofs(&log.store)?;
        let file = std::fs::metadata(&log.store.path)?.len();
        let startup = median(&mut log.served.startups).context("never started")?;
        let mib = |bytes: u64| json!(rounded(bytes as f64 / f64::from(1 << 20), 1));
        let micros = |nanos: u64| json!(rounded(nanos as f64 / 1e3, 1));
        let members = [
            ("proof_us", micros(warm)),
            ("proof_first_us", micros(first)),
            ("rss_mib", mib(log.served.started_bytes)),
            ("rss_after_proofs_mib", mib(log.served.asked_bytes)),
            ("startup_ms", json!(rounded(startup as f64 / 1e6, 1))),
            ("leaves", json!(size)),
            ("store_mib", mib(file)),
        ];
        let named = members.map(|(key, value)| (format!("{key}_{}", log.name), value));
        merge(args.json.as_deref(), Map::from_iter(named))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Log {
    fn client(&self) -> anyhow::Result<Client> {
        let (certificates, key) = self.identity.clone();
        let identity = ClientIdentity::Pem { certificates, key };
        Client::new(&self.url, identity, self.bundle.ca_certificates()).context("a client")
    }

    /// Starts the authority, waits until it is ready, and ends it. Nanoseconds until it was ready.
    async fn start_once(&mut self) -> anyhow::Result<u64> {
        let client = self.client()?;
        let mut authority = Authority::start(&self.config)?;
        let startup = authority.ready(&client).await?;
        self.served.started_bytes = self.served.started_bytes.max(authority.resident_bytes()?);
        authority.stop()?;
        Ok(u64::try_from(startup.as_nanos())?)
    }

    /// Has the authority make proofs until its memory no longer depends on how many there were.
    async fn serve_proofs(&mut self) -> anyhow::Result<()> {
        for _ in 0..SERVED {
            let client = self.client()?;
            let mut authority = Authority::start(&self.config)?;
            authority.ready(&client).await?;
            ask(&client).await?;
            self.served.asked_bytes = self.served.asked_bytes.max(authority.resident_bytes()?);
            authority.stop()?;
        }
        Ok(())
    }
}

/// Nanoseconds for an inclusion proof with its leaf: the median with everything in the kernel's cache, and the median with nothing in it; and the
/// log's size.
fn proofs(store: &SqliteOptions) -> anyhow::Result<(u64, u64, u64)> {
    let reader = sqlite::open_reader(store)?;
    let head = Arc::new(newest_signed_head(&reader)?.context("the log has no signed head")?);
    let size = head.size();
    let mut first = Vec::new();
    for _ in 0..FIRST_PROOFS {
        forget(store)?;
        // A connection keeps pages, too.
        let reader = sqlite::open_reader(store)?;
        first.push(prove(&reader, &head, draw(size)?)?);
    }
    let indexes = (0..PROOFS).map(|_| draw(size)).collect::<anyhow::Result<Vec<_>>>()?;
    for index in &indexes {
        prove(&reader, &head, *index)?;
    }
    let mut warm =
        indexes.iter().map(|index| prove(&reader, &head, *index)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok((median(&mut warm).context("no proofs")?, median(&mut first).context("no proofs")?, size))
}

fn prove(reader: &SqliteReader, head: &Arc<SignedHead>, index: u64) -> anyhow::Result<u64> {
    let began = Instant::now();
    let receipts = receipts_for(reader, &[index], Arc::clone(head))?;
    let nanos = u64::try_from(began.elapsed().as_nanos())?;
    ensure!(receipts.leaves.len() == 1, "no receipt");
    Ok(nanos)
}

/// Has the kernel drop what it holds of the store's file.
fn forget(store: &SqliteOptions) -> anyhow::Result<()> {
    let file = File::open(&store.path)?;
    // Only what is on the disk can be dropped.
    file.sync_all()?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

/// Below `end`.
fn draw(end: u64) -> anyhow::Result<u64> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).context("the system gives no randomness")?;
    Ok(u64::from_le_bytes(random) % end.max(1))
}

/// Proofs between random sizes: each reads and hashes what an inclusion proof does, twice.
async fn ask(client: &Client) -> anyhow::Result<()> {
    let feed = client.feed(0, 0).await.context("feed")?;
    let size = feed.head.lines().nth(1).and_then(|line| line.parse::<u64>().ok()).context("no size")?;
    for _ in 0..ASKED {
        let (one, other) = (draw(size)? + 1, draw(size)? + 1);
        let proof = client.consistency(one.min(other), one.max(other)).await.context("consistency")?;
        ensure!(one == other || !proof.proof.is_empty(), "an empty proof");
    }
    Ok(())
}

/// A serving authority; killed when dropped.
struct Authority {
    child: Child,
    spawned: Instant,
}

impl Authority {
    fn start(config: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["authority", "serve", "--config"]).arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = Instant::now();
        Ok(Self { child: command.spawn().context("the authority")?, spawned })
    }

    /// Waits until it says that it is ready.
    async fn ready(&mut self, client: &Client) -> anyhow::Result<Duration> {
        while !client.readyz().await.is_ok_and(|readiness| readiness.ready) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the authority ended with {status}");
            }
            ensure!(self.spawned.elapsed() < PATIENCE, "the authority doesn't get ready");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(self.spawned.elapsed())
    }

    fn resident_bytes(&self) -> anyhow::Result<u64> {
        Server::new(self.child.id()).resident_bytes()
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the authority ended with {status}");
        Ok(())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // One that has ended is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
