//! Every way in which an authority could lie about an attestation without requests.

use super::kit::Log;
use super::{MismatchKind, Missing, replay};
use crate::verify::kit::ed25519;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Leaf;
use countersign_core::leaf::device::DeviceIdentity;
use countersign_core::leaf::host::{Admission, Enrolment, Tier};
use countersign_core::leaf::host_state::{Basis, HostStateRecord};

#[test]
fn a_lie_about_an_attestation_is_found() {
    let mut log = Log::with_policy();
    log.attest(Some(log.time_ms - 400_000));
    assert_eq!(log.mismatches(), [(log.last(), MismatchKind::Input("decision time"))]);
}

#[test]
fn a_renewal_is_of_the_same_keys_and_the_same_machine() {
    type Change = fn(&mut Enrolment);
    let changes: [(Change, bool); 5] = [
        (|_| (), true),
        (|enrolment| enrolment.ak_public = Sha256Digest::ZERO, false),
        (|enrolment| enrolment.host_key = ed25519(9).1, false),
        (|enrolment| enrolment.endorsement.device = None, false),
        (|enrolment| enrolment.endorsement.device.as_mut().unwrap().serial = Some("other".to_owned()), false),
    ];
    for (change, holds) in changes {
        let mut log = Log::with_policy();
        log.host.enrolment.endorsement.device = Some(DeviceIdentity {
            certificate: Sha256Digest::ZERO,
            key: Sha256Digest::ZERO,
            serial: Some("one".to_owned()),
            hardware: None,
        });
        log.host.enrolment.version += 1;
        log.enrol();
        log.host.enrolment.admission = Admission::Reenrolment;
        change(&mut log.host.enrolment);
        log.enrol();
        let wrong = vec![(log.last(), MismatchKind::Input("enrolment that is renewed"))];
        assert_eq!(log.mismatches(), if holds { Vec::new() } else { wrong });
    }
}

type Alter = fn(&mut Basis);

/// What the log alone shows is told by name.
const LIES: [(Alter, MismatchKind); 9] = [
    (|basis| basis.policy = None, MismatchKind::Input("policy")),
    (|basis| basis.policy = Some(Sha256Digest::ZERO), MismatchKind::Input("policy")),
    (|basis| basis.references = Some(Sha256Digest::ZERO), MismatchKind::Input("references")),
    (|basis| basis.control -= 1, MismatchKind::Input("control")),
    (|basis| basis.time_ms -= 10_001, MismatchKind::Input("decision time")),
    (|basis| basis.time_ms += 1, MismatchKind::Body),
    (|basis| basis.appraisal.tier = Tier::Affirming, MismatchKind::Body),
    (|basis| basis.appraisal.vector[2].1 = 2, MismatchKind::Body),
    (|basis| basis.appraisal.reference_set = Some(String::new()), MismatchKind::Body),
];

#[test]
fn a_lie_about_what_an_attestation_follows_from_is_found() {
    for (alter, kind) in LIES {
        let mut log = Log::with_policy();
        log.attest_saying(None, |record| alter(record.basis.as_mut().unwrap()));
        assert_eq!(log.mismatches(), [(log.last(), kind)]);
    }
    let mut log = Log::with_policy();
    log.attest_saying(None, |record| {
        record.basis.as_mut().unwrap().engine = "countersign-decision-9".to_owned()
    });
    let report = replay(&log, &log.bundle, &mut |_| {}).unwrap();
    assert!(report.mismatches.is_empty(), "what another version made isn't judged");
    assert_eq!(report.not_replayable, [(log.last(), Missing::Engine("countersign-decision-9".to_owned()))]);
    // The body as it was before the basis was told.
    let mut log = Log::with_policy();
    log.attest_saying(None, |record| record.basis = None);
    assert_eq!(log.mismatches(), []);
}

#[test]
fn what_the_log_shows_of_an_attestation_is_judged_also_where_its_evidence_was_pruned() {
    for (alter, kind) in LIES {
        let mut log = Log::with_policy();
        log.attest_saying(None, |record| alter(record.basis.as_mut().unwrap()));
        let record = HostStateRecord::parse(&Leaf::parse(log.leaves.last().unwrap()).unwrap().body).unwrap();
        let gone = [Some(record.evidence), record.state.boot_log];
        for digest in gone.into_iter().flatten() {
            log.blobs.remove(&digest);
            log.pruned.push(digest);
        }
        let report = replay(&log, &log.bundle, &mut |_| {}).unwrap();
        let found: Vec<_> = report.mismatches.into_iter().map(|one| one.kind).collect();
        match kind {
            // Only the evidence would show it.
            MismatchKind::Body => assert_eq!((found, report.pruned.len()), (Vec::new(), 1)),
            kind => assert_eq!(found, [kind]),
        }
    }
}
