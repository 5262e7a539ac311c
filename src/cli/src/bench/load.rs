//! The load: every host in a closed loop over a connection of its own, a warm-up, a measured window, an end.
//!
//! Comes in: a [`Plan`], prepared hosts. Goes out: [`Measured`]. Each thread of the generator runs its share of the hosts on a runtime of its own; the
//! calling thread only moves the phases, so that what it reads from /proc belongs to exactly the window.
//!
//! Closed loop: a host asks again when it has its answer. A stall of the authority therefore lowers the number of requests too, and the
//! percentiles are those of the requests that were made.

use super::host::{Host, Log};
use super::metrics::SignerCounts;
use super::process::Server;
use super::report::bar;
use super::stats::{Latencies, Sorted};
use super::window::{CallFailure, Errors, Phase, Window};
use anyhow::{Context, anyhow, ensure};
use countersign_client::Client;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long all hosts together may take to connect and to have their first answer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(180);
/// TLS handshakes at once, per thread.
const HANDSHAKES_AT_ONCE: usize = 16;
/// How often the window looks at the clock.
const TICK: Duration = Duration::from_millis(50);
/// A failed host waits, so that an authority in trouble isn't hammered.
const BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) threads: u32,
    pub(crate) warmup: Duration,
    pub(crate) window: Duration,
    pub(crate) max_artifacts: u64,
    pub(crate) verify_every: u64,
}

/// What was measured.
pub(crate) struct Measured {
    pub(crate) artifacts: u64,
    pub(crate) window: Duration,
    pub(crate) latencies: Sorted,
    pub(crate) errors: Errors,
    pub(crate) server_cpu: Option<Duration>,
    pub(crate) server_peak_bytes: Option<u64>,
    pub(crate) generator_cpu: Duration,
    pub(crate) raw_signs_per_s: Option<f64>,
    pub(crate) signatures: Option<f64>,
}

/// CPU times and signer counters at one end of the window.
struct Reading {
    at: Instant,
    server_cpu: Option<Duration>,
    generator_cpu: Duration,
    signer: Option<SignerCounts>,
}

/// Runs the plan.
pub(crate) fn run(
    plan: Plan,
    hosts: Vec<Host>,
    log: &Log,
    admin: &Client,
    server: Option<Server>,
) -> anyhow::Result<Measured> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let count = u64::try_from(hosts.len())?;
    let window = Arc::new(Window::default());
    let mut threads = Vec::new();
    for share in shares(hosts, plan.threads) {
        let (window, log) = (Arc::clone(&window), log.clone());
        let name = format!("bench-{}", threads.len());
        let thread = std::thread::Builder::new().name(name);
        threads.push(thread.spawn(move || drive_all(share, log, window, plan.verify_every))?);
    }
    let outcome = wait_for_hosts(&window, count).and_then(|()| {
        std::thread::sleep(plan.warmup);
        let before = Reading::take(&runtime, admin, server)?;
        window.enter(Phase::Measuring);
        wait_for_end(&window, &plan, before.at);
        window.enter(Phase::Over);
        let after = Reading::take(&runtime, admin, server)?;
        Ok((before, after))
    });
    // Also after a failure: the hosts stop, and their threads are joined.
    window.enter(Phase::Over);
    let mut latencies = Latencies::default();
    for thread in threads {
        latencies.merge(thread.join().map_err(|_| anyhow!("a thread of the generator panicked"))??);
    }
    let (before, after) = outcome?;
    ensure!(latencies.len() > 0, "no artifact within the window: {:?}", window.errors());
    Ok(Measured {
        artifacts: window.artifacts(),
        window: after.at.saturating_duration_since(before.at),
        latencies: latencies.sorted(),
        errors: window.errors(),
        server_cpu: after.server_cpu.zip(before.server_cpu).map(|(end, begin)| end.saturating_sub(begin)),
        server_peak_bytes: server.map(|server| server.peak_resident_bytes()).transpose()?,
        generator_cpu: after.generator_cpu.saturating_sub(before.generator_cpu),
        raw_signs_per_s: after.signer.zip(before.signer).and_then(|(end, begin)| end.raw_signs_per_s(&begin)),
        signatures: after.signer.zip(before.signer).map(|(end, begin)| end.signatures_since(&begin)),
    })
}

