//! The end of an enrolment without an authority around it: rows that can't be read, and a panic over what is shown.

use super::*;
use crate::verify::kit::{PANICS, enrolling};
use countersign_tpm::simulated::SimulatedTpm;

const ID: [u8; 16] = [4; 16];
const SECRET: [u8; 32] = [5; 32];

fn origin() -> Origin {
    Origin::parse("test.example/log").unwrap()
}

fn tpm() -> SimulatedTpm {
    let mut seed = 0;
    SimulatedTpm::new(&mut |buffer: &mut [u8]| {
        seed += 1;
        buffer.fill(seed);
    })
    .unwrap()
}

fn row(tpm: &SimulatedTpm) -> PendingEnrolment {
    let record =
        Pending { sent: enrolling(tpm), token: None, secret: Zeroizing::new(SECRET) }.encode().unwrap();
    PendingEnrolment { id: ID, expires_ms: 0, record }
}

fn finish(tpm: &SimulatedTpm) -> EnrolmentFinish {
    let nonce = activation_data(origin().as_str(), &ID, &SECRET);
    let certified = tpm.certify_host_key(nonce.as_bytes()).unwrap();
    EnrolmentFinish {
        secret: B64(SECRET.to_vec()),
        attest: B64(certified.attest),
        signature: B64(certified.signature),
        idevid: None,
    }
}

fn code(row: &PendingEnrolment, document: &EnrolmentFinish) -> Option<RefusalCode> {
    Proven::check(&origin(), ID, row, document).err().map(|refused| refused.code())
}

#[test]
fn a_row_that_cannot_be_read_is_an_unknown_enrolment() {
    let tpm = tpm();
    let (good, document) = (row(&tpm), finish(&tpm));
    assert_eq!(code(&good, &document), None);
    let mut short = good.clone();
    short.record.pop();
    let empty = PendingEnrolment { id: ID, expires_ms: 0, record: Vec::new() };
    for unreadable in [short, empty] {
        assert_eq!(code(&unreadable, &document), Some(RefusalCode::EnrolmentUnknown));
    }
}

#[test]
fn a_certification_that_makes_its_reader_panic_is_a_refusal() {
    let tpm = tpm();
    let (row, mut document) = (row(&tpm), finish(&tpm));
    document.attest = B64(b"no attestation".to_vec());
    assert_eq!(code(&row, &document), Some(RefusalCode::CertificationInvalid));
    document.attest = B64(PANICS.to_vec());
    assert_eq!(code(&row, &document), Some(RefusalCode::VerifierPanicked));
    // Who doesn't know the secret has nothing read.
    document.secret = B64(vec![6; 32]);
    assert_eq!(code(&row, &document), Some(RefusalCode::ActivationFailed));
}
