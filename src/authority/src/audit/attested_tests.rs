//! Every way in which an authority could lie about an attestation without requests.

use super::kit::Log;
use super::{MismatchKind, Missing, replay};
use crate::verify::kit::challenge_keys;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Leaf;
use countersign_core::leaf::host::Tier;
use countersign_core::leaf::host_state::{Basis, HostStateRecord};
use countersign_core::refusal::RefusalCode;

#[test]
fn a_lie_about_an_attestation_is_found() {
    let mut log = Log::with_policy();
    log.attest(Some(log.time_ms - 400_000));
    assert_eq!(log.mismatches(), [(log.last(), MismatchKind::Input("decision time"))]);
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
}

#[test]
fn a_boot_log_that_engines_judge_differently_accuses_nobody_who_did_not_say_by_which_he_judged() {
    for short in [true, false] {
        let mut log = Log::with_policy();
        log.attest_saying(None, |record| {
            record.code = Some(RefusalCode::BootLogMismatch);
            if short {
                record.basis = None;
            }
        });
        let report = replay(&log, &log.bundle, &mut |_| {}).unwrap();
        let engine = Missing::Engine("before countersign-decision-4".to_owned());
        let body = MismatchKind::Body;
        let found: Vec<_> = report.mismatches.into_iter().map(|one| one.kind).collect();
        let missing: Vec<_> = report.not_replayable.into_iter().map(|(_, missing)| missing).collect();
        assert_eq!((found, missing), if short { (vec![], vec![engine]) } else { (vec![body], vec![]) });
    }
}

#[test]
fn a_body_that_says_not_what_it_follows_from_has_its_time() {
    let form = MismatchKind::Input("form of the host state");
    let week_ms = 7 * 24 * 3_600 * 1_000;
    // How long after a body that says it, if one came before, and whether it may still.
    for (after_ms, taken) in [(None, true), (Some(week_ms), true), (Some(week_ms + 1), false)] {
        for gone in [false, true] {
            let mut log = Log::with_policy();
            if let Some(after_ms) = after_ms {
                log.attest(None);
                // The next append is ten later.
                log.time_ms += after_ms - 10;
                log.host.keys = challenge_keys(log.time_ms);
            }
            log.attest_saying(None, |record| record.basis = None);
            if gone {
                let record = Leaf::parse(log.leaves.last().unwrap()).unwrap();
                let record = HostStateRecord::parse(&record.body).unwrap();
                for digest in [Some(record.evidence), record.state.boot_log].into_iter().flatten() {
                    log.blobs.remove(&digest);
                    log.pruned.push(digest);
                }
            }
            let report = replay(&log, &log.bundle, &mut |_| {}).unwrap();
            let found: Vec<_> = report.mismatches.into_iter().map(|one| one.kind).collect();
            assert_eq!(found, if taken { Vec::new() } else { vec![form.clone()] }, "{after_ms:?}, {gone}");
        }
    }
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
