//! `countersign artifact`: what a runtime does (ask the host's agent) and what anyone can do (look at a receipt, check it).

use crate::failure::{Failure, Outcome};
use crate::{output, profile};
use anyhow::Context;
use clap::Subcommand;
use countersign_core::api::Feed;
use countersign_core::artifact::{ArtifactError, Receipt, verify_head_signature, verify_note_with};
use countersign_core::bundle::TrustBundle;
use countersign_core::leaf::Kind;
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::refusal::RefusalCode;
use countersign_gateway::clock::ClockReading;
use countersign_gateway::snapshot::Snapshot;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

mod request;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Ask this host's agent for an artifact to run a program.
    Request(Box<request::Args>),
    /// Print what a receipt says. Checks its form and inclusion, and its head's signature when a trust bundle is given: by the bundle's first head
    /// keys, or by those that the control chain names.
    Show {
        /// Receipt.
        file: PathBuf,
        /// Pinned trust bundle.
        #[arg(long)]
        trust_bundle: Option<PathBuf>,
        /// Answers of `GET /v1/feed?size=0&control=0` in order: the control chain, for artifacts from after a rotation.
        #[arg(long, requires = "trust_bundle")]
        feed: Vec<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Request(args) => request::run(&args),
        Command::Show { file, trust_bundle, feed, json } => show(&file, trust_bundle.as_deref(), &feed, json),
    }
}

/// A line of the page: its name, its value for programs, and what people read where that says more.
struct Row(&'static str, Value, Option<String>);

impl Row {
    fn of(name: &'static str, value: impl Into<Value>) -> Self {
        Self(name, value.into(), None)
    }

    fn text(&self) -> String {
        match (&self.2, &self.1) {
            (Some(text), _) => text.clone(),
            (None, Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
            (None, Value::String(text)) => text.clone(),
            (None, Value::Array(list)) => {
                list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
            }
            (None, other) => other.to_string(),
        }
    }
}

fn show(file: &Path, trust_bundle: Option<&Path>, feed: &[PathBuf], json: bool) -> Outcome {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let receipt = Receipt::parse(&text).map_err(|error| Failure::refused(error.code(), error.to_string()))?;
    let signed = match trust_bundle {
        Some(path) => Row(
            "head signed",
            true.into(),
            Some(check_head(&receipt, &profile::bundle(path)?, feed)?.to_owned()),
        ),
        None => Row("head signed", Value::Null, Some("not checked: give --trust-bundle".to_owned())),
    };
    let leaf = receipt.leaf();
    let mut rows = vec![
        Row::of("kind", leaf.kind.name()),
        Row::of("log", receipt.head().origin.clone()),
        Row::of("index", leaf.index),
        Row::of("leaf hash", receipt.leaf_hash().to_hex()),
        Row::of("recorded", output::time(leaf.time_ms)),
        Row::of("head size", receipt.head().size),
        Row::of("included", true),
        signed,
    ];
    if matches!(leaf.kind, Kind::Allow | Kind::Deny) {
        let decision = Decision::parse(&leaf.body).context("decision body")?;
        rows.extend(decision_rows(&decision));
    }
    if json {
        let map: serde_json::Map<String, Value> =
            rows.into_iter().map(|Row(name, value, _)| (name.replace(' ', "_"), value)).collect();
        output::json(&map)?;
    } else {
        for row in rows {
            anstream::println!("{:>14}  {}", row.0, row.text());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// By whom the receipt's head is signed, in words (PROTOCOL §6.3, §8.5). That the head is a part of the log that others see isn't looked at.
fn check_head(receipt: &Receipt, bundle: &TrustBundle, feed: &[PathBuf]) -> Result<&'static str, Failure> {
    let head = receipt.head();
    if feed.is_empty() {
        return match verify_note_with(receipt.note(), bundle.origin().as_str(), bundle.head_keys()) {
            Ok(()) => Ok("yes, by a head key of the trust bundle"),
            Err(error @ ArtifactError::Unsigned) => Err(Failure::refused(
                error.code(),
                "no head key of the trust bundle signed it; after a rotation give the control chain (--feed)",
            )),
            Err(error) => Err(Failure::refused(error.code(), error.to_string())),
        };
    }
    let now = ClockReading::now().map_err(anyhow::Error::new)?;
    let advanced = Snapshot::first(bundle, &joined(feed)?, &now, &now);
    let known = advanced.map_err(|refused| Failure::refused(refused.code(), refused.to_string()))?.snapshot;
    if head.control_seq > known.control().number() {
        let code = RefusalCode::ControlBehind;
        return Err(Failure::refused(code, "the feed ends before the control number of the artifact's head"));
    }
    if known.chain().digest_at(head.control_seq) != Some(head.control_digest) {
        let code = RefusalCode::HeadForked;
        return Err(Failure::refused(
            code,
            "the artifact's head is over another control chain than the feed's",
        ));
    }
    verify_head_signature(receipt.note(), head, known.control())
        .map_err(|error| Failure::refused(error.code(), error.to_string()))?;
    Ok("yes, by a head key that the control chain names")
}

/// Pages of a feed as one.
fn joined(pages: &[PathBuf]) -> anyhow::Result<Feed> {
    let read = |path: &PathBuf| -> anyhow::Result<Feed> {
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    };
    let mut whole: Option<Feed> = None;
    for path in pages {
        let page = read(path)?;
        whole = Some(match whole {
            None => page,
            Some(before) => Feed {
                control: before.control.into_iter().chain(page.control).collect(),
                rotations: before.rotations.into_iter().chain(page.rotations).collect(),
                ..page
            },
        });
    }
    whole.context("a feed is needed")
}

fn decision_rows(decision: &Decision) -> Vec<Row> {
    let mut rows = vec![
        Row::of("runtime", decision.runtime.to_string()),
        Row::of("audience", decision.audience.to_string()),
        Row::of("action", decision.action.to_string()),
        Row::of("workload", decision.workload.to_hex()),
        Row::of("arguments", decision.arguments.to_hex()),
        Row::of("tier", decision.appraisal.tier.name()),
        Row::of("depth", decision.lineage.depth),
        Row::of("host-asserted", json!(decision.asserted)),
    ];
    match decision.verdict {
        Verdict::Allow { nbf, exp } => {
            rows.push(Row::of("valid from", output::time(nbf.saturating_mul(1_000))));
            rows.push(Row::of("valid until", output::time(exp.saturating_mul(1_000))));
        }
        Verdict::Deny(code) => {
            let words = format!("{code}: {}", code.meaning());
            rows.push(Row("denied", code.as_str().into(), Some(words)));
        }
    }
    if let Some(policy) = &decision.policy {
        rows.push(Row::of("policy epoch", policy.epoch));
        rows.push(Row::of("policies", json!(policy.determining)));
    }
    if let Some(set) = &decision.appraisal.reference_set {
        rows.push(Row::of("reference set", set.clone()));
    }
    rows
}
