//! Appraisal of IMA lists: what is taken, and each way to be wrong with its own code.

use super::aggregate::{self, Aggregate};
use super::appraise::{Appraised, ImaRefusal, Submission, appraise};
use super::list::Entries;
use super::policy::{FileDigestRule, Pattern, PolicyDraft, Root, RuntimePolicy};
use super::register::{Register, Rule};
use super::state::ImaState;
use super::template::{DigestKind, FileAlg, Template};
use super::{MAX_ENTRIES, MAX_LIST_BYTES, MAX_TEMPLATE_BYTES};
use crate::algorithm::HashAlg;
use crate::quote::{PcrSelectionSpec, QuoteInput, VerifiedQuote, verify_quote};
use crate::simulated::SimulatedTpm;
use crate::simulated::ima::{PCR, SimulatedIma, ended, fields, named};
use crate::testing::{NONCE, booted, each_bit_flip};

const BANK: HashAlg = HashAlg::Sha256;

pub(super) fn rule(bytes: &[u8]) -> FileDigestRule {
    FileDigestRule { algorithm: FileAlg::Sha256, kind: DigestKind::Ima, bytes: bytes.to_vec() }
}

/// The digest of a program in these tests.
pub(super) fn program(path: &str) -> Vec<u8> {
    BANK.digest(path.as_bytes())
}

/// A policy that accepts `program(path)` at each path.
pub(super) fn listing(paths: &[&str]) -> PolicyDraft {
    let mut draft = PolicyDraft::default();
    for path in paths {
        draft.allow(path.as_bytes(), rule(&program(path)));
    }
    draft
}

pub(super) fn compiled(draft: &PolicyDraft) -> RuntimePolicy {
    RuntimePolicy::parse(&draft.encode()).unwrap()
}

/// A host that booted, and its kernel's list.
pub(super) struct Host {
    pub(super) tpm: SimulatedTpm,
    pub(super) ima: SimulatedIma,
    extended: usize,
}

impl Host {
    pub(super) fn booted() -> Self {
        let (tpm, _) = booted(7);
        let boot = PcrSelectionSpec::new(BANK, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
        let values: Vec<Vec<u8>> =
            tpm.pcr_values(&boot).unwrap().into_iter().map(|(_, value)| value).collect();
        let ima = SimulatedIma::after_boot(BANK, &values);
        Self { tpm, ima, extended: 0 }
    }

    pub(super) fn run(mut self, paths: &[&str]) -> Self {
        for path in paths {
            self.ima.measure(BANK, path.as_bytes(), &program(path));
        }
        self
    }

    /// The TPM catches up with the list, and quotes.
    pub(super) fn quote(&mut self) -> VerifiedQuote {
        self.ima.extend(&mut self.tpm, self.extended).unwrap();
        self.extended = self.ima.entries();
        self.quote_of(BANK, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    }

    pub(super) fn quote_of(&self, bank: HashAlg, pcrs: &[u32]) -> VerifiedQuote {
        let required = PcrSelectionSpec::new(bank, pcrs).unwrap();
        let made = self.tpm.quote(&NONCE, &required).unwrap();
        verify_quote(QuoteInput {
            ak: self.tpm.ak_public(),
            attest: &made.attest,
            signature: &made.signature,
            expected_extra_data: &NONCE,
            required: &required,
            pcr_values: &self.tpm.pcr_values(&required).unwrap(),
        })
        .unwrap()
    }
}

pub(super) fn whole(list: &[u8]) -> Submission<'_> {
    Submission { from: 0, column: HashAlg::Sha1, list }
}

fn from(entries: u64, list: &[u8]) -> Submission<'_> {
    Submission { from: entries, column: HashAlg::Sha1, list }
}

#[track_caller]
pub(super) fn refused(verdict: Result<Appraised, ImaRefusal>, code: &str) -> ImaRefusal {
    let refusal = verdict.expect_err(code);
    assert_eq!(refusal.code(), code, "{refusal}");
    refusal
}

