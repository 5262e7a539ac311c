//! Keys in a SoftHSM token: in custody or refused, and healed in the same process after the token was away.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::{LABEL, PATIENCE, PIN, conformance, fault, pin_file, token, two_signers_share_a_key};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use countersign_fixture::{SoftHsm, in_child_process, wait_until};
use countersign_hsm::pkcs11::{MAX_OBJECT_BYTES, Pkcs11Config, Pkcs11Signer, Pkcs11Token};
use countersign_hsm::worker::{Circuit, SignerHandle, WorkerLimits};
use countersign_hsm::{Algorithm, Backend, FaultClass, Signer};
use data_encoding::BASE64_MIME;

fn verified(signer: &mut Pkcs11Signer, message: &[u8]) {
    let signature = signer.sign(message).unwrap();
    signer.public_key().verify(message, signature.as_bytes()).unwrap();
}

#[test]
fn token_keys_conform() {
    SoftHsm::in_child("pkcs11::token_keys_conform", |hsm| {
        let config = token(hsm);
        for (label, algorithm) in [("head", Algorithm::EdDsa), ("head-p256", Algorithm::Es256)] {
            let made = Pkcs11Token::open(&config).unwrap().generate(label, algorithm).unwrap();
            let open = || -> Box<dyn Signer> {
                let signer = Pkcs11Signer::open(&config, label).unwrap();
                assert_eq!(*signer.public_key(), made);
                Box::new(signer)
            };
            conformance(algorithm, open);
            two_signers_share_a_key(open);
            let evidence = Pkcs11Signer::open(&config, label).unwrap().custody().unwrap();
            assert_eq!(evidence.backend, Backend::Pkcs11);
            assert_eq!(evidence.attributes["CKA_EXTRACTABLE"], "false");
            assert_eq!(evidence.attributes["CKA_NEVER_EXTRACTABLE"], "true");
            assert_eq!(evidence.attributes["CKA_LOCAL"], "true");
        }
    });
}

#[test]
fn a_label_names_one_key_until_it_is_destroyed() {
    SoftHsm::in_child("pkcs11::a_label_names_one_key_until_it_is_destroyed", |hsm| {
        let mut tokens = Pkcs11Token::open(&token(hsm)).unwrap();
        assert_eq!(fault(tokens.signer("head")).class(), FaultClass::KeyMissing);
        let first = tokens.generate("head", Algorithm::EdDsa).unwrap();
        assert_eq!(fault(tokens.generate("head", Algorithm::EdDsa)).class(), FaultClass::KeyExists);
        let mut signer = tokens.signer("head").unwrap();
        verified(&mut signer, b"before");
        tokens.destroy("head").unwrap();
        assert_eq!(fault(signer.sign(b"after")).class(), FaultClass::KeyMissing);
        assert_eq!(fault(tokens.destroy("head")).class(), FaultClass::KeyMissing);
        // Another key under the old label is not the key that the signer was opened for.
        assert_ne!(tokens.generate("head", Algorithm::EdDsa).unwrap(), first);
        assert_eq!(fault(signer.sign(b"m")).class(), FaultClass::KeyMissing);
        assert_eq!(fault(signer.custody()).class(), FaultClass::KeyMissing);
    });
}

#[test]
fn an_extractable_key_is_refused() {
    SoftHsm::in_child("pkcs11::an_extractable_key_is_refused", |hsm| {
        let config = token(hsm);
        let make =
            ["--login", "--pin", PIN, "--token-label", LABEL, "--keypairgen", "--key-type", "EC:prime256v1"];
        hsm.pkcs11_tool(&[&make[..], &["--label", "loose", "--id", "01", "--extractable"]].concat());
        let refused = fault(Pkcs11Signer::open(&config, "loose"));
        assert_eq!(refused.code(), "signer-key-extractable");
        assert_eq!(refused.call(), "C_GetAttributeValue");
    });
}

