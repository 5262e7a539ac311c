//! What the tests of this crate share: a SoftHSM token that is ready to use, and the conformance suite that every backend passes.
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_fixture::SoftHsm;
use countersign_hsm::pkcs11::Pkcs11Config;
use countersign_hsm::{Algorithm, MAX_MESSAGE_BYTES, SignFault, Signer};

pub(crate) const PIN: &str = "correct-horse";
pub(crate) const LABEL: &str = "countersign-test";
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a token in `hsm` and says how to open it.
pub(crate) fn token(hsm: &SoftHsm) -> Pkcs11Config {
    hsm.init_token(LABEL, PIN, "security-officer");
    Pkcs11Config::new(SoftHsm::module(), LABEL, pin_file(hsm.directory(), "pin", PIN))
}

/// Writes a PIN file that only its owner reads.
pub(crate) fn pin_file(directory: &Path, name: &str, pin: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, format!("{pin}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// The error of a call that must fail.
pub(crate) fn fault<T>(result: Result<T, SignFault>) -> SignFault {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(fault) => fault,
    }
}

/// What every backend does. `open` opens the same key anew each time.
pub(crate) fn conformance(algorithm: Algorithm, mut open: impl FnMut() -> Box<dyn Signer>) {
    let mut signer = open();
    let public = signer.public_key().clone();
    assert_eq!(public.algorithm(), algorithm);

    a_signature_is_over_exactly_the_message(signer.as_mut());
    messages_of_any_permitted_length_are_signed(signer.as_mut());
    custody_is_told_and_told_again(signer.as_mut());

    drop(signer);
    let mut again = open();
    assert_eq!(*again.public_key(), public, "the same key after opening it again");
    a_signature_is_over_exactly_the_message(again.as_mut());
}

/// What every backend does whose device serves several clients at a time; a TPM without a resource manager does not.
pub(crate) fn two_signers_share_a_key(mut open: impl FnMut() -> Box<dyn Signer>) {
    let (mut one, mut other) = (open(), open());
    assert_eq!(one.public_key(), other.public_key());
    for _ in 0..3 {
        a_signature_is_over_exactly_the_message(one.as_mut());
        a_signature_is_over_exactly_the_message(other.as_mut());
    }
    drop(one);
    a_signature_is_over_exactly_the_message(other.as_mut());
}

fn a_signature_is_over_exactly_the_message(signer: &mut dyn Signer) {
    let public = signer.public_key().clone();
    let one = signer.sign(b"countersign-v1:test\0one").unwrap();
    let two = signer.sign(b"countersign-v1:test\0two").unwrap();
    public.verify(b"countersign-v1:test\0one", one.as_bytes()).unwrap();
    public.verify(b"countersign-v1:test\0two", two.as_bytes()).unwrap();
    assert!(public.verify(b"countersign-v1:test\0two", one.as_bytes()).is_err());
}

fn messages_of_any_permitted_length_are_signed(signer: &mut dyn Signer) {
    let public = signer.public_key().clone();
    for length in [0, 1, 31, 32, 33, 1024, 65_536, MAX_MESSAGE_BYTES] {
        let message = vec![0xa5; length];
        let signature = signer.sign(&message).unwrap_or_else(|fault| panic!("{length} bytes: {fault}"));
        public.verify(&message, signature.as_bytes()).unwrap();
    }
    let fault = fault(signer.sign(&vec![0; MAX_MESSAGE_BYTES + 1]));
    assert_eq!(fault.code(), "signer-message-too-long");
}

fn custody_is_told_and_told_again(signer: &mut dyn Signer) {
    let evidence = signer.custody().unwrap();
    assert!(!evidence.attributes.is_empty());
    assert_eq!(signer.custody().unwrap().attributes, evidence.attributes);
}
