//! What IMA costs: a long list at once, and ten new entries.
#![expect(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

use std::hint::black_box;

use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::ima::appraise::{Submission, appraise};
use countersign_tpm::ima::policy::{FileDigestRule, PolicyDraft, RuntimePolicy};
use countersign_tpm::ima::template::{DigestKind, FileAlg};
use countersign_tpm::quote::{PcrSelectionSpec, QuoteInput, VerifiedQuote, verify_quote};
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use countersign_tpm::simulated::ima::SimulatedIma;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

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

fn bench(criterion: &mut Criterion) {
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
    let mut group = criterion.benchmark_group("ima");
    group.throughput(Throughput::Elements(ENTRIES as u64));
    group.sample_size(20);
    group.bench_function("whole_list_100k_digest_policy", |bencher| {
        bencher.iter(|| appraise(black_box(&quote), None, &submission, &policy).unwrap());
    });
    group.throughput(Throughput::Elements(10));
    group.sample_size(100);
    let step = Submission { from: known as u64, column: HashAlg::Sha1, list: ima.bytes_from(known) };
    group.bench_function("ten_new_entries", |bencher| {
        bencher.iter(|| appraise(black_box(&later), Some(&state), &step, &policy).unwrap());
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
