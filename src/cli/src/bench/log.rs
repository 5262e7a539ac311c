//! `countersign bench log`: how fast each kind of store takes leaves, on this machine.
//!
//! Comes in: an empty directory, and a PostgreSQL database where one is to be measured. Goes out: one JSON document and a line for each store.
//! Everything runs on one thread; to hold it to one core, start it under `taskset`. PostgreSQL's own processes are beside it.

use super::stats::rounded;
use crate::authority::PostgresArgs;
use anyhow::Context;
use countersign_authority::sequence::measure::{Load, appends};
use countersign_authority::store::Place;
use countersign_authority::store::sqlite::SqliteOptions;
use countersign_core::name::Origin;
use serde::Serialize;
use std::path::PathBuf;

const ORIGIN: &str = "bench.example/log";

/// Arguments of `bench log`.
#[derive(clap::Args)]
pub(crate) struct LogArgs {
    /// Directory for a SQLite store, on the disk that is to be measured. The store stays there.
    #[arg(long)]
    dir: PathBuf,
    #[command(flatten)]
    postgres: PostgresArgs,
    /// Batches of each store, each one durable transaction.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batches: u64,
    /// Leaves of a batch.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    batch_leaves: u64,
    /// Bytes of a leaf.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=65_535))]
    leaf_bytes: u32,
    /// Where to write the result as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What was reached: appended durably in three trees, and proven.
#[derive(Debug, Serialize)]
struct Report {
    sqlite_leaves_per_s: f64,
    /// Null where no database was named.
    postgres_leaves_per_s: Option<f64>,
    batches: u64,
    batch_leaves: u64,
    leaf_bytes: u32,
}

/// Measures one store after the other.
pub(super) fn run(args: &LogArgs) -> anyhow::Result<std::process::ExitCode> {
    let origin = Origin::parse(ORIGIN)?;
    let sqlite = Place::Sqlite(SqliteOptions::new(args.dir.join("bench.sqlite"), origin.clone()));
    let postgres = args.postgres.store()?.map(|store| store.place(&origin));
    let report = Report {
        sqlite_leaves_per_s: measure(&sqlite, args).context("SQLite")?,
        postgres_leaves_per_s: postgres
            .map(|place| measure(&place, args).context("PostgreSQL"))
            .transpose()?,
        batches: args.batches,
        batch_leaves: args.batch_leaves,
        leaf_bytes: args.leaf_bytes,
    };
    anstream::println!("SQLite      {} leaves/s", report.sqlite_leaves_per_s);
    if let Some(rate) = report.postgres_leaves_per_s {
        anstream::println!("PostgreSQL  {rate} leaves/s");
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, format!("{text}\n")).with_context(|| path.display().to_string())?;
    }
    Ok(std::process::ExitCode::SUCCESS)
}

fn measure(place: &Place, args: &LogArgs) -> anyhow::Result<f64> {
    place.create()?;
    let mut store = place.open()?;
    let leaf_bytes = usize::try_from(args.leaf_bytes)?;
    let load = Load { batches: args.batches, batch_leaves: args.batch_leaves, leaf_bytes };
    // Files grow and caches fill before the clock runs.
    appends(&mut store, ORIGIN, &Load { batches: args.batches.div_ceil(10), ..load })?;
    let done = appends(&mut store, ORIGIN, &load)?;
    Ok(rounded(done.leaves as f64 / done.time.as_secs_f64().max(f64::MIN_POSITIVE), 0))
}
