//! Every way in which an authority could lie about an enrolment: of its right, and of what the host showed.

use super::kit::{DEVICE, Log, SESSION, certificate, device_key, shown};
use super::{MismatchKind, Missing, replay};
use crate::verify::kit::{PANICS, ed25519};
use countersign_core::activation::{ActivationRecord, DeviceShown};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::device::{DeviceIdentity, HardwareName};
use countersign_core::leaf::host::{Admission, EndorsementKind, Enrolment, HostKeyKind, TpmModel};
use countersign_core::leaf::record::JoinToken;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::request::{device_certification_data, device_possession};
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::device_key::SimulatedDeviceKey;

/// What a host with a machine's own key shows, and where it says something else.
struct Showing {
    enrolment: Enrolment,
    activation: ActivationRecord,
    /// Other records that the enrolment names.
    records: Vec<Vec<u8>>,
}

fn device_certificate(key: &SimulatedDeviceKey) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 5]), "one");
    certificate(key.public(), &params)
}

impl Showing {
    fn of(log: &Log) -> Self {
        let (origin, key) = (log.host.origin.as_str(), device_key(DEVICE));
        let nonce = device_certification_data(origin, &SESSION.enrolment, &SESSION.secret);
        let certified = log.host.tpm.certify(key.public(), nonce.as_bytes()).unwrap();
        let possession = key.sign(&device_possession(origin, &SESSION.enrolment, &SESSION.secret)).unwrap();
        let mut activation = shown(&log.host).1.clone();
        activation.device = Some(DeviceShown {
            attest: certified.attest,
            signature: certified.signature,
            possession: Some(possession),
        });
        let certificate = device_certificate(&key);
        let mut enrolment = log.host.enrolment.clone();
        enrolment.version += 1;
        enrolment.endorsement.device = Some(DeviceIdentity {
            certificate: sha256(&certificate),
            key: sha256(key.public().bytes()),
            serial: Some("one".to_owned()),
            hardware: None,
        });
        Self { enrolment, activation, records: vec![certificate, key.public().bytes().to_vec()] }
    }

    fn device(&mut self) -> &mut DeviceIdentity {
        self.enrolment.endorsement.device.as_mut().unwrap()
    }

    fn device_shown(&mut self) -> &mut DeviceShown {
        self.activation.device.as_mut().unwrap()
    }

    /// Names another record in the place of one.
    fn keep(&mut self, bytes: &[u8]) -> Sha256Digest {
        self.records.push(bytes.to_vec());
        sha256(bytes)
    }
}

/// What a replay finds of a log in which a host enrols so.
fn found(alter: impl Fn(&mut Showing)) -> (u64, Vec<(u64, Missing)>, Vec<MismatchKind>) {
    let mut log = Log::with_policy();
    let mut showing = Showing::of(&log);
    alter(&mut showing);
    for record in &showing.records {
        log.keep(record);
    }
    log.host.enrolment = showing.enrolment;
    log.activated(&showing.activation);
    log.enrol();
    let report = replay(&log, &log.bundle, &mut |_| {}).unwrap();
    assert!(report.mismatches.iter().all(|one| one.index == log.last()));
    (report.enrolled, report.not_replayable, report.mismatches.into_iter().map(|one| one.kind).collect())
}

fn other_tpm() -> SimulatedTpm {
    let mut next = 2_u8;
    SimulatedTpm::new(&mut |buffer: &mut [u8]| {
        buffer.fill(next);
        next = next.wrapping_add(71);
    })
    .unwrap()
}

#[test]
fn what_a_host_showed_bears_its_enrolment_out() {
    assert_eq!(found(|_| ()), (2, vec![], vec![]));
    // As early versions kept it.
    let early = |showing: &mut Showing| {
        showing.activation.session = None;
        showing.device_shown().possession = None;
    };
    assert_eq!(found(early), (2, vec![], vec![]));
    // What a certificate is for was judged when the host enrolled, by the rules of that day.
    let ek = Log::with_policy().host.tpm.ek_public().clone();
    let unsaid = certificate(&ek, &rcgen::CertificateParams::default());
    let plain = |showing: &mut Showing| showing.enrolment.ek_certificate = Some(showing.keep(&unsaid));
    assert_eq!(found(plain), (2, vec![], vec![]));
    let without = |showing: &mut Showing| {
        showing.activation.device = None;
        showing.enrolment.endorsement.device = None;
    };
    assert_eq!(found(without), (2, vec![], vec![]));
}

