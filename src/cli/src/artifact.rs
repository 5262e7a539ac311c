//! `countersign artifact`: what a runtime does (ask the host's agent) and what anyone can do (look at a receipt, check it).

use crate::failure::{Failure, Outcome};
use crate::{output, profile};
use anyhow::Context;
use clap::Subcommand;
use countersign_core::artifact::Receipt;
use countersign_core::leaf::Kind;
use countersign_core::leaf::decision::{Decision, Verdict};
use std::path::PathBuf;
use std::process::ExitCode;

mod request;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Ask this host's agent for an artifact to run a program.
    Request(Box<request::Args>),
    /// Print what a receipt says. Checks its form and inclusion, and its head's signature by the bundle's first head keys when a bundle is given.
    Show {
        /// Receipt.
        file: PathBuf,
        /// Pinned trust bundle.
        #[arg(long)]
        trust_bundle: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Request(args) => request::run(&args),
        Command::Show { file, trust_bundle, json } => show(&file, trust_bundle.as_deref(), json),
    }
}

fn show(file: &std::path::Path, trust_bundle: Option<&std::path::Path>, json: bool) -> Outcome {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let receipt = Receipt::parse(&text).map_err(|error| Failure::refused(error.code(), error.to_string()))?;
    let signed = match trust_bundle {
        Some(path) => {
            let bundle = profile::bundle(path)?;
            countersign_core::artifact::verify_note_with(
                receipt.note(),
                bundle.origin().as_str(),
                bundle.head_keys(),
            )
            .map_err(|error| Failure::refused(error.code(), error.to_string()))?;
            "yes, by a head key of the trust bundle"
        }
        None => "not checked: give --trust-bundle",
    };
    let leaf = receipt.leaf();
    let mut rows = vec![
        ("kind", leaf.kind.name().to_owned()),
        ("log", receipt.head().origin.clone()),
        ("index", leaf.index.to_string()),
        ("leaf hash", receipt.leaf_hash().to_hex()),
        ("recorded", output::time(leaf.time_ms)),
        ("head size", receipt.head().size.to_string()),
        ("included", "yes".to_owned()),
        ("head signed", signed.to_owned()),
    ];
    if matches!(leaf.kind, Kind::Allow | Kind::Deny) {
        let decision = Decision::parse(&leaf.body).context("decision body")?;
        rows.extend(decision_rows(&decision));
    }
    if json {
        let map: serde_json::Map<String, serde_json::Value> =
            rows.into_iter().map(|(name, value)| (name.replace(' ', "_"), value.into())).collect();
        output::json(&map)?;
    } else {
        for (name, value) in rows {
            anstream::println!("{name:>14}  {value}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn decision_rows(decision: &Decision) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("runtime", decision.runtime.to_string()),
        ("audience", decision.audience.to_string()),
        ("action", decision.action.to_string()),
        ("workload", decision.workload.to_hex()),
        ("arguments", decision.arguments.to_hex()),
        ("tier", decision.appraisal.tier.name().to_owned()),
        ("depth", decision.lineage.depth.to_string()),
        ("host-asserted", decision.asserted.join(", ")),
    ];
    match decision.verdict {
        Verdict::Allow { nbf, exp } => {
            rows.push(("valid from", output::time(nbf.saturating_mul(1_000))));
            rows.push(("valid until", output::time(exp.saturating_mul(1_000))));
        }
        Verdict::Deny(code) => rows.push(("denied", format!("{code}: {}", code.meaning()))),
    }
    if let Some(policy) = &decision.policy {
        rows.push(("policy epoch", policy.epoch.to_string()));
        rows.push(("policies", policy.determining.join(", ")));
    }
    if let Some(set) = &decision.appraisal.reference_set {
        rows.push(("reference set", set.clone()));
    }
    rows
}
