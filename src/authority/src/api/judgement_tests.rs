//! That a panic over a certificate of a stranger refuses him, whichever certificate it is.

use super::*;
use crate::config::Enrolment;
use crate::verify::kit::PANICS;
use countersign_core::api::IdevidBegin;
use countersign_core::digest::sha256;
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::device_key::SimulatedDeviceKey;

fn sent(tpm: &SimulatedTpm) -> EnrolmentBegin {
    EnrolmentBegin {
        token: None,
        ek_certificate: None,
        ek_intermediates: Vec::new(),
        ek_public: Some(B64(tpm.ek_public().bytes().to_vec())),
        ak_certificate: None,
        ak_intermediates: Vec::new(),
        ak_public: B64(tpm.ak_public().bytes().to_vec()),
        host_key_public: B64(tpm.host_public().bytes().to_vec()),
        idevid: None,
    }
}

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
    let good = sent(&tpm);
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
