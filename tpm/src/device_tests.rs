//! A TPM that is reset under an open connection. Everything else about the device is in `tests/device.rs`.

use std::process::Command;

use countersign_fixture::SwTpm;
use tss_esapi::constants::StartupType;

use super::*;
use crate::algorithm::HashAlg;
use crate::quote::PcrSelectionSpec;

const NONCE: [u8; 32] = [9; 32];

#[test]
fn keys_are_loaded_again_after_a_reset_that_left_the_connection_open() {
    let swtpm = SwTpm::start_own();
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let ak = host.create_attestation_key().unwrap();
    let ak = host.load(&ak).unwrap();
    let selected = PcrSelectionSpec::new(HashAlg::Sha256, &[0]).unwrap();
    host.quote(ak, &NONCE, &selected).unwrap();

    let port: u16 = swtpm.tcti().rsplit('=').next().unwrap().parse().unwrap();
    let control = format!("127.0.0.1:{}", port + 1);
    let reset = Command::new("swtpm_ioctl").args(["-i", "--tcp", &control]).status().unwrap();
    assert!(reset.success());
    // Nobody has started it yet.
    assert_eq!(host.quote(ak, &NONCE, &selected).unwrap_err().class(), ErrorClass::Gone);
    host.context.as_mut().unwrap().startup(StartupType::Clear).unwrap();
    host.quote(ak, &NONCE, &selected).unwrap();
}

#[test]
fn a_key_of_another_connection_is_unknown() {
    let swtpm = SwTpm::start_own();
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    assert_eq!(host.sign_digest(KeyId(0), &NONCE), Err(DeviceError::UnknownKey));
    assert!(host.public(KeyId(7)).is_err());
}
