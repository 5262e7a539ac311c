//! `audit walk`: from an outcome or a decision back to everything that it rests on. Exit status 0 if every part is there, 1 if there is a gap or the
//! log doesn't verify.

use super::{Copies, Log, bar};
use crate::failure::{Failure, Outcome};
use crate::output;
use countersign_authority::audit::{LogSource, Standing, Start, Step, Walk, WithKept, verify, walk};
use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    copies: Copies,
    #[command(flatten)]
    start: From,
}

/// Where it begins.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct From {
    /// Index of an outcome leaf.
    #[arg(long)]
    outcome: Option<u64>,
    /// Index of an allow, or of a denial.
    #[arg(long)]
    artifact: Option<u64>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let start = match (args.start.outcome, args.start.artifact) {
        (Some(index), _) => Start::Outcome(index),
        (None, index) => Start::Decision(index.unwrap_or_default()),
    };
    let kept = args.copies.open(&crate::profile::bundle(&args.log.trust_bundle)?)?;
    let (verified, walked) = args.log.read(|bundle, log, size| {
        let both = kept.as_ref().map(|kept| WithKept { log, kept });
        let whole = both.as_ref().map_or(log, |both| both as &dyn LogSource);
        let bar = bar(size);
        let verified = verify(whole, bundle, &mut |done| bar.set_position(done));
        bar.finish_and_clear();
        let walked = verified.is_ok().then(|| walk(whole, bundle, start));
        Ok((verified, walked))
    })?;
    let report = match verified {
        Ok(report) => report,
        Err(finding) => return super::verify::wrong(&finding, args.log.json),
    };
    let walked = walked.transpose().map_err(|fault| match fault.code() {
        Some(code) => Failure::refused(code, fault.to_string()),
        None => Failure::Error(fault.into()),
    })?;
    let walked = walked.unwrap_or_default();
    if args.log.json {
        output::json(&serde_json::json!({
            "leaves": report.leaves,
            "newest": report.newest.to_hex(),
            "gaps": walked.gaps(),
            "steps": walked.steps.iter().map(document).collect::<Vec<_>>(),
        }))?;
    } else {
        print(&walked);
        anstream::println!(
            "walked: {} parts, {} gaps; the log of {} leaves verifies, newest head {}",
            walked.steps.len(),
            walked.gaps(),
            report.leaves,
            report.newest
        );
    }
    Ok(if walked.gaps() == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn document(step: &Step) -> serde_json::Value {
    serde_json::json!({
        "level": step.level,
        "what": step.what,
        "leaf": step.leaf,
        "digest": step.digest.map(|digest| digest.to_hex()),
        "standing": step.standing.to_string(),
        "detail": step.detail,
    })
}

fn print(walked: &Walk) {
    for step in &walked.steps {
        let indent = "  ".repeat(step.level);
        let leaf = step.leaf.map_or_else(String::new, |index| format!(" leaf {index}"));
        let digest = step.digest.map_or_else(String::new, |digest| format!(" {digest}"));
        let standing = match step.standing {
            Standing::Here => String::new(),
            gap => format!(" {}", gap.to_string().to_uppercase()),
        };
        anstream::println!("{indent}{}{leaf}{digest}{standing}: {}", step.what, step.detail);
    }
}
