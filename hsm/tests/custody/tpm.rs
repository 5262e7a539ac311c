//! Keys in a software TPM: bound to it, certified by it, and healed after it was away. Tests that make the TPM software stack complain run in
//! a process of their own, whose environment silences it.
use std::path::Path;

use countersign_core::tuple::tuple_digest;
use countersign_fixture::{SwTpm, in_child_process, is_child_process};
use countersign_hsm::tpm::{self, TpmConfig, TpmSigner};
use countersign_hsm::worker::{Circuit, SignerHandle, WorkerLimits};
use countersign_hsm::{Algorithm, Backend, FaultClass, Signer};
use countersign_tpm::certify::{CertifyRefusal, verify_certification};
use countersign_tpm::device::HostTpm;
use countersign_tpm::public::Public;
use tempfile::TempDir;

use crate::support::{PATIENCE, conformance, fault};

struct Machine {
    tpm: SwTpm,
    _state: TempDir,
    config: TpmConfig,
}

fn machine() -> Machine {
    let (tpm, state) = (SwTpm::start_own(), tempfile::tempdir().unwrap());
    let config = TpmConfig { tcti: tpm.tcti(), state_dir: state.path().join("keys") };
    Machine { tpm, _state: state, config }
}

fn quietly(test_name: &str, body: impl FnOnce()) {
    if is_child_process() { body() } else { in_child_process::<&str, &str>(test_name, &[]) }
}

fn verified(signer: &mut TpmSigner) {
    let signature = signer.sign(b"m").unwrap();
    signer.public_key().verify(b"m", signature.as_bytes()).unwrap();
}

#[test]
fn tpm_keys_conform() {
    let machine = machine();
    let made = tpm::generate(&machine.config, "head").unwrap();
    conformance(Algorithm::Es256, || {
        let signer = TpmSigner::open(&machine.config, "head").unwrap();
        assert_eq!(*signer.public_key(), made);
        Box::new(signer)
    });
}

#[test]
fn third_parties_can_check_the_certification() {
    let machine = machine();
    tpm::generate(&machine.config, "head").unwrap();
    let mut signer = TpmSigner::open(&machine.config, "head").unwrap();
    let evidence = signer.custody().unwrap();
    assert_eq!(evidence.backend, Backend::Tpm2);
    for name in ["fixedTPM", "fixedParent", "sensitiveDataOrigin", "sign"] {
        assert_eq!(evidence.attributes[name], "true", "{name}");
    }
    assert_eq!(evidence.attributes["restricted"], "false");
    let certification = evidence.certification.unwrap();
    let (ak, key) =
        (Public::parse(&certification.ak_public).unwrap(), Public::parse(&certification.key_public).unwrap());
    let extra = *tuple_digest("countersign-v1:custody", &[&signer.public_key().spki_der()]).as_bytes();
    let check =
        |extra| verify_certification(&ak, &certification.attest, &certification.signature, &key, extra);
    assert_eq!(check(&extra).unwrap().public().spki_der(), signer.public_key().spki_der());
    assert_eq!(check(&[0; 32]), Err(CertifyRefusal::NonceMismatch));
}

#[test]
fn a_label_names_one_key_until_it_is_destroyed() {
    let Machine { config, tpm: _tpm, _state } = machine();
    assert_eq!(fault(TpmSigner::open(&config, "head")).class(), FaultClass::KeyMissing);
    tpm::generate(&config, "head").unwrap();
    assert_eq!(fault(tpm::generate(&config, "head")).class(), FaultClass::KeyExists);
    let files: Vec<_> =
        std::fs::read_dir(&config.state_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["head.tpm-key"], "no draft is left behind");
    tpm::destroy(&config, "head").unwrap();
    assert_eq!(fault(tpm::destroy(&config, "head")).class(), FaultClass::KeyMissing);
    assert_eq!(fault(TpmSigner::open(&config, "head")).class(), FaultClass::KeyMissing);
    for label in ["", "../head", "Head", "a b", &"a".repeat(65)] {
        assert_eq!(fault(tpm::generate(&config, label)).class(), FaultClass::Misconfigured, "{label:?}");
    }
}

