//! `audit reconcile`: what gateways say that they did, against what was decided. Exit status 0 if everything fits, 1 if not.

use super::{Log, bar};
use crate::failure::Outcome;
use crate::output;
use anyhow::Context as _;
use countersign_authority::audit::{Discrepancy, Reconciliation, Terms, Weight, reconcile};
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    log: Log,
    /// A gateway and the audiences for which it stands, as in `[gateways]` of the authority's configuration: NAME=AUDIENCE[,AUDIENCE..]. Without
    /// any, audiences aren't compared; with one, a gateway that isn't named has none.
    #[arg(long = "gateway", value_name = "NAME=AUDIENCE")]
    gateways: Vec<String>,
    /// How long after an artifact's end an outcome may still be on its way, seconds; the authority takes outcomes for a day.
    #[arg(long, default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    patience_secs: u64,
    /// Artifacts that nobody used are no reason to fail.
    #[arg(long)]
    unused_ok: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let terms = Terms {
        audiences: audiences(&args.gateways)?,
        patience_ms: args.patience_secs.saturating_mul(1_000),
    };
    let found = args.log.read(|bundle, log, size| {
        let bar = bar(size);
        let found = reconcile(log, bundle, &terms, &mut |done| bar.set_position(done));
        bar.finish_and_clear();
        found
    })?;
    if args.log.json {
        output::json(&document(&found))?
    } else {
        print(&found)
    }
    let good = found.count(Weight::Wrong) == 0 && (args.unused_ok || found.count(Weight::Gap) == 0);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn audiences(given: &[String]) -> anyhow::Result<Option<BTreeMap<String, BTreeSet<String>>>> {
    let mut audiences: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for one in given {
        let (name, list) =
            one.split_once('=').with_context(|| format!("--gateway {one}: NAME=AUDIENCE is needed"))?;
        let own = audiences.entry(name.to_owned()).or_default();
        own.extend(list.split(',').filter(|audience| !audience.is_empty()).map(str::to_owned));
    }
    Ok((!given.is_empty()).then_some(audiences))
}

fn gateway(one: &Discrepancy) -> String {
    match &one.gateway {
        None => "-".to_owned(),
        Some((key, name)) if name.is_empty() => key.to_string(),
        Some((_, name)) => name.clone(),
    }
}

fn print(found: &Reconciliation) {
    if !found.listed.is_empty() {
        let rows = found.listed.iter().map(|one| {
            vec![
                one.leaf.to_string(),
                one.kind.weight().name().to_owned(),
                one.artifact.map_or_else(|| "-".to_owned(), |(index, _)| index.to_string()),
                gateway(one),
                output::time(one.time_ms),
                one.kind.code().to_string(),
                one.kind.to_string(),
            ]
        });
        output::table(&["LEAF", "WEIGHT", "ARTIFACT", "GATEWAY", "TIME", "CODE", "WHAT"], rows.collect());
    }
    let all: u64 = found.counts.values().sum();
    let unlisted = all.saturating_sub(found.listed.len() as u64);
    if unlisted > 0 {
        anstream::println!("{unlisted} more aren't listed");
    }
    if !found.audiences_compared {
        anstream::println!("audiences weren't compared: name the gateways' with --gateway");
    }
    anstream::println!(
        "reconciled: {} leaves, {} allows: {} outcomes started, {} refused, {} allows only had children, {} may still be heard of; \
         {} wrong, {} without an outcome, {} to look at",
        found.leaves,
        found.allows,
        found.started,
        found.refused,
        found.delegated,
        found.pending,
        found.count(Weight::Wrong),
        found.count(Weight::Gap),
        found.count(Weight::Notice),
    );
}

fn document(found: &Reconciliation) -> serde_json::Value {
    let listed = found.listed.iter().map(|one| {
        serde_json::json!({
            "leaf": one.leaf,
            "weight": one.kind.weight().name(),
            "code": one.kind.code().as_str(),
            "what": one.kind.to_string(),
            "artifact": one.artifact.map(|(index, leaf)| serde_json::json!({ "index": index, "leaf": leaf.to_hex() })),
            "gateway": one.gateway.as_ref().map(|(key, name)| serde_json::json!({ "thumbprint": key.to_hex(), "name": name })),
            "time_ms": one.time_ms,
        })
    });
    serde_json::json!({
        "leaves": found.leaves,
        "now_ms": found.now_ms,
        "allows": found.allows,
        "started": found.started,
        "refused": found.refused,
        "delegated": found.delegated,
        "pending": found.pending,
        "audiences_compared": found.audiences_compared,
        "wrong": found.count(Weight::Wrong),
        "without_outcome": found.count(Weight::Gap),
        "notices": found.count(Weight::Notice),
        "listed": listed.collect::<Vec<_>>(),
    })
}