#[test]
fn an_entry_told_by_its_hash_is_judged_as_one_that_is_read() {
    let paths =
        ["/usr/bin/sh", "/memfd:payload", "boot_aggregate", "/root/of/c1/usr/bin/sh", "/usr/bin/with space"];
    let mut draft = listing(&paths);
    for algorithm in [FileAlg::Sha1, FileAlg::Sha384, FileAlg::Sm3, FileAlg::Sha3_256] {
        let bytes = vec![7; algorithm.digest_len()];
        draft.allow(b"/usr/bin/sh", FileDigestRule { algorithm, kind: DigestKind::Ima, bytes });
    }
    draft.allow(b"/usr/bin/v", FileDigestRule { kind: DigestKind::Verity, ..rule(&program("/usr/bin/v")) });
    let known = compiled(&draft);
    let reading = known.clone().reading_everything();
    let listed: Vec<&str> = vec!["/usr/bin/sh", "/memfd:payload", "boot_aggregate", "/usr/bin/with_space"];
    for end in ["/usr/bin/sh", "/usr/bin/unknown", "/usr/bin/v", "/usr/bin/with space"] {
        let mut host = Host::booted().run(&listed).run(&[end]);
        host.ima.measure(HashAlg::Sha1, b"/usr/bin/sh", &[7; 20]);
        host.ima.measure(BANK, b"/usr/bin/sh", &program("another"));
        let quote = host.quote();
        let list = whole(host.ima.bytes());
        assert_eq!(appraise(&quote, None, &list, &known), appraise(&quote, None, &list, &reading), "{end}");
    }
    let mut host = Host::booted().run(&listed[..2]);
    let taken = appraise(&host.quote(), None, &whole(host.ima.bytes()), &known).unwrap();
    assert_eq!((taken.state().counts.entries, taken.state().counts.memfd), (3, 1), "a memfd is counted");
}

#[test]
fn a_list_that_leads_to_the_quote_and_holds_only_listed_files_is_taken() {
    let paths = ["/usr/bin/sh", "/usr/bin/with space", "/usr/lib/libc.so.6"];
    let policy = compiled(&listing(&paths));
    let mut host = Host::booted();
    for path in paths {
        // The kernel writes underscores for spaces.
        host.ima.measure(BANK, path.replace(' ', "_").as_bytes(), &program(path));
    }
    let quote = host.quote();
    let good = appraise(&quote, None, &whole(host.ima.bytes()), &policy).unwrap();
    assert_eq!(good.state().counts.entries, 4);
    assert_eq!((good.new_entries(), good.ignored_entries()), (4, 0));
    assert_eq!(good.state().aggregate, Aggregate::Checked);
    assert_eq!(good.state().value.as_bytes(), quote.pcr(10).unwrap());
    assert_eq!(good.state().policy, *policy.digest());
    // The state survives its encoding.
    assert_eq!(ImaState::parse(&good.state().encode()).unwrap(), *good.state());
    assert_eq!(good.state().digest().as_slice(), HashAlg::Sha256.digest(&good.state().encode()));
}

#[test]
fn only_new_entries_need_to_travel_and_lead_to_the_same_state() {
    let policy = compiled(&listing(&["/a", "/b", "/c"]));
    let mut host = Host::booted().run(&["/a"]);
    let quote = host.quote();
    let first = appraise(&quote, None, &whole(host.ima.bytes()), &policy).unwrap();
    let mut host = host.run(&["/b", "/c", "/a"]);
    let quote = host.quote();
    let step = from(2, host.ima.bytes_from(2));
    let second = appraise(&quote, Some(first.state()), &step, &policy).unwrap();
    assert_eq!(second.new_entries(), 3);
    let at_once = appraise(&quote, None, &whole(host.ima.bytes()), &policy).unwrap();
    assert_eq!(second.state(), at_once.state());
    // Nothing new is good news too.
    let still = appraise(&quote, Some(second.state()), &from(5, &[]), &policy).unwrap();
    assert_eq!((still.state(), still.new_entries()), (second.state(), 0));
    // And the whole list may always be sent.
    let again = appraise(&quote, Some(second.state()), &whole(host.ima.bytes()), &policy).unwrap();
    assert_eq!(again.state(), second.state());
}

