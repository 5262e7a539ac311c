//! The heads that were committed before a leaf, for the replay: a challenge names one of them (PROTOCOL §4.1).
//!
//! Comes in: heads of any source, in order. Goes out: their digests. Refused: a head body that doesn't parse.

use super::{HeadExport, LogSource, PAGE, Unreadable};
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::{Sha256Digest, sha256};
use std::collections::HashSet;

/// Digests of the head bodies up to a leaf.
pub(super) struct Heads<'a> {
    source: &'a dyn LogSource,
    pub(super) known: HashSet<Sha256Digest>,
    /// Size from which the next page is asked for.
    next: u64,
    page: std::vec::IntoIter<HeadExport>,
    ahead: Option<(u64, Sha256Digest)>,
}

impl<'a> Heads<'a> {
    pub(super) fn new(source: &'a dyn LogSource) -> Self {
        Self { source, known: HashSet::new(), next: 0, page: Vec::new().into_iter(), ahead: None }
    }

    /// Learns every head whose size is at most `index`: those that were committed before this leaf.
    pub(super) fn up_to(&mut self, index: u64) -> Result<(), Unreadable> {
        loop {
            if self.ahead.is_none() {
                self.ahead = self.read()?;
            }
            match self.ahead {
                Some((size, digest)) if size <= index => {
                    self.known.insert(digest);
                    self.ahead = None;
                }
                _ => return Ok(()),
            }
        }
    }

    fn read(&mut self) -> Result<Option<(u64, Sha256Digest)>, Unreadable> {
        if self.page.len() == 0 {
            self.page = self.source.heads(self.next, PAGE)?.into_iter();
        }
        let Some(head) = self.page.next() else { return Ok(None) };
        let malformed = |_| Unreadable("a head body doesn't parse".to_owned());
        let size = HeadBody::parse(&head.text).map_err(malformed)?.size;
        self.next = size.saturating_add(1);
        Ok(Some((size, sha256(head.text.as_bytes()))))
    }
}
