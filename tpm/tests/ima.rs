//! A swtpm that measures as a kernel with IMA does, and the appraisal of what it quotes.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use countersign_fixture::SwTpm;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::device::{HostTpm, KeyId};
use countersign_tpm::ima::appraise::{Appraised, ImaRefusal, Submission, appraise};
use countersign_tpm::ima::policy::{FileDigestRule, PolicyDraft, RuntimePolicy};
use countersign_tpm::ima::state::ImaState;
use countersign_tpm::ima::template::{DigestKind, FileAlg};
use countersign_tpm::public::Public;
use countersign_tpm::quote::{PcrSelectionSpec, QuoteInput, VerifiedQuote, verify_quote};
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use countersign_tpm::simulated::ima::{PCR, SimulatedIma};

const NONCE: [u8; 32] = [0x3c; 32];
const BOOT: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const ALL: [u32; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

/// A host with a TPM of its own, a booted firmware, and a kernel that measures.
struct Machine {
    host: HostTpm,
    ak: KeyId,
    public: Public,
    ima: SimulatedIma,
    extended: usize,
}

impl Machine {
    fn boot(swtpm: &SwTpm) -> Self {
        let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
        let blob = host.create_attestation_key().unwrap();
        let ak = host.load(&blob).unwrap();
        let public = host.public(ak).unwrap().clone();
        for one in SimulatedBoot::new(&BootOptions::default()).measurements() {
            let digests: [(HashAlg, &[u8]); 2] =
                [(HashAlg::Sha256, &one.sha256), (HashAlg::Sha384, &one.sha384)];
            host.extend(one.pcr, &digests).unwrap();
        }
        let boot = PcrSelectionSpec::new(HashAlg::Sha256, &BOOT).unwrap();
        let values: Vec<Vec<u8>> =
            host.pcr_values(&boot).unwrap().into_iter().map(|(_, value)| value).collect();
        let ima = SimulatedIma::after_boot(HashAlg::Sha256, &values);
        Self { host, ak, public, ima, extended: 0 }
    }

    fn run(&mut self, path: &str) {
        self.ima.measure(HashAlg::Sha256, path.as_bytes(), &HashAlg::Sha256.digest(path.as_bytes()));
    }

    /// The TPM catches up with the list, in both banks, and quotes.
    fn quote(&mut self, bank: HashAlg) -> VerifiedQuote {
        let sha256 = self.ima.extensions(HashAlg::Sha256, self.extended);
        let sha384 = self.ima.extensions(HashAlg::Sha384, self.extended);
        for (one, other) in sha256.iter().zip(&sha384) {
            self.host.extend(PCR, &[(HashAlg::Sha256, one), (HashAlg::Sha384, other)]).unwrap();
        }
        self.extended = self.ima.entries();
        let required = PcrSelectionSpec::new(bank, &ALL).unwrap();
        let made = self.host.quote_with_values(self.ak, &NONCE, &required).unwrap();
        verify_quote(QuoteInput {
            ak: &self.public,
            attest: &made.attest,
            signature: &made.signature,
            expected_extra_data: &NONCE,
            required: &required,
            pcr_values: &made.pcr_values,
        })
        .unwrap()
    }
}

fn policy(paths: &[&str], change: impl FnOnce(&mut PolicyDraft)) -> RuntimePolicy {
    let mut draft = PolicyDraft::default();
    for path in paths {
        let bytes = HashAlg::Sha256.digest(path.as_bytes());
        let rule = FileDigestRule { algorithm: FileAlg::Sha256, kind: DigestKind::Ima, bytes };
        draft.allow(path.as_bytes(), rule);
    }
    change(&mut draft);
    RuntimePolicy::parse(&draft.encode()).unwrap()
}

fn judge(
    quote: &VerifiedQuote,
    prior: Option<&ImaState>,
    from: u64,
    list: &[u8],
    policy: &RuntimePolicy,
) -> Result<Appraised, &'static str> {
    let submission = Submission { from, column: HashAlg::Sha1, list };
    appraise(quote, prior, &submission, policy).map_err(|refusal: ImaRefusal| refusal.code())
}

