//! `admin policy`.

use super::compare::Change;
use super::{Context, documents, hosts};
use crate::failure::Failure;
use crate::output;
use anyhow::Context as _;
use countersign_core::api::B64;
use countersign_core::api::admin::{CheckedDecision, PolicyCall, PolicyCheckCall, PolicyValidateCall};
use countersign_core::document::PolicyDocument;
use countersign_core::refusal::RefusalCode;
use serde::Serialize;
use std::collections::{BTreeMap, btree_map::Entry};
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Check a policy folder without activating it.
    Validate {
        /// Folder with `*.cedar` and `settings.toml`.
        folder: PathBuf,
    },
    /// Check and activate a policy folder.
    Activate {
        /// Folder with `*.cedar` and `settings.toml`.
        folder: PathBuf,
        /// Epoch that the change was drafted against, as `policy show` and `policy validate` tell it; the one in force when absent.
        #[arg(long)]
        expected_epoch: Option<u64>,
    },
    /// Make the newest decision about every host again under a policy folder, and say what would change. Exit status 1 if a host would break.
    Check {
        /// Folder with `*.cedar` and `settings.toml`.
        folder: PathBuf,
    },
    /// Print the active policy.
    Show,
}

/// A host in the answer of `check`, for programs.
#[derive(Serialize)]
struct Checked {
    host: String,
    change: Change,
    /// Index of the decision that was made again.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    /// `allow` or a refusal code, under the active policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<String>,
    /// The same under the policy of the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    then: Option<String>,
}

impl Checked {
    fn of(host: String, decision: Option<CheckedDecision>) -> Self {
        let (index, now, then) = match decision {
            Some(decision) => (Some(decision.index), decision.now, decision.then),
            None => (None, None, None),
        };
        let allowed = |verdict: &str| verdict == "allow";
        let change = match (now.as_deref(), then.as_deref()) {
            // Other registers: the host will be asked for them, and what it shows then is not known yet.
            (Some(now), Some(then))
                if now != then && then == RefusalCode::QuoteSelectionMismatch.as_str() =>
            {
                Change::Unknown
            }
            (Some(now), Some(then)) => Change::of(allowed(now), allowed(then)),
            _ => Change::Unknown,
        };
        Self { host, change, index, now, then }
    }

    /// For people: there may be evidence of a host, and no decision that could be made again.
    const fn words(&self) -> &'static str {
        if self.index.is_none() { "no decision yet" } else { self.change.words() }
    }
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let client = &context.admin.client;
    match command {
        Command::Validate { folder } => {
            let document = B64(documents::read_policy(&folder)?.encode());
            let validated = client.validate_policy(&PolicyValidateCall { document }).await?;
            if context.json {
                return output::json(&validated);
            }
            for warning in &validated.warnings {
                anstream::eprintln!("warning: {warning}");
            }
            anstream::println!("valid, digest {}; epoch {} is in force", validated.digest, validated.epoch);
        }
        Command::Activate { folder, expected_epoch } => {
            let document = B64(documents::read_policy(&folder)?.encode());
            let validated =
                client.validate_policy(&PolicyValidateCall { document: document.clone() }).await?;
            let expected_epoch = expected_epoch.unwrap_or(validated.epoch);
            let recorded = client.activate_policy(&PolicyCall { document, expected_epoch }).await?;
            if context.json {
                return output::json(&recorded);
            }
            anstream::println!("policy active, leaf {}", recorded.index);
        }
        Command::Check { folder } => check(context, &folder).await?,
        Command::Show => {
            let active = client.policy().await?;
            if context.json {
                return output::json(&active);
            }
            let Some(document) = active.document else {
                anstream::eprintln!("no policy is active: every request is denied");
                return Ok(());
            };
            let document = PolicyDocument::parse(&document.0).context("policy document")?;
            anstream::println!("epoch {}, digest {}", active.epoch, document.digest());
            for (id, source) in &document.policies {
                anstream::println!("\n// {id}.cedar\n{}", source.trim_end());
            }
        }
    }
    Ok(())
}

async fn check(context: &Context, folder: &Path) -> Result<(), Failure> {
    let client = &context.admin.client;
    let document = B64(documents::read_policy(folder)?.encode());
    let all = hosts::all(context).await?;
    let mut wanted: BTreeMap<String, Option<CheckedDecision>> =
        all.into_iter().filter(|host| host.status == "active").map(|host| (host.host, None)).collect();
    let (mut missing, mut before) = (wanted.len(), None);
    // From the newest leaf back, until every host was met or the log ends.
    while missing > 0 {
        let page = client.check_policy(&PolicyCheckCall { document: document.clone(), before }).await?;
        for decision in page.decisions {
            if let Entry::Occupied(mut host) = wanted.entry(decision.host.clone())
                && host.get().is_none()
            {
                host.insert(Some(decision));
                missing -= 1;
            }
        }
        before = page.before;
        if before.is_none() {
            break;
        }
    }
    let mut checked: Vec<_> =
        wanted.into_iter().map(|(host, decision)| Checked::of(host, decision)).collect();
    checked.sort_by(|a, b| (a.change, &a.host).cmp(&(b.change, &b.host)));
    let breaks = checked.iter().filter(|one| one.change == Change::Breaks).count();
    if context.json {
        output::json(&checked)?;
    } else {
        let or_dash = |verdict: Option<String>| verdict.unwrap_or_else(|| "-".to_owned());
        let rows = checked
            .into_iter()
            .map(|one| (one.words(), one))
            .map(|(words, one)| vec![one.host, words.to_owned(), or_dash(one.now), or_dash(one.then)]);
        output::table(&["HOST", "CHANGE", "NOW", "THEN"], rows.collect());
    }
    if breaks > 0 {
        let detail = format!("{breaks} hosts that are allowed now would be denied by {}", folder.display());
        return Err(Failure::refused(RefusalCode::PolicyDenied, detail));
    }
    Ok(())
}
