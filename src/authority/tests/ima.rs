//! IMA over the real API: the policy comes into force in an epoch, hosts send what is new, auditors repeat every step.
#[cfg(test)]
mod support;

use countersign_authority::audit::{StoreLog, replay};
use countersign_core::api::admin::{PolicyCall, ReferencesCall, ReferencesCheckCall};
use countersign_core::api::{ArtifactsCall, B64, ImaEntriesDocument};
use countersign_core::digest::sha256;
use countersign_core::document::ReferencesDocument;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::ima::policy::{FileDigestRule, PolicyDraft};
use countersign_tpm::ima::template::{DigestKind, FileAlg};
use countersign_tpm::quote::PcrSelectionSpec;
use countersign_tpm::simulated::ima::SimulatedIma;
use support::{Host, House, PERMIT, code, policy, with_house};

#[cfg(test)]
const BANK: HashAlg = HashAlg::Sha256;

#[cfg(test)]
async fn quote_pcr_10(house: &House) {
    let mut document = policy(PERMIT);
    document.settings.pcrs = vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    let expected_epoch = house.admin().policy().await.unwrap().epoch;
    let call = PolicyCall { document: B64(document.encode()), expected_epoch };
    house.admin().activate_policy(&call).await.unwrap();
}

/// A policy document that accepts these programs.
#[cfg(test)]
fn listing(paths: &[&str]) -> Vec<u8> {
    let mut draft = PolicyDraft::default();
    for path in paths {
        let bytes = BANK.digest(path.as_bytes());
        draft.allow(
            path.as_bytes(),
            FileDigestRule { algorithm: FileAlg::Sha256, kind: DigestKind::Ima, bytes },
        );
    }
    draft.encode()
}

#[cfg(test)]
async fn activation(house: &House, named: &[u8], sent: Option<Vec<u8>>) -> ReferencesCall {
    let document = ReferencesDocument { ima: Some(sha256(named)), ..ReferencesDocument::default() };
    let expected_epoch = house.admin().references().await.unwrap().epoch;
    ReferencesCall { document: B64(document.encode()), expected_epoch, ima_policy: sent.map(B64) }
}

/// The verdicts on the newest evidence of the only host, now and under another IMA policy.
#[cfg(test)]
async fn foretold(house: &House, other: &[u8]) -> (String, Option<String>) {
    let call = activation(house, other, Some(other.to_vec())).await;
    let call = ReferencesCheckCall { document: call.document, ima_policy: call.ima_policy, before: None };
    let mut checked = house.admin().check_references(&call).await.unwrap();
    assert_eq!((checked.decisions.len(), checked.before), (1, None));
    let one = checked.decisions.remove(0);
    (one.now.unwrap(), one.then)
}

/// A kernel that measures into a host's TPM.
#[cfg(test)]
struct Kernel {
    list: SimulatedIma,
    extended: usize,
}