#[test]
fn an_imported_key_is_refused() {
    SoftHsm::in_child("pkcs11::an_imported_key_is_refused", |hsm| {
        let config = token(hsm);
        let rng = aws_lc_rs::rand::SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        let body = BASE64_MIME.encode(der.as_ref()).replace('\r', "");
        let path = hsm.directory().join("key.pem");
        std::fs::write(
            &path,
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", body.trim_end()),
        )
        .unwrap();
        let mut import = Command::new("softhsm2-util");
        import
            .arg("--import")
            .arg(&path)
            .args(["--token", LABEL, "--label", "foreign", "--id", "02", "--pin", PIN]);
        assert!(import.status().unwrap().success());
        let refused = fault(Pkcs11Signer::open(&config, "foreign"));
        assert_eq!(refused.code(), "signer-key-imported");
    });
}

#[test]
fn a_wrong_pin_is_tried_once() {
    SoftHsm::in_child("pkcs11::a_wrong_pin_is_tried_once", |hsm| {
        let config = token(hsm);
        pin_file(hsm.directory(), "pin", "wrong");
        let first = fault(Pkcs11Token::open(&config));
        assert_eq!((first.class(), first.call()), (FaultClass::PinWrong, "C_Login"));
        assert!(first.to_string().contains("PinIncorrect"), "{first}");
        // From now on the token is not asked any more: it would say the same, so the answer must be our own.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let again = fault(Pkcs11Token::open(&config));
                    assert_eq!(again.class(), FaultClass::PinWrong);
                    assert!(again.to_string().contains("not tried again"), "{again}");
                });
            }
        });
        // The operator acts.
        pin_file(hsm.directory(), "pin", PIN);
        Pkcs11Token::open(&config).unwrap().generate("head", Algorithm::EdDsa).unwrap();
    });
}

#[test]
fn threads_that_meet_a_wrong_pin_together_try_it_once() {
    SoftHsm::in_child("pkcs11::threads_that_meet_a_wrong_pin_together_try_it_once", |hsm| {
        let config = token(hsm);
        pin_file(hsm.directory(), "pin", "wrong");
        let asked = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let refused = fault(Pkcs11Token::open(&config));
                    assert_eq!(refused.class(), FaultClass::PinWrong);
                    asked
                        .fetch_add(u64::from(refused.to_string().contains("PinIncorrect")), Ordering::SeqCst);
                });
            }
        });
        assert_eq!(asked.into_inner(), 1);
    });
}

#[test]
fn a_token_that_was_away_heals_in_the_same_process() {
    SoftHsm::in_child("pkcs11::a_token_that_was_away_heals_in_the_same_process", |hsm| {
        let config = token(hsm);
        let mut tokens = Pkcs11Token::open(&config).unwrap();
        tokens.generate("head", Algorithm::EdDsa).unwrap();
        tokens.generate("ca", Algorithm::Es256).unwrap();
        let (mut head, mut ca) = (tokens.signer("head").unwrap(), tokens.signer("ca").unwrap());
        for _ in 0..5 {
            verified(&mut head, b"m");
            verified(&mut ca, b"m");
            hsm.hide();
            for signer in [&mut head, &mut ca] {
                assert_eq!(fault(signer.sign(b"m")).class(), FaultClass::TokenAbsent);
                assert_eq!(fault(signer.custody()).class(), FaultClass::TokenAbsent);
            }
            assert_eq!(fault(tokens.read_object("memory")).class(), FaultClass::TokenAbsent);
            hsm.show();
            verified(&mut ca, b"m");
        }
        verified(&mut head, b"m");
        assert_eq!(tokens.read_object("memory").unwrap(), None);
    });
}

#[test]
fn a_token_that_is_away_from_the_start_is_awaited() {
    SoftHsm::in_child("pkcs11::a_token_that_is_away_from_the_start_is_awaited", |hsm| {
        let config = token(hsm);
        hsm.hide();
        assert_eq!(fault(Pkcs11Token::open(&config)).class(), FaultClass::TokenAbsent);
        hsm.show();
        Pkcs11Token::open(&config).unwrap().generate("head", Algorithm::EdDsa).unwrap();
    });
}

