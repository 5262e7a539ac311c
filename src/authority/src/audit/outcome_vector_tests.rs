//! The published logs with outcomes, right and wrong (tests/vectors/formats/outcomes.json): what the second implementation is held to, too.

use super::outcomes::OutcomeFault;
use super::{ExportLog, Finding, FindingKind, verify};
use crate::outcome::Unfounded;
use countersign_core::bundle::TrustBundle;
use serde::Deserialize;
use std::io::Write as _;
use std::path::Path;

#[derive(Deserialize)]
struct Vectors {
    trust_bundle: String,
    export: Vec<String>,
    logs: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    fault: Option<String>,
    leaf: u64,
    export: Vec<String>,
}

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
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/formats/outcomes.json");
    let vectors: Vectors = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let bundle = TrustBundle::verify(vectors.trust_bundle.as_bytes()).unwrap();
    for vector in vectors.logs {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for page in vectors.export.iter().chain(&vector.export) {
            writeln!(file, "{page}").unwrap();
        }
        let log = ExportLog::open(file.path()).unwrap();
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
