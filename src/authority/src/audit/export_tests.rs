//! Exports: against the published chains, back through the checker, and what is wrong with a chain that somebody touched.

use super::dual_chain::{ChainFault, body, export_chain, verify_chain};
use super::kit::Log;
use super::prov::export_prov;
use super::tests::full;
use countersign_core::leaf::leaf_hash;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The folder of published chains: `VECTORS`, or `shared/vectors` beside the workspace. CI doesn't go without.
fn vectors() -> Option<PathBuf> {
    let root = std::env::var_os("VECTORS").map(PathBuf::from).or_else(|| {
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut above = manifest.ancestors().skip(2).take(4).map(|above| above.join("shared/vectors"));
        above.find(|path| path.is_dir())
    });
    let found = root.map(|root| root.join("dual-chain")).filter(|path| path.is_dir());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "vectors/dual-chain are absent and CI does not allow that");
        eprintln!(
            "VECTORS ABSENT: the dual-chain format is not tested against published chains (set VECTORS)"
        );
    }
    found
}

#[test]
fn published_chains_are_judged_as_they_say() {
    let Some(folder) = vectors() else { return };
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let expected: Value = serde_json::from_slice(&read("expected.json")).unwrap();
    let good = read("good-chain.json");
    let document: Value = serde_json::from_slice(&good).unwrap();
    let events = document["events"].as_array().unwrap();
    let told = &expected["good-chain.json"];
    for (event, expect) in events.iter().zip(told["events"].as_array().unwrap()) {
        assert_eq!(body(event), expect["body"].as_str().unwrap());
        assert_eq!(body(event).len() as u64, expect["body_utf8_bytes"].as_u64().unwrap());
    }
    let end = verify_chain(&good).unwrap();
    assert_eq!(end.events, events.len() as u64);
    assert_eq!(
        (json!(end.hash), json!(end.hash_b)),
        (told["last_hash"].clone(), told["last_hash_b"].clone())
    );
    let fault = verify_chain(&read("tampered-chain.json")).unwrap_err().to_string();
    let prints = expected["tampered-chain.json"]["prints"].as_array().unwrap();
    assert_eq!(json!(fault), *prints.last().unwrap());
}

fn exported(log: &Log, range: (u64, u64)) -> Vec<u8> {
    let mut out = Vec::new();
    let end = export_chain(log, log.bundle.origin().as_str(), range, &mut out).unwrap();
    assert_eq!(verify_chain(&out).unwrap(), end);
    out
}

#[test]
fn every_leaf_is_an_event_that_names_it() {
    let log = full();
    let size = log.leaves.len() as u64;
    let document: Value = serde_json::from_slice(&exported(&log, (0, size))).unwrap();
    let events = document["events"].as_array().unwrap();
    assert_eq!(events.len(), log.leaves.len());
    for (event, leaf) in events.iter().zip(&log.leaves) {
        assert_eq!(event["payload"]["leaf_hash"], json!(format!("sha256:{}", leaf_hash(leaf))));
        assert_eq!(event["payload"]["leaf_index"].as_u64().unwrap() + 1, event["seq"].as_u64().unwrap());
    }
    let named = |name: &str| events.iter().filter(|event| event["evt"] == *name).count();
    assert!(
        named("authorization.issued") >= 6 && named("authorization.denied") >= 4 && named("log.policy") == 1
    );
    for event in events.iter().filter(|event| event["evt"] == "authorization.issued") {
        for field in ["artifact_id", "subject", "policy_ref"] {
            assert!(event["payload"][field].is_string(), "{field}");
        }
    }
    let part: Value = serde_json::from_slice(&exported(&log, (3, 7))).unwrap();
    assert_eq!(part["events"].as_array().unwrap().len(), 4);
    assert_eq!(part["events"][0]["payload"]["leaf_index"], 3);
    assert!(
        export_chain(&log, "x", (size, size + 1), &mut Vec::new()).is_err(),
        "an empty chain says nothing"
    );
}