#[test]
fn threads_never_get_a_wrong_signature_while_the_token_comes_and_goes() {
    SoftHsm::in_child("pkcs11::threads_never_get_a_wrong_signature_while_the_token_comes_and_goes", |hsm| {
        let config = token(hsm);
        let mut tokens = Pkcs11Token::open(&config).unwrap();
        tokens.generate("head", Algorithm::EdDsa).unwrap();
        tokens.generate("ca", Algorithm::Es256).unwrap();
        let (over, signed, faults) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let mut signer = tokens.signer(if thread % 2 == 0 { "head" } else { "ca" }).unwrap();
                let (over, signed, faults) = (&over, &signed, &faults);
                scope.spawn(move || {
                    for round in 0_u64.. {
                        if over.load(Ordering::SeqCst) {
                            break;
                        }
                        let message = [&[thread][..], &round.to_be_bytes()].concat();
                        match signer.sign(&message) {
                            Ok(signature) => {
                                signer.public_key().verify(&message, signature.as_bytes()).unwrap();
                                signed.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(fault) => {
                                assert!(fault.class().may_heal_by_itself(), "{fault}");
                                faults.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    }
                    over.load(Ordering::SeqCst)
                        .then(|| assert!(wait_until(PATIENCE, || signer.sign(b"healed").is_ok())));
                });
            }
            let grows = |count: &AtomicU64| {
                let before = count.load(Ordering::SeqCst);
                wait_until(PATIENCE, || count.load(Ordering::SeqCst) > before + 8)
            };
            // Faults of the threads come out through the scope; a count that stands still ends the loop.
            let moved = (0..10).all(|_| {
                let there = grows(&signed);
                hsm.hide();
                let gone = grows(&faults);
                hsm.show();
                there && gone
            });
            over.store(true, Ordering::SeqCst);
            assert!(moved, "signed {signed:?}, faults {faults:?}");
        });
    });
}

#[test]
fn processes_that_start_together_all_sign() {
    const STEP: &str = "COUNTERSIGN_TEST_STEP";
    let name = "pkcs11::processes_that_start_together_all_sign";
    SoftHsm::in_child(name, |hsm| {
        if std::env::var_os(STEP).is_some() {
            let config = Pkcs11Config::new(SoftHsm::module(), LABEL, hsm.directory().join("pin"));
            verified(&mut Pkcs11Signer::open(&config, "head").unwrap(), b"m");
            return;
        }
        Pkcs11Token::open(&token(hsm)).unwrap().generate("head", Algorithm::EdDsa).unwrap();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| in_child_process(name, &[hsm.env(), (STEP, "sign".into())]));
                }
            });
        }
    });
}

#[test]
fn small_state_is_kept_in_the_token() {
    SoftHsm::in_child("pkcs11::small_state_is_kept_in_the_token", |hsm| {
        let config = token(hsm);
        let mut tokens = Pkcs11Token::open(&config).unwrap();
        assert_eq!(tokens.read_object("memory").unwrap(), None);
        for value in [b"one".to_vec(), b"another".to_vec(), vec![7; MAX_OBJECT_BYTES]] {
            tokens.write_object("memory", &value).unwrap();
            assert_eq!(Pkcs11Token::open(&config).unwrap().read_object("memory").unwrap(), Some(value));
        }
        let long = fault(tokens.write_object("memory", &[0; MAX_OBJECT_BYTES + 1]));
        assert_eq!(long.class(), FaultClass::MessageTooLong);
        hsm.hide();
        assert_eq!(fault(tokens.read_object("memory")).class(), FaultClass::TokenAbsent, "gone, not empty");
        hsm.show();
        assert_eq!(tokens.read_object("memory").unwrap(), Some(vec![7; MAX_OBJECT_BYTES]));
        hsm.hide();
        assert_eq!(fault(tokens.write_object("memory", b"gone")).class(), FaultClass::TokenAbsent);
        hsm.show();
        assert_eq!(tokens.read_object("memory").unwrap(), Some(vec![7; MAX_OBJECT_BYTES]));
        tokens.remove_object("memory").unwrap();
        tokens.remove_object("memory").unwrap();
        assert_eq!(tokens.read_object("memory").unwrap(), None);
    });
}

