//! What the sequencer takes and what it answers.
//!
//! Comes in: an [`Append`], which says under which versions it was decided, what it uses up and which leaves it wants. Goes out: an
//! [`Outcome`], or a [`SequenceFault`]. Refused here, before anything is queued: more than [`MAX_ENTRIES`] entries or none, bodies that
//! their kind's parser refuses, blobs under a wrong digest, charges or token spends that the bodies don't tell.

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_core::control::ControlError;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::decision::WrittenDecision;
use countersign_core::leaf::{Kind, LeafError, MAX_LEAF_LEN};
use countersign_core::name::{HostId, RequestId};
use countersign_core::refusal::RefusalCode;

use crate::store::project::{Change, project, project_decision};
use crate::store::{Receipts, SpentId, Wanted};

/// Most entries of one Append: the requests of one call, with room for the leaves of an initialisation.
pub const MAX_ENTRIES: usize = 320;
/// Longest body: a leaf less its envelope (five heads, kind, index, time, salt).
pub const MAX_BODY_LEN: usize = MAX_LEAF_LEN - 64;

/// A decision that waited longer than this before its batch is made again, ms: what it read of the clock (expiry, trust, challenges) is old
/// by then. A full queue drains in a few seconds with the slowest signer.
pub const MAX_DECISION_AGE_MS: u64 = 10_000;
/// How far a decision's time may lie after its batch's, ms: as much as replicas' clocks may differ before one of them stops.
pub const CLOCK_TOLERANCE_MS: u64 = 2_000;

/// A condition under which the decision was made. All of one Append are compared with the state just before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The host is enrolled and has this version.
    HostVersion(HostId, u64),
    /// The host isn't enrolled.
    HostAbsent(HostId),
    /// The host's newest enrolment leaf has this index. A renewal keeps the version, and a decision names the enrolment that it read.
    Enrolment(HostId, u64),
    /// It was decided at this time, ms: no more than [`MAX_DECISION_AGE_MS`] before the batch, nor more than [`CLOCK_TOLERANCE_MS`] after it.
    DecidedAt(u64),
    /// The control chain has this number.
    Control(u64),
    /// Exactly this much is left of the budget of the allow leaf at this index.
    BudgetLeft(u64, u64),
}

/// Something that can be used once, and that this Append uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spend {
    /// A challenge.
    Challenge {
        /// SHA-256 of its bytes.
        digest: Sha256Digest,
        /// Its expiry, ms: how long the spend has to be remembered.
        expires_ms: u64,
    },
    /// A join token, by digest. An entry has to be the enrolment that names it.
    JoinToken(Sha256Digest),
    /// A pending enrolment.
    Enrolment([u8; 16]),
    /// Something of which one leaf is enough.
    Mark {
        /// What the leaf is about, by digest.
        digest: Sha256Digest,
        /// Until when another one could come, ms: how long the mark has to be remembered.
        expires_ms: u64,
    },
}

/// Which request a leaf answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRef {
    /// Whose.
    pub host: HostId,
    /// Its identifier.
    pub id: RequestId,
    /// SHA-256 of its bytes.
    pub digest: Sha256Digest,
}

/// The body of a leaf to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryBody {
    /// Bytes, which are read again before anything is queued.
    Bytes(Vec<u8>),
    /// A decision of this process, whose bytes say by construction what it says.
    Decision(Box<WrittenDecision>),
}

impl EntryBody {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Decision(written) => written.bytes().len(),
        }
    }

    fn changes(&self, kind: Kind) -> Result<Vec<Change>, LeafError> {
        match self {
            Self::Bytes(bytes) => project(kind, bytes),
            Self::Decision(written) => project_decision(kind, written.decision()),
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Decision(written) => written.into_parts().1,
        }
    }
}

/// One leaf to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its kind.
    pub kind: Kind,
    /// Its body.
    pub body: EntryBody,
    /// The request that it answers, if it is a decision. If that request has been answered before, the earlier leaf is the answer and
    /// nothing is appended; if its identifier was used for other bytes, an allow is stale and a denial is appended.
    pub request: Option<RequestRef>,
    /// Parents and what they are charged (PROTOCOL §7.3): what the body tells, or the Append is refused.
    pub charges: Vec<(u64, u64)>,
}

impl Entry {
    /// A leaf that answers no request and charges nobody.
    #[must_use]
    pub const fn plain(kind: Kind, body: Vec<u8>) -> Self {
        Self { kind, body: EntryBody::Bytes(body), request: None, charges: Vec::new() }
    }
}

