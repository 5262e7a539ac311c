//! `audit verify`: the whole log, or what was added since a checkpoint. Exit status 0 if it is right, 1 if not.

use super::{Log, bar, tail, witnessed};
use crate::failure::Outcome;
use crate::output;
use anyhow::Context as _;
use countersign_authority::audit::{CheckpointReport, Finding, FollowFault, verify_from};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    demand: witnessed::Demand,
    /// What an earlier run saved: only what was added since is verified, and the log has to go on from that very head.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// Where to save what the next run begins with; may be the same file. Written only if everything is right.
    #[arg(long)]
    save_checkpoint: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let source = &args.log;
    let checkpoint = match &args.checkpoint {
        None => None,
        Some(path) => {
            Some(tail::read_state(path)?.with_context(|| format!("{} isn't there", path.display()))?)
        }
    };
    let (result, witnessed, prunings) = source.read(|bundle, log, size| {
        let bar = bar(size);
        let result = verify_from(log, bundle, checkpoint.as_ref(), &mut |done| bar.set_position(done));
        bar.finish_and_clear();
        let witnessed = result.as_ref().ok().map(|found| args.demand.check(log, found.report.newest_ms));
        Ok((result, witnessed, log.prunings()?))
    })?;
    let found = match result {
        Ok(found) => found,
        Err(fault) => return told(&fault, source.json),
    };
    let witnessed = witnessed.transpose()?.flatten();
    if let Some(path) = &args.save_checkpoint {
        tail::write_state(path, &found.state)?;
    }
    let report = &found.report;
    let pruned: u64 = prunings.iter().map(|pruning| pruning.blobs).sum();
    let before_ms = prunings.iter().map(|pruning| pruning.before_ms).max();
    if source.json {
        output::json(&serde_json::json!({
            "pruned": before_ms.map(|before_ms| serde_json::json!({"inputs": pruned, "before_ms": before_ms, "prunings": prunings.len()})),
            "witnessed": witnessed.map(|head| serde_json::json!({"size": head.size, "by": head.witnesses})),
            "checkpoint": checkpoint.is_some().then_some(found.from),
            "leaves": report.leaves,
            "heads": report.heads,
            "signed_heads": report.signed_heads,
            "control": report.control,
            "kinds": report.kinds,
            "newest": report.newest.to_hex(),
            "newest_ms": report.newest_ms,
        }))?;
    } else {
        print(&found, checkpoint.is_some());
        if let Some(before_ms) = before_ms {
            let times = prunings.len();
            anstream::println!(
                "pruned: {pruned} inputs of decisions before {}, in {times} prunings that the store tells of",
                output::time(before_ms)
            );
        }
        if let Some(head) = witnessed {
            anstream::println!("witnessed by {} up to size {}", head.witnesses.join(", "), head.size);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells what is wrong with the log.
pub(super) fn wrong(finding: &Finding, json: bool) -> Outcome {
    told(&FollowFault::Wrong(finding.clone()), json)
}

/// Tells why the log isn't taken, with its code and, where it is known, its place.
pub(super) fn told(fault: &FollowFault, json: bool) -> Outcome {
    let Some(code) = fault.code() else { return Err(anyhow::Error::new(fault.clone()).into()) };
    if json {
        let (leaf, head, detail) = match fault {
            FollowFault::Wrong(finding) => (finding.leaf, finding.head, finding.kind.to_string()),
            other => (None, None, other.to_string()),
        };
        let finding = serde_json::json!({"code": code, "leaf": leaf, "head": head, "detail": detail});
        output::json(&serde_json::json!({ "finding": finding }))?;
    }
    anstream::eprintln!("refused: {code}: {fault}");
    // What an earlier run kept and isn't good is the caller's own, and no word about the log.
    Ok(ExitCode::from(if matches!(fault, FollowFault::State(_)) { 2 } else { 1 }))
}

fn print(found: &CheckpointReport, joined: bool) {
    let report = &found.report;
    for (kind, count) in &report.kinds {
        anstream::println!("{count:>10}  {kind}");
    }
    if joined {
        let (from, added) = (found.from, report.leaves.saturating_sub(found.from));
        anstream::println!(
            "goes on from the checkpoint of size {from}, by {added} leaves, in all three trees"
        );
    }
    anstream::println!(
        "verified: {} leaves, {} heads ({} signed), control {}, newest head {}",
        report.leaves,
        report.heads,
        report.signed_heads,
        report.control,
        report.newest
    );
}
