//! `audit export`: the log in formats of others; `audit verify-chain`: a document in one of them.

use super::Log;
use crate::failure::Outcome;
use crate::output;
use anyhow::Context as _;
use countersign_authority::audit::{ExportFault, MAX_CHAIN, export_chain, export_prov, verify_chain};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// Events chained by SHA3-512 and by BLAKE2b-512, one for each leaf.
    DualChain,
    /// W3C PROV-JSON.
    Prov,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    log: Log,
    /// Into what.
    #[arg(long, value_enum)]
    format: Format,
    /// First leaf.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many leaves; all when absent.
    #[arg(long)]
    count: Option<u64>,
    /// Where it goes; a file that isn't there yet.
    #[arg(long)]
    out: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct ChainArgs {
    /// The document.
    document: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&args.out);
    let file = file.with_context(|| args.out.display().to_string())?;
    let written = args.log.read(|bundle, log, size| {
        let upto = args.count.map_or(size, |count| args.from.saturating_add(count)).min(size);
        Ok(write(args, &file, bundle.origin().as_str(), log, (args.from, upto)))
    });
    match written.and_then(|written| written) {
        Ok(document) if args.log.json => output::json(&document)?,
        Ok(document) => anstream::println!("{}", line(&document)),
        Err(error) => {
            // Half a document is none.
            std::fs::remove_file(&args.out).with_context(|| args.out.display().to_string())?;
            return Err(error.into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(
    args: &Args,
    file: &File,
    origin: &str,
    log: &dyn countersign_authority::audit::LogSource,
    range: (u64, u64),
) -> anyhow::Result<serde_json::Value> {
    let mut out = BufWriter::new(file);
    let said = match args.format {
        Format::DualChain => {
            let end = export_chain(log, origin, range, &mut out)?;
            serde_json::json!({ "events": end.events, "hash": end.hash, "hash_b": end.hash_b })
        }
        Format::Prov => {
            let document = export_prov(log, origin, range)?;
            serde_json::to_writer(&mut out, &document)?;
            writeln!(out)?;
            let count = |name: &str| {
                document.get(name).and_then(|part| part.as_object()).map_or(0, |part| part.len())
            };
            serde_json::json!({ "entities": count("entity"), "activities": count("activity"), "agents": count("agent") })
        }
    };
    out.flush().map_err(ExportFault::Output)?;
    drop(out);
    file.sync_all()?;
    Ok(said)
}

fn line(document: &serde_json::Value) -> String {
    let parts = document.as_object().into_iter().flatten();
    let texts = parts.map(|(name, value)| {
        format!("{name} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    });
    format!("exported: {}", texts.collect::<Vec<_>>().join(", "))
}

pub(super) fn run_chain(args: &ChainArgs) -> Outcome {
    let place = || args.document.display().to_string();
    if std::fs::metadata(&args.document).with_context(place)?.len() > MAX_CHAIN {
        return Err(anyhow::anyhow!("{} is larger than 64 MiB", place()).into());
    }
    let bytes = std::fs::read(&args.document).with_context(place)?;
    match verify_chain(&bytes) {
        Ok(end) if args.json => {
            output::json(
                &serde_json::json!({ "events": end.events, "hash": end.hash, "hash_b": end.hash_b }),
            )?;
        }
        Ok(end) => anstream::println!("verified: {} events\n{}\n{}", end.events, end.hash, end.hash_b),
        Err(fault) => {
            anstream::eprintln!("refused: {}: {fault}", fault.code());
            return Ok(ExitCode::from(1));
        }
    }
    Ok(ExitCode::SUCCESS)
}