/// Leaves that are appended together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// What has to hold still.
    pub guards: Vec<Guard>,
    /// What is used up.
    pub spends: Vec<Spend>,
    /// Bytes that the leaves name by SHA-256; kept in the same transaction.
    pub blobs: Vec<(Sha256Digest, Arc<[u8]>)>,
    /// Bytes that the leaves name, too, and that the caller found in the store: it is looked whether they are still there.
    pub named: Vec<Sha256Digest>,
    /// Leaves, in order.
    pub entries: Vec<Entry>,
}

impl Append {
    /// Leaves without guards, spends or blobs.
    #[must_use]
    pub fn of(entries: Vec<Entry>) -> Self {
        Self { entries, ..Self::default() }
    }
}

/// What became of an Append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Appended; every entry has its leaf.
    Appended(Receipts),
    /// Every request was answered before, byte for byte the same: these are the answers, in the order of the entries with a request.
    Existing(Receipts),
    /// A guard doesn't hold any more, some of the requests were answered meanwhile, or a host key has got another owner. Decide again.
    Stale,
    /// The challenge was used before.
    ChallengeSpent,
    /// This was used before, has expired, or never was.
    Spent(Spend),
    /// These are in the store no more: they were pruned since the caller looked. Nothing was used up.
    BlobsGone(Vec<Sha256Digest>),
    /// The control chain doesn't take such a leaf.
    Refused(ControlError),
}

/// Why there is no outcome. Nothing was appended, unless it says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceFault {
    /// The queue is full.
    #[error("the sequencer's queue is full")]
    Overloaded,
    /// The head can't be signed now. What was appended is in the log all the same and is handed out on retry.
    #[error("the head can't be signed now")]
    SignerUnavailable,
    /// The log can't be written now.
    #[error("the log can't be written now")]
    LogUnavailable,
    /// The clock is behind the log or jumped.
    #[error("the clock can't be relied upon now")]
    ClockUnreliable,
    /// A witness refuses this log: nothing is appended or handed out until an officer decides. What was appended is in the log all the same.
    #[error("nothing is appended or handed out until an officer decides about a witness")]
    Halted,
    /// The sequencer has ended, or ended before it answered. Whether the Append is in the log is known after a restart.
    #[error("the sequencer has ended")]
    Stopped,
    /// The Append contradicts itself: a defect of the caller.
    #[error("malformed append: {0}")]
    Malformed(#[from] AppendError),
}

impl SequenceFault {
    /// What callers are told.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Overloaded => RefusalCode::Overloaded,
            Self::SignerUnavailable => RefusalCode::SignerUnavailable,
            Self::LogUnavailable | Self::Stopped => RefusalCode::LogUnavailable,
            Self::ClockUnreliable => RefusalCode::ClockUnreliable,
            Self::Halted => RefusalCode::WitnessConflict,
            Self::Malformed(_) => RefusalCode::Internal,
        }
    }
}

/// Why an Append isn't well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No entries, or more than [`MAX_ENTRIES`].
    #[error("an append has 1 to {MAX_ENTRIES} entries")]
    Entries,
    /// A body that isn't one of its kind, or is too long.
    #[error("entry {entry}: {source}")]
    Body {
        /// Which entry.
        entry: usize,
        /// Why.
        source: LeafError,
    },
    /// A blob that isn't what its digest names.
    #[error("a blob has another digest")]
    Blob,
    /// Charges that the body doesn't tell, or the other way round.
    #[error("entry {entry}: the charges aren't those of the body")]
    Charges {
        /// Which entry.
        entry: usize,
    },
    /// A request that the body doesn't answer.
    #[error("entry {entry}: the body answers another request")]
    Request {
        /// Which entry.
        entry: usize,
    },
    /// A join token that is spent by no enrolment, or an enrolment whose token isn't spent.
    #[error("join tokens spent and named by enrolments differ")]
    Token,
}

/// An entry whose body was read.
#[derive(Clone, Debug)]
pub(super) struct PreparedEntry {
    pub(super) kind: Kind,
    pub(super) body: Vec<u8>,
    pub(super) request: Option<RequestRef>,
    pub(super) changes: Vec<Change>,
}

/// An [`Append`] that is well-formed. Made on the caller's thread, so that the sequencer parses nothing.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) guards: Vec<Guard>,
    pub(super) spends: Vec<Spend>,
    pub(super) blobs: Vec<(Sha256Digest, Arc<[u8]>)>,
    pub(super) named: Vec<Sha256Digest>,
    pub(super) entries: Vec<PreparedEntry>,
}

