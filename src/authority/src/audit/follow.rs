//! A log that is followed while it grows: the walk of [`super::verify()`], stopped and gone on with.
//!
//! Comes in: heads of a live log, and what was kept of an earlier run. Goes out: every leaf once, after a signed head covers it and all three
//! trees, the control chain, the link to the head before and the signatures agree. Refused: whatever `verify` refuses; a log that is shorter than
//! it was, or has another head of a size that was seen. Since the trees are grown here from the leaves themselves, no proof has to be believed.

use super::ahead::{LogName, ReadAhead};
use super::checkpoint::below;
use super::verify::{FindingKind, Walk};
use super::{Finding, HeadExport, LogSource, PAGE, Unreadable};
use countersign_core::api::B64;
use countersign_core::artifact::verify_note_with;
use countersign_core::bundle::TrustBundle;
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlState;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::Leaf;
use countersign_core::merkle::Frontier;
use countersign_core::note::SignedNote;
use countersign_core::refusal::RefusalCode;
use countersign_core::tuple::tuple_digest;
use serde::{Deserialize, Serialize};

/// Largest memory of a run, bytes: some hundred thousand control leaves, and a million outcomes in a day.
pub const MAX_FOLLOW_STATE: u64 = 256 * 1024 * 1024;

/// Leaves below its beginning that outcomes name, before a run that follows a log holds them against its tree: that may take reading all of it.
/// A verification from a checkpoint does it at once.
const MAX_OPEN: usize = if cfg!(test) { 2 } else { 4_096 };

/// What a run leaves for the next: a checkpoint. The head's signature, by a key that these control leaves introduced, speaks for trees and
/// control leaves; the rest is the reader's own memory, and its digest shows that it is whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowState {
    /// 3.
    pub v: u64,
    /// The newest head, a signed note.
    pub head: String,
    /// Right edges of the trees: SHA-256, SHA3-512, BLAKE2b-512.
    pub frontiers: Vec<B64>,
    /// Every control leaf so far.
    pub control: Vec<B64>,
    /// Marks of outcomes that were told within the last day: the hour until which one could come again, and SHA-256 digests in a row.
    pub told: Vec<(u64, B64)>,
    /// Leaves that outcomes name and that weren't held against a tree yet: index and leaf hash, and the outcome's index.
    pub open: Vec<(u64, B64, u64)>,
    /// SHA-256 over all of this, hex.
    pub sha256: String,
}

impl FollowState {
    pub(super) fn sealed(mut self) -> Self {
        self.sha256 = self.digest().to_hex();
        self
    }

    fn digest(&self) -> Sha256Digest {
        let parts =
            |parts: &[B64]| tuple_digest(SEAL, &parts.iter().map(|part| &part.0[..]).collect::<Vec<_>>());
        let told: Vec<u8> = self.told.iter().flat_map(|(hour, _)| hour.to_be_bytes()).collect();
        let marks: Vec<B64> = self.told.iter().map(|(_, marks)| marks.clone()).collect();
        let places =
            self.open.iter().flat_map(|(leaf, _, outcome)| [leaf.to_be_bytes(), outcome.to_be_bytes()]);
        let places: Vec<u8> = places.flatten().collect();
        let names: Vec<B64> = self.open.iter().map(|(_, hash, _)| hash.clone()).collect();
        let fields = [
            sha256(self.head.as_bytes()),
            parts(&self.frontiers),
            parts(&self.control),
            sha256(&told),
            parts(&marks),
            sha256(&places),
            parts(&names),
        ];
        tuple_digest(SEAL, &fields.iter().map(|field| &field.as_bytes()[..]).collect::<Vec<_>>())
    }
}

const SEAL: &str = "countersign-v1:audit-checkpoint";

/// Why following ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowFault {
    /// Nothing was found out: the source may answer later.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// What was kept isn't whole, isn't signed, or is of another log.
    #[error("what was kept of an earlier run isn't good: {0}")]
    State(&'static str),
    /// The log shows less than it did.
    #[error("the log ends before size {0}, which it had")]
    RolledBack(u64),
    /// The log shows another head of a size that was seen, or none of that size.
    #[error("the log isn't the one that was seen: {0}")]
    Forked(String),
    /// The log isn't good.
    #[error(transparent)]
    Wrong(Finding),
}

impl FollowFault {
    /// The stable code, of a refusal or of a finding; `None` if nothing is known to be wrong.
    #[must_use]
    pub const fn code(&self) -> Option<&'static str> {
        match self {
            Self::Unreadable(_) => None,
            Self::State(_) => Some(RefusalCode::CheckpointInvalid.as_str()),
            Self::RolledBack(_) => Some(RefusalCode::HeadRolledBack.as_str()),
            Self::Forked(_) => Some(RefusalCode::HeadForked.as_str()),
            Self::Wrong(finding) => Some(finding.kind.code().as_str()),
        }
    }
}