/// A key file as it is written: each blob with its 16-bit length in front.
fn write_key_file(path: &Path, attestation: &[u8], signing: &[u8]) {
    let sized = |blob: &[u8]| [&u16::try_from(blob.len()).unwrap().to_be_bytes()[..], blob].concat();
    std::fs::write(path, [sized(attestation), sized(signing)].concat()).unwrap();
}

#[test]
fn a_key_that_is_not_fit_to_sign_is_refused() {
    let machine = machine();
    tpm::generate(&machine.config, "head").unwrap();
    let path = machine.config.state_dir.join("head.tpm-key");
    let good = std::fs::read(&path).unwrap();
    let ak = {
        let mut tpm = HostTpm::open(&machine.config.tcti).unwrap();
        tpm.create_attestation_key().unwrap().to_bytes().unwrap()
    };
    // A restricted key signs only what the TPM made itself.
    write_key_file(&path, &ak, &ak);
    assert_eq!(fault(TpmSigner::open(&machine.config, "head")).class(), FaultClass::CustodyIncomplete);
    for bytes in [&good[..good.len() - 1], &[&good[..], &[0]].concat(), &[0xff; 9000], &[]] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(fault(TpmSigner::open(&machine.config, "head")).class(), FaultClass::Misconfigured);
    }
    std::fs::write(&path, good).unwrap();
    verified(&mut TpmSigner::open(&machine.config, "head").unwrap());
}

#[test]
fn a_key_of_another_tpm_is_missing() {
    quietly("tpm::a_key_of_another_tpm_is_missing", || {
        let (one, other) = (machine(), machine());
        tpm::generate(&one.config, "head").unwrap();
        let mixed = TpmConfig { tcti: other.config.tcti.clone(), ..one.config.clone() };
        assert_eq!(fault(TpmSigner::open(&mixed, "head")).class(), FaultClass::KeyMissing);
    });
}

#[test]
fn a_tpm_that_was_away_heals_in_the_same_process() {
    quietly("tpm::a_tpm_that_was_away_heals_in_the_same_process", || {
        let mut machine = machine();
        tpm::generate(&machine.config, "head").unwrap();
        let mut signer = TpmSigner::open(&machine.config, "head").unwrap();
        for _ in 0..3 {
            verified(&mut signer);
            machine.tpm.stop();
            for _ in 0..2 {
                assert_eq!(fault(signer.sign(b"m")).class(), FaultClass::TokenAbsent);
            }
            assert_eq!(fault(signer.custody()).class(), FaultClass::TokenAbsent);
            machine.tpm.restart();
            verified(&mut signer);
            // Gone and back between two calls: the caller does not notice.
            machine.tpm.restart();
            verified(&mut signer);
        }
        signer.custody().unwrap();
        machine.tpm.stop();
        assert_eq!(fault(TpmSigner::open(&machine.config, "head")).class(), FaultClass::TokenAbsent);
        let nowhere = TpmConfig { tcti: "nonsense".to_owned(), ..machine.config.clone() };
        assert_eq!(fault(TpmSigner::open(&nowhere, "head")).class(), FaultClass::Misconfigured);
    });
}

#[test]
fn a_worker_over_a_tpm_tells_and_heals() {
    quietly("tpm::a_worker_over_a_tpm_tells_and_heals", || {
        let mut machine = machine();
        tpm::generate(&machine.config, "head").unwrap();
        let signer = TpmSigner::open(&machine.config, "head").unwrap();
        let limits = WorkerLimits { queue: 4, deadline: PATIENCE };
        let handle = SignerHandle::start("head", Box::new(signer), limits).unwrap();
        handle.sign(b"m").unwrap();
        machine.tpm.stop();
        assert_eq!(fault(handle.sign(b"m")).class(), FaultClass::TokenAbsent);
        assert!(matches!(handle.circuit(), Circuit::Open { class: FaultClass::TokenAbsent, .. }));
        machine.tpm.restart();
        handle.sign(b"probe").unwrap();
        assert!(handle.circuit().is_closed());
        assert!(handle.stop());
    });
}