#[test]
fn entries_behind_the_quoted_moment_are_counted_and_believed_for_nothing() {
    let mut draft = listing(&["/a"]);
    draft.settings.max_lag = 2;
    let policy = compiled(&draft);
    let mut host = Host::booted().run(&["/a"]);
    let quote = host.quote();
    let host = host.run(&["/evil", "/worse"]);
    let good = appraise(&quote, None, &whole(host.ima.bytes()), &policy).unwrap();
    assert_eq!((good.state().counts.entries, good.ignored_entries()), (2, 2));
    let mut host = host.run(&["/worst"]);
    refused(appraise(&quote, None, &whole(host.ima.bytes()), &policy), "ima-lag");
    // With the next quote they count.
    let quote = host.quote();
    let step = from(2, host.ima.bytes_from(2));
    refused(appraise(&quote, Some(good.state()), &step, &policy), "ima-file-unknown");
}

#[test]
fn an_edited_entry_is_named() {
    let policy = compiled(&listing(&["/a", "/b"]));
    let mut host = Host::booted().run(&["/a", "/evil", "/b"]);
    let quote = host.quote();
    let honest = appraise(&quote, None, &whole(host.ima.bytes()), &policy);
    let ImaRefusal::Files { total: 1, first } = refused(honest, "ima-file-unknown") else { panic!() };
    assert_eq!((first[0].entry, first[0].path.as_str()), (2, "/evil"));
    // The path changed, its hash not.
    let mut list = host.ima.bytes().to_vec();
    let at = list.windows(5).position(|window| window == b"/evil").unwrap();
    list[at..at + 5].copy_from_slice(b"/good");
    let refusal = refused(appraise(&quote, None, &whole(&list), &policy), "ima-entry-edited");
    assert_eq!(refusal, ImaRefusal::Edited { entry: 2 });
    // The logged hash changed, the data not: the register is right, and yet the list isn't the kernel's.
    let mut list = host.ima.bytes().to_vec();
    list[5] ^= 1;
    assert_eq!(appraise(&quote, None, &whole(&list), &policy), Err(ImaRefusal::Edited { entry: 0 }));
    // Both changed together: only the register knows.
    let mut other = Host::booted().run(&["/a", "/b", "/b"]);
    other.quote();
    refused(appraise(&quote, None, &whole(other.ima.bytes()), &policy), "ima-mismatch");
}

#[test]
fn trimmed_rewound_and_out_of_step_lists_are_told_apart() {
    let policy = compiled(&listing(&["/a", "/b", "/c"]));
    let mut host = Host::booted().run(&["/a", "/b"]);
    let early = host.quote();
    let first = appraise(&early, None, &whole(host.ima.bytes()), &policy).unwrap();
    let mut host = host.run(&["/c", "/a"]);
    let quote = host.quote();
    let second = appraise(&quote, Some(first.state()), &from(3, host.ima.bytes_from(3)), &policy).unwrap();
    let known = Some(second.state());
    // The kernel dropped the beginning.
    refused(appraise(&quote, known, &whole(host.ima.bytes_from(2)), &policy), "ima-trimmed");
    // The host leaves out the end.
    let len = host.ima.bytes().len() - host.ima.bytes_from(4).len();
    refused(appraise(&quote, known, &whole(&host.ima.bytes()[..len]), &policy), "ima-rewound");
    refused(appraise(&quote, None, &whole(&host.ima.bytes()[..len]), &policy), "ima-mismatch");
    // An older quote of the same boot.
    refused(appraise(&early, known, &whole(host.ima.bytes()), &policy), "ima-rewound");
    // A gap, and an overlap.
    refused(appraise(&quote, known, &from(6, &[]), &policy), "ima-base-moved");
    refused(appraise(&quote, known, &from(3, host.ima.bytes_from(3)), &policy), "ima-base-moved");
    // A good submission goes on from the state that all of this left alone.
    let mut host = host.run(&["/b"]);
    let quote = host.quote();
    assert!(appraise(&quote, known, &from(5, host.ima.bytes_from(5)), &policy).is_ok());
}

