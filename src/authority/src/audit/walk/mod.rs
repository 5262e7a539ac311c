//! From an outcome back: artifact, request, quote, boot log, policy, references, enrolment, endorsement, signing key, and the same of every parent.
//!
//! Comes in: a log, the pinned trust bundle, and a leaf to begin with. Goes out: every part on the way, with its leaf or its digest, and whether
//! its bytes are there and are the ones that are named. What isn't is a gap and is shown in its place, with what could have followed from it.
//! Refused: a leaf that isn't there, or of which there is no way back. Run [`super::verify()`] over the same source first: this function looks at no
//! tree; whether a decision follows from its parts is for [`super::replay()`].

mod decided;
mod facts;

use super::{LogSource, Unreadable};
use countersign_core::bundle::TrustBundle;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::decision::LeafRef;
use countersign_core::leaf::record::Outcome;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::name::HostId;
use countersign_core::refusal::RefusalCode;
use facts::Facts;
use std::collections::BTreeSet;

/// Decisions on one way back: as many as one decision looks at (PROTOCOL §7.3), and itself.
const MAX_DECISIONS: usize = 1_025;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// An outcome leaf.
    Outcome(u64),
    /// An allow or a denial.
    Decision(u64),
}

/// How a part stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Standing {
    /// Its bytes are there, and are the ones that are named.
    #[error("here")]
    Here,
    /// Its bytes were pruned, by the store's own record.
    #[error("pruned")]
    Pruned,
    /// Its bytes aren't there.
    #[error("missing")]
    Missing,
    /// Other bytes are in its place.
    #[error("altered")]
    Altered,
    /// It is there and isn't what it has to be.
    #[error("contradicted")]
    Contradicted,
    /// What would name it isn't there.
    #[error("unknown")]
    Unknown,
}

/// One part of the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How deep below the beginning: what a part names is one deeper.
    pub level: usize,
    /// What it is.
    pub what: &'static str,
    /// Index of the leaf, if it is one.
    pub leaf: Option<u64>,
    /// Leaf hash, or SHA-256 of the bytes.
    pub digest: Option<Sha256Digest>,
    /// How it stands.
    pub standing: Standing,
    /// What it says, for people.
    pub detail: String,
}

/// A way back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Its parts, each after the one that names it.
    pub steps: Vec<Step>,
}

impl Walk {
    /// How many parts aren't there, or aren't what they have to be.
    #[must_use]
    pub fn gaps(&self) -> usize {
        self.steps.iter().filter(|step| step.standing != Standing::Here).count()
    }
}

/// Why there is no way back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkFault {
    /// No such leaf.
    #[error("there is no leaf {0}")]
    NoLeaf(u64),
    /// Another kind of leaf.
    #[error("leaf {index} is of kind {kind}, not {expected}")]
    Kind {
        /// Which.
        index: u64,
        /// What it is.
        kind: &'static str,
        /// What it had to be.
        expected: &'static str,
    },
    /// A leaf doesn't parse.
    #[error("leaf {0} is malformed")]
    Malformed(u64),
    /// The source can't be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

impl WalkFault {
    /// The stable code of a refusal; `None` if it is the environment's fault.
    #[must_use]
    pub const fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::NoLeaf(_) | Self::Kind { .. } => Some(RefusalCode::NotFound),
            Self::Malformed(_) => Some(RefusalCode::Malformed),
            Self::Unreadable(_) => None,
        }
    }
}

/// Walks back.
///
/// # Errors
/// [`WalkFault`].
pub fn walk(source: &dyn LogSource, bundle: &TrustBundle, start: Start) -> Result<Walk, WalkFault> {
    let facts = Facts::gather(source, bundle)?;
    let mut walker = Walker {
        source,
        facts: &facts,
        walk: Walk::default(),
        decisions: BTreeSet::new(),
        hosts: BTreeSet::new(),
        keys: BTreeSet::new(),
    };
    match start {
        Start::Outcome(index) => walker.outcome(index)?,
        Start::Decision(index) => {
            let leaf = walker.read(index)?.ok_or(WalkFault::NoLeaf(index))?;
            if !matches!(leaf.0.kind, Kind::Allow | Kind::Deny) {
                let (kind, expected) = (leaf.0.kind.name(), "allow or deny");
                return Err(WalkFault::Kind { index, kind, expected });
            }
            walker.decision(0, (index, leaf.1))?;
        }
    }
    Ok(walker.walk)
}

