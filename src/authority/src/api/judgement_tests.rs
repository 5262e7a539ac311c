//! That a panic over a certificate of a stranger refuses him, whichever certificate it is.

use super::*;
use crate::config::Enrolment;
use crate::verify::kit::{PANICS, enrolling};
use countersign_core::api::IdevidBegin;
use countersign_core::digest::sha256;
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::device_key::SimulatedDeviceKey;

#[test]
fn a_certificate_that_makes_its_reader_panic_is_a_refusal() {
    let mut seed = 0;
    let mut random = |buffer: &mut [u8]| {
        seed += 1;
        buffer.fill(seed);
    };
    let tpm = SimulatedTpm::new(&mut random).unwrap();
    let device = SimulatedDeviceKey::new(SimulatedDeviceKey::ATTRIBUTES, &mut random).unwrap();
    let listed = vec![sha256(&tpm.ek_public().spki_der()).to_hex()];
    let rules = Endorsements::load(&Enrolment { ek_allow: listed, ..Enrolment::default() }).unwrap();
    let judged = |sent: &EnrolmentBegin| {
        let judged = HostKeys::check(sent).and_then(|keys| Judgement::of(&rules, &keys, sent, 0));
        judged.map(drop).map_err(|refused| refused.code())
    };
    let good = enrolling(&tpm);
    assert_eq!(judged(&good), Ok(()));
    // The same with bytes that are no certificate shows that it is the panic that is told.
    let junk = b"no certificate".to_vec();
    type Place = fn(&mut EnrolmentBegin, Vec<u8>, &SimulatedDeviceKey);
    let ek: Place = |sent, der, _| sent.ek_certificate = Some(B64(der));
    let ak: Place = |sent, der, _| {
        sent.ek_public = None;
        sent.ak_certificate = Some(B64(der));
    };
    let idevid: Place = |sent, der, key| {
        let public = B64(key.public().bytes().to_vec());
        sent.idevid = Some(IdevidBegin { certificate: B64(der), intermediates: Vec::new(), public });
    };
    let invalid = [
        (ek, None),
        (ak, Some(RefusalCode::IakCertificateInvalid)),
        (idevid, Some(RefusalCode::IdevidCertificateInvalid)),
    ];
    for (place, code) in invalid {
        let mut begun = good.clone();
        place(&mut begun, junk.clone(), &device);
        // To a key on the list, a certificate that isn't good is as good as none.
        assert_eq!(judged(&begun).err(), code);
        place(&mut begun, PANICS.to_vec(), &device);
        assert_eq!(judged(&begun), Err(RefusalCode::VerifierPanicked), "{code:?}");
    }
}

#[test]
fn nothing_is_kept_that_will_not_be_judged() {
    let mut seed = 0;
    let tpm = SimulatedTpm::new(&mut |buffer: &mut [u8]| {
        seed += 1;
        buffer.fill(seed);
    })
    .unwrap();
    let code = |alter: fn(&mut EnrolmentBegin)| {
        let mut sent = enrolling(&tpm);
        alter(&mut sent);
        HostKeys::check(&sent).err().map(|refused| refused.code())
    };
    let malformed = Some(RefusalCode::Malformed);
    assert_eq!(code(|_| ()), None);
    // To a key on the list junk is as good as no certificate, within what a chain can have.
    let most: fn(&mut EnrolmentBegin) = |sent| {
        sent.ek_certificate = Some(B64(vec![1; MAX_CERTIFICATE_BYTES]));
        sent.ek_intermediates = vec![B64(vec![1]); MAX_INTERMEDIATES];
    };
    assert_eq!(code(most), None);
    let idle = EnrolmentBegin {
        ek_intermediates: vec![B64(vec![1])],
        ak_intermediates: vec![B64(vec![1])],
        ..enrolling(&tpm)
    };
    let kept = without_idle_issuers(idle);
    assert!(kept.ek_intermediates.is_empty() && kept.ak_intermediates.is_empty());
    let beyond: [fn(&mut EnrolmentBegin); 4] = [
        |sent| sent.ek_certificate = Some(B64(vec![1; MAX_CERTIFICATE_BYTES + 1])),
        |sent| {
            sent.ek_certificate = Some(B64(vec![1]));
            sent.ek_intermediates = vec![B64(vec![1]); MAX_INTERMEDIATES + 1];
        },
        |sent| {
            sent.ek_certificate = Some(B64(vec![1]));
            sent.ek_intermediates = vec![B64(vec![1; MAX_CERTIFICATE_BYTES + 1])];
        },
        |sent| {
            let intermediates = vec![B64(vec![1]); MAX_INTERMEDIATES + 1];
            sent.idevid =
                Some(IdevidBegin { certificate: B64(vec![1]), intermediates, public: B64(vec![1]) });
        },
    ];
    for alter in beyond {
        assert_eq!(code(alter), malformed);
    }
}