impl Prepared {
    pub(super) fn new(mut append: Append) -> Result<Self, AppendError> {
        if append.entries.is_empty() || append.entries.len() > MAX_ENTRIES {
            return Err(AppendError::Entries);
        }
        if append.blobs.iter().any(|(digest, bytes)| sha256(bytes) != *digest) {
            return Err(AppendError::Blob);
        }
        let entries =
            std::mem::take(&mut append.entries).into_iter().enumerate().map(|(at, entry)| prepare(at, entry));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        let Append { guards, spends, blobs, named, .. } = append;
        let prepared = Self { guards, spends, blobs, named, entries };
        let named: BTreeSet<_> = prepared.changes().filter_map(token_spent).collect();
        let spent: BTreeSet<_> = prepared.spends.iter().filter_map(join_token).collect();
        if named == spent { Ok(prepared) } else { Err(AppendError::Token) }
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = &Change> {
        self.entries.iter().flat_map(|entry| &entry.changes)
    }

    /// Whether a head key changes: its batch ends here, so that the old and the new key meet under one head (PROTOCOL §8.5).
    pub(super) fn changes_keys(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.kind, Kind::Key | Kind::Recovery))
    }

    /// Adds everything that has to be known to plan this.
    pub(super) fn want(&self, wanted: &mut Wanted) {
        for guard in &self.guards {
            match guard {
                Guard::HostVersion(host, _) | Guard::HostAbsent(host) | Guard::Enrolment(host, _) => {
                    wanted.hosts.insert(*host);
                }
                Guard::BudgetLeft(index, _) => {
                    wanted.budgets.insert(*index);
                }
                Guard::Control(_) | Guard::DecidedAt(_) => {}
            }
        }
        for spend in &self.spends {
            match spend {
                Spend::Challenge { digest, expires_ms } => {
                    wanted.spent.insert(SpentId::Challenge { expires_ms: *expires_ms, digest: *digest });
                }
                Spend::Enrolment(id) => {
                    wanted.spent.insert(SpentId::Enrolment(*id));
                }
                Spend::JoinToken(token) => {
                    wanted.tokens.insert(*token);
                }
                Spend::Mark { digest, expires_ms } => {
                    wanted.spent.insert(SpentId::Mark { expires_ms: *expires_ms, digest: *digest });
                }
            }
        }
        wanted.blobs.extend(&self.named);
        for request in self.entries.iter().filter_map(|entry| entry.request.as_ref()) {
            wanted.outcomes.insert((request.host, request.id.clone()));
        }
        for change in self.changes() {
            match change {
                Change::Enrolled { key, .. } => {
                    wanted.host_keys.insert(*key);
                }
                Change::Charge { parent, .. } => {
                    wanted.budgets.insert(*parent);
                }
                _ => {}
            }
        }
    }
}

fn prepare(at: usize, entry: Entry) -> Result<PreparedEntry, AppendError> {
    let body = |source| AppendError::Body { entry: at, source };
    if entry.body.len() > MAX_BODY_LEN {
        return Err(body(LeafError::TooLong(entry.body.len())));
    }
    let changes = entry.body.changes(entry.kind).map_err(body)?;
    let told = changes.iter().filter_map(|change| match change {
        Change::Charge { parent, amount } => Some((*parent, *amount)),
        _ => None,
    });
    if !told.eq(entry.charges.iter().copied()) {
        return Err(AppendError::Charges { entry: at });
    }
    if let Some(request) = &entry.request {
        let answers = changes.iter().any(|change| {
            matches!(change, Change::Outcome { host, request_id, request: digest }
                if *host == request.host && *request_id == request.id && *digest == request.digest)
        });
        if !answers {
            return Err(AppendError::Request { entry: at });
        }
    }
    let body = entry.body.into_bytes();
    debug_assert_eq!(
        project(entry.kind, &body).ok().as_ref(),
        Some(&changes),
        "a decision reads as it was written"
    );
    Ok(PreparedEntry { kind: entry.kind, body, request: entry.request, changes })
}

fn token_spent(change: &Change) -> Option<Sha256Digest> {
    if let Change::TokenSpent { token } = change { Some(*token) } else { None }
}

fn join_token(spend: &Spend) -> Option<Sha256Digest> {
    if let Spend::JoinToken(token) = spend { Some(*token) } else { None }
}