#[test]
fn a_touched_chain_is_refused_with_its_place() {
    let log = full();
    let good: Value = serde_json::from_slice(&exported(&log, (0, 6))).unwrap();
    let check = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut document = good.clone();
        change(document["events"].as_array_mut().unwrap());
        verify_chain(&serde_json::to_vec(&document).unwrap()).unwrap_err()
    };
    assert_eq!(check(&|events| events[2]["payload"]["leaf_index"] = json!(9)), ChainFault::Hash(3));
    assert_eq!(check(&|events| events[2]["chash_b"] = events[1]["chash_b"].clone()), ChainFault::HashB(3));
    assert_eq!(check(&|events| events[2]["prev_hash"] = json!(null)), ChainFault::Link(3));
    assert_eq!(check(&|events| events[2]["prev_hash_b"] = json!("x")), ChainFault::LinkB(3));
    assert_eq!(check(&|events| drop(events.remove(2))), ChainFault::Sequence(3, "4".to_owned()));
    assert_eq!(check(&|events| events.swap(2, 3)), ChainFault::Sequence(3, "4".to_owned()));
    assert_eq!(check(&|events| events[2]["seq"] = json!("3")), ChainFault::Sequence(3, "3".to_owned()));
    assert_eq!(check(&|events| events[0]["seq"] = json!(0)), ChainFault::Sequence(1, "0".to_owned()));
    let without_time = check(&|events| drop(events[2].as_object_mut().unwrap().remove("ts")));
    assert_eq!(without_time, ChainFault::Field("3".to_owned(), "ts"));
    assert_eq!(check(&|events| events[2]["ts"] = json!("soon")), ChainFault::Time(3, "soon".to_owned()));
    let early = "1970-01-01T00:00:00.000Z".to_owned();
    assert_eq!(check(&|events| events[2]["ts"] = json!(early)), ChainFault::TimeBack(3, early.clone()));
    let other = check(&|events| events[2]["op_id"] = json!("other"));
    assert!(matches!(other, ChainFault::Operation(3, ..)), "{other}");
}

#[test]
fn what_is_no_chain_is_refused() {
    assert_eq!(verify_chain(b"{"), Err(ChainFault::NotJson));
    assert_eq!(verify_chain(b"null"), Err(ChainFault::NoEvents));
    assert_eq!(verify_chain(b"{\"events\":{}}"), Err(ChainFault::NoEvents));
    assert_eq!(verify_chain(b"{\"events\":[]}"), Err(ChainFault::Empty));
    let unnamed = ChainFault::Field("unknown".to_owned(), "v");
    assert_eq!(verify_chain(b"{\"events\":[1]}"), Err(unnamed));
    let deep = format!("{{\"events\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(verify_chain(deep.as_bytes()), Err(ChainFault::NotJson));
}

/// What relations name, by the section in which it has to stand.
const ENDS: [(&str, &str); 11] = [
    ("prov:entity", "entity"),
    ("prov:generatedEntity", "entity"),
    ("prov:usedEntity", "entity"),
    ("prov:activity", "activity"),
    ("prov:agent", "agent"),
    ("prov:delegate", "agent"),
    ("prov:responsible", "agent"),
    ("prov:informed", "activity"),
    ("prov:informant", "activity"),
    ("prov:trigger", "entity"),
    ("prov:plan", "entity"),
];

fn closed(document: &Value) -> usize {
    let mut relations = 0;
    for (section, records) in document.as_object().unwrap() {
        if ["prefix", "entity", "activity", "agent"].contains(&section.as_str()) {
            continue;
        }
        for record in records.as_object().unwrap().values() {
            relations += 1;
            for (end, place) in ENDS {
                if let Some(named) = record.get(end) {
                    assert!(
                        document[place].get(named.as_str().unwrap()).is_some(),
                        "{section}: {named} is no {place}"
                    );
                }
            }
        }
    }
    relations
}

#[test]
fn provenance_names_nothing_that_it_does_not_have() {
    let log = full();
    let size = log.leaves.len() as u64;
    let document = export_prov(&log, log.bundle.origin().as_str(), (0, size)).unwrap();
    assert!(closed(&document) > 50);
    let outside = |document: &Value| {
        let entities = document["entity"].as_object().unwrap();
        entities.values().filter(|entity| entity.get("cs:outside").is_some()).count()
    };
    assert_eq!(outside(&document), 0);
    let derived = document["wasDerivedFrom"].as_object().unwrap().values();
    let parents: BTreeSet<String> = derived.map(|record| record["prov:usedEntity"].to_string()).collect();
    let first: u64 =
        parents.first().unwrap().trim_matches('"').trim_start_matches("log:leaf-").parse().unwrap();
    // A range that begins behind a parent shows the parent as what lies outside.
    let part = export_prov(&log, log.bundle.origin().as_str(), (first + 1, size)).unwrap();
    closed(&part);
    assert!(outside(&part) > 0);
    let kinds: BTreeSet<&str> = document["entity"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(|entity| entity["prov:type"].as_str())
        .collect();
    for kind in ["cs:Artifact", "cs:Denial", "cs:Evidence", "cs:Inputs", "cs:Policy", "cs:Request"] {
        assert!(kinds.contains(kind), "{kind} of {kinds:?}");
    }
    assert!(export_prov(&log, "x", (size, size + 9)).is_err());
}
