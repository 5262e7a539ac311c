//! Evidence bundles: one file bears an artifact out, by either implementation, and no part of it can be changed or left out.
//!
//! One is published under `tests/vectors/evidence`: what it holds must lead to the same decision in every version that calls itself the same engine.
//! `UPDATE_VECTORS=1 cargo test -p countersign-tests --all-features --test evidence_bundle` makes another, after a deliberate change of engine or format.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_authority::audit::verify_bundle;
use countersign_authority::decide::ENGINE;
use countersign_core::bundle::TrustBundle;
use countersign_tests::{Deployment, Program, Ran, SignerKind};
use countersign_tpm::algorithm::HashAlg;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

fn by_the_second_implementation(trust: &str, bundle: &str) -> Ran {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/verifier");
    let mut command = Command::new("/usr/bin/python3");
    command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(folder);
    Ran::of(command.args(["-m", "countersign_verifier", "verify-bundle", "--trust-bundle", trust, bundle]))
}

/// A file of the published bundle.
fn published(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/evidence").join(name)
}

fn by_the_first(deployment: &Deployment, bundle: &str) -> Ran {
    let trust = deployment.text("authority/trust-bundle.json");
    Ran::of(deployment.countersign().args(["audit", "verify-bundle", "--trust-bundle", &trust, bundle]))
}

fn bundle(deployment: &Deployment, artifact: &str, out: &str) -> Ran {
    let (store, trust) =
        (deployment.text("authority/log.sqlite"), deployment.text("authority/trust-bundle.json"));
    let (artifact, out) = (deployment.text(artifact), deployment.text(out));
    let mut command = deployment.countersign();
    Ran::of(command.args([
        "audit",
        "bundle",
        "--store",
        &store,
        "--trust-bundle",
        &trust,
        "--out",
        &out,
        &artifact,
    ]))
}

/// Every string and every list in the document, by JSON pointer.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, inner) in members {
                places(inner, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                places(inner, &format!("{at}/{index}"), found);
            }
        }
        _ => found.push(at.to_owned()),
    }
}

/// The document with the item at a pointer taken out of its list or object.
fn without(document: &Value, pointer: &str) -> Value {
    let mut changed = document.clone();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match changed.pointer_mut(parent).unwrap() {
        Value::Array(items) => drop(items.remove(last.parse().unwrap())),
        Value::Object(members) => drop(members.remove(last).unwrap()),
        other => panic!("{other}"),
    }
    changed
}

/// The document with one character of the text at a pointer changed to another of its alphabet.
fn altered(document: &Value, pointer: &str) -> Value {
    let mut changed = document.clone();
    let place = changed.pointer_mut(pointer).unwrap();
    *place = match place {
        Value::String(text) => {
            let at = text.len() / 2;
            let other = if text.get(at..=at) == Some("0") { "1" } else { "0" };
            Value::String(format!("{}{other}{}", text.get(..at).unwrap(), text.get(at + 1..).unwrap()))
        }
        Value::Number(number) => Value::from(number.as_u64().unwrap() + 1),
        other => panic!("{other}"),
    };
    changed
}

/// Changed bundles, each a file named by what is wrong with it.
struct Changed {
    folder: TempDir,
    trust: TrustBundle,
    count: usize,
}

impl Changed {
    /// Refused by this implementation, and put aside for the other.
    fn add(&mut self, what: &str, document: &Value) {
        let bytes = serde_json::to_vec(document).unwrap();
        let verdict = verify_bundle(&bytes, &self.trust);
        assert!(verdict.is_err(), "{what}: accepted");
        std::fs::write(self.folder.path().join(format!("{}{}", self.count, what.replace('/', "."))), bytes)
            .unwrap();
        self.count += 1;
    }

    fn refused_by_the_other(&self, deployment: &Deployment) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("verifier/bundles.py");
        let mut command = Command::new("/usr/bin/python3");
        command.env("PYTHONDONTWRITEBYTECODE", "1").arg(script);
        command
            .args([deployment.text("authority/trust-bundle.json"), deployment.text("bundle.json")])
            .arg(self.folder.path());
        let out = Ran::of(&mut command).expect("the second implementation");
        assert_eq!(out.trim(), format!("{} refused", self.count));
    }
}

