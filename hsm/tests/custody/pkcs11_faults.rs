//! What a misbehaving module is answered with, and that the same process signs again when it behaves.
use std::time::Duration;

use countersign_fixture::{FaultyPkcs11, Pkcs11Fault, SoftHsm, wait_until};
use countersign_hsm::pkcs11::{Pkcs11Config, Pkcs11Signer, Pkcs11Token};
use countersign_hsm::worker::{Circuit, SignerHandle, WorkerLimits};
use countersign_hsm::{Algorithm, FaultClass, Signer};

use crate::support::{PATIENCE, fault, pin_file, token};

// PKCS #11 2.40, 3.
const CKR_GENERAL_ERROR: u32 = 0x05;
const CKR_DEVICE_ERROR: u32 = 0x30;
const CKR_DEVICE_REMOVED: u32 = 0x32;
const CKR_KEY_HANDLE_INVALID: u32 = 0x60;
const CKR_MECHANISM_INVALID: u32 = 0x70;
const CKR_PIN_LOCKED: u32 = 0xa4;
const CKR_SESSION_HANDLE_INVALID: u32 = 0xb3;
const CKR_USER_NOT_LOGGED_IN: u32 = 0x101;

/// A token with a key, behind the faulty module.
fn faulty(hsm: &SoftHsm) -> (FaultyPkcs11, Pkcs11Config) {
    let faulty = FaultyPkcs11::over(hsm);
    let config = Pkcs11Config { module: faulty.path(), ..token(hsm) };
    Pkcs11Token::open(&config).unwrap().generate("head", Algorithm::EdDsa).unwrap();
    (faulty, config)
}

#[test]
fn a_signature_that_does_not_verify_is_never_released() {
    SoftHsm::in_child("pkcs11_faults::a_signature_that_does_not_verify_is_never_released", |hsm| {
        let (faulty, config) = faulty(hsm);
        let mut signer = Pkcs11Signer::open(&config, "head").unwrap();
        faulty.set("C_Sign", Pkcs11Fault::FlipSignature);
        let refused = fault(signer.sign(b"m"));
        assert_eq!((refused.class(), refused.call()), (FaultClass::BadSignature, "C_Sign"));
        faulty.clear();
        signer.sign(b"m").unwrap();
    });
}

#[test]
fn each_fault_has_its_class_and_heals_when_it_passes() {
    SoftHsm::in_child("pkcs11_faults::each_fault_has_its_class_and_heals_when_it_passes", |hsm| {
        let (faulty, config) = faulty(hsm);
        let mut signer = Pkcs11Signer::open(&config, "head").unwrap();
        let mut check = |function, value, class| {
            signer.sign(b"before").unwrap();
            faulty.set(function, Pkcs11Fault::Return(value));
            let fault = fault(signer.sign(b"during"));
            assert_eq!((fault.class(), fault.call()), (class, function), "{fault}");
            faulty.clear();
            signer.sign(b"after").unwrap();
        };
        check("C_Sign", CKR_DEVICE_ERROR, FaultClass::Retry);
        check("C_Sign", CKR_DEVICE_REMOVED, FaultClass::TokenAbsent);
        check("C_SignInit", CKR_SESSION_HANDLE_INVALID, FaultClass::Retry);
        check("C_SignInit", CKR_KEY_HANDLE_INVALID, FaultClass::Retry);
        check("C_SignInit", CKR_USER_NOT_LOGGED_IN, FaultClass::Retry);
        check("C_SignInit", CKR_MECHANISM_INVALID, FaultClass::Misconfigured);
    });
}

#[test]
fn a_lost_session_is_reopened_without_disturbing_the_module() {
    SoftHsm::in_child("pkcs11_faults::a_lost_session_is_reopened_without_disturbing_the_module", |hsm| {
        let (faulty, config) = faulty(hsm);
        let mut signer = Pkcs11Signer::open(&config, "head").unwrap();
        signer.sign(b"m").unwrap();
        let opened = faulty.calls("C_OpenSession");
        faulty.set("C_SignInit", Pkcs11Fault::Return(CKR_MECHANISM_INVALID));
        fault(signer.sign(b"m"));
        assert_eq!(faulty.calls("C_OpenSession"), opened, "what reopening cannot cure is not reopened");
        assert_eq!(faulty.calls("C_Finalize"), 0);
        faulty.set("C_SignInit", Pkcs11Fault::Return(CKR_GENERAL_ERROR));
        fault(signer.sign(b"m"));
        assert!(faulty.calls("C_OpenSession") > opened);
        assert_eq!(faulty.calls("C_Finalize"), 1, "started over once a call");
    });
}

