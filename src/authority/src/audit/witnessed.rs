//! How far witnesses vouch for a log: the newest head that enough of them cosigned.

use super::{LogSource, PAGE, Unreadable};
use countersign_core::checkpoint::HeadBody;
use countersign_core::note::SignedNote;
use countersign_core::witness::{Quorum, QuorumRefused};

/// A head with a quorum. It vouches for every leaf under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessedHead {
    /// Leaves under it.
    pub size: u64,
    /// Its time, ms.
    pub time_ms: u64,
    /// Names in the quorum file of the witnesses that count.
    pub witnesses: Vec<String>,
}

/// Why nothing can be said of witnesses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WitnessedFault {
    /// The source failed.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// A line in the name of a known witness isn't its cosignature.
    #[error("head of size {size}: {source}")]
    Invalid {
        /// Of the head.
        size: u64,
        /// Which witness.
        source: QuorumRefused,
    },
}

/// The newest head that enough witnesses cosigned; `None` if there is none. Of a log that [`super::verify()`] took: nothing else about the
/// heads is looked at here.
///
/// # Errors
/// [`WitnessedFault`].
pub fn newest_witnessed(
    source: &dyn LogSource,
    quorum: &Quorum,
    now_ms: u64,
) -> Result<Option<WitnessedHead>, WitnessedFault> {
    let (mut newest, mut from) = (None, 1);
    loop {
        let page = source.heads(from, PAGE)?;
        if page.is_empty() {
            return Ok(newest);
        }
        for head in page {
            let Ok(body) = HeadBody::parse(&head.text) else { return Ok(newest) };
            from = body.size.saturating_add(1);
            let Some(Ok(note)) = head.note.as_deref().map(SignedNote::parse) else { continue };
            match quorum.check(&note, body.time_ms, now_ms) {
                Ok(found) => {
                    let witnesses = found.names().to_vec();
                    newest = Some(WitnessedHead { size: body.size, time_ms: body.time_ms, witnesses });
                }
                Err(QuorumRefused::Unmet { .. }) => {}
                Err(source) => return Err(WitnessedFault::Invalid { size: body.size, source }),
            }
        }
    }
}