#[test]
fn a_tpm_that_measures_is_appraised_step_by_step_and_each_lie_has_its_code() {
    let swtpm = SwTpm::start_own();
    let mut machine = Machine::boot(&swtpm);
    let known = policy(&["/usr/bin/sh", "/usr/bin/agent"], |_| {});
    machine.run("/usr/bin/sh");
    let quote = machine.quote(HashAlg::Sha256);
    let first = judge(&quote, None, 0, machine.ima.bytes(), &known).unwrap();
    assert_eq!(first.state().counts.entries, 2);

    // Both banks are extended by the same entries.
    let wide = policy(&["/usr/bin/sh"], |draft| draft.settings.require_boot_aggregate = false);
    let sha384 = machine.quote(HashAlg::Sha384);
    assert!(judge(&sha384, None, 0, machine.ima.bytes(), &wide).is_ok());
    // boot_aggregate is of the SHA-256 bank.
    let verdict = judge(&sha384, None, 0, machine.ima.bytes(), &known);
    assert_eq!(verdict, Err("ima-boot-aggregate-unchecked"));

    // Only the new entry travels.
    machine.run("/usr/bin/agent");
    let quote = machine.quote(HashAlg::Sha256);
    let second = judge(&quote, Some(first.state()), 2, machine.ima.bytes_from(2), &known).unwrap();
    assert_eq!(second.state().counts.entries, 3);

    let whole = machine.ima.bytes().to_vec();
    let state = Some(second.state());
    let mut edited = whole.clone();
    *edited.last_mut().unwrap() = b'x';
    assert_eq!(judge(&quote, state, 0, &edited, &known), Err("ima-entry-edited"));
    let at = whole.windows(11).position(|window| window == b"/usr/bin/sh").unwrap();
    let mut edited = whole.clone();
    edited.splice(at..at + 11, *b"/usr/bin/ls");
    assert_eq!(judge(&quote, state, 0, &edited, &known), Err("ima-entry-edited"));
    assert_eq!(judge(&quote, state, 0, machine.ima.bytes_from(1), &known), Err("ima-trimmed"));
    let shorter = &whole[..whole.len() - machine.ima.bytes_from(2).len()];
    assert_eq!(judge(&quote, state, 0, shorter, &known), Err("ima-rewound"));
    let submission = Submission { from: 0, column: HashAlg::Sha384, list: &whole };
    assert_eq!(appraise(&quote, state, &submission, &known).unwrap_err().code(), "ima-wrong-bank");

    machine.ima.violate(b"/usr/bin/sh");
    let quote = machine.quote(HashAlg::Sha256);
    assert_eq!(judge(&quote, state, 3, machine.ima.bytes_from(3), &known), Err("ima-violation"));
    let patient = policy(&["/usr/bin/sh", "/usr/bin/agent"], |draft| draft.settings.max_violations = 1);
    assert!(judge(&quote, state, 0, machine.ima.bytes(), &patient).is_ok());

    machine.run("/tmp/evil");
    let quote = machine.quote(HashAlg::Sha256);
    assert_eq!(judge(&quote, None, 0, machine.ima.bytes(), &patient), Err("ima-file-unknown"));
}

#[test]
fn after_a_reboot_the_whole_list_is_needed_and_the_old_one_leads_nowhere() {
    let swtpm = SwTpm::start_own();
    let known = policy(&["/usr/bin/sh"], |_| {});
    let (state, old) = {
        let mut machine = Machine::boot(&swtpm);
        machine.run("/usr/bin/sh");
        let quote = machine.quote(HashAlg::Sha256);
        let good = judge(&quote, None, 0, machine.ima.bytes(), &known).unwrap();
        (good.state().clone(), machine.ima.bytes().to_vec())
    };
    swtpm.reboot();
    let mut machine = Machine::boot(&swtpm);
    let quote = machine.quote(HashAlg::Sha256);
    assert_eq!(judge(&quote, Some(&state), 2, &[], &known), Err("ima-list-needed"));
    // The old list begins with the same boot: what it adds is behind the quoted moment, and believed for nothing.
    let good = judge(&quote, Some(&state), 0, &old, &known).unwrap();
    assert_eq!((good.state().counts.entries, good.ignored_entries()), (1, 1));
    machine.run("/usr/bin/sh");
    let quote = machine.quote(HashAlg::Sha256);
    assert!(judge(&quote, Some(good.state()), 1, machine.ima.bytes_from(1), &known).is_ok());
}
