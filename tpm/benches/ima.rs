//! What IMA costs: a long list at once, and ten new entries. Prints the median of many runs; `cargo bench -p countersign-tpm`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench stops at the first surprise, and prints"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::ima::appraise::{Submission, appraise};
use countersign_tpm::ima::policy::{FileDigestRule, PolicyDraft, RuntimePolicy};
use countersign_tpm::ima::template::{DigestKind, FileAlg};
use countersign_tpm::quote::{PcrSelectionSpec, QuoteInput, VerifiedQuote, verify_quote};
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use countersign_tpm::simulated::ima::SimulatedIma;

const ENTRIES: usize = 100_000;
const NONCE: [u8; 32] = [1; 32];

fn quoted(tpm: &SimulatedTpm) -> VerifiedQuote {
    let required = PcrSelectionSpec::new(HashAlg::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).unwrap();
    let made = tpm.quote(&NONCE, &required).unwrap();
    verify_quote(QuoteInput {
        ak: tpm.ak_public(),
        attest: &made.attest,
        signature: &made.signature,
        expected_extra_data: &NONCE,
        required: &required,
        pcr_values: &tpm.pcr_values(&required).unwrap(),
    })
    .unwrap()
}

fn measure(ima: &mut SimulatedIma, draft: &mut PolicyDraft, files: std::ops::Range<usize>) {
    for file in files {
        let path = format!("/usr/lib/x86_64-linux-gnu/package-{file:06}/libexample-{file:06}.so.6");
        let digest = HashAlg::Sha256.digest(path.as_bytes());
        ima.measure(HashAlg::Sha256, path.as_bytes(), &digest);
        let rule = FileDigestRule { algorithm: FileAlg::Sha256, kind: DigestKind::Ima, bytes: digest };
        draft.allow(path.as_bytes(), rule);
    }
}

fn median(runs: usize, mut run: impl FnMut()) -> Duration {
    let time = |_| {
        let started = Instant::now();
        run();
        started.elapsed()
    };
    let mut times: Vec<Duration> = (0..runs).map(time).collect();
    times.sort();
    times.get(runs / 2).copied().unwrap_or_default()
}

fn main() {
    let mut seed = 0u8;
    let mut tpm = SimulatedTpm::new(&mut |buffer: &mut [u8]| {
        seed += 1;
        buffer.fill(seed);
    })
    .unwrap();
    tpm.boot(&SimulatedBoot::new(&BootOptions::default())).unwrap();
    let boot = PcrSelectionSpec::new(HashAlg::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
    let values: Vec<Vec<u8>> = tpm.pcr_values(&boot).unwrap().into_iter().map(|(_, value)| value).collect();
    let mut ima = SimulatedIma::after_boot(HashAlg::Sha256, &values);
    let mut draft = PolicyDraft::default();
    measure(&mut ima, &mut draft, 0..ENTRIES);
    ima.extend(&mut tpm, 0).unwrap();
    let quote = quoted(&tpm);
    let known = ima.entries();
    let whole = ima.bytes().to_vec();
    measure(&mut ima, &mut draft, ENTRIES..ENTRIES + 10);
    ima.extend(&mut tpm, known).unwrap();
    let later = quoted(&tpm);
    let policy = RuntimePolicy::parse(&draft.encode()).unwrap();

    let submission = Submission { from: 0, column: HashAlg::Sha1, list: &whole };
    let state = appraise(&quote, None, &submission, &policy).unwrap().state().clone();
    let all = median(31, || {
        black_box(appraise(black_box(&quote), None, &submission, &policy).unwrap());
    });
    let step = Submission { from: known as u64, column: HashAlg::Sha1, list: ima.bytes_from(known) };
    let ten = median(1_001, || {
        black_box(appraise(black_box(&later), Some(&state), &step, &policy).unwrap());
    });
    println!("ima_entries_per_s {:.0}", known as f64 / all.as_secs_f64());
    println!("ima_incremental_10_us {:.2}", ten.as_secs_f64() * 1e6);
}
