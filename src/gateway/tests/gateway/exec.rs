//! The exec door as it is used: a process that becomes the program, or ends with a code and nothing ran.
//!
//! A gate process is this test binary again, told by `GATE_SCENARIO` what to run. Every scenario's program writes a canary file.

use crate::authority::{Authority, key, signed};
use crate::world::{LEASE_MS, decision, host, rules};
use countersign_core::api::{Acknowledgement, ConsistencyProof, Feed, OutcomeDocument, OutcomesCall};
use countersign_core::bundle::TrustBundle;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::Algorithm;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::name::{Action, Audience, Origin};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::argv_digest;
use countersign_core::tlog_proof::TlogProof;
use countersign_gateway::clock::ClockReading;
use countersign_gateway::exec::environment::{EnvironmentName, PATH};
use countersign_gateway::exec::{ExecOptions, run_exec};
use countersign_gateway::holder::key::HolderKey;
use countersign_gateway::pull::PullLimits;
use countersign_gateway::source::{Source, SourceFault};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// What a gate process is to do; all of it in one directory.
#[derive(Serialize, Deserialize)]
struct Scenario {
    dir: PathBuf,
    bundle: String,
    artifact: String,
    program: PathBuf,
    argv: Vec<String>,
    lease_ms: u64,
    /// `None`: the authority can't be reached.
    feed: Option<Feed>,
    consistency: Vec<String>,
    outcomes_down: bool,
    /// The authority takes outcomes only from this time on.
    outcomes_from_ms: u64,
    /// While the gate pulls, this file takes the program's place.
    swap: Option<PathBuf>,
}

impl Scenario {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Source for Scenario {
    async fn feed(&self, _size: u64, _control: u64, _witnessed: bool) -> Result<Feed, SourceFault> {
        if let Some(other) = &self.swap {
            std::fs::rename(other, &self.program).unwrap();
        }
        append(&self.file("pulls"), "pull\n");
        self.feed.clone().ok_or(SourceFault::Unreachable { detail: "no feed".to_owned() })
    }

    async fn consistency(&self, _from: u64, _to: u64) -> Result<ConsistencyProof, SourceFault> {
        Ok(ConsistencyProof { proof: self.consistency.clone() })
    }

    async fn acknowledge(&self, _ack: Acknowledgement) -> Result<(), SourceFault> {
        Ok(())
    }

