//! How often something is decided again because the state that it was decided under moved before it was appended.
//!
//! Comes in: a decision that the append transaction sent back. Goes out: leave to decide once more. Refused: the fourth time, with `versions-moved`.
//! Whoever is refused has nothing under way: leave is asked for before the next decision is queued, not after.

use crate::api::problem::Refused;
use countersign_core::refusal::RefusalCode;

/// Decisions after the first one.
const MOST: usize = 3;

/// Counts the decisions of one call.
#[derive(Debug, Default)]
pub struct Redecisions(usize);

impl Redecisions {
    /// Leave to decide once more.
    ///
    /// # Errors
    /// `versions-moved`.
    pub fn once_more(&mut self) -> Result<(), Refused> {
        if self.0 == MOST {
            return Err(RefusalCode::VersionsMoved.into());
        }
        self.0 += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_four_times_is_decided_four_times_and_not_a_fifth() {
        let mut redecisions = Redecisions::default();
        let mut queued = 0;
        let refused = loop {
            queued += 1;
            if let Err(refused) = redecisions.once_more() {
                break refused;
            }
        };
        assert_eq!((queued, refused.code()), (4, RefusalCode::VersionsMoved));
    }
}
