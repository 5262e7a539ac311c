//! What would become of every host under a document that isn't active: the authority judges its newest evidence again, page by page; here the pages are
//! put together, compared and told. Exit status 1 if a host would break.

use super::compare::Change;
use super::{Context, hosts};
use crate::failure::Failure;
use crate::output;
use countersign_client::ClientError;
use countersign_core::api::admin::{CheckedDecision, PolicyChecked};
use countersign_core::refusal::RefusalCode;
use serde::Serialize;
use std::collections::BTreeMap;

/// A host in the answer of `check`, for programs.
#[derive(Serialize)]
pub(super) struct Checked {
    pub(super) host: String,
    pub(super) change: Change,
    /// Index of the leaf whose evidence was judged again.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    /// Whether the evidence came without a request, so that no policy was asked.
    attestation: bool,
    /// `allow` or a refusal code, under what is active.
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<String>,
    /// The same under the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    then: Option<String>,
    /// The reference set that it would match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) set: Option<String>,
    /// What changed in its boot since the nearest generation was captured, in a line, if logs tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

/// What a host would be asked for first: what it shows then isn't known yet.
const ASKED_FOR: [RefusalCode; 3] =
    [RefusalCode::QuoteSelectionMismatch, RefusalCode::ImaMissing, RefusalCode::ImaListNeeded];

impl Checked {
    fn of(host: String, decision: Option<CheckedDecision>) -> Self {
        let (index, now, then, attestation) = match decision {
            Some(found) => (Some(found.index), found.now, found.then, found.attestation),
            None => (None, None, None, false),
        };
        let allowed = |verdict: &str| verdict == "allow";
        let change = match (now.as_deref(), then.as_deref()) {
            (Some(now), Some(then)) if now != then && ASKED_FOR.iter().any(|code| code.as_str() == then) => {
                Change::Unknown
            }
            (Some(now), Some(then)) => Change::of(allowed(now), allowed(then)),
            _ => Change::Unknown,
        };
        Self { host, change, index, attestation, now, then, set: None, reason: None }
    }
}

/// Asks for every active host, from the newest leaf back, until each was met or the log ends. With `decisions_first` an older decision counts more
/// than an attestation.
pub(super) async fn each_host(
    context: &Context,
    decisions_first: bool,
    page: impl AsyncFn(Option<u64>) -> Result<PolicyChecked, ClientError>,
) -> Result<Vec<Checked>, Failure> {
    let all = hosts::all(context).await?;
    let mut wanted: BTreeMap<String, Option<CheckedDecision>> =
        all.into_iter().filter(|host| host.status == "active").map(|host| (host.host, None)).collect();
    let settled = |found: &CheckedDecision| !(decisions_first && found.attestation);
    let mut before = None;
    while wanted.values().any(|found| !found.as_ref().is_some_and(settled)) {
        let page = page(before).await?;
        for decision in page.decisions {
            if let Some(host) = wanted.get_mut(&decision.host)
                && (host.is_none() || (settled(&decision) && !host.as_ref().is_some_and(settled)))
            {
                *host = Some(decision);
            }
        }
        before = page.before;
        if before.is_none() {
            break;
        }
    }
    let mut checked: Vec<_> = wanted.into_iter().map(|(host, found)| Checked::of(host, found)).collect();
    checked.sort_by(|a, b| (a.change, &a.host).cmp(&(b.change, &b.host)));
    Ok(checked)
}

/// Prints them; a failure by `code` if a host would break.
pub(super) fn tell(
    context: &Context,
    checked: Vec<Checked>,
    code: RefusalCode,
    document: &str,
) -> Result<(), Failure> {
    let mut counts: BTreeMap<Change, usize> = BTreeMap::new();
    checked.iter().for_each(|one| *counts.entry(one.change).or_default() += 1);
    if context.json {
        output::json(&checked)?;
    } else {
        let reasons: Vec<(String, String)> =
            checked.iter().filter_map(|one| Some((one.host.clone(), one.reason.clone()?))).collect();
        let or_dash = |verdict: Option<String>| verdict.unwrap_or_else(|| "-".to_owned());
        let rows = checked.into_iter().map(|one| {
            let by = match (one.index, one.attestation) {
                (None, _) => "-",
                (Some(_), true) => "attestation",
                (Some(_), false) => "decision",
            };
            let words = one.change.words().to_owned();
            vec![one.host, words, by.to_owned(), or_dash(one.now), or_dash(one.then), or_dash(one.set)]
        });
        output::table(&["HOST", "CHANGE", "BY", "NOW", "THEN", "SET"], rows.collect());
        for (host, reason) in &reasons {
            anstream::println!("{host}: {reason}");
        }
        for (change, count) in &counts {
            anstream::println!("{count} {}", change.words());
        }
    }
    match counts.get(&Change::Breaks) {
        Some(count) => {
            let detail = format!("{count} hosts that are accepted now would be refused by {document}");
            Err(Failure::refused(code, detail))
        }
        None => Ok(()),
    }
}
