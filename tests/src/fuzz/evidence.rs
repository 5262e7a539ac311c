//! The bodies for IMA lists and policies, certifications and credentials: what a host sends beside its quote, and what an operator imports.

use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::attest::{Attest, AttestBody};
use countersign_tpm::certify::verify_certification;
use countersign_tpm::credential::make_credential;
use countersign_tpm::ima::appraise::{Submission, appraise};
use countersign_tpm::ima::import::{checksums, keylime};
use countersign_tpm::ima::list::Entries;
use countersign_tpm::ima::modsig::{AppendedSignature, MAX_MODSIG_BYTES, Signer};
use countersign_tpm::ima::policy::{FileDigestRule, Pattern, PolicyDraft, RuntimePolicy, SignedBy};
use countersign_tpm::ima::register::{Register, Rule};
use countersign_tpm::ima::signature::{KeyFloor, KeyId, Keyring, Verdict};
use countersign_tpm::ima::state::ImaState;
use countersign_tpm::ima::template::{Appended, DigestKind, FileAlg, FileDigest};
use countersign_tpm::ima::to_binary;
use countersign_tpm::public::Public;
use countersign_tpm::quote::{PcrSelectionSpec, QuoteInput, VerifiedQuote, verify_quote};
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};

/// Qualifying data of the quote and the certification among the seeds.
pub(super) const QUOTE_EXTRA: [u8; 32] = [7; 32];
pub(super) const CERTIFY_EXTRA: [u8; 32] = [8; 32];
const BANK: HashAlg = HashAlg::Sha256;
/// The registers that are quoted beside the list's own.
const BOOT: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// The TPM whose structures are among the seeds, booted.
#[expect(clippy::unwrap_used, reason = "a simulated TPM boots")]
pub(super) fn machine() -> (SimulatedTpm, SimulatedBoot) {
    let mut tpm = SimulatedTpm::new(&mut |buffer: &mut [u8]| buffer.fill(0x29)).unwrap();
    let boot = SimulatedBoot::new(&BootOptions { pad_to_bytes: 6_000, ..BootOptions::default() });
    tpm.boot(&boot).unwrap();
    (tpm, boot)
}

/// A key that may sign files, and how signatures name it.
#[expect(clippy::unwrap_used, reason = "a simulated TPM's key is a sound one")]
pub(super) fn signer(tpm: &SimulatedTpm) -> (Vec<u8>, KeyId) {
    let key = tpm.ak_public().spki_der();
    let id = Keyring::new(KeyFloor::Sound).add(&key).unwrap();
    (key, id)
}

/// A file that the strict policy lists.
pub(super) const LISTED: &[u8] = b"/usr/bin/sh";

struct Bench {
    tpm: SimulatedTpm,
    /// Takes any file: what is left are form, replay, buffers and signatures.
    lax: RuntimePolicy,
    strict: RuntimePolicy,
}

impl Bench {
    #[expect(clippy::unwrap_used, reason = "drafts made here are documents")]
    fn new() -> Self {
        let (tpm, _) = machine();
        let (key, id) = signer(&tpm);
        let mut strict = PolicyDraft::default();
        let rule =
            FileDigestRule { algorithm: FileAlg::Sha256, kind: DigestKind::Ima, bytes: BANK.digest(LISTED) };
        strict.allow(LISTED, rule);
        strict.keys.push(key);
        strict.signed_by.push(SignedBy { prefix: b"/".to_vec(), keys: vec![id] });
        let mut lax = strict.clone();
        // Every byte but NUL may begin a path, and this pattern needs none of them: what ends in any letter or digit, and most that doesn't.
        lax.excludes = (1..=255).map(|byte| Pattern::Suffix(vec![byte])).collect();
        lax.settings.max_violations = u64::MAX;
        lax.settings.require_boot_aggregate = false;
        let compiled = |draft: &PolicyDraft| RuntimePolicy::parse(&draft.encode()).unwrap();
        Self { tpm, lax: compiled(&lax), strict: compiled(&strict) }
    }

    /// A quote of this value of the list's register, and of boot registers.
    fn quote(&self, value: &[u8]) -> Option<VerifiedQuote> {
        let boot = BOOT.map(|pcr| (pcr, vec![1; BANK.digest_len()]));
        let values: Vec<(u32, Vec<u8>)> = boot.into_iter().chain([(10, value.to_vec())]).collect();
        self.tpm.worn(BANK, &values).ok()
    }
}

thread_local! {
    static BENCH: Bench = Bench::new();
    static KEYRING: Keyring = BENCH.with(|bench| {
        let mut ring = Keyring::new(KeyFloor::Sound);
        let _ = ring.add(&signer(&bench.tpm).0);
        ring
    });
}

