//! A log that is followed while it grows: the walk of [`super::verify()`], stopped and gone on with.
//!
//! Comes in: heads of a live log, and what was kept of an earlier run. Goes out: every leaf once, after a signed head covers it and all three
//! trees, the control chain, the link to the head before and the signatures agree. Refused: whatever `verify` refuses; a log that is shorter than
//! it was, or has another head of a size that was seen. Since the trees are grown here from the leaves themselves, no proof has to be believed.

use super::ahead::ReadAhead;
use super::verify::{FindingKind, Walk};
use super::{Finding, HeadExport, LogSource, PAGE, Unreadable};
use countersign_core::api::B64;
use countersign_core::bundle::TrustBundle;
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlState;
use countersign_core::digest::sha256;
use countersign_core::key::{JsonKey, VerifyingKey};
use countersign_core::leaf::Leaf;
use countersign_core::merkle::Frontier;
use countersign_core::refusal::RefusalCode;
use serde::{Deserialize, Serialize};

/// Largest memory of a run, bytes: some hundred thousand control leaves.
pub const MAX_FOLLOW_STATE: u64 = 64 * 1024 * 1024;

/// What a run leaves for the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowState {
    /// 1.
    pub v: u64,
    /// Body of the newest head.
    pub head: String,
    /// Right edges of the trees: SHA-256, SHA3-512, BLAKE2b-512.
    pub frontiers: Vec<B64>,
    /// Every control leaf so far.
    pub control: Vec<B64>,
    /// Keys by one of which the next signed head has to be signed.
    pub vouched: Vec<JsonKey>,
}

/// Why following ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowFault {
    /// Nothing was found out: the source may answer later.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// What was kept isn't whole, or is of another log.
    #[error("what was kept of an earlier run isn't of this log: {0}")]
    State(&'static str),
    /// The log shows less than it did.
    #[error("the log ends before size {0}, which it had")]
    RolledBack(u64),
    /// The log shows another head of a size that was seen, or one that doesn't follow.
    #[error("the log isn't the one that was seen: {0}")]
    Forked(String),
    /// The log isn't good.
    #[error(transparent)]
    Wrong(Finding),
}

impl FollowFault {
    /// The stable code; `None` if nothing is known to be wrong.
    #[must_use]
    pub fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::Unreadable(_) | Self::State(_) => None,
            Self::RolledBack(_) => Some(RefusalCode::HeadRolledBack),
            Self::Forked(_) => Some(RefusalCode::HeadForked),
            Self::Wrong(finding) => Some(match &finding.kind {
                FindingKind::Unsigned | FindingKind::NewestUnsigned | FindingKind::Signature(_) => {
                    RefusalCode::HeadUnsigned
                }
                FindingKind::Origin => RefusalCode::OriginMismatch,
                _ => RefusalCode::FeedInvalid,
            }),
        }
    }
}

impl From<Finding> for FollowFault {
    fn from(finding: Finding) -> Self {
        match finding.kind {
            FindingKind::Unreadable(unreadable) => Self::Unreadable(unreadable),
            // These say that the leaves or the head are not what followed from what was seen.
            FindingKind::Root(_) | FindingKind::Prev | FindingKind::ControlLine | FindingKind::Size => {
                Self::Forked(finding.to_string())
            }
            _ => Self::Wrong(finding),
        }
    }
}

/// A log as far as it was seen.
pub struct Follow<'a> {
    walk: Walk<'a>,
    head: Option<String>,
    control: Vec<Vec<u8>>,
}

impl<'a> Follow<'a> {
    /// From the first leaf.
    #[must_use]
    pub fn new(bundle: &'a TrustBundle) -> Self {
        Self { walk: Walk::new(bundle), head: None, control: Vec::new() }
    }