#[test]
fn no_session_outlives_the_module_that_gave_it() {
    SoftHsm::in_child("pkcs11_faults::no_session_outlives_the_module_that_gave_it", |hsm| {
        let (faulty, config) = faulty(hsm);
        let open = || Pkcs11Signer::open(&config, "head").unwrap();
        let (mut one, mut other, mut third) = (open(), open(), open());
        for signer in [&mut one, &mut other, &mut third] {
            signer.sign(b"m").unwrap();
        }
        faulty.set("C_SignInit", Pkcs11Fault::Return(CKR_DEVICE_ERROR));
        fault(other.sign(b"m"));
        faulty.clear();
        assert_eq!(faulty.calls("C_Finalize"), 1);
        // The old session's number may be another's by now, so it is neither tried nor closed.
        let (signed, closed) = (faulty.calls("C_SignInit"), faulty.calls("C_CloseSession"));
        one.sign(b"m").unwrap();
        drop(third);
        assert_eq!(faulty.calls("C_SignInit"), signed + 1);
        assert_eq!(faulty.calls("C_CloseSession"), closed);
    });
}

#[test]
fn a_refused_pin_reaches_the_token_once() {
    SoftHsm::in_child("pkcs11_faults::a_refused_pin_reaches_the_token_once", |hsm| {
        let (faulty, config) = faulty(hsm);
        let before = faulty.calls("C_Login");
        let wrong = pin_file(hsm.directory(), "wrong", "wrong");
        // The process is logged in, so that only a module that starts over asks for a PIN at all.
        let mut signer = Pkcs11Signer::open(&config, "head").unwrap();
        std::fs::copy(&wrong, &config.pin_file).unwrap();
        faulty.set("C_SignInit", Pkcs11Fault::Return(CKR_DEVICE_ERROR));
        for _ in 0..5 {
            assert_eq!(fault(signer.sign(b"m")).class(), FaultClass::PinWrong);
        }
        assert_eq!(faulty.calls("C_Login"), before + 1);
    });
}

#[test]
fn a_locked_pin_is_not_tried() {
    SoftHsm::in_child("pkcs11_faults::a_locked_pin_is_not_tried", |hsm| {
        let faulty = FaultyPkcs11::over(hsm);
        let config = Pkcs11Config { module: faulty.path(), ..token(hsm) };
        faulty.set("C_GetTokenInfo", Pkcs11Fault::PinLocked);
        assert_eq!(fault(Pkcs11Token::open(&config)).class(), FaultClass::PinLocked);
        assert_eq!(faulty.calls("C_Login"), 0);
        faulty.set("C_Login", Pkcs11Fault::Return(CKR_PIN_LOCKED));
        for _ in 0..3 {
            assert_eq!(fault(Pkcs11Token::open(&config)).class(), FaultClass::PinLocked);
        }
        assert_eq!(faulty.calls("C_Login"), 1);
    });
}

#[test]
fn a_module_that_hangs_times_out_and_is_used_again_when_it_returns() {
    SoftHsm::in_child(
        "pkcs11_faults::a_module_that_hangs_times_out_and_is_used_again_when_it_returns",
        |hsm| {
            let (faulty, config) = faulty(hsm);
            let limits = WorkerLimits { queue: 4, deadline: Duration::from_secs(1) };
            let signer = Pkcs11Signer::open(&config, "head").unwrap();
            let handle = SignerHandle::start("head", Box::new(signer), limits).unwrap();
            faulty.set("C_Sign", Pkcs11Fault::Hang);
            assert_eq!(fault(handle.sign(b"hangs")).class(), FaultClass::Timeout);
            assert!(wait_until(PATIENCE, || matches!(
                handle.circuit(),
                Circuit::Open { class: FaultClass::Timeout, .. }
            )));
            faulty.clear();
            assert!(wait_until(PATIENCE, || handle.sign(b"probe").is_ok()));
            assert!(handle.circuit().is_closed());
        },
    );
}
