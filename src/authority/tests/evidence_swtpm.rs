//! A hostile agent on a real software TPM against the API: the classes of THREATS "Quote" and "Event log", each by its own stable code.
//! Identity has `endorsement_swtpm.rs`.
//!
//! Each row alters one thing of a call that is honest otherwise. Whatever it is, nothing is issued, the host stands as it stood, and its next
//! honest call is allowed.
//!
//! What a TPM can't be made to do is shown on the simulated one alone (`verify/tests.rs`, `quote_tests.rs` of the TPM crate): a restricted AK signs
//! nothing that begins like an attestation unless the TPM made it, so a structure with another magic, with a byte too few or with a PCR selection in
//! another form never has its signature (here they are told as unsigned); selections are bit maps, so the registers of one bank have one order. A
//! selection of no register and one of two banks could be quoted, but not over this crate's device, which refuses to ask for them. Debug mode and
//! a changed firmware version need other firmware than libtpms.
#[cfg(test)]
#[path = "support/device.rs"]
mod device;
#[cfg(test)]
mod support;

use countersign_client::ClientError;
use countersign_core::api::admin::HostDocument;
use countersign_core::api::{ArtifactsAnswer, ArtifactsCall, AttestationCall, B64};
use countersign_core::digest::sha256;
use countersign_core::leaf::{Kind, Leaf};
use countersign_fixture::SwTpmCa;
use countersign_tpm::algorithm::HashAlg;
use device::Device;
use support::{House, code, with_house};

/// The registers that are asked for while no policy says otherwise (PROTOCOL §8.1).
#[cfg(test)]
const PCRS: [u32; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14];

/// A house, the host that alters its calls, and another one.
#[cfg(test)]
struct Scene {
    house: House,
    host: Device,
    other: Device,
    calls: u32,
}

#[cfg(test)]
impl Scene {
    async fn new(house: House) -> Self {
        house.permit_all().await;
        let ca = SwTpmCa::new();
        let (host, other) = (Device::enrolled(&house, &ca).await, Device::enrolled(&house, &ca).await);
        let mut this = Self { house, host, other, calls: 0 };
        this.next_is_allowed("at first").await;
        this
    }

    fn id(&mut self) -> String {
        self.calls += 1;
        format!("r-{}", self.calls)
    }

    async fn shown(&self) -> HostDocument {
        let shown = self.house.admin().host(&self.host.id).await.unwrap();
        HostDocument { state_age_ms: None, reason: String::new(), last_refusal: None, ..shown }
    }

    /// Artifacts that were ever issued.
    async fn issued(&self) -> usize {
        let mut issued = 0;
        for from in (0..).step_by(256) {
            let leaves = self.house.admin().leaves(from, 256).await.unwrap().leaves;
            let kinds = leaves.iter().map(|leaf| Leaf::parse(&leaf.0).unwrap().kind);
            issued += kinds.filter(|kind| *kind == Kind::Allow).count();
            if leaves.len() < 256 {
                break;
            }
        }
        issued
    }

    async fn next_is_allowed(&mut self, row: &str) {
        let id = self.id();
        let answer = self.host.client.artifacts(&self.host.call(&id).await).await;
        assert_eq!(answered(answer), "allow", "the honest call after: {row}");
    }

    /// Sends a call that has to be refused so, and looks that nothing came of it.
    async fn refused(&self, row: &str, call: &ArtifactsCall, expected: &str) {
        let before = (self.issued().await, self.shown().await);
        let answer = answered(self.host.client.artifacts(call).await);
        assert_eq!(answer, expected, "{row}");
        let after = (self.issued().await, self.shown().await);
        assert_eq!(format!("{before:?}"), format!("{after:?}"), "{row}");
    }
}

/// `allow`, or the code of a denial or of the call's refusal.
#[cfg(test)]
fn answered(answer: Result<ArtifactsAnswer, ClientError>) -> String {
    match answer {
        Ok(answer) => answer.decisions[0].code.clone().unwrap_or_else(|| answer.decisions[0].verdict.clone()),
        Err(ClientError::Problem { code, .. }) => code,
        Err(other) => panic!("{other}"),
    }
}

/// Alters an honest call.
#[cfg(test)]
type Alter = fn(&Scene, &mut ArtifactsCall);

/// Quotes again over the call's challenge and request, and takes over what the TPM signed and the values, not the bank that the call says.
#[cfg(test)]
fn requoted(by: &Device, call: &mut ArtifactsCall, bank: HashAlg, pcrs: &[u32]) {
    let made = by.evidence(&call.challenge.0, &[&call.requests[0].request.0], bank, pcrs);
    (call.evidence.attest, call.evidence.signature, call.evidence.pcrs) =
        (made.attest, made.signature, made.pcrs);
}