/// Has the host's system measure its separator, and takes the registers that it leads to as reference values.
fn separated(deployment: &mut Deployment) {
    deployment.stop_agent();
    let [short, long] = [HashAlg::Sha256, HashAlg::Sha384].map(|bank| bank.digest(b"os-separator"));
    for pcr in [0, 1, 2, 3, 4, 5, 6, 7, 9, 14] {
        deployment.tpm.pcr_extend(pcr, &[("sha256", &short), ("sha384", &long)]);
    }
    deployment.start_agent();
    let host = deployment.host();
    deployment.ask("before", &[], &["/bin/true"]).refused("reference-mismatch");
    deployment
        .admin(&["references", "capture", &host, "--set", "fleet", "--append", "--activate"])
        .expect("capture");
    deployment.wait_ready();
}

#[test]
fn every_part_counts() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    separated(&mut deployment);
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    let delegate = ["--delegate-action", "exec", "--delegate-audience", "gate-1", "--delegate-depth", "1"];
    deployment.ask("parent", &[&delegate[..], &["--delegate-budget", "2"]].concat(), &argv).expect("parent");
    let parent = deployment.text("parent");
    deployment.ask("child", &["--parent", &parent], &argv).expect("child");
    deployment.stop_agent();
    deployment.stop_authority();

    bundle(&deployment, "child", "bundle.json").expect("bundle");
    let path = deployment.text("bundle.json");
    by_the_first(&deployment, &path).expect("verify the bundle");
    let trust = deployment.text("authority/trust-bundle.json");
    by_the_second_implementation(&trust, &path).expect("verify the bundle again");
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::create_dir_all(published("")).unwrap();
        std::fs::copy(&path, published("bundle.json")).unwrap();
        std::fs::copy(&trust, published("trust-bundle.json")).unwrap();
    }

    let document: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let mut found = Vec::new();
    places(&document, "", &mut found);
    assert!(found.len() > 30, "{found:?}");
    let trust = std::fs::read(deployment.path("authority/trust-bundle.json")).unwrap();
    let trust = TrustBundle::verify(&trust).unwrap();
    let mut changed = Changed { folder: TempDir::new().unwrap(), trust, count: 0 };
    for pointer in &found {
        changed.add(&format!("{pointer} altered"), &altered(&document, pointer));
        changed.add(&format!("{pointer} removed"), &without(&document, pointer));
    }
    for pointer in
        ["/leaves/0", "/leaves/1", "/trees", "/control", "/members", "/rotations", "/challenge_head"]
    {
        changed.add(&format!("{pointer} removed"), &without(&document, pointer));
    }
    let mut more = document.clone();
    more["members"].as_array_mut().unwrap().push(Value::from("AAAA"));
    more["members"].as_array_mut().unwrap().sort_by_key(|member| {
        let bytes = data_encoding::BASE64URL_NOPAD.decode(member.as_str().unwrap().as_bytes()).unwrap();
        countersign_core::digest::sha256(&bytes)
    });
    changed.add("a member that nothing names", &more);
    changed.refused_by_the_other(&deployment);
}

#[test]
fn the_published_bundle_leads_to_the_same_decision_still() {
    let trust = TrustBundle::verify(&std::fs::read(published("trust-bundle.json")).unwrap()).unwrap();
    let bytes = std::fs::read(published("bundle.json")).unwrap();
    let borne = verify_bundle(&bytes, &trust);
    let borne =
        borne.unwrap_or_else(|refused| panic!("{refused}: the same inputs no longer decide the same"));
    assert_eq!(borne.decision.engine, ENGINE);
    assert_eq!(borne.decision.lineage.depth, 1);
    let text = |name| published(name).to_str().unwrap().to_owned();
    let ran = by_the_second_implementation(&text("trust-bundle.json"), &text("bundle.json"));
    ran.expect("the published bundle");
}

#[test]
fn what_isnt_an_allow_of_this_store_is_not_bundled() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let program = Program::new();
    deployment.ask("good", &[], &[program.path(), &program.canary()]).expect("artifact");
    deployment.stop_agent();
    deployment.stop_authority();
    std::fs::write(deployment.path("nothing"), "c2sp.org/tlog-proof@v1\n").unwrap();
    assert_ne!(bundle(&deployment, "nothing", "one.json").status, Some(0));
    let text = std::fs::read_to_string(deployment.path("good")).unwrap();
    std::fs::write(deployment.path("changed"), text.replacen("\nindex ", "\nindex 1", 1)).unwrap();
    assert_ne!(bundle(&deployment, "changed", "two.json").status, Some(0));
    assert!(!deployment.path("one.json").exists() && !deployment.path("two.json").exists());
    bundle(&deployment, "good", "three.json").expect("bundle");
    assert_ne!(
        bundle(&deployment, "good", "three.json").status,
        Some(0),
        "an existing file isn't overwritten"
    );
}
