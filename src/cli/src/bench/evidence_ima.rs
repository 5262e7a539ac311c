//! What IMA costs: a long list at once, and ten new entries.
//!
//! Comes in: how many entries. Goes out: `ima_entries_per_s` and `ima_incremental_10_us`. Entries are of the template ima-ng, the register is of the
//! SHA-256 bank, the policy lists each file's digest at its path: an ordinary Linux host that runs nothing else than its packages.

use super::clock::Clock;
use super::evidence::{booted, micros};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::ima::appraise::{Submission, appraise};
use countersign_tpm::ima::policy::{FileDigestRule, PolicyDraft, RuntimePolicy};
use countersign_tpm::ima::template::{DigestKind, FileAlg};
use countersign_tpm::quote::{PcrSelectionSpec, QuoteInput, VerifiedQuote, verify_quote};
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use countersign_tpm::simulated::ima::SimulatedIma;
use serde_json::{Map, Value, json};
use std::hint::black_box;
use std::ops::Range;

/// Registers that boot_aggregate is of, and IMA's own.
const PCRS: [u32; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
const NEW_ENTRIES: u32 = 10;

/// Measures with the verifier's own code on one core; medians.
pub(super) fn measure_ima(
    clock: &mut Clock,
    entries: u32,
    members: &mut Map<String, Value>,
) -> anyhow::Result<()> {
    let mut tpm = booted(&SimulatedBoot::new(&BootOptions::default()))?;
    let boot = PcrSelectionSpec::new(HashAlg::Sha256, PCRS.split_last().map_or(&[][..], |(_, boot)| boot))?;
    let values: Vec<Vec<u8>> = tpm.pcr_values(&boot)?.into_iter().map(|(_, value)| value).collect();
    let mut ima = SimulatedIma::after_boot(HashAlg::Sha256, &values);
    let mut draft = PolicyDraft::default();
    measure_files(&mut ima, &mut draft, 0..entries);
    ima.extend(&mut tpm, 0)?;
    let quote = quoted(&tpm)?;
    let (known, whole) = (ima.entries(), ima.bytes().to_vec());
    measure_files(&mut ima, &mut draft, entries..entries.saturating_add(NEW_ENTRIES));
    ima.extend(&mut tpm, known)?;
    let later = quoted(&tpm)?;
    let policy = RuntimePolicy::parse(&draft.encode())?;

    let list = Submission { from: 0, column: HashAlg::Sha1, list: &whole };
    let state = appraise(&quote, None, &list, &policy)?.state().clone();
    let all = clock.median("ima_list", || appraise(black_box(&quote), None, &list, &policy).is_ok())?;
    let step = Submission { from: u64::try_from(known)?, column: HashAlg::Sha1, list: ima.bytes_from(known) };
    let added = appraise(&later, Some(&state), &step, &policy)?.new_entries();
    anyhow::ensure!(added == u64::from(NEW_ENTRIES), "{added} entries were added");
    let ten = clock
        .median("ima_incremental_10", || appraise(black_box(&later), Some(&state), &step, &policy).is_ok())?;

    let per_second = f64::from(u32::try_from(known)?) / all.as_secs_f64();
    members.insert("ima_entries_per_s".to_owned(), json!(per_second.round()));
    members.insert("ima_entries".to_owned(), json!(known));
    members.insert("ima_incremental_10_us".to_owned(), micros(ten));
    Ok(())
}

/// The kernel measures files, and the policy lists them.
fn measure_files(ima: &mut SimulatedIma, draft: &mut PolicyDraft, files: Range<u32>) {
    for file in files {
        let path = format!("/usr/lib/x86_64-linux-gnu/package-{file:06}/libexample-{file:06}.so.6");
        let digest = HashAlg::Sha256.digest(path.as_bytes());
        ima.measure(HashAlg::Sha256, path.as_bytes(), &digest);
        let rule = FileDigestRule { algorithm: FileAlg::Sha256, kind: DigestKind::Ima, bytes: digest };
        draft.allow(path.as_bytes(), rule);
    }
}

fn quoted(tpm: &SimulatedTpm) -> anyhow::Result<VerifiedQuote> {
    let extra = [9; 32];
    let required = PcrSelectionSpec::new(HashAlg::Sha256, &PCRS)?;
    let made = tpm.quote(&extra, &required)?;
    Ok(verify_quote(QuoteInput {
        ak: tpm.ak_public(),
        attest: &made.attest,
        signature: &made.signature,
        expected_extra_data: &extra,
        required: &required,
        pcr_values: &tpm.pcr_values(&required)?,
    })?)
}
