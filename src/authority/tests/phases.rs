//! A host of a unified kernel image on a real software TPM: policy sees the image and the boot phase that systemd's words make of PCR 11, in every
//! phase of a boot, and nothing of either once something else was extended.
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
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use device::Device;
use support::{House, policy, with_house};

/// Whether something may run follows from the phase, and what ran is the known image.
#[cfg(test)]
async fn only_when_running(house: &House, bank: HashAlg, linux: &str) {
    let source = format!(
        r#"permit (principal, action, resource) when {{
            context.boot has phase && context.boot.phase == "enter-initrd:leave-initrd:sysinit:ready" &&
            context.boot.sections has linux && context.boot.sections.linux == "{linux}"
        }};"#
    );
    let mut document = policy(&source);
    (document.settings.bank, document.settings.pcrs) = (bank.id(), vec![0, 4, 7, 11]);
    let expected_epoch = house.admin().policy().await.unwrap().epoch;
    let call = PolicyCall { document: B64(document.encode()), expected_epoch };
    house.admin().activate_policy(&call).await.unwrap();
}

/// The digest of the kernel as the stub measured it.
#[cfg(test)]
fn kernel(boot: &SimulatedBoot, bank: HashAlg) -> String {
    let log = EventLog::parse(boot.log()).unwrap();
    let marker = bank.digest(b".linux\0");
    let mut image = log.events().filter(|event| event.pcr() == 11);
    image.find(|event| event.digest(bank) == Some(&marker)).unwrap();
    data_encoding::HEXLOWER.encode(image.next().unwrap().digest(bank).unwrap())
}

#[test]
fn a_policy_follows_the_boot_phases_of_a_unified_kernel_image() {
    with_house(
        "a_policy_follows_the_boot_phases_of_a_unified_kernel_image",
        |_| (),
        async |house| {
            let ca = SwTpmCa::new();
            let mut host = Device::enrolled(&house, &ca).await;
            host.boot = SimulatedBoot::new(&BootOptions { unified_kernel: true, ..BootOptions::default() });
            for bank in [HashAlg::Sha256, HashAlg::Sha384] {
                only_when_running(&house, bank, &kernel(&host.boot, bank)).await;
                phases_of_a_boot(&host, bank.name()).await;
            }
            references_name_a_phase(&house, &host).await;
            house.serving.stop().await;
        },
    );
}

#[cfg(test)]
async fn phases_of_a_boot(host: &Device, name: &str) {
    host.reboot();
    assert_eq!(host.verdict(&format!("{name}-image")).await, "policy-denied");
    let steps = [
        ("enter-initrd", "policy-denied"),
        ("leave-initrd", "policy-denied"),
        ("sysinit", "policy-denied"),
        ("ready", "allow"),
        ("shutdown", "policy-denied"),
        ("final", "policy-denied"),
    ];
    for (word, expected) in steps {
        host.extend(11, word.as_bytes());
        // Twice: by a fresh replay, and by the one that is kept of it.
        for number in 0..2 {
            assert_eq!(host.verdict(&format!("{name}-{word}-{number}")).await, expected, "{name} {word}");
        }
    }
    // A word too many, and one that is none: the register explains nothing, and that is no refusal of the evidence.
    host.extend(11, b"ready");
    assert_eq!(host.verdict(&format!("{name}-again")).await, "policy-denied");
    host.reboot();
    for word in ["enter-initrd", "other", "leave-initrd", "sysinit", "ready"] {
        host.extend(11, word.as_bytes());
    }
    assert_eq!(host.verdict(&format!("{name}-other")).await, "policy-denied");
}

/// References are of one value each: captured while the host runs, they are of that phase.
#[cfg(test)]
async fn references_name_a_phase(house: &House, host: &Device) {
    let until = async |name: &str, words: &[&str]| {
        host.reboot();
        words.iter().for_each(|word| host.extend(11, word.as_bytes()));
        host.verdict(name).await
    };
    let running = ["enter-initrd", "leave-initrd", "sysinit", "ready"];
    assert_eq!(until("before", &running).await, "allow");
    let admin = house.admin();
    let call = CaptureCall { host: host.id.to_hex(), set: "fleet".to_owned(), pcrs: None, append: false };
    let captured = admin.capture_references(&call).await.unwrap();
    let expected_epoch = captured.epoch;
    let call = ReferencesCall { document: captured.document, expected_epoch, ima_policy: None };
    admin.activate_references(&call).await.unwrap();
    assert_eq!(until("running", &running).await, "allow");
    assert_eq!(until("early", &running[..3]).await, "reference-mismatch");
}
