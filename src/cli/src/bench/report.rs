//! The result: JSON for programs, lines for people, a progress bar while it takes time.

use super::IssueArgs;
use super::floor::Floor;
use super::load::{Measured, rate};
use super::stats::rounded;
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What was reached. A member is null when it couldn't be measured: without `--server-pid`, or without the signer's metrics.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Artifacts received and checked within the window.
    pub(crate) artifacts: u64,
    artifacts_per_s: f64,
    /// From before the challenge was asked for until the artifact was checked.
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    max_ms: Option<f64>,
    /// User and system time of the authority's process.
    server_cpu_us_per_artifact: Option<f64>,
    /// One AK quote signature, one holder-key signature and three leaf hashes, verified in the same run.
    crypto_floor_us: f64,
    /// `server_cpu_us_per_artifact` over `crypto_floor_us`.
    cpu_ratio: Option<f64>,
    /// Signatures a second that the head key makes when it does nothing else.
    raw_signs_per_s: Option<f64>,
    /// `artifacts_per_s` over `raw_signs_per_s`.
    amplification: Option<f64>,
    /// Peak resident memory of the authority's process.
    server_rss_mib: Option<f64>,
    /// Calls, warm-up included, that brought no good artifact.
    pub(crate) errors: u64,
    errors_by_code: BTreeMap<String, u64>,
    run: Run,
}

/// How it was measured.
#[derive(Debug, Serialize)]
struct Run {
    version: &'static str,
    cpus: usize,
    hosts: u32,
    window_s: f64,
    warmup_s: u64,
    generator_threads: u32,
    boot_log_bytes: u32,
    verify_every: u64,
    generator_cpu_us_per_artifact: f64,
    floor_quote_signature_us: f64,
    floor_holder_signature_us: f64,
    floor_leaf_hashes_us: f64,
    head_signatures: Option<f64>,
    artifacts_per_head_signature: Option<f64>,
}

impl Report {
    pub(crate) fn new(args: &IssueArgs, floor: &Floor, measured: &Measured) -> Self {
        let count = measured.artifacts.max(1);
        let per_artifact = |cpu: std::time::Duration| 1e6 / rate(count, cpu).max(f64::MIN_POSITIVE);
        let artifacts_per_s = rate(measured.artifacts, measured.window);
        let server_cpu = measured.server_cpu.map(per_artifact);
        let raw_signs_per_s = args.raw_sign_ms.map(|ms| 1_000.0 / ms).or(measured.raw_signs_per_s);
        let whole = |value: f64| rounded(value, 1);
        let signatures = measured.signatures.filter(|signatures| *signatures > 0.0);
        Self {
            artifacts: measured.artifacts,
            artifacts_per_s: whole(artifacts_per_s),
            p50_ms: measured.latencies.percentile_ms(500).map(|ms| rounded(ms, 2)),
            p99_ms: measured.latencies.percentile_ms(990).map(|ms| rounded(ms, 2)),
            max_ms: measured.latencies.max_ms().map(|ms| rounded(ms, 2)),
            server_cpu_us_per_artifact: server_cpu.map(whole),
            crypto_floor_us: whole(floor.micros()),
            cpu_ratio: server_cpu.map(|cpu| rounded(cpu / floor.micros().max(f64::MIN_POSITIVE), 2)),
            raw_signs_per_s: raw_signs_per_s.map(|raw| rounded(raw, 2)),
            amplification: raw_signs_per_s.map(|raw| rounded(artifacts_per_s / raw, 2)),
            server_rss_mib: measured.server_peak_bytes.map(mebibytes),
            errors: measured.errors.by_code.values().sum(),
            errors_by_code: measured.errors.by_code.clone(),
            run: Run {
                version: env!("CARGO_PKG_VERSION"),
                cpus: std::thread::available_parallelism().map_or(0, usize::from),
                hosts: args.hosts,
                window_s: rounded(measured.window.as_secs_f64(), 2),
                warmup_s: args.warmup_seconds,
                generator_threads: args.threads,
                boot_log_bytes: args.boot_log_bytes,
                verify_every: args.verify_every,
                generator_cpu_us_per_artifact: whole(per_artifact(measured.generator_cpu)),
                floor_quote_signature_us: whole(floor.quote_signature.as_secs_f64() * 1e6),
                floor_holder_signature_us: whole(floor.holder_signature.as_secs_f64() * 1e6),
                floor_leaf_hashes_us: whole(floor.leaf_hashes.as_secs_f64() * 1e6),
                head_signatures: signatures,
                artifacts_per_head_signature: signatures
                    .map(|signatures| whole(artifacts_per_s * measured.window.as_secs_f64() / signatures)),
            },
        }
    }

    /// Writes the JSON where asked, and lines for people: to standard output, or to standard error if the JSON goes there.
    pub(crate) fn write(&self, json: Option<&Path>) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        match json {
            Some(path) if path == Path::new("-") => {
                anstream::println!("{text}");
                anstream::eprintln!("{}", self.summary());
            }
            Some(path) => {
                std::fs::write(path, format!("{text}\n")).with_context(|| path.display().to_string())?;
                anstream::println!("{}", self.summary());
            }
            None => anstream::println!("{}", self.summary()),
        }
        Ok(())
    }

    fn summary(&self) -> String {
        let mut lines = vec![
            format!("{} artifacts in {} s, {} errors", self.artifacts, self.run.window_s, self.errors),
            format!("artifacts/s             {}", self.artifacts_per_s),
            format!(
                "latency p50 / p99 / max {} / {} / {} ms",
                shown(self.p50_ms),
                shown(self.p99_ms),
                shown(self.max_ms)
            ),
            format!("server CPU per artifact {} us", shown(self.server_cpu_us_per_artifact)),
            format!("cryptographic floor     {} us", self.crypto_floor_us),
            format!("CPU ratio               {}", shown(self.cpu_ratio)),
            format!("raw signatures/s        {}", shown(self.raw_signs_per_s)),
            format!("amplification           {}", shown(self.amplification)),
            format!("server memory, peak     {} MiB", shown(self.server_rss_mib)),
        ];
        lines.extend(self.errors_by_code.iter().map(|(code, count)| format!("error {code}: {count}")));
        lines.join("\n")
    }
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "not measured".to_owned(), |value| value.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "memory sizes stay far below 2^52")]
fn mebibytes(bytes: u64) -> f64 {
    rounded(bytes as f64 / f64::from(1_u32 << 20), 1)
}

/// A bar on standard error; hidden when that isn't a terminal.
pub(crate) fn bar(length: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {prefix} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(what);
    bar
}
