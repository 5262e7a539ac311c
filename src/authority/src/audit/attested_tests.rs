//! Every way in which an authority could lie about an attestation without requests.

use super::kit::Log;
use super::{MismatchKind, Missing, replay};
use countersign_core::digest::sha256;
use countersign_core::leaf::host::Tier;
use countersign_core::leaf::host_state::Basis;

#[test]
fn a_lie_about_an_attestation_is_found() {
    let mut log = Log::with_policy();
    log.attest(Some(log.time_ms - 400_000));
    assert_eq!(log.mismatches(), [(log.last(), MismatchKind::Body)]);
}

#[test]
fn a_lie_about_what_an_attestation_follows_from_is_found() {
    type Alter = fn(&mut Basis);
    let lies: [Alter; 7] = [
        |basis| basis.appraisal.tier = Tier::Affirming,
        |basis| basis.appraisal.vector[2].1 = 2,
        |basis| basis.appraisal.reference_set = Some("fleet".to_owned()),
        |basis| basis.policy = None,
        |basis| basis.references = Some(sha256(b"others")),
        |basis| basis.control -= 1,
        |basis| basis.time_ms += 1,
    ];
    for alter in lies {
        let mut log = Log::with_policy();
        log.attest_saying(None, |record| alter(record.basis.as_mut().unwrap()));
        assert_eq!(log.mismatches(), [(log.last(), MismatchKind::Body)]);
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
