//! Credentials: the right TPM opens them, no other does. The real TPM's opinion is in `tests/device.rs`.

use super::*;
use crate::simulated::SimulationError;
use crate::testing::{booted, random, unhex};

const SECRET: [u8; 32] = *b"a secret of thirty-two bytes ...";

#[test]
fn the_tpm_that_holds_both_keys_opens_it() {
    let (tpm, _) = booted(1);
    let name = tpm.ak_public().name().as_bytes();
    let made = make_credential(tpm.ek_public(), name, &SECRET, &mut random(7)).unwrap();
    assert_eq!(tpm.activate_credential(&made.id_object, &made.encrypted_secret).unwrap(), SECRET);
}

#[test]
fn another_tpm_another_object_and_changed_bytes_do_not() {
    let (tpm, _) = booted(1);
    let (other, _) = booted(2);
    let name = tpm.ak_public().name().as_bytes();
    let made = make_credential(tpm.ek_public(), name, &SECRET, &mut random(7)).unwrap();
    let opened = other.activate_credential(&made.id_object, &made.encrypted_secret);
    assert_eq!(opened, Err(SimulationError::Integrity));
    let wrong =
        make_credential(tpm.ek_public(), other.ak_public().name().as_bytes(), &SECRET, &mut random(7));
    let wrong = wrong.unwrap();
    let opened = tpm.activate_credential(&wrong.id_object, &wrong.encrypted_secret);
    assert_eq!(opened, Err(SimulationError::Integrity));
    crate::testing::each_bit_flip(&made.id_object, |flipped| {
        assert!(tpm.activate_credential(flipped, &made.encrypted_secret).is_err());
    });
}

#[test]
fn the_same_secret_is_never_sealed_the_same_way() {
    let (tpm, _) = booted(1);
    let name = tpm.ak_public().name().as_bytes();
    let mut source = random(7);
    let one = make_credential(tpm.ek_public(), name, &SECRET, &mut source).unwrap();
    let two = make_credential(tpm.ek_public(), name, &SECRET, &mut source).unwrap();
    assert_ne!(one.id_object, two.id_object);
    assert_ne!(one.encrypted_secret, two.encrypted_secret);
}

#[test]
fn only_for_endorsement_keys_and_names() {
    let (tpm, _) = booted(1);
    let name = tpm.ak_public().name().as_bytes();
    let refusal = make_credential(tpm.ak_public(), name, &SECRET, &mut random(7));
    assert!(matches!(refusal, Err(CredentialError::KeyUnfit(_))));
    let refusal = make_credential(tpm.ek_public(), &name[..10], &SECRET, &mut random(7));
    assert_eq!(refusal, Err(CredentialError::ObjectName(10)));
}

#[test]
fn a_dead_source_of_randomness_is_noticed() {
    let (tpm, _) = booted(1);
    let name = tpm.ak_public().name().as_bytes();
    let refusal = make_credential(tpm.ek_public(), name, &SECRET, &mut |buffer: &mut [u8]| buffer.fill(0));
    assert_eq!(refusal, Err(CredentialError::Randomness));
}

/// SP 800-108 in counter mode with HMAC-SHA-256, against an independent computation of the one block.
#[test]
fn kdfa_is_hmac_over_counter_label_contexts_and_length() {
    let key = unhex("000102030405060708090a0b0c0d0e0f");
    let input = [b"\0\0\0\x01STORAGE\0", b"name".as_slice(), b"\0\0\0\x80"].concat();
    let expected = HashAlg::Sha256.hmac(&key, &[&input]);
    assert_eq!(kdfa(HashAlg::Sha256, &key, "STORAGE", b"name", &[], 128), expected[..16]);
    // More bits than one block: the counter goes on.
    assert_eq!(kdfa(HashAlg::Sha256, &key, "STORAGE", b"name", &[], 512).len(), 64);
}