#[cfg(test)]
fn with_log(call: &mut ArtifactsCall, log: &[u8]) {
    call.evidence.boot_log = Some(sha256(log).to_hex());
    call.evidence.members = vec![B64(log.to_vec())];
}

/// What an agent can change of a call whose machine is as it should be.
#[cfg(test)]
const ALTERED: [(&str, &str, Alter); 24] = [
    ("a certification in the place of the quote", "quote-not-a-quote", |scene, call| {
        let made = scene.host.certification(&call.challenge.0, &call.requests[0].request.0);
        (call.evidence.attest, call.evidence.signature) = (B64(made.attest), B64(made.signature));
    }),
    ("a quote with another magic", "quote-signature-invalid", |_, call| call.evidence.attest.0[0] ^= 1),
    ("a quote that ends early", "quote-signature-invalid", |_, call| call.evidence.attest.0.truncate(100)),
    ("a quote of another selection's bits", "quote-signature-invalid", |_, call| {
        let at = call.evidence.attest.0.len() - 36;
        call.evidence.attest.0[at] ^= 1;
    }),
    ("a signature that ends early", "quote-malformed", |_, call| call.evidence.signature.0.truncate(9)),
    ("a signature with another bit", "quote-signature-invalid", |_, call| {
        *call.evidence.signature.0.last_mut().unwrap() ^= 1;
    }),
    ("another host's TPM that quotes for this one", "quote-signature-invalid", |scene, call| {
        requoted(&scene.other, call, HashAlg::Sha256, &PCRS);
    }),
    ("a register less", "quote-selection-mismatch", |scene, call| {
        requoted(&scene.host, call, HashAlg::Sha256, &PCRS[..10]);
    }),
    ("a register more", "quote-selection-mismatch", |scene, call| {
        requoted(&scene.host, call, HashAlg::Sha256, &[&PCRS[..], &[16]].concat());
    }),
    ("other registers", "quote-selection-mismatch", |scene, call| {
        requoted(&scene.host, call, HashAlg::Sha256, &[16, 23]);
    }),
    ("another bank", "quote-selection-mismatch", |scene, call| {
        requoted(&scene.host, call, HashAlg::Sha384, &PCRS);
        call.evidence.bank = HashAlg::Sha384.id();
    }),
    ("another bank under the name of the right one", "quote-selection-mismatch", |scene, call| {
        requoted(&scene.host, call, HashAlg::Sha384, &PCRS);
    }),
    ("the right bank under the name of another", "quote-selection-mismatch", |_, call| {
        call.evidence.bank = HashAlg::Sha384.id();
    }),
    ("values in another order", "quote-digest-mismatch", |_, call| call.evidence.pcrs.swap(0, 1)),
    ("a value under the number of another", "quote-digest-mismatch", |_, call| {
        call.evidence.pcrs[10].index = 15;
    }),
    ("a value of another moment", "quote-digest-mismatch", |_, call| {
        call.evidence.pcrs[4].value = "5a".repeat(32);
    }),
    ("a value less", "quote-digest-mismatch", |_, call| drop(call.evidence.pcrs.pop())),
    ("a value that is longer", "quote-digest-mismatch", |_, call| call.evidence.pcrs[9].value.push_str("00")),
    ("another request than was quoted", "quote-nonce-mismatch", |scene, call| {
        call.requests[0] = scene.host.signed(&scene.host.request("another"));
    }),
    ("a request more than was quoted", "quote-nonce-mismatch", |scene, call| {
        call.requests.push(scene.host.signed(&scene.host.request("one-more")));
    }),
    ("a challenge that nobody made", "challenge-invalid", |_, call| {
        *call.challenge.0.last_mut().unwrap() ^= 1;
    }),
    ("no log", "boot-log-missing", |_, call| call.evidence.boot_log = None),
    ("a log that ends within an event", "boot-log-malformed", |scene, call| {
        let log = scene.host.boot.log();
        with_log(call, &log[..log.len() - 1]);
    }),
    ("a log that lacks its last event", "boot-log-mismatch", |scene, call| {
        let log = countersign_tpm::eventlog::EventLog::parse(scene.host.boot.log()).unwrap();
        let last = log.events().last().unwrap();
        // TCG PC Client Platform Firmware Profile, TCG_PCR_EVENT2 with two banks.
        let size = 4 + 4 + 4 + (2 + 32) + (2 + 48) + 4 + last.data().len();
        with_log(call, &log.bytes()[..log.bytes().len() - size]);
    }),
];