/// An IMA list, binary and in text, read and no more.
pub(super) fn ima(bytes: &[u8]) {
    for column in [HashAlg::Sha1, HashAlg::Sha256] {
        let Ok(entries) = Entries::new(bytes, column) else { continue };
        for entry in entries.map_while(Result::ok) {
            let _ = entry.measured().map(|read| read.map(|measured| measured.told_by_data()));
            let _ = entry.hinted_path();
            let _ = entry.template_hash(HashAlg::Sha256);
        }
        let _ = to_binary(bytes, column);
    }
}

/// A list appraised against a quote of the value that most of it leads to: replay, recognition, judgement, signatures; whole and in two parts,
/// and against a quote of another value.
pub(super) fn ima_appraise(bytes: &[u8]) {
    for column in [HashAlg::Sha1, HashAlg::Sha256] {
        BENCH.with(|bench| {
            appraised(bench, bytes, column);
            // A list in text leads to the same places.
            if let Ok(list) = to_binary(bytes, column) {
                appraised(bench, &list, column);
            }
        });
    }
}

/// Whether the list was taken by the policy that takes any file.
fn appraised(bench: &Bench, bytes: &[u8], column: HashAlg) -> bool {
    let Ok(mut entries) = Entries::new(bytes, column) else { return false };
    let mut register = Register::new(BANK, Rule::Rehashed);
    let mut reached = Vec::new();
    while let Some(Ok(entry)) = entries.next() {
        register.extend(&entry, column);
        reached.push((*register.value(), entries.position()));
    }
    let proven = reached.len() - reached.len() / 4;
    let Some((value, _)) = proven.checked_sub(1).and_then(|last| reached.get(last)) else { return false };
    let Some(quote) = bench.quote(value.as_bytes()) else { return false };
    let whole = Submission { from: 0, column, list: bytes };
    let _ = appraise(&quote, None, &whole, &bench.strict);
    let Ok(good) = appraise(&quote, None, &whole, &bench.lax) else { return false };
    assert_eq!(good.new_entries(), proven as u64, "another prefix than the one that leads to the value");
    assert_eq!(
        ImaState::parse(&good.state().encode()).as_ref(),
        Ok(good.state()),
        "a state isn't what was encoded"
    );
    let mut other = value.as_bytes().to_vec();
    other.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    if let Some(quote) = bench.quote(&other) {
        assert!(
            appraise(&quote, None, &whole, &bench.lax).is_err(),
            "a value that the list doesn't lead to was taken"
        );
    }
    // The same in two steps.
    let Some((half, cut)) = (proven / 2).checked_sub(1).and_then(|last| reached.get(last)) else {
        return true;
    };
    let (Some(early), Some((front, back))) = (bench.quote(half.as_bytes()), bytes.split_at_checked(*cut))
    else {
        return true;
    };
    let Ok(first) = appraise(&early, None, &Submission { from: 0, column, list: front }, &bench.lax) else {
        panic!("the beginning of a list that was taken is refused");
    };
    let rest = Submission { from: first.new_entries(), column, list: back };
    let second = appraise(&quote, Some(first.state()), &rest, &bench.lax);
    assert_eq!(second.as_ref().map(|second| second.state()), Ok(good.state()), "another state in two steps");
    true
}

/// An appended signature: read, and held against the one key that the strict policy knows, as the signature of a digest that nobody signed.
pub(super) fn modsig(bytes: &[u8]) {
    if let Some(read) = AppendedSignature::parse(bytes) {
        assert!(bytes.len() <= MAX_MODSIG_BYTES);
        assert_ne!(read.hash, HashAlg::Sha1, "a hash that is too short");
        let named = match read.signer {
            Signer::Certificate { issuer, serial } => issuer.len() + serial.len(),
            Signer::Key(identifier) => identifier.len(),
        };
        assert!(named + read.value.len() < bytes.len());
    }
    let digest = FileDigest { algorithm: FileAlg::Sha256, bytes: &[7; 32] };
    let mut left = 2;
    let verdict =
        KEYRING.with(|ring| ring.verify_appended(&Appended { digest, signature: bytes }, &mut left));
    assert!(
        !matches!(verdict, None | Some(Verdict::Valid(_))),
        "a signature of nobody was taken: {verdict:?}"
    );
}

/// What an operator imports as an IMA policy, and the documents and states that are made of it.
pub(super) fn ima_policy(bytes: &[u8]) {
    let _ = keylime(bytes);
    let mut draft = PolicyDraft::default();
    if checksums(bytes, Some("/opt/"), &mut draft).is_ok() {
        let document = draft.encode();
        assert!(
            PolicyDraft::parse(&document).is_ok_and(|read| read == draft)
                || draft.files.keys().any(|path| too_odd(path))
        );
    }
    let _ = RuntimePolicy::parse(bytes);
    if let Ok(draft) = PolicyDraft::parse(bytes) {
        assert_eq!(draft.encode(), bytes, "another encoding was taken");
    }
    if let Ok(state) = ImaState::parse(bytes) {
        assert_eq!(state.encode(), bytes, "another encoding was taken");
    }
    let _ = Keyring::new(KeyFloor::Sound).add(bytes);
}

