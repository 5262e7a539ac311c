//! Hosts with a newer systemd on a real software TPM: the separator that it extends into the firmware's registers takes nothing away from what
//! policy sees, and anything else in its place is refused as ever.
#[cfg(test)]
#[path = "support/device.rs"]
mod device;
#[cfg(test)]
mod support;

use countersign_core::api::B64;
use countersign_core::api::admin::{CaptureCall, PolicyCall, ReferencesCall};
use countersign_fixture::SwTpmCa;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::eventlog::EventLog;
use device::Device;
use support::{House, policy, with_house};

/// Registers that the policy selects and the unit extends.
#[cfg(test)]
const SEPARATED: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 9, 14];
#[cfg(test)]
const OS: &[u8] = b"os-separator";

/// Permits the known boot alone: its loaders and files, and nothing beside them.
#[cfg(test)]
async fn only_the_known_boot(house: &House, host: &Device, bank: HashAlg) {
    let log = EventLog::parse(host.boot.log()).unwrap();
    let of = |pcr: u32| {
        let events = log.events().filter(|event| event.extends() && event.pcr() == pcr);
        let digests = events
            .map(|event| format!("\"{}\"", data_encoding::HEXLOWER.encode(event.digest(bank).unwrap())));
        digests.collect::<Vec<_>>().join(", ")
    };
    let source = format!(
        r#"permit (principal, action, resource) when {{
            context.secure_boot == "on" &&
            context.boot has applications && [{}].containsAll(context.boot.applications) &&
            context.boot has files && context.boot.files == [{}] &&
            context.boot has mok && context.boot.mok.isEmpty() &&
            context.boot has exit_boot_services && context.boot.exit_boot_services &&
            context.boot has cmdline
        }};"#,
        of(4),
        of(9)
    );
    let mut document = policy(&source);
    (document.settings.bank, document.settings.pcrs) = (bank.id(), vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14]);
    let expected_epoch = house.admin().policy().await.unwrap().epoch;
    let call = PolicyCall { document: B64(document.encode()), expected_epoch };
    house.admin().activate_policy(&call).await.unwrap();
}

/// Boots, extends these words, and asks twice: by a fresh replay, and by the one that is kept of it.
#[cfg(test)]
async fn booted_with(host: &Device, id: &str, words: &[(u32, &[u8])]) -> String {
    host.reboot();
    words.iter().for_each(|(pcr, word)| host.extend(*pcr, word));
    let first = host.verdict(&format!("{id}-0")).await;
    assert_eq!(host.verdict(&format!("{id}-1")).await, first, "{id}");
    first
}

#[cfg(test)]
fn separated() -> Vec<(u32, &'static [u8])> {
    SEPARATED.map(|pcr| (pcr, OS)).to_vec()
}

#[test]
fn a_host_whose_system_separates_registers_is_judged_by_its_boot() {
    with_house(
        "a_host_whose_system_separates_registers_is_judged_by_its_boot",
        |_| (),
        async |house| {
            let ca = SwTpmCa::new();
            let host = Device::enrolled(&house, &ca).await;
            for bank in [HashAlg::Sha256, HashAlg::Sha384] {
                only_the_known_boot(&house, &host, bank).await;
                words_of_a_boot(&host, bank.name()).await;
            }
            references_name_a_separator(&house, &host).await;
            house.serving.stop().await;
        },
    );
}

#[cfg(test)]
async fn words_of_a_boot(host: &Device, name: &str) {
    let asked = async |id: &str, more: &[(u32, &[u8])]| {
        let words = [&separated()[..], more].concat();
        booted_with(host, &format!("{name}-{id}"), &words).await
    };
    assert_eq!(booted_with(host, &format!("{name}-none"), &[]).await, "allow");
    assert_eq!(asked("all", &[]).await, "allow");
    // Before the unit is done with all of them.
    assert_eq!(booted_with(host, &format!("{name}-some"), &separated()[..4]).await, "allow");
    let nvpcr: &[u8] = b"nvpcr-separator";
    assert_eq!(asked("nvpcr", &[(9, nvpcr)]).await, "allow");
    assert_eq!(booted_with(host, &format!("{name}-nvpcr-alone"), &[(9, nvpcr)]).await, "allow");
    // Of NvPCRs the words are a machine's own.
    let init: &[u8] = b"nvpcr-init:hardware:0x1d10200:000b2a5f";
    assert_eq!(asked("init", &[(9, init), (9, nvpcr)]).await, "boot-log-mismatch");
    for pcr in SEPARATED {
        assert_eq!(asked(&format!("twice-{pcr}"), &[(pcr, OS)]).await, "boot-log-mismatch", "{pcr}");
        let other = [(pcr, &b"os-separator\0"[..])];
        let refused = booted_with(host, &format!("{name}-other-{pcr}"), &other).await;
        assert_eq!(refused, "boot-log-mismatch", "{pcr}");
    }
    assert_eq!(asked("behind", &[(4, b"anything")]).await, "boot-log-mismatch");
    let (first, wrong) = ([(9, nvpcr), (9, OS)], format!("{name}-order"));
    assert_eq!(booted_with(host, &wrong, &first).await, "boot-log-mismatch");
    let loader = [(8, OS)];
    assert_eq!(booted_with(host, &format!("{name}-loader"), &loader).await, "boot-log-mismatch");
}

/// References are of one value each: an update to such a system is another generation.
#[cfg(test)]
async fn references_name_a_separator(house: &House, host: &Device) {
    assert_eq!(booted_with(host, "before", &[]).await, "allow");
    let capture = async |append: bool| {
        let call = CaptureCall { host: host.id.to_hex(), set: "fleet".to_owned(), pcrs: None, append };
        let captured = house.admin().capture_references(&call).await.unwrap();
        let expected_epoch = captured.epoch;
        let call = ReferencesCall { document: captured.document, expected_epoch, ima_policy: None };
        house.admin().activate_references(&call).await.unwrap();
    };
    capture(false).await;
    assert_eq!(booted_with(host, "updated", &separated()).await, "reference-mismatch");
    capture(true).await;
    assert_eq!(booted_with(host, "known", &separated()).await, "allow");
    assert_eq!(booted_with(host, "old", &[]).await, "allow");
}
