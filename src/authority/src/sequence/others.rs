//! What other processes put into the log that this one serves as well.
//!
//! Comes in: heads as they are met, by this process's own commits and by looking. Goes out: what the leaves of others say of hosts, and the
//! newest body that has to be in the store whatever happens. Refused: a store that ends before a head that was met, or has another one.

use std::cmp::Ordering;
use std::ops::Range;

use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::Leaf;

use super::hosts::HostRows;
use crate::store::project::project;
use crate::store::{MAX_PAGE, ReadFault, Reader, StoredHead};

/// Most leaves of others that are read to learn what they say of hosts; with more, all that was known of hosts is forgotten.
const MAX_HEARD: u64 = 4 * MAX_PAGE;

/// Why a head isn't taken note of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookFault {
    /// The store isn't the one that this process has been working with.
    #[error(
        "the store was put back: its newest head of size {found} isn't one that follows the head of size {met}"
    )]
    PutBack {
        /// Size of the newest head that was met before.
        met: u64,
        /// Size of the newest one now.
        found: u64,
    },
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
}

/// What this process knows of the log beside its own part in it.
pub(super) struct Others {
    shared: bool,
    met: Option<(u64, Sha256Digest)>,
    unheard: Vec<Range<u64>>,
}

impl Others {
    /// Begins with the newest head at the start. No row of a host is kept from before.
    pub(super) fn new(shared: bool, newest: Option<&StoredHead>) -> Self {
        Self { shared, met: newest.map(named), unheard: Vec::new() }
    }

    /// Whether there may be any.
    pub(super) const fn shared(&self) -> bool {
        self.shared
    }

    /// Size and digest of the newest committed body that was met. It stays in the log for ever, so one that lacks it is another log.
    pub(super) const fn met(&self) -> Option<(u64, Sha256Digest)> {
        self.met
    }

    /// Takes note of a head that this process committed, and of leaves of others before its first leaf.
    pub(super) fn committed(&mut self, first: u64, head: &StoredHead) {
        self.leaves_of_others(first);
        self.met = Some(named(head));
    }

    /// Takes note of the newest head in the store. The one met before has to be there still: a store that was put back and has outgrown it since
    /// is another log, too.
    pub(super) fn found(&mut self, reader: &dyn Reader, head: &StoredHead) -> Result<(), LookFault> {
        let (size, digest) = named(head);
        if let Some((met, known)) = self.met {
            let still = match size.cmp(&met) {
                Ordering::Less => false,
                Ordering::Equal => digest == known,
                Ordering::Greater => reader.head(met)?.is_some_and(|head| *head.digest() == known),
            };
            if !still {
                return Err(LookFault::PutBack { met, found: size });
            }
        }
        self.leaves_of_others(size);
        self.met = Some((size, digest));
        Ok(())
    }

    fn leaves_of_others(&mut self, end: u64) {
        let from = self.met.map_or(0, |(size, _)| size);
        if self.shared && from < end {
            self.unheard.push(from..end);
        }
    }

    /// Tells the rows of hosts what others have said. Where that can't be read, or is more than reading is worth, the rows are forgotten.
    pub(super) fn hear(&mut self, reader: &dyn Reader, hosts: &HostRows) -> Result<(), ReadFault> {
        let unheard = std::mem::take(&mut self.unheard);
        let count: u64 = unheard.iter().map(|range| range.end.saturating_sub(range.start)).sum();
        let heard = if count > MAX_HEARD {
            hosts.forget();
            Ok(())
        } else {
            unheard.into_iter().try_for_each(|range| hear(reader, hosts, range))
        };
        if heard.is_err() {
            hosts.forget();
        }
        heard
    }
}

fn named(head: &StoredHead) -> (u64, Sha256Digest) {
    (head.body().size, *head.digest())
}

fn hear(reader: &dyn Reader, hosts: &HostRows, range: Range<u64>) -> Result<(), ReadFault> {
    let unreadable = |_| ReadFault::Corrupt("a leaf of another process");
    let mut next = range.start;
    while next < range.end {
        let leaves = reader.leaves(next, range.end.saturating_sub(next))?;
        if leaves.is_empty() {
            return Err(ReadFault::Corrupt("a leaf under the newest head is missing"));
        }
        next = next.saturating_add(leaves.len() as u64);
        for bytes in leaves {
            let leaf = Leaf::parse(&bytes).map_err(unreadable)?;
            hosts.tell(&project(leaf.kind, &leaf.body).map_err(unreadable)?);
        }
    }
    Ok(())
}
