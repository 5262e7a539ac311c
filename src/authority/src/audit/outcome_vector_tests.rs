//! The published logs with outcomes, right and wrong (tests/vectors/formats/outcomes.json): what the second implementation is held to, too.

use super::outcomes::OutcomeFault;
use super::published::published;
use super::{Finding, FindingKind, verify};
use crate::outcome::Unfounded;

fn fault(name: &str) -> OutcomeFault {
    match name {
        "unknown-gateway" => OutcomeFault::UnknownGateway,
        "ended-gateway" => OutcomeFault::EndedGateway,
        "no-such-leaf" => OutcomeFault::Unfounded(Unfounded::NoSuchLeaf),
        "not-an-allow" => OutcomeFault::Unfounded(Unfounded::NotAnAllow),
        "before-artifact" => OutcomeFault::Unfounded(Unfounded::BeforeArtifact),
        "from-future" => OutcomeFault::Unfounded(Unfounded::FromFuture),
        "after-end" => OutcomeFault::Unfounded(Unfounded::AfterEnd),
        "too-late" => OutcomeFault::Unfounded(Unfounded::TooLate),
        "twice" => OutcomeFault::Twice,
        other => panic!("an unknown fault: {other}"),
    }
}

#[test]
fn every_published_outcome_is_judged_as_it_says() {
    let (bundle, logs) = published("outcomes.json");
    for (vector, log) in logs {
        let found = verify(&log, &bundle, &mut |_| {});
        match vector.fault {
            None => assert_eq!(found.unwrap().leaves, vector.leaf + 1, "{}", vector.name),
            Some(name) => {
                let kind = FindingKind::Outcome(fault(&name));
                assert_eq!(
                    found,
                    Err(Finding { leaf: Some(vector.leaf), head: None, kind }),
                    "{}",
                    vector.name
                );
            }
        }
    }
}
