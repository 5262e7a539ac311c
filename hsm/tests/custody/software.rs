//! The software signer passes the suite of every backend, and is as slow as it is told to be.

use std::time::{Duration, Instant};

use countersign_hsm::software::DangerSoftwareSigner;
use countersign_hsm::{Algorithm, Backend, Signer};

use crate::support::{conformance, two_signers_share_a_key};

#[test]
fn software_keys_conform() {
    let open = || -> Box<dyn Signer> {
        Box::new(DangerSoftwareSigner::ed25519_from_seed(&[7; 32], Duration::ZERO).unwrap())
    };
    conformance(Algorithm::EdDsa, open);
    two_signers_share_a_key(open);
}

#[test]
fn a_generated_p256_key_signs() {
    let mut signer = DangerSoftwareSigner::generate(Algorithm::Es256, Duration::ZERO).unwrap();
    let signature = signer.sign(b"m").unwrap();
    signer.public_key().verify(b"m", signature.as_bytes()).unwrap();
    assert_eq!(signer.custody().unwrap().backend, Backend::DangerSoftware);
}

#[test]
fn a_slow_key_is_slow() {
    let delay = Duration::from_millis(40);
    let mut signer = DangerSoftwareSigner::generate(Algorithm::EdDsa, delay).unwrap();
    let start = Instant::now();
    signer.sign(b"m").unwrap();
    assert!(start.elapsed() >= delay);
}