    async fn outcomes(&self, call: OutcomesCall) -> Result<(), SourceFault> {
        if self.outcomes_down {
            return Err(SourceFault::Unreachable { detail: "down".to_owned() });
        }
        while now_ms() < self.outcomes_from_ms {
            tokio::task::yield_now().await;
        }
        for outcome in &call.outcomes {
            append(&self.file("outcomes"), &format!("{}\n", serde_json::to_string(outcome).unwrap()));
        }
        Ok(())
    }
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

const REFUSED: i32 = 77;

/// The gate process; as a test of its own, a gate without authority and memory, which must refuse.
#[test]
fn gate_process() {
    let Ok(path) = std::env::var("GATE_SCENARIO") else {
        let mut door = Door::new(|_| ());
        door.scenario.feed = None;
        assert_eq!(door.run(), Some(RefusalCode::SnapshotMissing));
        return;
    };
    let scenario: Scenario = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let options = ExecOptions {
        rules: countersign_gateway::admit::Rules { lease_ms: scenario.lease_ms, ..rules() },
        state_dir: scenario.file("state"),
        bundle: TrustBundle::verify(scenario.bundle.as_bytes()).unwrap(),
        artifact: scenario.artifact.clone(),
        holder: HolderKey::load(&scenario.file("holder.pem")).unwrap(),
        program: scenario.program.clone(),
        argv: scenario.argv.iter().map(Into::into).collect(),
        environment: vec![EnvironmentName::parse("APP_MODE").unwrap()],
        limits: PullLimits { courtesy: Duration::from_secs(5), ..PullLimits::default() },
    };
    let refusal = run_exec(&options, &scenario);
    append(&scenario.file("refusal"), &format!("{}\n{refusal}\n", refusal.code()));
    std::process::exit(REFUSED);
}

/// Everything right: `sh -c SCRIPT` with an artifact for exactly that, from an authority that answers.
struct Door {
    _temporary: tempfile::TempDir,
    authority: Authority,
    holder: HolderKey,
    scenario: Scenario,
}

/// Ends the process if a test doesn't.
struct Running(Child);

impl Running {
    fn wait(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn now_ms() -> u64 {
    ClockReading::now().unwrap().wall_ms
}

fn measured(path: &Path) -> Sha256Digest {
    sha256(&std::fs::read(path).unwrap())
}

impl Door {
    fn new(change: impl FnOnce(&mut Decision)) -> Self {
        Self::running("echo ran >> DIR/canary", change)
    }

    fn running(script: &str, change: impl FnOnce(&mut Decision)) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().to_owned();
        let program = dir.join("program");
        std::fs::copy("/bin/sh", &program).unwrap();
        let argv = ["sh", "-c", &script.replace("DIR", dir.to_str().unwrap())].map(str::to_owned).to_vec();
        let holder = HolderKey::generate(Algorithm::EdDsa).unwrap();
        holder.write_new(&dir.join("holder.pem")).unwrap();
        let mut authority = Authority::new(now_ms());
        let mut right = decision(&authority, &holder, now_ms());
        right.workload = measured(&program);
        right.arguments = argv_digest(&argv);
        change(&mut right);
        let index = authority.allow(&right);
        authority.sign();
        let scenario = Scenario {
            dir,
            bundle: String::from_utf8(authority.bundle_bytes().to_vec()).unwrap(),
            artifact: authority.receipt(index),
            program,
            argv,
            lease_ms: LEASE_MS,
            feed: Some(authority.feed(0, 0)),
            consistency: Vec::new(),
            outcomes_down: false,
            outcomes_from_ms: 0,
            swap: None,
        };
        Self { _temporary: temporary, authority, holder, scenario }
    }

    fn start(&self, name: &str, environment: &[(&str, &str)]) -> Running {
        let path = self.scenario.file(name);
        std::fs::write(&path, serde_json::to_vec(&self.scenario).unwrap()).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "exec::gate_process", "--nocapture", "--test-threads=1"]);
        command.env("GATE_SCENARIO", path).envs(environment.iter().copied());
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Runs the gate; `None` if the program ran, otherwise why it didn't.
    fn run(&self) -> Option<RefusalCode> {
        let refusal = self.scenario.file("refusal");
        let _ = std::fs::remove_file(&refusal);
        let status = self.start("scenario.json", &[("APP_MODE", "x"), ("SECRET", "y")]).wait();
        match status.code() {
            Some(REFUSED) => {
                let text = std::fs::read_to_string(refusal).unwrap();
                Some(RefusalCode::parse(text.lines().next().unwrap()).unwrap())
            }
            Some(0) => None,
            other => panic!("the gate process ended with {other:?}"),
        }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.scenario.file(name)).unwrap_or_default()
    }

