//! A gateway, a holder and an authority that agree: the case in which everything is right, from which each test departs in one thing.

use crate::authority::Authority;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::Algorithm;
use countersign_core::leaf::appraisal::Appraisal;
use countersign_core::leaf::decision::{Decision, Lineage, Verdict};
use countersign_core::leaf::host::{HostState, Tier};
use countersign_core::name::{Action, Audience, HostId, Origin, RequestId, RuntimeId};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::argv_digest;
use countersign_core::verified_heads::VerifiedHeads;
use countersign_gateway::admit::{AdmissionInput, Measured, Permit, Rules, admit};
use countersign_gateway::clock::ClockReading;
use countersign_gateway::holder::key::HolderKey;
use countersign_gateway::holder::{HolderProof, holder_preimage};
use countersign_gateway::refusal::Refusal;
use countersign_gateway::snapshot::{LinkProof, Snapshot};

pub(crate) const LEASE_MS: u64 = 60_000;
pub(crate) const START_MS: u64 = 1_790_000_000_000;

pub(crate) fn at(wall_ms: u64, boot_ms: u64) -> ClockReading {
    ClockReading { wall_ms, boot_ms, boot_id: "boot".to_owned() }
}

pub(crate) fn host() -> HostId {
    HostId::from_slice(&[1; 33]).unwrap()
}

/// An allow for `exec` at `gate-domain`, valid for a minute from `time_ms`.
pub(crate) fn decision(authority: &Authority, holder: &HolderKey, time_ms: u64) -> Decision {
    let runtime = format!("spiffe://test.example/host/{}/worker", host());
    let secs = time_ms / 1_000;
    Decision {
        issuer: Origin::parse(authority.state.origin()).unwrap(),
        runtime: RuntimeId::parse(&runtime).unwrap(),
        audience: Audience::parse("gate-domain").unwrap(),
        issued_at: secs,
        request_id: RequestId::parse("request-1").unwrap(),
        holder: holder.public().clone(),
        host: host(),
        verdict: Verdict::Allow { nbf: secs, exp: secs + 60 },
        request: sha256(b"request"),
        workload: sha256(b"program"),
        action: Action::parse("exec").unwrap(),
        arguments: argv_digest(&["program", "argument"]),
        lineage: Lineage { parents: Vec::new(), root: None, depth: 0 },
        delegation: None,
        policy: None,
        evidence: sha256(b"evidence"),
        appraisal: Appraisal { tier: Tier::Affirming, vector: vec![(0, 2)], reference_set: None },
        host_state: HostState::unattested(1),
        inputs: sha256(b"inputs"),
        asserted: vec!["workload".to_owned()],
        engine: "test".to_owned(),
        control: authority.state.number(),
    }
}

pub(crate) fn rules() -> Rules {
    Rules {
        name: "gate".to_owned(),
        audiences: vec![Audience::parse("other").unwrap(), Audience::parse("gate-domain").unwrap()],
        lease_ms: LEASE_MS,
        quorum: None,
    }
}

pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) holder: HolderKey,
    pub(crate) rules: Rules,
    pub(crate) snapshot: Snapshot,
    /// Kept over all admissions, so that whatever is refused is refused after something like it was admitted.
    pub(crate) verified: VerifiedHeads,
    pub(crate) now: ClockReading,
    pub(crate) measured: Measured,
    pub(crate) artifact: String,
    pub(crate) link: Option<LinkProof>,
    pub(crate) proof: HolderProof,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    /// A world whose one artifact departs from the right one.
    pub(crate) fn with(change: impl FnOnce(&mut Decision)) -> Self {
        let holder = HolderKey::generate(Algorithm::EdDsa).unwrap();
        let mut authority = Authority::new(START_MS);
        let mut right = decision(&authority, &holder, START_MS);
        change(&mut right);
        authority.heartbeat();
        let index = authority.allow(&right);
        authority.heartbeat();
        authority.sign();
        let now = at(START_MS, 50_000);
        let snapshot = first(&authority, &now);
        let measured = Measured {
            action: Action::parse("exec").unwrap(),
            arguments: argv_digest(&["program", "argument"]),
            workload: sha256(b"program"),
        };
        let artifact = authority.receipt(index);
        let leaf = countersign_core::leaf::leaf_hash(authority.leaf(index));
        let proof = prove(&holder, "gate", &leaf, now.wall_ms);
        let (verified, link) = (VerifiedHeads::default(), None);
        Self { authority, holder, rules: rules(), snapshot, verified, now, measured, artifact, link, proof }
    }

    pub(crate) fn admit(&self) -> Result<Permit, Refusal> {
        admit(&AdmissionInput {
            rules: &self.rules,
            snapshot: Some(&self.snapshot),
            verified: &self.verified,
            now: &self.now,
            artifact: &self.artifact,
            link: self.link.as_ref(),
            measured: &self.measured,
            holder: &self.proof,
        })
    }

    pub(crate) fn code(&self) -> Option<RefusalCode> {
        self.admit().err().map(|refusal| refusal.code())
    }

    /// The gateway pulls.
    pub(crate) fn pull(&mut self) {
        let held = self.snapshot.head().body().size;
        let feed = self.authority.feed(held, self.snapshot.control().number());
        self.snapshot = self.snapshot.advance(&feed, &self.now, &self.now).unwrap().snapshot;
    }

    /// Another artifact, in the log and under the newest head, with a proof for it.
    pub(crate) fn present(&mut self, change: impl FnOnce(&mut Decision)) -> u64 {
        let mut right = decision(&self.authority, &self.holder, self.now.wall_ms);
        change(&mut right);
        let index = self.authority.allow(&right);
        self.authority.sign();
        self.artifact = self.authority.receipt(index);
        let leaf = countersign_core::leaf::leaf_hash(self.authority.leaf(index));
        self.proof = prove(&self.holder, "gate", &leaf, self.now.wall_ms);
        index
    }
}

pub(crate) fn first(authority: &Authority, now: &ClockReading) -> Snapshot {
    Snapshot::first(&authority.bundle(), &authority.feed(0, 0), now, now).unwrap().snapshot
}

pub(crate) fn prove(holder: &HolderKey, gateway: &str, leaf: &Sha256Digest, time_ms: u64) -> HolderProof {
    let nonce = vec![9; 32];
    let signature = holder.sign(&holder_preimage(gateway, leaf, &nonce, time_ms)).to_vec();
    HolderProof { nonce, time_ms, signature }
}