struct Walker<'a> {
    source: &'a dyn LogSource,
    facts: &'a Facts,
    walk: Walk,
    /// Decisions, enrolments and keys that have been shown: a second way to them only names them.
    decisions: BTreeSet<u64>,
    hosts: BTreeSet<(HostId, u64)>,
    keys: BTreeSet<Sha256Digest>,
}

impl Walker<'_> {
    /// A leaf and its hash.
    fn read(&self, index: u64) -> Result<Option<(Leaf, Sha256Digest)>, WalkFault> {
        let Some(bytes) = self.source.leaves(index, 1)?.into_iter().next() else { return Ok(None) };
        let leaf = Leaf::parse(&bytes).ok().filter(|leaf| leaf.index == index);
        Ok(Some((leaf.ok_or(WalkFault::Malformed(index))?, leaf_hash(&bytes))))
    }

    fn push(&mut self, step: Step) {
        self.walk.steps.push(step);
    }

    /// A leaf that the log shows.
    fn leaf(&mut self, level: usize, what: &'static str, name: LeafRef, detail: impl Into<String>) {
        let (leaf, digest) = (Some(name.0), Some(name.1));
        self.push(Step { level, what, leaf, digest, standing: Standing::Here, detail: detail.into() });
    }

    /// A part that isn't as it has to be.
    fn gap(&mut self, level: usize, what: &'static str, standing: Standing, detail: impl Into<String>) {
        self.push(Step { level, what, leaf: None, digest: None, standing, detail: detail.into() });
    }

    /// Bytes that are named by digest and that no pruning takes; shows how they stand and returns them if they are the ones.
    fn member(
        &mut self,
        level: usize,
        what: &'static str,
        digest: &Sha256Digest,
    ) -> Result<Option<Vec<u8>>, WalkFault> {
        self.member_of(None, level, what, digest)
    }

    /// The same; of a decision's leaf, a pruning may have taken them.
    fn member_of(
        &mut self,
        decided: Option<&Leaf>,
        level: usize,
        what: &'static str,
        digest: &Sha256Digest,
    ) -> Result<Option<Vec<u8>>, WalkFault> {
        let found = self.source.blob(digest)?;
        let (standing, detail) = match &found {
            Some(bytes) if sha256(bytes) == *digest => (Standing::Here, format!("{} bytes", bytes.len())),
            Some(_) => (Standing::Altered, "other bytes are in its place".to_owned()),
            None => match self.source.pruned(digest)? {
                Some(pruning) if decided.is_some_and(|leaf| pruning.reaches(leaf)) => {
                    (Standing::Pruned, format!("pruned at {} ms", pruning.at_ms))
                }
                Some(_) => (
                    Standing::Missing,
                    "not in this source; a pruning is said to have taken it, and can't have".to_owned(),
                ),
                None => (Standing::Missing, "not in this source, and no pruning tells of it".to_owned()),
            },
        };
        self.push(Step { level, what, leaf: None, digest: Some(*digest), standing, detail });
        Ok(found.filter(|_| standing == Standing::Here))
    }

    fn outcome(&mut self, index: u64) -> Result<(), WalkFault> {
        let (leaf, hash) = self.read(index)?.ok_or(WalkFault::NoLeaf(index))?;
        if leaf.kind != Kind::Outcome {
            return Err(WalkFault::Kind { index, kind: leaf.kind.name(), expected: "outcome" });
        }
        let outcome = Outcome::parse(&leaf.body).map_err(|_| WalkFault::Malformed(index))?;
        let result = match outcome.refused {
            None => "started".to_owned(),
            Some(code) => format!("refused: {code}"),
        };
        let (artifact, at) = (outcome.artifact.0, outcome.time_ms);
        self.leaf(
            0,
            "outcome",
            (index, hash),
            format!("leaf {artifact} {result}, at {at} ms by its gateway"),
        );
        self.principal(1, "gateway", &outcome.gateway, index);
        self.decision(1, outcome.artifact)
    }

    /// Who a key is, and by which leaf.
    fn principal(&mut self, level: usize, what: &'static str, key: &Sha256Digest, before: u64) {
        let facts = self.facts;
        match facts.principal(key, before) {
            Some((name, record)) => self.leaf(level, what, name, format!("{}, key {key}", record.name)),
            None => {
                self.gap(level, what, Standing::Contradicted, format!("no leaf introduced the key {key}"))
            }
        }
        for (name, revocation) in facts.principal_revocations(key) {
            let effect = if revocation.revoke { "revoked" } else { "reinstated" };
            self.leaf(level, "revocation", name, format!("the key was {effect}: {}", revocation.reason));
        }
    }
}
