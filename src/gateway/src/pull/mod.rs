//! Pulling: one bounded conversation with the authority, from what is held to a new verified snapshot, kept on disk before it is used.
//!
//! Comes in: answers of a [`Source`], believed in nothing. Goes out: [`Advanced`], or why not. Refused: too many pages, leaves or bytes, answers
//! after the deadline, whatever [`Snapshot::advance`] refuses.

mod backoff;
mod gate;

pub use gate::{Gate, Ready};

use crate::clock::{ClockFault, ClockReading};
use crate::snapshot::Snapshot;
use crate::snapshot::advance::{AdvanceRefused, Advanced, MAX_ROTATIONS};
use crate::snapshot::store::StoreFault;
use crate::source::{Source, SourceFault};
use countersign_core::api::Feed;
use countersign_core::bundle::TrustBundle;
use countersign_core::refusal::RefusalCode;
use countersign_core::witness::Quorum;
use std::time::Duration;

/// What one pull may cost.
#[derive(Clone, Copy, Debug)]
pub struct PullLimits {
    /// From the wait for the state directory's lock to the answer of the last page.
    pub deadline: Duration,
    /// Pages of the feed.
    pub pages: usize,
    /// Control leaves, all pages together.
    pub leaves: usize,
    /// Their bytes.
    pub bytes: usize,
    /// For each call after the snapshot is kept: acknowledgement, outcomes.
    pub courtesy: Duration,
    /// A view pulled longer ago than this is renewed, if it can be, however young the lease: so soon a revocation is seen. `None`: when a
    /// third of the lease is over.
    pub renew_after: Option<Duration>,
}

impl Default for PullLimits {
    /// Five seconds: what a person starting a program bears. A first pull of 65,536 control leaves in 256 pages; 32 MiB is half of what the state
    /// directory takes in all.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            pages: 256,
            leaves: 65_536,
            bytes: 32 * 1024 * 1024,
            courtesy: Duration::from_secs(1),
            renew_after: None,
        }
    }
}

/// Why a pull brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum PullFault {
    /// The authority gave no answer.
    #[error(transparent)]
    Source(#[from] SourceFault),
    /// Not within the deadline.
    #[error("the pull took longer than {0:?}")]
    TimedOut(Duration),
    /// More pages, leaves or bytes than the limits.
    #[error("the feed is larger than the limits of one pull")]
    TooMuch,
    /// The answer doesn't follow from what is held.
    #[error("{0}")]
    Refused(#[from] AdvanceRefused),
    /// No clocks.
    #[error(transparent)]
    Clock(#[from] ClockFault),
    /// The state directory can't be used, or the new snapshot not kept.
    #[error(transparent)]
    Store(#[from] StoreFault),
}

impl PullFault {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Source(fault) => fault.code(),
            Self::TimedOut(_) => RefusalCode::AuthorityUnreachable,
            Self::TooMuch => RefusalCode::FeedInvalid,
            Self::Refused(refused) => refused.code(),
            Self::Clock(_) | Self::Store(_) => RefusalCode::SnapshotMissing,
        }
    }

    /// Whether the authority answered something that can't be true: then that is the cause, whatever fails because of it.
    #[must_use]
    pub const fn is_verdict(&self) -> bool {
        match self {
            Self::Refused(_) | Self::TooMuch => true,
            Self::Source(fault) => {
                matches!(fault.code(), RefusalCode::FeedInvalid | RefusalCode::WitnessQuorumUnmet)
            }
            Self::TimedOut(_) | Self::Clock(_) | Self::Store(_) => false,
        }
    }
}

/// Pulls and verifies; nothing is kept. The caller sets the deadline.
pub(crate) async fn pull<S: Source>(
    source: &S,
    bundle: &TrustBundle,
    held: Option<&Snapshot>,
    quorum: Option<&Quorum>,
    limits: &PullLimits,
) -> Result<Advanced, PullFault> {
    let size = held.map_or(0, |held| held.head().body().size);
    let control = held.map_or(0, |held| held.control().number());
    let (feed, began) = joined(source, size, control, quorum.is_some(), limits).await?;
    let answered = ClockReading::now()?;
    let advanced = match held {
        Some(held) => held.advance(&feed, &began, &answered)?,
        None => Snapshot::first(bundle, &feed, &began, &answered)?,
    };
    if let Some(quorum) = quorum {
        let head = advanced.snapshot.head();
        let unwitnessed = |source| AdvanceRefused::Unwitnessed { size: head.body().size, source };
        head.check_witnessed(quorum, answered.wall_ms).map_err(unwitnessed)?;
    }
    Ok(advanced)
}

/// All pages as one feed; head and proof are those of the last, and the clocks those from before it was asked for.
async fn joined<S: Source>(
    source: &S,
    size: u64,
    control: u64,
    witnessed: bool,
    limits: &PullLimits,
) -> Result<(Feed, ClockReading), PullFault> {
    let mut leaves = Vec::new();
    let mut rotations = Vec::new();
    let mut bytes = 0_usize;
    for _ in 0..limits.pages {
        let began = ClockReading::now()?;
        let asked = control.saturating_add(u64::try_from(leaves.len()).unwrap_or(u64::MAX));
        let mut page = source.feed(size, asked, witnessed).await?;
        bytes = page.control.iter().fold(bytes, |sum, leaf| sum.saturating_add(leaf.0.len()));
        let empty = page.control.is_empty();
        leaves.append(&mut page.control);
        rotations.append(&mut page.rotations);
        let too_much =
            bytes > limits.bytes || leaves.len() > limits.leaves || rotations.len() > MAX_ROTATIONS;
        // A page that promises more and brings nothing would never end.
        if too_much || (page.more && empty) {
            return Err(PullFault::TooMuch);
        }
        if !page.more {
            return Ok((Feed { control: leaves, rotations, ..page }, began));
        }
    }
    Err(PullFault::TooMuch)
}