#[test]
fn what_does_not_fit_is_misconfigured() {
    SoftHsm::in_child("pkcs11::what_does_not_fit_is_misconfigured", |hsm| {
        let good = token(hsm);
        let check = |config: Pkcs11Config, expect: FaultClass| {
            let refused = fault(Pkcs11Token::open(&config));
            assert_eq!(refused.class(), expect, "{refused}");
        };
        check(Pkcs11Config { module: "/nonexistent.so".into(), ..good.clone() }, FaultClass::Misconfigured);
        check(Pkcs11Config { module: good.pin_file.clone(), ..good.clone() }, FaultClass::Misconfigured);
        check(Pkcs11Config { pin_file: "/nonexistent".into(), ..good.clone() }, FaultClass::Misconfigured);
        check(Pkcs11Config { token_label: "another".into(), ..good.clone() }, FaultClass::TokenAbsent);
        Pkcs11Token::open(&good).unwrap();
    });
}

#[test]
fn a_value_left_beside_its_successor_by_a_crash_does_not_count() {
    SoftHsm::in_child("pkcs11::a_value_left_beside_its_successor_by_a_crash_does_not_count", |hsm| {
        let mut tokens = Pkcs11Token::open(&token(hsm)).unwrap();
        tokens.write_object("memory", b"new").unwrap();
        // The first writing has number 0, so this one by another hand is the later one; then the other way round.
        let path = hsm.directory().join("object");
        let plant = |number: u64, value: &[u8]| {
            std::fs::write(&path, [&number.to_be_bytes()[..], value].concat()).unwrap();
            let object = [
                "--type",
                "data",
                "--label",
                "memory",
                "--private",
                "--write-object",
                path.to_str().unwrap(),
            ];
            hsm.pkcs11_tool(&[&["--login", "--pin", PIN, "--token-label", LABEL][..], &object].concat());
        };
        plant(7, b"later");
        let mut tokens =
            Pkcs11Token::open(&Pkcs11Config::new(SoftHsm::module(), LABEL, hsm.directory().join("pin")))
                .unwrap();
        assert_eq!(tokens.read_object("memory").unwrap().unwrap(), b"later");
        plant(3, b"earlier");
        assert_eq!(tokens.read_object("memory").unwrap().unwrap(), b"later");
        tokens.write_object("memory", b"latest").unwrap();
        assert_eq!(tokens.read_object("memory").unwrap().unwrap(), b"latest");
        tokens.remove_object("memory").unwrap();
        assert_eq!(tokens.read_object("memory").unwrap(), None);
    });
}

#[test]
fn two_tokens_of_one_label_are_refused() {
    SoftHsm::in_child("pkcs11::two_tokens_of_one_label_are_refused", |hsm| {
        let config = token(hsm);
        hsm.init_token(LABEL, "twin", "twin");
        assert_eq!(fault(Pkcs11Token::open(&config)).class(), FaultClass::Misconfigured);
    });
}

#[test]
fn a_worker_over_a_token_tells_and_heals() {
    SoftHsm::in_child("pkcs11::a_worker_over_a_token_tells_and_heals", |hsm| {
        let tokens = {
            let mut tokens = Pkcs11Token::open(&token(hsm)).unwrap();
            tokens.generate("head", Algorithm::EdDsa).unwrap();
            tokens
        };
        let limits = WorkerLimits { queue: 4, deadline: Duration::from_secs(30) };
        let handle = SignerHandle::start("head", Box::new(tokens.signer("head").unwrap()), limits).unwrap();
        handle.sign(b"m").unwrap();
        hsm.hide();
        assert_eq!(fault(handle.sign(b"m")).class(), FaultClass::TokenAbsent);
        assert!(matches!(handle.circuit(), Circuit::Open { class: FaultClass::TokenAbsent, .. }));
        hsm.show();
        handle.sign(b"probe").unwrap();
        assert!(handle.circuit().is_closed());
        assert!(handle.stop());
    });
}