    fn outcomes(&self) -> Vec<OutcomeDocument> {
        self.read("outcomes").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn ran(&self) -> usize {
        self.read("canary").lines().count()
    }

    /// The feed anew, from nothing.
    fn refeed(&mut self) {
        self.scenario.feed = Some(self.authority.feed(0, 0));
    }
}

#[test]
fn an_approved_program_runs_and_its_start_is_reported() {
    let door = Door::new(|_| ());
    assert_eq!(door.run(), None);
    assert_eq!(door.ran(), 1);
    let outcomes = door.outcomes();
    assert_eq!(outcomes.len(), 1);
    assert_eq!((outcomes[0].index, outcomes[0].refused.clone()), (3, None));
    // Once more, from memory.
    assert_eq!(door.run(), None);
    assert_eq!((door.ran(), door.read("pulls").lines().count()), (2, 1));
}

type Change = fn(&mut Decision);
type Depart = fn(&mut Door);

/// What departs from the right case, and the code that it must be refused with.
const DEPARTURES: &[(RefusalCode, Change, Depart)] = &[
    (RefusalCode::SnapshotMissing, |_| (), |door| door.scenario.feed = None),
    (
        RefusalCode::SnapshotMissing,
        |_| (),
        |door| {
            std::fs::create_dir(door.scenario.file("state")).unwrap();
            std::fs::write(door.scenario.file("state/snapshot.json"), b"{}").unwrap();
        },
    ),
    (
        RefusalCode::LeaseExpired,
        |_| (),
        |door| {
            door.scenario.lease_ms = 1;
            door.authority = Authority::new(now_ms() - 10_000);
            door.refeed();
        },
    ),
    (
        RefusalCode::HeadInFuture,
        |_| (),
        |door| {
            door.authority = Authority::new(now_ms() + 60_000);
            door.refeed();
        },
    ),
    (RefusalCode::FeedInvalid, |_| (), |door| drop(door.scenario.feed.as_mut().unwrap().control.pop())),
    (RefusalCode::ReceiptMalformed, |_| (), |door| door.scenario.artifact.clear()),
    (
        RefusalCode::InclusionInvalid,
        |_| (),
        |door| {
            let mut proof = TlogProof::parse(&door.scenario.artifact).unwrap();
            proof.proof[0] = sha256(b"x");
            door.scenario.artifact = proof.encode();
        },
    ),
    (
        RefusalCode::OriginMismatch,
        |decision| decision.issuer = Origin::parse("other.example").unwrap(),
        |_| (),
    ),
    (
        RefusalCode::HeadUnsigned,
        |_| (),
        |door| {
            let mut proof = TlogProof::parse(&door.scenario.artifact).unwrap();
            proof.checkpoint = signed(&door.authority.newest().0, &[&key(66)]);
            door.scenario.artifact = proof.encode();
        },
    ),
    (
        RefusalCode::HeadUnlinked,
        |_| (),
        |door| {
            door.authority.heartbeat();
            door.authority.sign();
            door.refeed();
        },
    ),
    (
        RefusalCode::HeadForked,
        |_| (),
        |door| {
            let mut fork = Authority::new(door.authority.time_ms);
            fork.heartbeat();
            fork.sign();
            door.scenario.feed = Some(fork.feed(0, 0));
        },
    ),
    (
        RefusalCode::NotAnAllow,
        |_| (),
        |door| {
            let mut deny = decision(&door.authority, &door.holder, now_ms());
            deny.verdict = Verdict::Deny(RefusalCode::PolicyDenied);
            let index = door.authority.append(Kind::Deny, deny.encode());
            door.authority.sign();
            door.scenario.artifact = door.authority.receipt(index);
            door.refeed();
        },
    ),
    (RefusalCode::ControlBehind, |decision| decision.control += 1, |_| ()),
    (
        RefusalCode::AudienceMismatch,
        |decision| decision.audience = Audience::parse("elsewhere").unwrap(),
        |_| (),
    ),
    (
        RefusalCode::NotYetValid,
        |decision| {
            decision.verdict = Verdict::Allow { nbf: now_ms() / 1_000 + 60, exp: now_ms() / 1_000 + 90 }
        },
        |_| (),
    ),
    (
        RefusalCode::Expired,
        |decision| {
            decision.verdict = Verdict::Allow { nbf: now_ms() / 1_000 - 60, exp: now_ms() / 1_000 - 3 }
        },
        |_| (),
    ),
    (RefusalCode::ActionMismatch, |decision| decision.action = Action::parse("deploy").unwrap(), |_| ()),
    (RefusalCode::ArgumentsMismatch, |_| (), |door| door.scenario.argv.push("more".to_owned())),
    (RefusalCode::ArgumentsMismatch, |_| (), |door| door.scenario.argv[0] = "other".to_owned()),
    (RefusalCode::ArgumentsMismatch, |_| (), |door| door.scenario.argv.clear()),
    (RefusalCode::WorkloadMismatch, |_| (), |door| append(&door.scenario.program, "\n")),
    (
        RefusalCode::Revoked,
        |_| (),
        |door| {
            door.authority.revoke(Subject::Host(host()));
            door.authority.sign();
            let size = TlogProof::parse(&door.scenario.artifact).unwrap().checkpoint;
            let size: u64 = size.lines().nth(1).unwrap().parse().unwrap();
            door.scenario.consistency = door.authority.consistency(size, door.authority.size());
            door.refeed();
        },
    ),
    (
        RefusalCode::HolderProofInvalid,
        |_| (),
        |door| {
            std::fs::remove_file(door.scenario.file("holder.pem")).unwrap();
            HolderKey::generate(Algorithm::EdDsa)
                .unwrap()
                .write_new(&door.scenario.file("holder.pem"))
                .unwrap();
        },
    ),
    (RefusalCode::ProgramUnreadable, |_| (), |door| door.scenario.program = door.scenario.file("nothing")),
    (
        RefusalCode::ProgramUnsupported,
        |_| (),
        |door| {
            std::fs::write(&door.scenario.program, format!("#!/bin/sh\n{}\n", door.scenario.argv[2]))
                .unwrap();
        },
    ),
];

#[test]
fn whatever_departs_from_the_right_case_is_refused_with_its_code_and_nothing_runs() {
    for (code, change, depart) in DEPARTURES {
        let mut door = Door::new(change);
        depart(&mut door);
        assert_eq!(door.run(), Some(*code), "{}", door.read("refusal"));
        assert_eq!(door.ran(), 0, "{code}");
    }
}

#[test]
fn a_refusal_of_a_genuine_artifact_is_reported_with_its_code() {
    let mut door = Door::new(|_| ());
    door.scenario.argv.push("more".to_owned());
    assert_eq!(door.run(), Some(RefusalCode::ArgumentsMismatch));
    let outcomes = door.outcomes();
    assert_eq!((outcomes[0].index, outcomes[0].refused.as_deref()), (3, Some("arguments-mismatch")));
}

#[test]
fn an_outcome_that_cant_be_sent_waits_in_the_state_directory() {
    let mut door = Door::new(|_| ());
    door.scenario.outcomes_down = true;
    assert_eq!(door.run(), None);
    assert_eq!(door.ran(), 1);
    assert_eq!(door.read("state/outcomes.jsonl").matches("\"index\":3").count(), 1);
}

#[test]
fn a_program_swapped_while_the_gate_judges_doesnt_run() {
    let mut door = Door::new(|_| ());
    let other = door.scenario.file("other");
    std::fs::write(
        &other,
        format!("#!/bin/sh\necho swapped > {}\n", door.scenario.file("swapped").display()),
    )
    .unwrap();
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    door.scenario.swap = Some(other);
    assert_eq!(door.run(), None);
    // The bytes that were hashed ran, though their path now leads elsewhere.
    assert_eq!(door.ran(), 1);
    assert!(std::fs::read(&door.scenario.program).unwrap().starts_with(b"#!"));
    assert!(!door.scenario.file("swapped").exists());
}

#[test]
fn the_program_gets_a_scrubbed_environment_no_descriptors_and_no_way_to_privileges() {
    let script = "env > DIR/env; ls /proc/$$/fd > DIR/fd; echo \"$0\" > DIR/canary; exec cat /proc/self/status > DIR/status";
    let door = Door::running(script, |_| ());
    // A descriptor that the gate inherits without close-on-exec.
    let leak = std::fs::File::create(door.scenario.file("leak")).unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let environment = [
        ("LD_PRELOAD", "/nowhere/evil.so"),
        ("LD_LIBRARY_PATH", "/nowhere"),
        ("GLIBC_TUNABLES", "glibc.malloc.check=3"),
        ("PYTHONPATH", "/nowhere"),
        ("BASH_ENV", "/nowhere"),
        ("ENV", "/nowhere"),
        ("SECRET", "s3cret"),
        ("APP_MODE", "batch"),
        ("LANG", "C.UTF-8"),
    ];
    assert!(door.start("scenario.json", &environment).wait().success(), "{}", door.read("refusal"));
    let passed = door.read("env");
    for bad in ["LD_", "GLIBC", "PYTHON", "BASH_ENV", "ENV=/", "s3cret", "GATE_SCENARIO", "CARGO"] {
        assert!(!passed.contains(bad), "{bad} in {passed}");
    }
    for good in [format!("PATH={PATH}\n"), "APP_MODE=batch\n".to_owned(), "LANG=C.UTF-8\n".to_owned()] {
        assert!(passed.contains(&good), "{good} not in {passed}");
    }
    let status = door.read("status");
    let field = |name: &str| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{status}"));
        line.trim().to_owned()
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    // SIGPIPE, which Rust programs ignore, ends a program again; nothing is blocked.
    assert_eq!(u64::from_str_radix(&field("SigIgn:"), 16).unwrap() & (1 << 12), 0);
    assert_eq!(u64::from_str_radix(&field("SigBlk:"), 16).unwrap(), 0);
    // The shell itself keeps 0, 1, 2 and, while it redirects, what it saved of them from 10 on.
    let open: Vec<u32> = door.read("fd").lines().map(|line| line.parse().unwrap()).collect();
    assert!(open.iter().all(|number| *number <= 2 || *number >= 10), "{open:?}");
    assert_eq!(door.read("canary"), "sh\n");
    drop(leak);
}

#[test]
fn gates_that_start_together_share_one_memory_and_one_pull() {
    let door = Door::new(|_| ());
    let mut gates: Vec<Running> =
        (0..8).map(|number| door.start(&format!("scenario-{number}.json"), &[])).collect();
    for gate in &mut gates {
        assert!(gate.wait().success(), "{}", door.read("refusal"));
    }
    assert_eq!(door.ran(), 8);
    assert_eq!(door.outcomes().len(), 8);
    assert_eq!(door.read("pulls").lines().count(), 1);
}

#[test]
fn after_a_reboot_or_a_moved_clock_the_gate_pulls_first() {
    let mut door = Door::new(|_| ());
    assert_eq!(door.run(), None);
    let path = door.scenario.file("state/snapshot.json");
    let kept = std::fs::read_to_string(&path).unwrap();
    let document: serde_json::Value = serde_json::from_str(&kept).unwrap();
    let wall = document["pulled"]["wall_ms"].as_u64().unwrap();
    let boot_id = document["pulled"]["boot_id"].as_str().unwrap().to_owned();
    let another_boot = kept.replace(&boot_id, "00000000-0000-4000-8000-000000000000");
    // As if the clock had stood an hour later at the last pull.
    let stepped = kept.replace(&wall.to_string(), &(wall + 3_600_000).to_string());
    let feed = door.authority.feed(door.authority.size(), door.authority.state.number());
    for changed in [another_boot, stepped] {
        assert_ne!(changed, kept);
        std::fs::write(&path, &changed).unwrap();
        door.scenario.feed = None;
        assert_eq!(door.run(), Some(RefusalCode::LeaseExpired));
        door.scenario.feed = Some(feed.clone());
        assert_eq!(door.run(), None);
    }
    assert_eq!(door.ran(), 3);
}

#[test]
fn a_program_that_the_kernel_refuses_is_reported_as_refused_after_its_start() {
    let mut door = Door::new(|_| ());
    // A header of the right machine, and nothing that it promises.
    let mut broken = std::fs::read("/bin/sh").unwrap();
    broken.truncate(64);
    std::fs::write(&door.scenario.program, &broken).unwrap();
    let mut right = decision(&door.authority, &door.holder, now_ms());
    right.workload = sha256(&broken);
    right.arguments = argv_digest(&door.scenario.argv);
    let index = door.authority.allow(&right);
    door.authority.sign();
    door.scenario.artifact = door.authority.receipt(index);
    door.refeed();
    assert_eq!(door.run(), Some(RefusalCode::ProgramUnsupported));
    let outcomes: Vec<Option<String>> = door.outcomes().into_iter().map(|outcome| outcome.refused).collect();
    assert_eq!(outcomes, [None, Some("program-unsupported".to_owned())]);
    assert_eq!(door.ran(), 0);
}

#[test]
fn a_permit_that_expires_while_the_start_is_reported_starts_nothing() {
    // Two seconds of leeway for the gate to judge in; a machine too busy for that gets another try.
    for _ in 0..5 {
        let mut door = Door::new(|decision| {
            let secs = now_ms() / 1_000;
            decision.verdict = Verdict::Allow { nbf: secs - 60, exp: secs };
        });
        door.scenario.outcomes_from_ms = (now_ms() / 1_000 + 2) * 1_000;
        assert_eq!(door.run(), Some(RefusalCode::Expired));
        assert_eq!(door.ran(), 0);
        let outcomes: Vec<Option<String>> =
            door.outcomes().into_iter().map(|outcome| outcome.refused).collect();
        if outcomes == [None, Some("expired".to_owned())] {
            return;
        }
    }
    panic!("the gate never judged in time");
}