type Alter = fn(&mut Showing);

#[test]
fn a_lie_about_what_a_host_showed_is_found_by_name() {
    let lies: [(&str, Alter); 28] = [
        ("host identifier", |s| s.enrolment.ek_public = s.enrolment_of_other().0),
        ("endorsed key", |s| {
            let junk = s.keep(b"no public area");
            s.enrolment.ek_public = junk;
        }),
        ("attestation key", |s| s.enrolment.ak_name[2] ^= 1),
        ("attestation key", |s| s.enrolment.ak_public = s.enrolment_of_other().1),
        ("host key", |s| s.enrolment.host_key = ed25519(9).1),
        ("host key", |s| s.enrolment.host_key_kind = HostKeyKind::Software),
        ("host key", |s| s.activation.host_key = other_tpm().host_public().bytes().to_vec()),
        ("host key", |s| s.activation.host_key.clear()),
        ("fingerprint of a weak key", |s| s.enrolment.endorsement.weak_key = true),
        ("endorsement certificate", |s| {
            let junk = s.keep(b"no certificate");
            s.enrolment.ek_certificate = Some(junk);
        }),
        ("endorsement certificate", |s| {
            let others = certificate(other_tpm().ek_public(), &endorsing());
            s.enrolment.ek_certificate = Some(s.keep(&others));
        }),
        // The device's certificate is one of another kind.
        ("endorsement certificate", |s| s.enrolment.ek_certificate = Some(s.device().certificate)),
        ("description of the TPM", |s| {
            let word = || "x".to_owned();
            s.enrolment.endorsement.tpm =
                Some(TpmModel { manufacturer: word(), model: word(), version: word() });
        }),
        ("certification of the host key", |s| s.activation.signature[10] ^= 1),
        ("certification of the host key", |s| s.activation.session.as_mut().unwrap().secret[0] ^= 1),
        ("certification of the host key", |s| s.activation.session.as_mut().unwrap().enrolment[0] ^= 1),
        ("activation record", |s| {
            s.activation.session = None;
            s.device_shown().possession = None;
            s.activation.attest.clear();
        }),
        ("device identity", |s| s.enrolment.endorsement.device = None),
        ("device identity", |s| s.activation.device = None),
        ("device key", |s| s.device().key = s.enrolment.ak_public),
        ("device certificate", |s| {
            let others = device_certificate(&device_key(82));
            s.device().certificate = s.keep(&others);
        }),
        ("device certificate", |s| s.device().certificate = s.enrolment.ek_certificate.unwrap()),
        ("device certificate", |s| {
            let padded = [s.records[0].as_slice(), &[0; 4]].concat();
            s.device().certificate = s.keep(&padded);
        }),
        ("names of the device", |s| s.device().serial = Some("two".to_owned())),
        ("names of the device", |s| {
            s.device().hardware = Some(HardwareName { kind: "1.2".to_owned(), serial: vec![1] });
        }),
        ("certification of the device key", |s| s.device_shown().signature[10] ^= 1),
        // That of the host key, over another key and for another purpose.
        ("certification of the device key", |s| s.device_shown().attest = s.activation.attest.clone()),
        ("possession of the device key", |s| {
            s.device_shown().possession = Some(device_key(DEVICE).sign(b"another message").unwrap());
        }),
    ];
    for (name, alter) in lies {
        let (enrolled, missing, found) = found(alter);
        assert_eq!((enrolled, missing, found), (1, vec![], vec![MismatchKind::Enrolment(name)]));
    }
}

fn endorsing() -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyAgreement];
    params
}

impl Showing {
    /// The digests of another TPM's EK and AK, whose bytes are there.
    fn enrolment_of_other(&mut self) -> (Sha256Digest, Sha256Digest) {
        let other = other_tpm();
        (self.keep(other.ek_public().bytes()), self.keep(other.ak_public().bytes()))
    }
}

#[test]
fn a_record_that_is_gone_is_told_and_never_good() {
    let mut log = Log::with_policy();
    let enrolled = log.host.endorsed.enrolment.0;
    let enrolment = log.host.enrolment.clone();
    let named = [
        Some(enrolment.ek_public),
        Some(enrolment.ak_public),
        enrolment.ek_certificate,
        Some(enrolment.activation),
    ];
    for digest in named.into_iter().flatten() {
        let bytes = log.blobs.remove(&digest).unwrap();
        // No pruning takes them.
        log.pruned.push(digest);
        let report = replay(&log, &log.bundle, &mut |_| {}).unwrap();
        assert_eq!((report.enrolled, report.not_replayable), (0, vec![(enrolled, Missing::Blob(digest))]));
        log.pruned.clear();
        log.blobs.insert(digest, bytes);
    }
    assert_eq!(log.mismatches(), []);
}