#[test]
fn a_reboot_or_another_policy_or_bank_asks_for_the_whole_list() {
    let policy = compiled(&listing(&["/a"]));
    let mut host = Host::booted().run(&["/a"]);
    let quote = host.quote();
    let state = appraise(&quote, None, &whole(host.ima.bytes()), &policy).unwrap().state().clone();
    let step = from(2, &[]);
    assert!(appraise(&quote, Some(&state), &step, &policy).is_ok());
    refused(appraise(&quote, None, &step, &policy), "ima-list-needed");
    let other = compiled(&listing(&["/a", "/b"]));
    refused(appraise(&quote, Some(&state), &step, &other), "ima-list-needed");
    let sha384 = host.quote_of(HashAlg::Sha384, &[0, 10]);
    refused(appraise(&sha384, Some(&state), &step, &policy), "ima-list-needed");
    // After a reset nothing of the earlier boot counts, and the whole list of the new one is taken.
    let mut rebooted = Host::booted();
    rebooted.tpm.reset();
    let boot = crate::simulated::boot::SimulatedBoot::new(&crate::simulated::boot::BootOptions::default());
    rebooted.tpm.boot(&boot).unwrap();
    let values =
        rebooted.tpm.pcr_values(&PcrSelectionSpec::new(BANK, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap());
    let values: Vec<Vec<u8>> = values.unwrap().into_iter().map(|(_, value)| value).collect();
    rebooted.ima = SimulatedIma::after_boot(BANK, &values);
    let quote = rebooted.quote();
    refused(appraise(&quote, Some(&state), &step, &policy), "ima-list-needed");
    let fresh = appraise(&quote, Some(&state), &whole(rebooted.ima.bytes()), &policy).unwrap();
    assert_eq!(fresh.state().counts.entries, 1);
}

#[test]
fn violations_count_against_the_policy_whatever_path_they_name() {
    let mut draft = listing(&["/a"]);
    // The data of a violation isn't measured: no exclude can excuse it.
    draft.excludes.push(Pattern::Prefix(b"/var/".to_vec()));
    let mut host = Host::booted().run(&["/a"]);
    host.ima.violate(b"/var/log/journal");
    let quote = host.quote();
    let refusal =
        refused(appraise(&quote, None, &whole(host.ima.bytes()), &compiled(&draft)), "ima-violation");
    assert_eq!(refusal, ImaRefusal::Violation { entry: 2, path: "/var/log/journal".to_owned() });
    draft.settings.max_violations = 1;
    let policy = compiled(&draft);
    let good = appraise(&quote, None, &whole(host.ima.bytes()), &policy).unwrap();
    assert_eq!(good.state().counts.violations, 1);
    // They add up over submissions.
    host.ima.violate(b"/var/log/journal");
    let quote = host.quote();
    let step = from(3, host.ima.bytes_from(3));
    refused(appraise(&quote, Some(good.state()), &step, &policy), "ima-violation");
    // A real entry made to look like a violation extends something else.
    let mut list = host.ima.bytes().to_vec();
    let at = host.ima.bytes().len() - host.ima.bytes_from(1).len();
    list[at + 4..at + 24].fill(0);
    refused(appraise(&quote, None, &whole(&list), &policy), "ima-mismatch");
}

#[test]
fn boot_aggregate_ties_the_list_to_the_boot() {
    let mut draft = listing(&[]);
    let list_with = |digest: &[u8], alg: HashAlg| {
        let mut host = Host::booted();
        host.ima = SimulatedIma::default();
        host.ima.measure(alg, aggregate::NAME, digest);
        host
    };
    for (digest, alg, code) in [
        (vec![0; 32], BANK, "ima-boot-aggregate"),
        (vec![7; 32], BANK, "ima-boot-aggregate"),
        (vec![7; 20], HashAlg::Sha1, "ima-boot-aggregate-unchecked"),
    ] {
        let mut host = list_with(&digest, alg);
        let quote = host.quote();
        draft.settings.require_boot_aggregate = true;
        refused(appraise(&quote, None, &whole(host.ima.bytes()), &compiled(&draft)), code);
        draft.settings.require_boot_aggregate = false;
        let taken = appraise(&quote, None, &whole(host.ima.bytes()), &compiled(&draft)).unwrap();
        assert_ne!(taken.state().aggregate, Aggregate::Checked);
    }
    // The quote has to cover what the entry is over.
    draft.settings.require_boot_aggregate = true;
    let mut host = Host::booted();
    host.quote();
    let narrow = host.quote_of(BANK, &[0, 1, 2, 3, 4, 5, 6, 7, 10]);
    let verdict = appraise(&narrow, None, &whole(host.ima.bytes()), &compiled(&draft));
    refused(verdict, "ima-boot-aggregate-unchecked");
    // A second one, as after kexec, is taken only if it says the same.
    let mut host = Host::booted();
    let entry = host.ima.bytes().to_vec();
    let data = Entries::new(&entry, HashAlg::Sha1).unwrap().next().unwrap().unwrap();
    let same = data.measured().unwrap().unwrap().digest.bytes.to_vec();
    host.ima.measure(BANK, aggregate::NAME, &same);
    let quote = host.quote();
    assert!(appraise(&quote, None, &whole(host.ima.bytes()), &compiled(&draft)).is_ok());
    host.ima.measure(BANK, aggregate::NAME, &[9; 32]);
    let quote = host.quote();
    refused(appraise(&quote, None, &whole(host.ima.bytes()), &compiled(&draft)), "ima-file-unknown");
}

#[test]
fn the_register_must_be_quoted_extended_and_of_the_lists_bank() {
    let policy = compiled(&listing(&["/a"]));
    let mut host = Host::booted().run(&["/a"]);
    let silent = host.quote_of(BANK, &[0, 10]);
    refused(appraise(&silent, None, &whole(host.ima.bytes()), &policy), "ima-register-empty");
    let quote = host.quote();
    let narrow = host.quote_of(BANK, &[0, 1, 2]);
    refused(appraise(&narrow, None, &whole(host.ima.bytes()), &policy), "ima-pcr-not-quoted");
    let wrong = Submission { from: 0, column: HashAlg::Sha384, list: host.ima.bytes() };
    refused(appraise(&quote, None, &wrong, &policy), "ima-wrong-bank");
    // A list of another register, and one that isn't complete.
    let mut list = host.ima.bytes().to_vec();
    list[0] = 11;
    refused(appraise(&quote, None, &whole(&list), &policy), "ima-other-register");
    refused(appraise(&quote, None, &whole(&[]), &policy), "ima-trimmed");
    let cut = &host.ima.bytes()[..host.ima.bytes().len() - 1];
    refused(appraise(&quote, None, &whole(cut), &policy), "ima-malformed");
}

#[test]
fn the_per_bank_file_is_taken_with_the_quote_of_its_bank() {
    let mut host = Host::booted().run(&["/a", "/b"]);
    let quote = host.quote();
    let mut list = Vec::new();
    for entry in Entries::new(host.ima.bytes(), HashAlg::Sha1).unwrap() {
        let entry = entry.unwrap();
        let measured = entry.measured().unwrap().unwrap();
        let data = fields(&[&named(BANK, measured.digest.bytes), &ended(measured.path)]);
        list.extend_from_slice(&PCR.to_le_bytes());
        list.extend_from_slice(&BANK.digest(&data));
        list.extend_from_slice(&fields(&[b"ima-ng", &data]));
    }
    let policy = compiled(&listing(&["/a", "/b"]));
    let submission = Submission { from: 0, column: BANK, list: &list };
    assert_eq!(appraise(&quote, None, &submission, &policy).unwrap().state().counts.entries, 3);
    list[6] ^= 1;
    let submission = Submission { from: 0, column: BANK, list: &list };
    assert_eq!(appraise(&quote, None, &submission, &policy), Err(ImaRefusal::Edited { entry: 0 }));
}

#[test]
fn padded_sha1_of_old_kernels_is_noted_and_taken_only_by_a_policy_that_says_so() {
    let mut host = Host::booted().run(&["/a"]);
    host.ima.violate(b"/b");
    let mut draft = listing(&["/a"]);
    draft.settings.max_violations = 1;
    for entry in Entries::new(host.ima.bytes(), HashAlg::Sha1).unwrap() {
        let entry = entry.unwrap();
        let sha1 = if entry.is_violation() { vec![0xff; 20] } else { entry.logged().to_vec() };
        host.tpm.extend(BANK, PCR, &[sha1, vec![0; 12]].concat()).unwrap();
    }
    let quote = host.quote_of(BANK, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    refused(appraise(&quote, None, &whole(host.ima.bytes()), &compiled(&draft)), "ima-padded");
    draft.settings.accept_padded_sha1 = true;
    let good = appraise(&quote, None, &whole(host.ima.bytes()), &compiled(&draft)).unwrap();
    assert_eq!(good.state().rule, Rule::PaddedSha1);
    let still = appraise(&quote, Some(good.state()), &from(3, &[]), &compiled(&draft)).unwrap();
    assert_eq!(still.state().rule, Rule::PaddedSha1);
}

#[test]
fn buffers_are_believed_only_if_they_hash_to_their_digest() {
    let mut host = Host::booted();
    host.ima.measure_buffer(BANK, b".ima", b"a key");
    let quote = host.quote();
    let mut draft = listing(&[]);
    refused(appraise(&quote, None, &whole(host.ima.bytes()), &compiled(&draft)), "ima-file-unknown");
    draft.allow(b".ima", rule(&BANK.digest(b"a key")));
    let good = appraise(&quote, None, &whole(host.ima.bytes()), &compiled(&draft)).unwrap();
    assert_eq!(good.state().counts.buffers, 1);
    // The template hash is right, the digest inside is another buffer's.
    let listed = BANK.digest(b"a key");
    host.ima.entry(Template::ImaBuf, &fields(&[&named(BANK, &listed), &ended(b".ima"), b"another key"]));
    let quote = host.quote();
    refused(appraise(&quote, None, &whole(host.ima.bytes()), &compiled(&draft)), "ima-buffer");
}

#[test]
fn excludes_are_the_last_resort_and_each_one_used_is_a_fact() {
    let mut draft = listing(&["/a", "/tmp/listed"]);
    draft.excludes = vec![
        Pattern::Exact(b"/etc/shadow".to_vec()),
        Pattern::Prefix(b"/tmp/".to_vec()),
        Pattern::Suffix(b".pyc".to_vec()),
    ];
    let policy = compiled(&draft);
    let mut host = Host::booted().run(&["/a", "/tmp/listed", "/tmp/x", "/tmp/y"]);
    let quote = host.quote();
    let good = appraise(&quote, None, &whole(host.ima.bytes()), &policy).unwrap();
    assert_eq!(good.state().counts.excluded, 2);
    let used = |state: &ImaState| -> Vec<String> {
        state.used_excludes().map(|number| policy.excludes()[number].to_string()).collect()
    };
    assert_eq!(used(good.state()), ["/tmp/*"]);
    // What was used earlier in the boot stays a fact.
    let mut host = host.run(&["/usr/lib/cache.pyc"]);
    let quote = host.quote();
    let next = appraise(&quote, Some(good.state()), &from(5, host.ima.bytes_from(5)), &policy).unwrap();
    assert_eq!(used(next.state()), ["/tmp/*", "*.pyc"]);
    assert_eq!(ImaState::parse(&next.state().encode()).unwrap(), *next.state());
}

#[test]
fn containers_memfd_and_digests_at_any_path() {
    let mut draft = listing(&["/usr/bin/app"]);
    draft.roots.push(Root { prefix: b"/var/lib/docker/overlay2/".to_vec(), skip: 2 });
    draft.anywhere.insert(rule(&program("runc")));
    let policy = compiled(&draft);
    let mut host = Host::booted();
    host.ima.measure(BANK, b"/var/lib/docker/overlay2/0a1b/merged/usr/bin/app", &program("/usr/bin/app"));
    host.ima.measure(BANK, b"/memfd:runc_cloned:/proc/self/exe_(deleted)", &program("runc"));
    let quote = host.quote();
    let good = appraise(&quote, None, &whole(host.ima.bytes()), &policy).unwrap();
    assert_eq!(good.state().counts.memfd, 1);
    // The same path with other bytes, and another file below the root.
    for (path, code) in [
        ("/var/lib/docker/overlay2/0a1b/merged/usr/bin/app", "ima-file-digest"),
        ("/var/lib/docker/overlay2/0a1b/merged/usr/bin/other", "ima-file-unknown"),
        ("/var/lib/docker/overlay2/usr/bin/app", "ima-file-unknown"),
        ("/memfd:evil", "ima-file-unknown"),
    ] {
        let mut host = Host::booted();
        host.ima.measure(BANK, path.as_bytes(), &program("evil"));
        let quote = host.quote();
        refused(appraise(&quote, None, &whole(host.ima.bytes()), &policy), code);
    }
}

#[test]
fn every_template_is_read_and_unknown_ones_are_refused() {
    let file = program("/a");
    let v2 = |kind: &[u8]| [kind, b"sha256:\0", &file].concat();
    let old = [&[3; 20][..], &fields(&[b"/a"])].concat();
    let (ng, path) = (named(BANK, &file), ended(b"/a"));
    for (template, data, kind) in [
        (Template::ImaNg, fields(&[&ng, &path]), DigestKind::Ima),
        (Template::ImaSig, fields(&[&ng, &path, b""]), DigestKind::Ima),
        (Template::ImaNgV2, fields(&[&v2(b"ima:"), &path]), DigestKind::Ima),
        (Template::ImaNgV2, fields(&[&v2(b"verity:"), &path]), DigestKind::Verity),
        (Template::ImaSigV2, fields(&[&v2(b"verity:"), &path, b"sig"]), DigestKind::Verity),
        (Template::ImaModsig, fields(&[&ng, &path, b"", &ng, b"pkcs7"]), DigestKind::Ima),
        (Template::ImaModsig, fields(&[&ng, &path, b"", b"", b""]), DigestKind::Ima),
        (Template::Ima, old, DigestKind::Ima),
    ] {
        let read = template.read(&data).unwrap();
        assert_eq!((read.path, read.kind), (b"/a".as_slice(), kind), "{template:?}");
        // Each cut is refused, and so is each longer form.
        for len in 0..data.len() {
            assert!(template.read(&data[..len]).is_err(), "{template:?} {len}");
        }
        assert!(template.read(&[&data[..], b"x"].concat()).is_err(), "{template:?}");
        assert_eq!(Template::from_name(template.name().as_bytes()), Some(template));
    }
    for digest in [&b"sha256"[..], b"md4:\0", b"sha256:\0short", b":\0", b"sha256:"] {
        assert!(Template::ImaNg.read(&fields(&[digest, &path])).is_err());
    }
    for path in [&b""[..], b"\0", b"/a", b"/a\0b\0"] {
        assert!(Template::ImaNg.read(&fields(&[&ng, path])).is_err());
    }
    let mut host = Host::booted();
    let quote = host.quote();
    for name in [&b"ima-xx"[..], b"", &[b'x'; 40]] {
        let list = [&PCR.to_le_bytes()[..], &[1; 20], &fields(&[name, b""])].concat();
        refused(appraise(&quote, None, &whole(&list), &compiled(&listing(&[]))), "ima-malformed");
    }
}

#[test]
fn announced_sizes_are_refused_before_anything_is_taken_for_them() {
    let mut host = Host::booted();
    let quote = host.quote();
    let policy = compiled(&listing(&[]));
    let head = [&PCR.to_le_bytes()[..], &[1; 20], &fields(&[b"ima-ng"])].concat();
    for len in [u32::MAX, u32::try_from(MAX_TEMPLATE_BYTES).unwrap() + 1] {
        let list = [&head[..], &len.to_le_bytes()].concat();
        refused(appraise(&quote, None, &whole(&list), &policy), "ima-malformed");
    }
    let list = vec![0; MAX_LIST_BYTES + 1];
    refused(appraise(&quote, None, &whole(&list), &policy), "ima-malformed");
    // The shortest entries there are, and too many of them.
    let entry = [&PCR.to_le_bytes()[..], &[0; 20], &fields(&[b"ima-ng", b""])].concat();
    let list = entry.repeat(MAX_ENTRIES + 1);
    assert!(list.len() < MAX_LIST_BYTES);
    refused(appraise(&quote, None, &whole(&list), &policy), "ima-malformed");
}

#[test]
fn a_changed_bit_anywhere_is_refused_and_never_a_panic() {
    let policy = compiled(&listing(&["/a", "/b"]));
    let mut host = Host::booted().run(&["/a", "/b"]);
    let quote = host.quote();
    assert!(appraise(&quote, None, &whole(host.ima.bytes()), &policy).is_ok());
    each_bit_flip(host.ima.bytes(), |list| {
        assert!(appraise(&quote, None, &whole(list), &policy).is_err());
    });
    for len in 0..host.ima.bytes().len() {
        assert!(appraise(&quote, None, &whole(&host.ima.bytes()[..len]), &policy).is_err());
    }
}

#[test]
fn the_ascii_form_leads_to_the_same_register() {
    let mut host = Host::booted().run(&["/a"]);
    let quote = host.quote();
    let mut text = String::new();
    for entry in Entries::new(host.ima.bytes(), HashAlg::Sha1).unwrap() {
        let entry = entry.unwrap();
        let measured = entry.measured().unwrap().unwrap();
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        let path = std::str::from_utf8(measured.path).unwrap();
        text += &format!("10 {} ima-ng sha256:{} {path}\n", hex(entry.logged()), hex(measured.digest.bytes));
    }
    let binary = super::to_binary(text.as_bytes(), HashAlg::Sha1).unwrap();
    assert_eq!(binary, host.ima.bytes());
    assert!(appraise(&quote, None, &whole(&binary), &compiled(&listing(&["/a"]))).is_ok());
    for wrong in ["10 ab ima-ng sha256:00 /a\n", "10\n", "\n\n", "x\n", &text.replace("ima-ng", "ima-sig")] {
        assert!(super::to_binary(wrong.as_bytes(), HashAlg::Sha1).is_err(), "{wrong}");
    }
}

proptest::proptest! {
    /// However a list is cut into submissions, the state at the end is the same.
    #[test]
    fn any_way_to_cut_a_list_leads_to_the_same_state(cuts in proptest::collection::vec(0usize..4, 1..6)) {
        let policy = compiled(&listing(&["/a", "/b", "/c"]));
        let mut host = Host::booted();
        let mut state: Option<ImaState> = None;
        for cut in cuts {
            host = host.run(&["/a", "/b", "/c"][..cut.min(3)]);
            let quote = host.quote();
            let known = state.as_ref().map_or(0, |state| state.counts.entries);
            let step = from(known, host.ima.bytes_from(usize::try_from(known).unwrap()));
            state = Some(appraise(&quote, state.as_ref(), &step, &policy).unwrap().state().clone());
        }
        let quote = host.quote();
        let at_once = appraise(&quote, None, &whole(host.ima.bytes()), &policy).unwrap();
        proptest::prop_assert_eq!(&state.unwrap(), at_once.state());
    }

    /// Bytes of any kind end in a verdict.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        for column in [HashAlg::Sha1, HashAlg::Sha256] {
            for entry in Entries::new(&bytes, column).unwrap() {
                let Ok(entry) = entry else { break };
                let _ = entry.measured();
                let _ = entry.hinted_path();
                let _ = Register::new(BANK, Rule::Rehashed).extend(&entry, column);
            }
            let _ = super::to_binary(&bytes, column);
        }
        for template in Template::ALL {
            let _ = template.read(&bytes);
        }
        let _ = RuntimePolicy::parse(&bytes);
        let _ = ImaState::parse(&bytes);
        let _ = super::import::keylime(&bytes);
        let _ = super::import::checksums(&bytes, None, &mut PolicyDraft::default());
    }
}