    /// From where an earlier run stopped.
    ///
    /// # Errors
    /// [`FollowFault::State`].
    pub fn resume(bundle: &'a TrustBundle, state: &FollowState) -> Result<Self, FollowFault> {
        let wrong = FollowFault::State;
        if state.v != 1 {
            return Err(wrong("its version"));
        }
        let head = HeadBody::parse(&state.head).map_err(|_| wrong("its head"))?;
        if head.origin != bundle.origin().as_str() {
            return Err(wrong("its origin"));
        }
        let [sha256_edge, sha3_edge, blake2_edge] = state.frontiers.as_slice() else {
            return Err(wrong("its trees"));
        };
        let mut this = Self::new(bundle);
        let walk = &mut this.walk;
        walk.control = ControlState::of_bundle(bundle);
        for B64(bytes) in &state.control {
            let leaf = walk.control.apply(bytes).map_err(|_| wrong("its control leaves"))?;
            walk.outcomes.note(&leaf);
            this.control.push(bytes.clone());
        }
        walk.sha256 = Frontier::from_bytes(&sha256_edge.0).map_err(|_| wrong("its trees"))?;
        walk.sha3 = Frontier::from_bytes(&sha3_edge.0).map_err(|_| wrong("its trees"))?;
        walk.blake2 = Frontier::from_bytes(&blake2_edge.0).map_err(|_| wrong("its trees"))?;
        let sizes = [walk.sha256.size(), walk.sha3.size(), walk.blake2.size()];
        let roots = walk.sha256.root() == head.sha256_root
            && walk.sha3.root() == head.sha3_root
            && walk.blake2.root() == head.blake2_root;
        let control =
            walk.control.number() == head.control_seq && *walk.control.digest() == head.control_digest;
        if sizes != [head.size; 3] || !roots || !control {
            return Err(wrong("its parts disagree"));
        }
        let keys = state.vouched.iter().map(|key| VerifyingKey::try_from(key.clone()));
        walk.vouched = keys.collect::<Result<_, _>>().map_err(|_| wrong("its keys"))?;
        (walk.size, walk.time_ms) = (head.size, head.time_ms);
        walk.previous = sha256(state.head.as_bytes());
        walk.heads = 1;
        this.head = Some(state.head.clone());
        Ok(this)
    }

    /// What the next run needs; `None` before the first head.
    #[must_use]
    pub fn state(&self) -> Option<FollowState> {
        let head = self.head.clone()?;
        let walk = &self.walk;
        let edges = [walk.sha256.to_bytes(), walk.sha3.to_bytes(), walk.blake2.to_bytes()];
        Some(FollowState {
            v: 1,
            head,
            frontiers: edges.into_iter().map(B64).collect(),
            control: self.control.iter().cloned().map(B64).collect(),
            vouched: walk.vouched.iter().cloned().map(JsonKey::from).collect(),
        })
    }

    /// Leaves seen.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.walk.size
    }

    /// Control number of what was seen.
    #[must_use]
    pub const fn control(&self) -> u64 {
        self.walk.control.number()
    }

    /// Looks once: takes the next heads up to a signed one, and hands their leaves out. `true`: there is more to take now.
    ///
    /// # Errors
    /// [`FollowFault`]. After any but `Unreadable` nothing of this log can be believed any more; after that one the same object is no longer
    /// whole, and the next look begins with [`Follow::resume`] from what [`Follow::state`] said before.
    pub fn look(
        &mut self,
        source: &dyn LogSource,
        taken: &mut dyn FnMut(&Leaf, &[u8]),
    ) -> Result<bool, FollowFault> {
        let size = self.walk.size;
        let mut page = source.heads(size.max(1), PAGE)?;
        if let Some(seen) = &self.head {
            match page.first() {
                Some(first) if first.text == *seen => drop(page.remove(0)),
                // The head that was seen is gone, or is another one.
                Some(first) => return Err(Self::missing(size, first)),
                None => return Err(FollowFault::RolledBack(size)),
            }
        }
        // A signer that was away leaves bare heads: they wait for the signed one that covers them.
        while page.iter().all(|head| head.note.is_none()) {
            let Some(last) = page.last() else { return Ok(false) };
            let body = HeadBody::parse(&last.text).map_err(|_| Unreadable("a head isn't one".to_owned()))?;
            let more = source.heads(body.size.saturating_add(1), PAGE)?;
            if more.is_empty() {
                return Ok(false);
            }
            page.extend(more);
        }
        let last = page.iter().rposition(|head| head.note.is_some()).unwrap_or(0);
        let origin = self.walk.bundle.origin();
        std::thread::scope(|scope| {
            let mut leaves = ReadAhead::start_at(scope, source, origin.as_str(), size);
            self.walk.keep_leaves();
            for head in page.iter().take(last + 1) {
                self.walk.take_head(source, &mut leaves, head)?;
                self.head = Some(head.text.clone());
                if head.note.is_some() {
                    self.hand_out(taken);
                }
            }
            Ok(true)
        })
    }

    fn hand_out(&mut self, taken: &mut dyn FnMut(&Leaf, &[u8])) {
        for bytes in self.walk.kept_leaves() {
            // It parsed when it was taken.
            let Ok(leaf) = Leaf::parse(&bytes) else { continue };
            taken(&leaf, &bytes);
            if leaf.kind.is_control() {
                self.control.push(bytes);
            }
        }
    }

    fn missing(size: u64, first: &HeadExport) -> FollowFault {
        let found = HeadBody::parse(&first.text).map_or(0, |head| head.size);
        if found == size {
            FollowFault::Forked(format!("another head of size {size}"))
        } else {
            FollowFault::Forked(format!("no head of size {size}, which it had"))
        }
    }
}
