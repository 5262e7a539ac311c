//! `countersign audit`: checks a copy of a store against a pinned trust bundle, without a network and without the operator's word.

mod export;
mod reconcile;
mod tail;
mod verify;
mod walk;
mod witnessed;

use crate::failure::{Failure, Outcome};
use crate::{output, profile};
use anyhow::{Context, bail};
use clap::Subcommand;
use countersign_authority::audit::{
    AuditCode, ExportLog, Kept, LogSource, MAX_EVIDENCE_BUNDLE, StoreLog, Unreadable, WithKept, make_bundle,
    replay, verify_bundle,
};
use countersign_authority::config::Config;
use countersign_authority::store::sqlite::SqliteOptions;
use countersign_authority::store::{Place as StorePlace, Reader};
use countersign_core::bundle::TrustBundle;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Check the whole log: leaves, three trees, every head, control chain, order, signatures.
    Verify(verify::Args),
    /// Print the head of exactly one size, with what signatures it has.
    Head(witnessed::HeadArgs),
    /// Derive every decision and host state again from stored evidence, byte for byte, and hold every enrolment against its records.
    Replay(ReplayArgs),
    /// Compare what gateways say that they did with what was decided.
    Reconcile(reconcile::Args),
    /// Go from an outcome or a decision back to everything that it rests on.
    Walk(walk::Args),
    /// Follow a live authority and print each leaf once it is verified.
    Tail(tail::Args),
    /// Write the log in another format.
    Export(export::Args),
    /// Check a document in the dual hash-chain format.
    VerifyChain(export::ChainArgs),
    /// Print every leaf, base64, one a line.
    Leaves(Log),
    /// Gather all that bears an artifact out into one file.
    Bundle(BundleArgs),
    /// Check such a file against a pinned trust bundle, without a store.
    VerifyBundle(VerifyBundleArgs),
}

#[derive(clap::Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    copies: Copies,
    /// Decisions of which something was pruned are no reason to fail. Only the store says that they were.
    #[arg(long)]
    pruned_ok: bool,
}

/// What an auditor kept of evidence that the store has no more.
#[derive(clap::Args)]
pub(crate) struct Copies {
    /// Directory with copies of members, under any names, or an older copy of a SQLite store. What it holds counts by its digest.
    #[arg(long)]
    kept: Option<PathBuf>,
}

impl Copies {
    fn open(&self, bundle: &TrustBundle) -> anyhow::Result<Option<Kept>> {
        let Some(path) = &self.kept else { return Ok(None) };
        if path.is_dir() {
            return Ok(Some(Kept::files(path)?));
        }
        Ok(Some(Kept::Store(open_store(Some(path), None, bundle)?)))
    }
}

#[derive(clap::Args)]
pub(crate) struct BundleArgs {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    copies: Copies,
    /// The artifact.
    artifact: PathBuf,
    /// Where the bundle goes; a file that isn't there yet.
    #[arg(long)]
    out: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct VerifyBundleArgs {
    /// The evidence bundle.
    bundle: PathBuf,
    /// Pinned trust bundle.
    #[arg(long)]
    trust_bundle: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is checked, and against what.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("place").required(true).multiple(false).args(["store", "config"])))]
