//! `authority prune`: removes what old decisions were made from, also while authorities serve. Leaves, proofs, heads and documents stay, and
//! audits tell what was pruned.

use crate::audit::bar;
use crate::failure::Outcome;
use crate::output;
use anyhow::Context as _;
use countersign_authority::config::Config;
use countersign_authority::store::PrunePlan;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_MS: u64 = 86_400_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Configuration of an authority of the log.
    #[arg(long, default_value = "/var/lib/countersign/authority.toml")]
    config: PathBuf,
    /// Age from which on evidence may go, days, one at least; `retention.evidence_days` of the configuration if nothing is said. What anything
    /// living rests on stays at any age.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    older_than_days: Option<u32>,
    /// Change nothing; say how much would go, at most.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let config = Config::load(&args.config).map_err(anyhow::Error::new)?;
    let days = args.older_than_days.or(config.retention.evidence_days.map(std::num::NonZeroU32::get)).context(
        "neither --older-than-days nor retention.evidence_days in the configuration says from which age on",
    )?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
    let now_ms = u64::try_from(now_ms.as_millis()).context("the clock")?;
    let before_ms = now_ms.saturating_sub(u64::from(days).saturating_mul(DAY_MS));
    let plan = PrunePlan { before_ms, now_ms, dry_run: args.dry_run };
    let place = config.store.place(&config.origin);
    let size =
        place.open_reader().map_err(anyhow::Error::new)?.newest_committed().map_err(anyhow::Error::new)?;
    // Every leaf is read twice: for what it keeps, and for what goes.
    let bar = bar(size.map_or(0, |tip| tip.head.body().size).saturating_mul(2));
    let pruned = place.prune(&plan, &mut |done| bar.set_position(done)).map_err(anyhow::Error::new)?;
    bar.finish_and_clear();
    if args.json {
        output::json(&serde_json::json!({
            "before_ms": pruned.before_ms,
            "leaves": pruned.upto,
            "blobs": pruned.blobs,
            "bytes": pruned.bytes,
            "dry_run": args.dry_run,
        }))?;
    } else {
        let would = if args.dry_run { "would prune" } else { "pruned" };
        anstream::println!(
            "{would}: {} members, {} bytes, of decisions before {} among {} leaves",
            pruned.blobs,
            pruned.bytes,
            output::time(pruned.before_ms),
            pruned.upto
        );
    }
    Ok(ExitCode::SUCCESS)
}