#[test]
fn whatever_an_agent_alters_has_its_code_and_changes_nothing() {
    with_house(
        "whatever_an_agent_alters_has_its_code_and_changes_nothing",
        |_| (),
        async |house| {
            let mut scene = Scene::new(house).await;
            for (row, code, alter) in ALTERED {
                let id = scene.id();
                let mut call = scene.host.call(&id).await;
                alter(&scene, &mut call);
                scene.refused(row, &call, code).await;
                scene.next_is_allowed(row).await;
            }
            relayed(&mut scene).await;
            used_before(&mut scene).await;
            scene.house.serving.stop().await;
        },
    );
}

/// Challenges and quotes that belong to another call or another host.
#[cfg(test)]
async fn relayed(scene: &mut Scene) {
    let own = scene.host.client.challenge().await.unwrap();
    let theirs = scene.other.client.challenge().await.unwrap();
    let (id, theirs_id) = (scene.id(), scene.id());
    let request = scene.host.request(&id);
    let call = |challenge, evidence| ArtifactsCall {
        challenge,
        evidence,
        requests: vec![scene.host.signed(&request)],
    };
    let later = scene.host.client.challenge().await.unwrap();
    let before = call(later.challenge, scene.host.asked(&own, &[&request]));
    scene.refused("a quote over an earlier challenge", &before, "quote-nonce-mismatch").await;
    let plain = call(own.challenge.clone(), scene.host.asked(&own, &[]));
    scene.refused("an attestation's quote with a request", &plain, "quote-nonce-mismatch").await;
    let foreign = call(theirs.challenge.clone(), scene.host.asked(&theirs, &[&request]));
    scene.refused("another host's challenge", &foreign, "challenge-host-mismatch").await;
    let whole = scene.other.call(&theirs_id).await;
    scene.refused("another host's whole call", &whole, "challenge-host-mismatch").await;
    let mut whole = scene.other.call(&theirs_id).await;
    whole.challenge = own.challenge.clone();
    scene.refused("its quote and request under an own challenge", &whole, "request-host-mismatch").await;
    let unsent = |digest: String| {
        let mut call = call(own.challenge.clone(), scene.host.asked(&own, &[&request]));
        (call.evidence.boot_log, call.evidence.members) = (Some(digest), Vec::new());
        call
    };
    let unknown = unsent("5a".repeat(32));
    scene.refused("a log that nobody has", &unknown, "evidence-needed").await;
    scene.next_is_allowed("relays").await;
}

/// A challenge is used up by the first call that comes with it, also where that is an attestation.
#[cfg(test)]
async fn used_before(scene: &mut Scene) {
    let offer = scene.host.client.challenge().await.unwrap();
    let evidence = scene.host.asked(&offer, &[]);
    let attestation = AttestationCall { challenge: offer.challenge.clone(), evidence };
    assert_eq!(scene.host.client.attest(&attestation).await.unwrap().code, None);
    let id = scene.id();
    let request = scene.host.request(&id);
    let evidence = scene.host.asked(&offer, &[&request]);
    let requests = vec![scene.host.signed(&request)];
    let call = ArtifactsCall { challenge: offer.challenge, evidence, requests };
    scene.refused("a challenge that was used", &call, "challenge-spent").await;
    // One leaf tells of the replay; whatever else comes with it is refused without one.
    assert_eq!(code(scene.host.client.attest(&attestation).await), "challenge-spent");
    scene.next_is_allowed("a challenge that was used").await;
}

/// One event in both banks (TCG PC Client Platform Firmware Profile 1.06, 10.2.2).
#[cfg(test)]
fn event(pcr: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let [first, second] = [HashAlg::Sha256, HashAlg::Sha384].map(|bank| bank.digest(data));
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let size = u32::try_from(data.len()).unwrap();
    [&words(&[pcr, kind, 2])[..], &[0x0b, 0], &first, &[0x0c, 0], &second, &words(&[size]), data].concat()
}

/// A boot of these events: measured, and logged behind the header that every log has.
#[cfg(test)]
fn booted_so(host: &Device, events: &[(u32, u32, &[u8])]) -> Vec<u8> {
    host.swtpm.reboot();
    let log = host.boot.log();
    let header = 32 + usize::try_from(u32::from_le_bytes(log[28..32].try_into().unwrap())).unwrap();
    let mut own = log[..header].to_vec();
    for (pcr, kind, data) in events {
        host.extend(*pcr, data);
        own.extend(event(*pcr, *kind, data));
    }
    own
}

#[cfg(test)]
const SEPARATOR: u32 = 4;
#[cfg(test)]
const ACTION: u32 = 5;

/// Brings the machine into a state, and returns the log that the agent sends for it.
#[cfg(test)]
type Machine = fn(&Device) -> Vec<u8>;