impl Reading {
    /// Times first: what follows takes time itself.
    fn take(
        runtime: &tokio::runtime::Runtime,
        admin: &Client,
        server: Option<Server>,
    ) -> anyhow::Result<Self> {
        let at = Instant::now();
        let server_cpu = server.map(|server| server.cpu()).transpose().context("the authority's process")?;
        let generator_cpu = Server::own().cpu()?;
        let metrics = runtime.block_on(admin.metrics()).ok();
        Ok(Self { at, server_cpu, generator_cpu, signer: metrics.as_deref().and_then(SignerCounts::parse) })
    }
}

fn shares(hosts: Vec<Host>, threads: u32) -> Vec<Vec<Host>> {
    let threads = usize::try_from(threads).unwrap_or(1).max(1);
    let each = hosts.len().div_ceil(threads).max(1);
    let mut shares = Vec::new();
    let mut hosts = hosts.into_iter().peekable();
    while hosts.peek().is_some() {
        shares.push(hosts.by_ref().take(each).collect());
    }
    shares
}

fn wait_for_hosts(window: &Window, count: u64) -> anyhow::Result<()> {
    let bar = bar(count, "hosts connected");
    let deadline = Instant::now() + CONNECT_DEADLINE;
    while window.connected() < count {
        ensure!(
            Instant::now() < deadline,
            "{} of {count} hosts connected: {:?}",
            window.connected(),
            window.errors()
        );
        bar.set_position(window.connected());
        std::thread::sleep(TICK);
    }
    bar.finish_and_clear();
    Ok(())
}

fn wait_for_end(window: &Window, plan: &Plan, began: Instant) {
    let bar = bar(plan.window.as_secs(), "seconds measured");
    loop {
        let passed = began.elapsed();
        if passed >= plan.window || window.artifacts() >= plan.max_artifacts {
            break;
        }
        bar.set_position(passed.as_secs());
        bar.set_message(format!("{:.0} artifacts/s", rate(window.artifacts(), passed)));
        std::thread::sleep(TICK.min(plan.window.saturating_sub(passed)));
    }
    bar.finish_and_clear();
}

/// Per second.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(crate) fn rate(count: u64, over: Duration) -> f64 {
    let secs = over.as_secs_f64();
    if secs > 0.0 { count as f64 / secs } else { 0.0 }
}

fn drive_all(
    hosts: Vec<Host>,
    log: Log,
    window: Arc<Window>,
    verify_every: u64,
) -> anyhow::Result<Latencies> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
        let log = Arc::new(log);
        let mut tasks = JoinSet::new();
        for (at, host) in (0_u64..).zip(hosts) {
            let driver = Driver {
                host,
                log: Arc::clone(&log),
                window: Arc::clone(&window),
                // Hosts check thoroughly at different times.
                until_thorough: at % verify_every,
                verify_every,
            };
            tasks.spawn(driver.drive(Arc::clone(&handshakes)));
        }
        let mut latencies = Latencies::default();
        while let Some(host) = tasks.join_next().await {
            latencies.merge(host?);
        }
        Ok(latencies)
    })
}

struct Driver {
    host: Host,
    log: Arc<Log>,
    window: Arc<Window>,
    until_thorough: u64,
    verify_every: u64,
}

impl Driver {
    async fn drive(mut self, handshakes: Arc<Semaphore>) -> Latencies {
        let mut latencies = Latencies::default();
        {
            let _permit = handshakes.acquire().await;
            if let Err(failure) = self.host.connect().await {
                self.window.failed(&failure);
            }
        }
        let mut connected = false;
        while self.window.phase() != Phase::Over {
            let began = Instant::now();
            match self.issue().await {
                Ok(()) => {
                    let took = began.elapsed();
                    if self.window.completed() {
                        latencies.record(took);
                    }
                }
                Err(failure) => {
                    self.window.failed(&failure);
                    tokio::time::sleep(failure.retry_after().unwrap_or(BACKOFF).min(LONGEST_BACKOFF)).await;
                }
            }
            if !connected {
                connected = true;
                self.window.host_is_connected();
            }
        }
        latencies
    }

    async fn issue(&mut self) -> Result<(), CallFailure> {
        let thorough = self.until_thorough == 0;
        self.until_thorough = if thorough { self.verify_every - 1 } else { self.until_thorough - 1 };
        self.host.issue(&self.log, thorough).await.map(drop)
    }
}
