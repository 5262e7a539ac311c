//! `countersign bench check`: what it costs to check an artifact, and a whole log.
//!
//! Comes in: the store of an authority that isn't running, with artifacts in it, and its trust bundle. Goes out: `artifact_check_us` (inclusion, claims, and
//! a head and a holder key that were met before), `ed25519_verify_us` (one strict verification, in the same run), `audit_leaves_per_s`.

use super::clock::{Clock, Pace};
use super::evidence::{merge, micros};
use crate::profile;
use anyhow::Context;
use clap::Args;
use countersign_authority::audit::{LogSource, StoreLog, verify};
use countersign_authority::store::sqlite::{self, SqliteOptions};
use countersign_authority::store::{LogReader, newest_signed_head, receipts_for};
use countersign_core::artifact::Receipt;
use countersign_core::control::ControlState;
use countersign_core::key::{Algorithm, KnownKeys};
use countersign_core::leaf::decision::Decision;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::tlog_proof::TlogProof;
use countersign_core::verified_heads::VerifiedHeads;
use countersign_gateway::holder::key::HolderKey;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// The whole log is verified as often, and the best run counts.
const AUDITS: usize = 3;
const PAGE: u64 = 512;

/// Arguments of `bench check`.
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The SQLite store.
    #[arg(long)]
    store: PathBuf,
    /// Its trust bundle.
    #[arg(long)]
    trust_bundle: PathBuf,
    /// JSON file to write members into; printed otherwise.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Measures and writes.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let bundle = profile::bundle(&args.trust_bundle)?;
    let reader = sqlite::open_reader(&SqliteOptions::new(&args.store, bundle.origin().clone()))
        .with_context(|| args.store.display().to_string())?;
    let log = StoreLog::new(&reader)?;
    let (control, newest) = walk(&log, ControlState::of_bundle(&bundle))?;
    let text = receipt(&reader, newest)?;
    let (heads, mut keys) = (VerifiedHeads::default(), KnownKeys::default());
    let mut check = || {
        let receipt = Receipt::parse(&text).ok()?.verify_signature_among(&control, &heads).ok()?;
        Decision::parse_among(&receipt.receipt().leaf().body, &mut keys).ok()
    };
    anyhow::ensure!(check().is_some(), "the newest artifact doesn't verify");
    let mut clock = Clock::new(Pace::FULL)?;
    let artifact = clock.median("artifact_check", || check().is_some())?;
    let key = HolderKey::generate(Algorithm::EdDsa).context("a key")?;
    let message = [9; 100];
    let signature = key.sign(&message);
    let ed25519 = clock.median("ed25519_verify", || key.public().verify(&message, &signature).is_ok())?;
    let mut best = f64::INFINITY;
    for _ in 0..AUDITS {
        let started = Instant::now();
        verify(&log, &bundle, &mut |_| {})?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    let per_second = log.size() as f64 / best;
    let members = Map::from_iter([
        ("artifact_check_us".to_owned(), micros(artifact)),
        ("artifact_bytes".to_owned(), json!(text.len())),
        ("ed25519_verify_us".to_owned(), micros(ed25519)),
        ("audit_leaves_per_s".to_owned(), Value::from(per_second.round())),
        ("audit_leaves".to_owned(), json!(log.size())),
    ]);
    merge(args.json.as_deref(), members)?;
    Ok(ExitCode::SUCCESS)
}

/// The control state at the end, and the newest artifact.
fn walk(log: &StoreLog<'_>, mut control: ControlState) -> anyhow::Result<(ControlState, u64)> {
    let (mut from, mut newest) = (0, None);
    while from < log.size() {
        for bytes in log.leaves(from, PAGE)? {
            let leaf = Leaf::parse(&bytes)?;
            if leaf.kind.is_control() {
                control.apply(&bytes)?;
            }
            if leaf.kind == Kind::Allow {
                newest = Some(leaf.index);
            }
            from = leaf.index + 1;
        }
    }
    Ok((control, newest.context("the log has no artifact")?))
}

/// As the authority hands it out.
fn receipt(reader: &dyn LogReader, index: u64) -> anyhow::Result<String> {
    let head = newest_signed_head(reader)?.context("the log has no signed head")?;
    let receipts = receipts_for(reader, &[index], head.into())?;
    let leaf = receipts.leaves.first().context("no receipt")?;
    let proof = TlogProof {
        extra: leaf.leaf.to_vec(),
        index,
        proof: leaf.proof.clone(),
        checkpoint: receipts.head.note().to_owned(),
    };
    Ok(proof.encode())
}
