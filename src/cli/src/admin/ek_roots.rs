//! `admin ek-roots`: the certificates of TPM manufacturers that are part of this build. It asks no authority.

use crate::failure::Failure;
use crate::output;
use anyhow::Context as _;
use countersign_tpm::ek::{BundledCertificate, Issuer, bundled, describe_issuer};
use serde::Serialize;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only of this manufacturer.
    #[arg(long)]
    vendor: Option<String>,
    /// Intermediates too.
    #[arg(long)]
    all: bool,
}

/// One certificate, for programs.
#[derive(Serialize)]
struct Entry {
    vendor: &'static str,
    kind: &'static str,
    subject: String,
    issuer: String,
    key: String,
    not_before_ms: u64,
    not_after_ms: u64,
    sha256: String,
    licence: &'static str,
    repository: &'static str,
    commit: &'static str,
    path: &'static str,
}

impl Entry {
    fn of(one: &BundledCertificate, issuer: Issuer) -> Self {
        Self {
            vendor: one.vendor,
            kind: one.kind.name(),
            subject: issuer.subject,
            issuer: issuer.issuer,
            key: issuer.key,
            not_before_ms: issuer.not_before.saturating_mul(1_000),
            not_after_ms: issuer.not_after.saturating_mul(1_000),
            sha256: data_encoding::HEXLOWER.encode(&one.sha256),
            licence: one.licence,
            repository: one.repository,
            commit: one.commit,
            path: one.path,
        }
    }
}

pub(super) fn run(args: &Args, json: bool) -> Result<(), Failure> {
    let bundle = bundled().context("bundled certificates")?;
    let wanted = |one: &&BundledCertificate| {
        (args.all || one.kind.is_trusted())
            && args.vendor.as_deref().is_none_or(|vendor| vendor == one.vendor)
    };
    let mut entries = Vec::new();
    for one in bundle.iter().filter(wanted) {
        entries.push(Entry::of(one, describe_issuer(&one.der).context("bundled certificate")?));
    }
    if entries.is_empty() {
        let mut vendors: Vec<_> = bundle.iter().map(|one| one.vendor).collect();
        vendors.dedup();
        return Err(anyhow::anyhow!("no such manufacturer; there are {}", vendors.join(", ")).into());
    }
    if json {
        return output::json(&entries);
    }
    let rows = entries
        .into_iter()
        .map(|entry| {
            vec![
                entry.vendor.to_owned(),
                entry.kind.to_owned(),
                entry.subject,
                entry.key,
                until(entry.not_after_ms),
                entry.sha256,
                format!("{} ({})", entry.repository, entry.licence),
            ]
        })
        .collect();
    output::table(&["VENDOR", "KIND", "SUBJECT", "KEY", "UNTIL", "SHA-256", "FROM"], rows);
    Ok(())
}

/// A certificate of the year 9999 has no well-defined end (RFC 5280 §4.1.2.5).
fn until(ms: u64) -> String {
    const YEAR_9999_MS: u64 = 253_370_764_800_000;
    if ms >= YEAR_9999_MS { "no end".to_owned() } else { output::time(ms) }
}