/// What a machine can be made to be.
#[cfg(test)]
const MACHINES: [(&str, &str, Machine); 7] = [
    ("nothing was measured since the reset", "quote-boot-pcr-zero", |host| {
        host.swtpm.reboot();
        host.boot.log().to_vec()
    }),
    ("one boot register is untouched", "quote-boot-pcr-zero", |host| {
        let events: Vec<_> = (0..7).map(|pcr| (pcr, SEPARATOR, &[0; 4][..])).collect();
        booted_so(host, &events)
    }),
    ("a register was extended behind the log's back", "boot-log-mismatch", |host| {
        host.extend(4, b"something");
        host.boot.log().to_vec()
    }),
    ("the log tells of an event that wasn't measured", "boot-log-mismatch", |host| {
        [host.boot.log(), &event(9, 13, b"a harmless kernel")].concat()
    }),
    ("no boot register has a separator", "boot-log-separator", |host| {
        let events: Vec<_> = (0..8).map(|pcr| (pcr, ACTION, &b"Calling"[..])).collect();
        booted_so(host, &events)
    }),
    ("a register has two", "boot-log-separator", |host| {
        host.extend(4, &[0; 4]);
        [host.boot.log(), &event(4, SEPARATOR, &[0; 4])].concat()
    }),
    ("the firmware announces an error in the place of one", "boot-log-separator", |host| {
        let good = (0..7).map(|pcr| (pcr, SEPARATOR, &[0; 4][..]));
        let events: Vec<_> = good.chain([(7, SEPARATOR, &[1, 0, 0, 0][..])]).collect();
        booted_so(host, &events)
    }),
];

#[test]
fn whatever_a_machine_went_through_has_its_code_and_changes_nothing() {
    with_house(
        "whatever_a_machine_went_through_has_its_code_and_changes_nothing",
        |_| (),
        async |house| {
            let mut scene = Scene::new(house).await;
            for (row, code, machine) in MACHINES {
                let log = machine(&scene.host);
                let id = scene.id();
                let mut call = scene.host.call(&id).await;
                with_log(&mut call, &log);
                scene.refused(row, &call, code).await;
                scene.host.reboot();
                scene.next_is_allowed(row).await;
            }
            held_back(&mut scene).await;
            put_back(&mut scene).await;
            scene.house.serving.stop().await;
        },
    );
}

/// What happens to a machine.
#[cfg(test)]
type Way = fn(&Device);
#[cfg(test)]
type Change = fn(&mut Device);

/// Evidence from before a reset or a resume that comes after evidence from behind it.
#[cfg(test)]
async fn held_back(scene: &mut Scene) {
    let ways: [(_, Way); 2] =
        [("held back over a reset", Device::reboot), ("held back over a resume", |host| host.swtpm.resume())];
    for (row, way) in ways {
        let id = scene.id();
        let call = scene.host.call(&id).await;
        let before = scene.shown().await;
        way(&scene.host);
        // The registers are what they were, and the log still leads to them: a new epoch, and no refusal.
        scene.next_is_allowed(row).await;
        let after = scene.shown().await;
        let counters = |shown: &HostDocument| (shown.reset_count, shown.restart_count);
        assert!(counters(&after) > counters(&before), "{row}: {before:?} {after:?}");
        scene.refused(row, &call, "quote-reset-regressed").await;
        scene.next_is_allowed(row).await;
    }
}

/// The TPM's own state from before, put back as a virtual machine's snapshot would be.
#[cfg(test)]
async fn put_back(scene: &mut Scene) {
    let [older, newest] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let ways: [(_, _, Change); 2] = [
        ("a snapshot with fewer resets", "quote-reset-regressed", |host| {
            for _ in 0..2 {
                host.swtpm.restart();
                // swtpm keeps the count with the first command after a start.
                host.measure();
            }
            host.swtpm.restart();
        }),
        ("a snapshot with as many resets and an earlier clock", "quote-clock-behind", |host| {
            host.swtpm.restart();
            host.swtpm.tpm2("tpm2_setclock", &["864000000"]);
        }),
    ];
    for (row, code, way) in ways {
        scene.host.swtpm.stop();
        scene.host.copy_state(older.path(), false);
        way(&mut scene.host);
        scene.host.measure();
        scene.next_is_allowed(row).await;
        scene.host.swtpm.stop();
        scene.host.copy_state(newest.path(), false);
        scene.host.copy_state(older.path(), true);
        scene.host.swtpm.restart();
        scene.host.measure();
        let id = scene.id();
        let call = scene.host.call(&id).await;
        scene.refused(row, &call, code).await;
        scene.host.swtpm.stop();
        scene.host.copy_state(newest.path(), true);
        scene.host.swtpm.restart();
        scene.host.measure();
        scene.next_is_allowed(row).await;
    }
}
