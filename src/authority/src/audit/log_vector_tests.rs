//! The published logs that end with a host state or an enrolment, right and wrong (tests/vectors/formats): what the second implementation is held to, too.
//!
//! They have leaves and heads alone, so the source calls all else pruned: what is judged is what the log shows.

use super::published::{Published, published};
use super::{ExportLog, HeadExport, LogSource, Mismatch, MismatchKind, Unreadable, replay};
use crate::store::Pruning;
use countersign_core::digest::Sha256Digest;

struct Pruned(ExportLog);

impl LogSource for Pruned {
    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, Unreadable> {
        self.0.leaves(from, count)
    }

    fn heads(&self, from: u64, count: u64) -> Result<Vec<HeadExport>, Unreadable> {
        self.0.heads(from, count)
    }

    fn blob(&self, _: &Sha256Digest) -> Result<Option<Vec<u8>>, Unreadable> {
        Ok(None)
    }

    fn pruned(&self, _: &Sha256Digest) -> Result<Option<Pruning>, Unreadable> {
        Ok(Some(Pruning { at_ms: u64::MAX, before_ms: u64::MAX, upto: u64::MAX, blobs: 1, bytes: 1 }))
    }
}

/// What replay finds in each log: its name, whether it is right, the last leaf, what doesn't follow.
fn judged(file: &str) -> Vec<(String, bool, u64, Vec<Mismatch>)> {
    let (bundle, logs) = published(file);
    let judge = |(vector, log): (Published, ExportLog)| {
        let log = Pruned(log);
        let report = replay(&log, &bundle, &mut |_| {}).unwrap();
        (vector.name, vector.taken.unwrap_or(vector.fault.is_none()), vector.leaf, report.mismatches)
    };
    logs.into_iter().map(judge).collect()
}

#[test]
fn every_published_attestation_and_enrolment_is_judged_as_it_says() {
    for (file, wrong) in [("attested.json", 11), ("enrolled.json", 14)] {
        let logs = judged(file);
        assert_eq!(logs.iter().filter(|(_, right, ..)| !right).count(), wrong, "{file}");
        for (name, right, leaf, mismatches) in logs {
            match (right, mismatches.as_slice()) {
                (true, []) => {}
                (false, [Mismatch { index, kind: MismatchKind::Input(_) }]) if *index == leaf => {}
                (_, found) => panic!("{file}, {name}: {found:?}"),
            }
        }
    }
}
