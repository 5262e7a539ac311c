//! The simulated TPM is what the verifier takes it for.

use std::time::Instant;

use super::*;
use crate::eventlog::EventLog;
use crate::public::{require_attestation_key, require_endorsement_key, require_host_key};
use crate::simulated::boot::{BootOptions, SimulatedBoot};
use crate::testing::{NONCE, boot_pcrs, booted, random};

#[test]
fn its_keys_have_the_attributes_of_their_roles() {
    let (tpm, _) = booted(1);
    assert_eq!(require_endorsement_key(tpm.ek_public()), Ok(()));
    assert_eq!(require_attestation_key(tpm.ak_public()), Ok(()));
    assert_eq!(require_host_key(tpm.host_public()), Ok(()));
    let spki = crate::key::PublicKey::from_spki_der(&tpm.host_public().spki_der()).unwrap();
    let point = tpm.host_signing_key().verifying_key().to_sec1_point(false);
    assert_eq!(spki.sec1().unwrap(), point.as_bytes());
}

#[test]
fn its_registers_are_those_that_its_boot_log_leads_to_in_both_banks() {
    let options = BootOptions { pad_to_bytes: 30_000, seed: 3, ..BootOptions::default() };
    let boot = SimulatedBoot::new(&options);
    assert!((30_000..31_000).contains(&boot.log().len()), "{}", boot.log().len());
    let mut tpm = SimulatedTpm::new(&mut random(1)).unwrap();
    tpm.boot(&boot).unwrap();
    let log = EventLog::parse(boot.log()).unwrap();
    for bank in BANKS {
        let replay = log.replay(bank).unwrap();
        let selection = PcrSelectionSpec::new(bank, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
        for (pcr, value) in tpm.pcr_values(&selection).unwrap() {
            assert_eq!(replay.pcr(pcr), Some(value.as_slice()), "PCR {pcr}");
        }
    }
    assert_ne!(SimulatedBoot::new(&BootOptions { seed: 4, ..options }).log(), boot.log());
}

#[test]
fn a_reset_counts_and_clears() {
    let (mut tpm, _) = booted(1);
    let before = tpm.clock();
    tpm.advance_ms(5);
    tpm.reset();
    assert_eq!(tpm.clock().reset_count, before.reset_count + 1);
    assert_eq!(tpm.clock().clock_ms, before.clock_ms + 5);
    assert!(tpm.pcr_values(&boot_pcrs()).unwrap().iter().all(|(_, value)| value.iter().all(|b| *b == 0)));
}

#[test]
fn registers_and_banks_that_do_not_exist_are_refused() {
    let (mut tpm, _) = booted(1);
    assert_eq!(tpm.extend(HashAlg::Sha256, 24, &[0; 32]), Err(SimulationError::Register));
    assert_eq!(tpm.extend(HashAlg::Sha512, 0, &[0; 64]), Err(SimulationError::Register));
    assert_eq!(tpm.extend(HashAlg::Sha256, 0, &[0; 20]), Err(SimulationError::Register));
}

/// A bound far above the usual 30 us, so that it fails only for a wrong choice of algorithm.
#[test]
fn quoting_is_fast() {
    let (tpm, _) = booted(1);
    let start = Instant::now();
    for _ in 0..200 {
        tpm.quote(&NONCE, &boot_pcrs()).unwrap();
    }
    let each = start.elapsed() / 200;
    eprintln!("simulated quote: {each:?}");
    assert!(each.as_micros() < 5_000, "{each:?}");
}
