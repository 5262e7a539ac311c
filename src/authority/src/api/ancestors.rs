//! The leaves that the requests of one call name as parents, and what stands above them: each read once, and not without end.

use super::artifacts::read_fault;
use super::problem::Refused;
use crate::store::ReadFault;
use countersign_core::refusal::RefusalCode;
use std::collections::HashMap;

/// Most look-ups of one call: four of the largest families that a decision looks at. The requests of a call mostly share theirs.
const MAX_LOOKUPS: usize = 4 * crate::decide::MAX_ANCESTORS;

/// Why a leaf isn't looked up.
#[derive(Debug)]
pub(super) enum LookupFault {
    /// The store.
    Read(ReadFault),
    /// The call has used up its look-ups.
    TooMany,
}

impl From<LookupFault> for Refused {
    fn from(fault: LookupFault) -> Self {
        match fault {
            LookupFault::Read(fault) => read_fault(fault),
            LookupFault::TooMany => RefusalCode::LineageTooLarge.into(),
        }
    }
}

/// What was read for a call so far.
#[derive(Default)]
pub(super) struct Ancestors {
    lookups: usize,
    leaves: HashMap<u64, Option<Vec<u8>>>,
}

impl Ancestors {
    /// Exact bytes of a leaf; `read` is asked for each index once.
    pub(super) fn leaf(
        &mut self,
        index: u64,
        read: impl FnOnce(u64) -> Result<Option<Vec<u8>>, ReadFault>,
    ) -> Result<Option<Vec<u8>>, LookupFault> {
        if self.lookups >= MAX_LOOKUPS {
            return Err(LookupFault::TooMany);
        }
        self.lookups += 1;
        if let Some(known) = self.leaves.get(&index) {
            return Ok(known.clone());
        }
        let bytes = read(index).map_err(LookupFault::Read)?;
        self.leaves.insert(index, bytes.clone());
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_read_once_and_look_ups_end() {
        let mut ancestors = Ancestors::default();
        let mut reads = 0;
        for lookup in 0..MAX_LOOKUPS {
            let index = (lookup % 10) as u64;
            let found = ancestors.leaf(index, |index| {
                reads += 1;
                Ok((index != 3).then(|| vec![1]))
            });
            assert_eq!(found.unwrap(), (index != 3).then(|| vec![1]));
        }
        assert_eq!(reads, 10);
        let more = ancestors.leaf(0, |_| Ok(None));
        assert_eq!(more.map_err(|fault| Refused::from(fault).code()), Err(RefusalCode::LineageTooLarge));
    }
}