impl From<Finding> for FollowFault {
    fn from(finding: Finding) -> Self {
        match finding.kind {
            FindingKind::Unreadable(unreadable) => Self::Unreadable(unreadable),
            // The head that was seen is there still. That what comes after it doesn't fit may be a damaged copy: it accuses nobody of a fork.
            _ => Self::Wrong(finding),
        }
    }
}

/// A log as far as it was seen.
pub struct Follow<'a> {
    pub(super) walk: Walk<'a>,
    pub(super) head: Option<String>,
}

impl<'a> Follow<'a> {
    /// From the first leaf.
    #[must_use]
    pub fn new(bundle: &'a TrustBundle) -> Self {
        let mut walk = Walk::new(bundle);
        walk.kept_control = Some(Vec::new());
        Self { walk, head: None }
    }

    /// From where an earlier run stopped.
    ///
    /// # Errors
    /// [`FollowFault::State`].
    pub fn resume(bundle: &'a TrustBundle, state: &FollowState) -> Result<Self, FollowFault> {
        let wrong = FollowFault::State;
        if state.v != 3 {
            return Err(wrong("its version"));
        }
        if state.digest().to_hex() != state.sha256 {
            return Err(wrong("its digest"));
        }
        let note = SignedNote::parse(&state.head).map_err(|_| wrong("its head"))?;
        let head = HeadBody::parse(note.text()).map_err(|_| wrong("its head"))?;
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
            walk.kept_control.get_or_insert_default().push(bytes.clone());
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
        // Its keys: whoever holds the next head has to be vouched for by one of these.
        walk.vouched = walk.control.head_keys_at(head.control_seq).cloned().collect();
        walk.signed_number = head.control_seq;
        let pinned = walk.control.compromised_at(head.control_seq).filter(|(_, good)| **good == head);
        let signers: Vec<_> = walk.vouched.iter().chain(pinned.map(|(key, _)| key)).cloned().collect();
        verify_note_with(&note, &head.origin, &signers).map_err(|_| wrong("its signature"))?;
        for (hour, B64(marks)) in &state.told {
            let (digests, rest) = marks.as_chunks::<32>();
            if !rest.is_empty() {
                return Err(wrong("its marks of outcomes"));
            }
            walk.outcomes.remember(*hour, digests.iter().map(|digest| Sha256Digest::new(*digest)));
        }
        for (index, B64(hash), outcome) in &state.open {
            let hash = <[u8; 32]>::try_from(hash.as_slice()).map_err(|_| wrong("its open outcomes"))?;
            if *index >= head.size {
                return Err(wrong("its open outcomes"));
            }
            walk.below.insert((*index, Sha256Digest::new(hash)), *outcome);
        }
        (walk.size, walk.base, walk.time_ms) = (head.size, head.size, head.time_ms);
        walk.previous = sha256(note.text().as_bytes());
        walk.newest_note = Some(state.head.clone());
        (walk.heads, walk.signed_heads, walk.newest_signed) = (1, 1, true);
        this.head = Some(note.text().to_owned());
        Ok(this)
    }

    /// What the next run needs; `None` before the first head, and while the newest head isn't signed by a key that is believed.
    #[must_use]
    pub fn state(&self) -> Option<FollowState> {
        let walk = &self.walk;
        let head = walk.newest_note.clone().filter(|_| walk.newest_signed)?;
        let edges = [walk.sha256.to_bytes(), walk.sha3.to_bytes(), walk.blake2.to_bytes()];
        let told = walk.outcomes.told().map(|(hour, marks)| {
            let mut marks: Vec<&Sha256Digest> = marks.collect();
            marks.sort_unstable();
            (hour, B64(marks.iter().flat_map(|mark| *mark.as_bytes()).collect()))
        });
        let state = FollowState {
            v: 3,
            head,
            frontiers: edges.into_iter().map(B64).collect(),
            control: walk.kept_control.iter().flatten().cloned().map(B64).collect(),
            told: told.collect(),
            open: walk
                .below
                .iter()
                .map(|((index, hash), outcome)| (*index, B64(hash.as_bytes().to_vec()), *outcome))
                .collect(),
            sha256: String::new(),
        };
        Some(state.sealed())
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
        let log = LogName::of(self.walk.bundle);
        std::thread::scope(|scope| {
            let mut leaves = ReadAhead::start_at(scope, source, log, size);
            self.walk.keep_leaves();
            for head in page.iter().take(last + 1) {
                self.walk.take_head(source, &mut leaves, head)?;
                self.head = Some(head.text.clone());
                if self.walk.newest_signed {
                    self.walk.check_last_good(source, false)?;
                    if self.walk.below.len() > MAX_OPEN {
                        below(&self.walk, source, (self.walk.size, &self.walk.sha256.root()))?;
                        self.walk.below.clear();
                    }
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
        }
    }

    pub(super) fn missing(size: u64, first: &HeadExport) -> FollowFault {
        let found = HeadBody::parse(&first.text).map_or(0, |head| head.size);
        if found == size {
            FollowFault::Forked(format!("another head of size {size}"))
        } else {
            FollowFault::Forked(format!("no head of size {size}, which it had"))
        }
    }
}
