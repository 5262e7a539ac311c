//! What operators see of a host that isn't affirmed: each cause of a warning by its own words, and the newest refusal with its whole text.
#[cfg(test)]
mod support;

use countersign_core::api::admin::{HostDocument, PolicyCall};
use countersign_core::api::{AttestationAnswer, B64};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::eventlog::EventLog;
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use support::{Host, House, Machine, code, policy, with_house};

#[cfg(test)]
const UNREFERENCED: &str = "no reference values of boots were active when it was appraised";

/// An enrolled host that booted so.
#[cfg(test)]
async fn booted(house: &House, name: &str, options: &BootOptions) -> Host {
    let mut tpm = SimulatedTpm::new(&mut |buffer| getrandom::fill(buffer).unwrap()).unwrap();
    let boot = SimulatedBoot::new(options);
    tpm.boot(&boot).unwrap();
    let ek_certificate = house.maker.certify(&tpm);
    let machine = Machine { tpm, boot, ek_certificate };
    let offer = house.begin(&machine, Some(&house.token().await)).await.unwrap();
    house.finish(name, machine, &offer).await.unwrap()
}

#[cfg(test)]
async fn attest(host: &Host) -> AttestationAnswer {
    host.client.attest(&host.attestation().await).await.unwrap()
}

#[cfg(test)]
async fn shown(house: &House, host: &Host) -> HostDocument {
    house.admin().host(&host.id).await.unwrap()
}

#[test]
fn a_warning_is_told_by_what_it_is_due_to() {
    with_house(
        "a_warning_is_told_by_what_it_is_due_to",
        |_| (),
        async |house| {
            house.permit_all().await;
            let plain = BootOptions::default();
            let off = BootOptions { secure_boot: false, ..plain.clone() };
            let debug = BootOptions { debug_mode: true, ..plain.clone() };
            let rows = [
                ("plain", plain, vec![]),
                ("off", off, vec!["Secure Boot was off"]),
                ("debug", debug, vec!["its firmware was in debug mode"]),
            ];
            for (name, options, mut words) in rows {
                let host = booted(&house, name, &options).await;
                assert_eq!(shown(&house, &host).await.reason, "it never gave good evidence", "{name}");
                words.push(UNREFERENCED);
                // As an attestation tells it, and as a decision does, whose leaf has the vector.
                assert_eq!(attest(&host).await.tier, "warning");
                assert_eq!(shown(&house, &host).await.reason, words.join("; "), "{name}");
                host.artifacts(&["r1"]).await.unwrap();
                assert_eq!(shown(&house, &host).await.reason, words.join("; "), "{name}");
            }
            house.serving.stop().await;
        },
    );
}

/// The text for a register that was extended behind the log's back.
#[cfg(test)]
fn expected_text(boot: &SimulatedBoot, pcr: u32, behind: &[u8]) -> String {
    let log = EventLog::parse(boot.log()).unwrap();
    let found = log.replay(HashAlg::Sha256).unwrap().pcr(pcr).unwrap().to_vec();
    let event = log.events().filter(|event| event.extends() && event.pcr() == pcr).last().unwrap().index();
    let expected = HashAlg::Sha256.digest_parts(&[&found, behind]);
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    format!(
        "PCR {pcr}, event {event}: expected {} as quoted, found {} by the log (words that may follow there: os-separator, nvpcr-separator)",
        hex(&expected),
        hex(&found)
    )
}

#[test]
fn the_newest_refusal_is_shown_to_operators_with_its_text_and_to_the_host_without() {
    let name = "the_newest_refusal_is_shown_to_operators_with_its_text_and_to_the_host_without";
    with_house(
        name,
        |_| (),
        async |house| {
            house.permit_all().await;
            let mut host = booted(&house, "host", &BootOptions::default()).await;
            attest(&host).await;
            let before = shown(&house, &host).await;
            assert_eq!(before.last_refusal, None);
            // The log is known by now: what is told of it is told of a cached replay, too.
            host.machine.tpm.extend(HashAlg::Sha256, 9, &[7; 32]).unwrap();
            let answer = attest(&host).await;
            assert_eq!(answer.code.as_deref(), Some("boot-log-mismatch"));
            let text = expected_text(&host.machine.boot, 9, &[7; 32]);
            let refused = shown(&house, &host).await;
            let refusal = refused.last_refusal.clone().unwrap();
            assert_eq!((refusal.code.as_str(), &refusal.detail), ("boot-log-mismatch", &text));
            assert_eq!(
                refused.reason,
                format!("{UNREFERENCED}; since then its evidence was refused: boot-log-mismatch, {text}")
            );
            assert_eq!((refused.tier, refused.evidence), (before.tier, before.evidence));
            // The host gets the code's meaning and nothing of the registers.
            let told =
                serde_json::to_string(&AttestationAnswer { receipt: String::new(), ..answer }).unwrap();
            assert!(!told.contains("PCR 9") && !told.contains("expected"), "{told}");
            let listed = house.admin().hosts(None).await.unwrap();
            assert_eq!(listed.hosts[0].last_refusal.as_ref(), Some(&refusal));
            // Of a call for an artifact it is the same.
            let denied = host.artifacts(&["r1"]).await.unwrap();
            assert_eq!(denied.decisions[0].code.as_deref(), Some("boot-log-mismatch"));
            let again = shown(&house, &host).await.last_refusal.unwrap();
            assert!(again.detail == text && again.time_ms > refusal.time_ms, "{again:?}");
            other_refusals(&house, &mut host).await;
            house.serving.stop().await;
        },
    );
}

/// Good evidence ends what the reason says of a refusal; a request that policy denies is none of the evidence; a quote that nobody signed is.
#[cfg(test)]
async fn other_refusals(house: &House, host: &mut Host) {
    host.machine.tpm.reset();
    host.machine.tpm.boot(&host.machine.boot).unwrap();
    attest(host).await;
    let good = shown(house, host).await;
    assert_eq!((good.reason.as_str(), good.last_refusal.is_some()), (UNREFERENCED, true));
    let expected_epoch = house.admin().policy().await.unwrap().epoch;
    let document = B64(policy("forbid(principal, action, resource);").encode());
    house.admin().activate_policy(&PolicyCall { document, expected_epoch }).await.unwrap();
    let denied = host.artifacts(&["r2"]).await.unwrap();
    assert_eq!(denied.decisions[0].code.as_deref(), Some("policy-denied"));
    assert_eq!(shown(house, host).await.last_refusal, good.last_refusal);
    let mut unsigned = host.attestation().await;
    *unsigned.evidence.signature.0.last_mut().unwrap() ^= 1;
    assert_eq!(code(host.client.attest(&unsigned).await), "quote-signature-invalid");
    let refused = shown(house, host).await;
    assert_eq!(refused.last_refusal.unwrap().code, "quote-signature-invalid");
    assert!(refused.reason.contains("since then its evidence was refused: quote-signature-invalid"));
}