/// A path that a document doesn't take, and that the import leaves to it to refuse.
fn too_odd(path: &[u8]) -> bool {
    path.contains(&0) || path.len() > countersign_tpm::ima::MAX_PATH_BYTES
}

/// Certificates one behind the other, as an NV index or a file has them.
pub(super) fn certificates(bytes: &[u8]) {
    let Ok(found) = countersign_tpm::ek::split_certificates(bytes) else { return };
    let joined = found.concat();
    assert!(bytes.starts_with(&joined), "certificates that don't stand there");
    for der in &found {
        let _ = countersign_tpm::ek::describe_issuer(der);
    }
    // The first one is the key's, the others come along: as an agent sends what an index holds.
    if let Some((own, above)) = found.split_first() {
        super::idevid::judge(own, above);
    }
}

/// Attestations: read, and signed by the AK as they are, as no restricted key would, so that what comes behind the signature sees them. Then
/// the bytes as a signature and as the certified key.
pub(super) fn attest(bytes: &[u8]) {
    let parsed = Attest::parse(bytes);
    BENCH.with(|Bench { tpm, .. }| {
        let (ak, host) = (tpm.ak_public(), tpm.host_public());
        if let Ok(made) = tpm.attestation(bytes.to_vec()) {
            if verify_certification(ak, &made.attest, &made.signature, host, &CERTIFY_EXTRA).is_ok() {
                let names = parsed.as_ref().is_ok_and(|parsed| match &parsed.body {
                    AttestBody::Certify { name, .. } => name.as_slice() == host.name().as_bytes(),
                    _ => false,
                });
                assert!(names, "another key was certified");
            }
            quoted(tpm, &made.attest, &made.signature);
        }
        let Ok(made) = tpm.certify_host_key(&CERTIFY_EXTRA) else { return };
        let _ = verify_certification(ak, &made.attest, bytes, host, &CERTIFY_EXTRA);
        if let Ok(subject) = Public::parse(bytes) {
            let verdict = verify_certification(ak, &made.attest, &made.signature, &subject, &CERTIFY_EXTRA);
            assert!(verdict.is_err() || subject.name() == host.name(), "another key was certified");
        }
    });
}

fn quoted(tpm: &SimulatedTpm, attest: &[u8], signature: &[u8]) {
    let Ok(required) = PcrSelectionSpec::new(BANK, &BOOT) else { return };
    let Ok(pcr_values) = tpm.pcr_values(&required) else { return };
    let _ = verify_quote(QuoteInput {
        ak: tpm.ak_public(),
        attest,
        signature,
        expected_extra_data: &QUOTE_EXTRA,
        required: &required,
        pcr_values: &pcr_values,
    });
}

/// An endorsement key that a credential is made for, and a credential as a TPM reads it.
pub(super) fn credential(bytes: &[u8]) {
    for ek in [Public::parse(bytes), Public::from_tpm2b(bytes)].into_iter().flatten() {
        let mut counter = 0u8;
        let mut random = |buffer: &mut [u8]| {
            counter = counter.wrapping_add(1);
            buffer.fill(counter);
        };
        if let Ok(made) = make_credential(&ek, &[0x0b; 34], &[5; 32], &mut random) {
            assert!(made.id_object.len() >= 66 && !made.encrypted_secret.is_empty(), "nothing is protected");
        }
    }
    let (secret, object) = bytes.split_at(bytes.len().min(68));
    BENCH.with(|bench| {
        let _ = bench.tpm.activate_credential(object, secret);
        let _ = bench.tpm.activate_credential(bytes, bytes);
    });
}

#[cfg(test)]
mod tests {
    use super::{BENCH, HashAlg, appraised};
    use crate::fuzz::seeds;

    #[test]
    fn lists_among_the_seeds_reach_the_end_of_an_appraisal() {
        let taken = |bytes: &[u8]| BENCH.with(|bench| appraised(bench, bytes, HashAlg::Sha1));
        let seeds = seeds();
        let lists = seeds.iter().filter(|seed| taken(seed)).count();
        let real = std::env::var_os("VECTORS").is_some();
        assert!(lists >= if real { 5 } else { 1 }, "{lists} lists");
        // None is longer than what is cut, but what is short enough to be taken whole.
        assert!(seeds.iter().all(|seed| seed.len() <= 128 * 1024));
    }
}