#[test]
fn a_renewal_is_of_the_same_keys_and_the_same_machine() {
    type Change = fn(&mut Showing);
    let changes: [(Change, Option<MismatchKind>); 4] = [
        (|_| (), None),
        (|s| s.enrolment.host_key = ed25519(9).1, Some(MismatchKind::Input("enrolment that is renewed"))),
        (
            |s| {
                s.enrolment.endorsement.device = None;
                s.activation.device = None;
            },
            Some(MismatchKind::Input("enrolment that is renewed")),
        ),
        (|s| s.enrolment.version += 1, Some(MismatchKind::Input("host version"))),
    ];
    for (change, wrong) in changes {
        let mut log = Log::with_policy();
        let mut showing = Showing::of(&log);
        for record in &showing.records {
            log.keep(record);
        }
        log.host.enrolment = showing.enrolment.clone();
        log.activated(&showing.activation);
        log.enrol();
        showing.enrolment.admission = Admission::Reenrolment;
        change(&mut showing);
        log.host.enrolment = showing.enrolment;
        log.activated(&showing.activation);
        log.enrol();
        assert_eq!(log.mismatches(), wrong.map(|kind| (log.last(), kind)).into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn records_bear_one_enrolment_out_and_their_early_form_has_its_time() {
    // The record of the first enrolment once more.
    let mut log = Log::with_policy();
    log.host.enrolment.version += 1;
    let first = log.host.enrolment.activation;
    log.enrol();
    let mut again = log.host.enrolment.clone();
    (again.version, again.activation, again.admission) = (again.version, first, Admission::Reenrolment);
    again.token = None;
    log.append(vec![(Kind::Enrolment, again.encode())]);
    assert_eq!(log.mismatches(), [(log.last(), MismatchKind::Input("activation record"))]);
    // Without the enrolment for which it was made: before any other, and for a week after the first.
    let week_ms = 7 * 24 * 3_600 * 1_000;
    let form = MismatchKind::Input("form of the activation record");
    for (after_ms, wrong) in [(week_ms, None), (week_ms + 1, Some(form))] {
        let mut log = Log::with_policy();
        let since =
            Leaf::parse(&log.leaves[usize::try_from(log.host.endorsed.enrolment.0).unwrap()]).unwrap();
        let mut record = shown(&log.host).1.clone();
        record.session = None;
        log.activated(&record);
        log.host.enrolment.version += 1;
        // A token is appended first, each ten later.
        log.time_ms = since.time_ms + after_ms - 20;
        log.enrol();
        assert_eq!(log.mismatches(), wrong.map(|kind| (log.last(), kind)).into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_token_counts_once_also_if_it_is_told_again() {
    let mut log = Log::with_policy();
    let token = log.host.enrolment.token.unwrap();
    let made = JoinToken { token, expires_ms: u64::MAX, by: Sha256Digest::ZERO };
    log.append(vec![(Kind::JoinToken, made.encode())]);
    let told = log.last();
    log.host.enrolment.version += 1;
    let mut again = log.host.enrolment.clone();
    again.activation = sha256(b"another");
    log.append(vec![(Kind::Enrolment, again.encode())]);
    let wrong = MismatchKind::Input("join token");
    assert_eq!(log.mismatches(), [(told, wrong.clone()), (log.last(), wrong)]);
}

#[test]
fn a_record_that_makes_its_reader_panic_bears_nothing_out() {
    let mut log = Log::with_policy();
    log.keep(PANICS);
    log.host.enrolment.activation = sha256(PANICS);
    log.host.enrolment.version += 1;
    log.enrol();
    let wrong = MismatchKind::Enrolment("what made its reader panic");
    assert_eq!(log.mismatches(), [(log.last(), wrong)]);
}

#[test]
fn an_allow_listed_key_needs_no_certificate_and_has_no_description() {
    let (enrolled, missing, found) = found(|showing| {
        showing.enrolment.ek_certificate = None;
        showing.enrolment.endorsement.kind = EndorsementKind::EkAllowed;
    });
    assert_eq!((enrolled, missing, found), (2, vec![], vec![]));
}