pub(crate) struct Source {
    /// SQLite store, or a copy of one.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Configuration of an authority, whose store is read, whichever kind it is.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Pinned trust bundle.
    #[arg(long)]
    trust_bundle: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A log for what needs leaves and heads only: a store, or an export.
#[derive(clap::Args)]
pub(crate) struct Log {
    #[command(flatten)]
    place: Place,
    /// Pinned trust bundle.
    #[arg(long)]
    trust_bundle: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Where it is.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// SQLite store, or a copy of one.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Configuration of an authority, whose store is read, whichever kind it is.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Export of a log (PROTOCOL §11.3).
    #[arg(long)]
    export: Option<PathBuf>,
}

impl Log {
    /// Opens the log and hands it over, with how many leaves there are to read.
    fn read<T>(
        &self,
        work: impl FnOnce(&TrustBundle, &dyn LogSource, u64) -> Result<T, Unreadable>,
    ) -> anyhow::Result<T> {
        let bundle = profile::bundle(&self.trust_bundle)?;
        if let Some(path) = &self.place.export {
            let log = ExportLog::open(path)?;
            return Ok(work(&bundle, &log, log.size())?);
        }
        let reader = open_store(self.place.store.as_deref(), self.place.config.as_deref(), &bundle)?;
        let log = StoreLog::new(reader.as_ref())?;
        Ok(work(&bundle, &log, log.size())?)
    }
}

/// A store in a file, or the one that a configuration names.
fn open_store(
    store: Option<&Path>,
    config: Option<&Path>,
    bundle: &TrustBundle,
) -> anyhow::Result<Arc<dyn Reader>> {
    let place = match (store, config) {
        (Some(path), _) if !path.is_file() => bail!("{} is no store", path.display()),
        (Some(path), _) => StorePlace::Sqlite(SqliteOptions::new(path, bundle.origin().clone())),
        (None, Some(config)) => {
            Config::load(config).map_err(anyhow::Error::new)?.store.place(bundle.origin())
        }
        (None, None) => bail!("--store or --config is needed"),
    };
    place.open_reader().context("the store can't be opened")
}

impl Source {
    fn open(&self) -> anyhow::Result<(TrustBundle, Arc<dyn Reader>)> {
        let bundle = profile::bundle(&self.trust_bundle)?;
        let reader = open_store(self.store.as_deref(), self.config.as_deref(), &bundle)?;
        Ok((bundle, reader))
    }
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Verify(args) => verify::run(&args),
        Command::Head(args) => witnessed::run_head(&args),
        Command::Replay(args) => run_replay(&args),
        Command::Reconcile(args) => reconcile::run(&args),
        Command::Walk(args) => walk::run(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Export(args) => export::run(&args),
        Command::VerifyChain(args) => export::run_chain(&args),
        Command::Leaves(source) => run_leaves(&source),
        Command::Bundle(args) => run_bundle(&args),
        Command::VerifyBundle(args) => run_verify_bundle(&args),
    }
}

fn run_bundle(args: &BundleArgs) -> Outcome {
    let (trust, reader) = args.source.open()?;
    let kept = args.copies.open(&trust)?;
    let artifact =
        std::fs::read_to_string(&args.artifact).with_context(|| args.artifact.display().to_string())?;
    let bundle =
        make_bundle(reader.as_ref(), kept.as_ref(), &artifact).map_err(|fault| match fault.code() {
            Some(code) => Failure::refused(code, fault.to_string()),
            None => Failure::Error(fault.into()),
        })?;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&args.out);
    let mut file = file.with_context(|| args.out.display().to_string())?;
    serde_json::to_writer(&mut file, &bundle)?;
    file.sync_all()?;
    anstream::println!(
        "bundled: {} members, {} leaves, {} control leaves in {}",
        bundle.members.len(),
        bundle.leaves.len(),
        bundle.control.len(),
        args.out.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn run_verify_bundle(args: &VerifyBundleArgs) -> Outcome {
    let trust = profile::bundle(&args.trust_bundle)?;
    let length = std::fs::metadata(&args.bundle).with_context(|| args.bundle.display().to_string())?.len();
    if usize::try_from(length).is_ok_and(|length| length > MAX_EVIDENCE_BUNDLE) {
        let larger = anyhow::anyhow!("{} is larger than any evidence bundle", args.bundle.display());
        return Err(larger.into());
    }
    let bytes = std::fs::read(&args.bundle).with_context(|| args.bundle.display().to_string())?;
    let found = match verify_bundle(&bytes, &trust) {
        Ok(found) => found,
        Err(refused) => {
            anstream::eprintln!("refused: {refused}");
            return Ok(ExitCode::from(1));
        }
    };
    let decision = &found.decision;
    if args.json {
        output::json(&serde_json::json!({
            "index": found.artifact.0,
            "leaf": found.artifact.1.to_hex(),
            "runtime": decision.runtime.as_str(),
            "action": decision.action.as_str(),
            "audience": decision.audience.as_str(),
            "request": decision.request.to_hex(),
            "members": found.members,
        }))?;
    } else {
        anstream::println!(
            "verified: leaf {} follows from its {} members: {} may {} at {}",
            found.artifact.0,
            found.members,
            decision.runtime,
            decision.action,
            decision.audience
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn run_replay(args: &ReplayArgs) -> Outcome {
    let source = &args.source;
    let (bundle, reader) = source.open()?;
    let kept = args.copies.open(&bundle)?;
    let log = StoreLog::new(reader.as_ref()).map_err(anyhow::Error::new)?;
    let bar = bar(log.size());
    let both = kept.as_ref().map(|kept| WithKept { log: &log, kept });
    let whole = both.as_ref().map_or(&log as &dyn LogSource, |both| both);
    let report = replay(whole, &bundle, &mut |done| bar.set_position(done)).map_err(anyhow::Error::new)?;
    bar.finish_and_clear();
    if source.json {
        output::json(&serde_json::json!({
            "replayed": report.replayed,
            "denied": report.denied,
            "enrolled": report.enrolled,
            "pruned": report.pruned_count(),
            "pruned_runs": report.pruned.iter().map(|run| (run.first, run.last, run.count)).collect::<Vec<_>>(),
            "not_replayable": report.not_replayable.iter().map(|(index, why)| at(*index, why.code(), &why.to_string())).collect::<Vec<_>>(),
            "mismatches": report.mismatches.iter().map(|one| at(one.index, one.kind.code(), &one.kind.to_string())).collect::<Vec<_>>(),
        }))?;
    } else {
        for (index, missing) in &report.not_replayable {
            anstream::eprintln!("{}: leaf {index} can't be replayed: {missing}", missing.code());
        }
        for mismatch in &report.mismatches {
            anstream::eprintln!("{}: {mismatch}", mismatch.kind.code());
        }
        anstream::println!(
            "replayed: {} decisions and host states byte for byte, {} of them denials; enrolments borne out by their records: {}; {} not replayable, {} that don't follow",
            report.replayed,
            report.denied,
            report.enrolled,
            report.not_replayable.len(),
            report.mismatches.len()
        );
        for run in &report.pruned {
            let (first, last) = (run.first, run.last);
            anstream::println!("pruned: {} from leaf {first} to {last}, neither good nor wrong", run.count);
        }
    }
    let told = args.pruned_ok || report.pruned.is_empty();
    let good = told && report.mismatches.is_empty() && report.not_replayable.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn at(leaf: u64, code: AuditCode, detail: &str) -> serde_json::Value {
    serde_json::json!({"leaf": leaf, "code": code.as_str(), "detail": detail})
}

fn run_leaves(source: &Log) -> Outcome {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    source.read(|_, log, _| {
        let mut next = 0;
        loop {
            let leaves = log.leaves(next, 1_024)?;
            for leaf in &leaves {
                if let Err(error) = writeln!(out, "{}", data_encoding::BASE64.encode(leaf)) {
                    return Ok(Err(error));
                }
            }
            if leaves.is_empty() {
                return Ok(out.flush());
            }
            next += leaves.len() as u64;
        }
    })??;
    Ok(ExitCode::SUCCESS)
}

/// Drawn on standard error, and only for a person.
pub(crate) fn bar(size: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} leaves, {eta} left") {
        bar.set_style(style);
    }
    bar
}