#[cfg(test)]
impl Kernel {
    fn of(host: &Host) -> Self {
        let boot = PcrSelectionSpec::new(BANK, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
        let values = host.machine.tpm.pcr_values(&boot).unwrap();
        let values: Vec<Vec<u8>> = values.into_iter().map(|(_, value)| value).collect();
        Self { list: SimulatedIma::after_boot(BANK, &values), extended: 0 }
    }

    fn run(&mut self, host: &mut Host, path: &str) {
        self.list.measure(BANK, path.as_bytes(), &BANK.digest(path.as_bytes()));
        self.list.extend(&mut host.machine.tpm, self.extended).unwrap();
        self.extended = self.list.entries();
    }
}

/// A call that sends the entries from the one that the authority asks for, or all.
#[cfg(test)]
async fn call(host: &Host, kernel: &Kernel, id: &str, known: Option<u64>) -> ArtifactsCall {
    let mut call = host.call(&[id]).await;
    let from = known.unwrap_or(0);
    let list = kernel.list.bytes_from(usize::try_from(from).unwrap());
    let column = HashAlg::Sha1.id();
    call.evidence.ima = Some(ImaEntriesDocument { from, column, list: sha256(list).to_hex() });
    call.evidence.members.push(B64(list.to_vec()));
    call
}

#[cfg(test)]
async fn ask(host: &Host, kernel: &Kernel, id: &str, known: Option<u64>) -> Option<String> {
    let answer = host.client.artifacts(&call(host, kernel, id, known).await).await.unwrap();
    answer.decisions[0].code.clone()
}

#[test]
fn a_policy_that_could_not_be_checked_does_not_come_into_force() {
    with_house(
        "a_policy_that_could_not_be_checked_does_not_come_into_force",
        |_| (),
        async |house| {
            let bytes = listing(&["/a"]);
            let send = async |named: &[u8], sent: Option<Vec<u8>>| {
                let call = activation(&house, named, sent).await;
                code(house.admin().activate_references(&call).await)
            };
            house.permit_all().await;
            assert_eq!(send(&bytes, Some(bytes.clone())).await, "ima-policy-invalid", "PCR 10 isn't quoted");
            quote_pcr_10(&house).await;
            assert_eq!(send(&bytes, None).await, "ima-policy-invalid", "nobody has it");
            assert_eq!(send(&bytes, Some(b"other".to_vec())).await, "ima-policy-invalid");
            assert_eq!(
                send(b"other", Some(b"other".to_vec())).await,
                "ima-policy-invalid",
                "no policy at all"
            );
            let good = activation(&house, &bytes, Some(bytes.clone())).await;
            house.admin().activate_references(&good).await.unwrap();
            // What is known need not be sent again.
            let other = listing(&["/b"]);
            let next = activation(&house, &other, Some(other.clone())).await;
            house.admin().activate_references(&next).await.unwrap();
            let again = activation(&house, &bytes, None).await;
            house.admin().activate_references(&again).await.unwrap();
            // A document that names none takes none along.
            let mut stray = activation(&house, &bytes, Some(bytes.clone())).await;
            stray.document = B64(ReferencesDocument::default().encode());
            assert_eq!(code(house.admin().activate_references(&stray).await), "ima-policy-invalid");
        },
    );
}

#[test]
fn hosts_send_what_is_new_and_auditors_repeat_every_step() {
    with_house(
        "hosts_send_what_is_new_and_auditors_repeat_every_step",
        |_| (),
        async |house| {
            quote_pcr_10(&house).await;
            let mut host = house.host("host").await;
            assert_eq!(host.client.challenge().await.unwrap().ima_entries, None, "nobody asks for entries");
            let bytes = listing(&["/a", "/b"]);
            let good = activation(&house, &bytes, Some(bytes.clone())).await;
            house.admin().activate_references(&good).await.unwrap();

            let known = async |host: &Host| host.client.challenge().await.unwrap().ima_entries;
            assert_eq!(known(&host).await, Some(0));
            let mut kernel = Kernel::of(&host);
            kernel.run(&mut host, "/a");
            assert_eq!(ask(&host, &kernel, "r1", None).await, None);
            assert_eq!(known(&host).await, Some(2));
            kernel.run(&mut host, "/b");
            kernel.run(&mut host, "/a");
            assert_eq!(ask(&host, &kernel, "r2", Some(2)).await, None);
            assert_eq!(known(&host).await, Some(4));
            // What another policy would say, of all that ran since the boot: the list comes in two parts.
            assert_eq!(
                foretold(&house, &listing(&["/a", "/b", "/d"])).await,
                ("allow".into(), Some("allow".into()))
            );
            let narrow = foretold(&house, &listing(&["/b"])).await;
            assert_eq!(
                narrow,
                ("allow".into(), Some("ima-file-unknown".into())),
                "/a ran before the newest part"
            );
            // Without its member the call isn't decided, and the challenge not spent.
            let mut short = call(&host, &kernel, "r3", None).await;
            let full = short.clone();
            short.evidence.members.pop();
            assert_eq!(code(host.client.artifacts(&short).await), "evidence-needed");
            assert_eq!(host.client.artifacts(&full).await.unwrap().decisions[0].code, None);
            // The same entries twice, and none at all.
            assert_eq!(ask(&host, &kernel, "r4", Some(2)).await.as_deref(), Some("ima-base-moved"));
            let mut none = call(&host, &kernel, "r5", None).await;
            none.evidence.ima = None;
            let answer = host.client.artifacts(&none).await.unwrap();
            assert_eq!(answer.decisions[0].code.as_deref(), Some("ima-missing"));
            // A file that nobody knows, until a policy knows it; then all is judged anew.
            kernel.run(&mut host, "/c");
            assert_eq!(ask(&host, &kernel, "r6", Some(4)).await.as_deref(), Some("ima-file-unknown"));
            assert_eq!(known(&host).await, Some(4), "the good state is left alone");
            let wider = listing(&["/a", "/b", "/c"]);
            let next = activation(&house, &wider, Some(wider.clone())).await;
            house.admin().activate_references(&next).await.unwrap();
            assert_eq!(known(&host).await, Some(0));
            assert_eq!(ask(&host, &kernel, "r7", Some(4)).await.as_deref(), Some("ima-list-needed"));
            assert_eq!(ask(&host, &kernel, "r8", None).await, None);
            // An attestation without requests goes on from there.
            let mut attestation = host.attestation().await;
            let empty = sha256(b"").to_hex();
            attestation.evidence.ima = Some(ImaEntriesDocument { from: 5, column: 4, list: empty });
            assert_eq!(host.client.attest(&attestation).await.unwrap().code, None);
            let narrow = foretold(&house, &bytes).await;
            assert_eq!(narrow, ("allow".into(), Some("ima-file-unknown".into())), "by the attestation");

            let source = StoreLog::new(house.serving.authority().reader()).unwrap();
            let report = replay(&source, &house.bundle(), &mut |_| {}).unwrap();
            assert_eq!((&report.mismatches[..], &report.not_replayable[..]), (&[][..], &[][..]));
            assert_eq!((report.replayed, report.denied), (9, 4));
        },
    );
}

/// Where the system measures its separator: after the kernel made its list's first entry, into the registers that the entry is of.
#[test]
fn a_list_begins_with_the_registers_as_they_were_before_the_systems_separator() {
    with_house(
        "a_list_begins_with_the_registers_as_they_were_before_the_systems_separator",
        |_| (),
        async |house| {
            quote_pcr_10(&house).await;
            let mut host = house.host("host").await;
            let bytes = listing(&["/a"]);
            let good = activation(&house, &bytes, Some(bytes.clone())).await;
            house.admin().activate_references(&good).await.unwrap();
            let mut kernel = Kernel::of(&host);
            for pcr in [0, 1, 2, 3, 4, 5, 6, 7, 9] {
                host.machine.tpm.extend(BANK, pcr, &BANK.digest(b"os-separator")).unwrap();
            }
            kernel.run(&mut host, "/a");
            assert_eq!(ask(&host, &kernel, "r1", None).await, None);
            // A kernel that began behind the word, and one of another boot.
            let mut late = Kernel::of(&host);
            host.machine.tpm.reset();
            host.machine.tpm.boot(&host.machine.boot).unwrap();
            late.run(&mut host, "/a");
            assert_eq!(ask(&host, &late, "r2", None).await.as_deref(), Some("ima-boot-aggregate"));
            let source = StoreLog::new(house.serving.authority().reader()).unwrap();
            let report = replay(&source, &house.bundle(), &mut |_| {}).unwrap();
            assert_eq!((&report.mismatches[..], &report.not_replayable[..]), (&[][..], &[][..]));
            assert_eq!((report.replayed, report.denied, report.enrolled), (2, 1, 1));
        },
    );
}
