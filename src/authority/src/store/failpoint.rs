//! Where tests make writes fail: a port that says, at each write point, what goes wrong there. In service there is none.

use std::fmt;
use std::sync::Arc;

/// A place at which durable state is about to change, or just has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WritePoint {
    /// Every row of a batch is written, the commit isn't asked for yet.
    BeforeCommit,
    /// The commit returned; nobody knows of it yet.
    AfterCommit,
    /// The signer's memory isn't written yet.
    BeforeMemory,
    /// The signer's memory is on disk; nothing is signed yet.
    AfterMemory,
    /// The head is signed; the store doesn't know yet.
    BeforeAttach,
    /// The store has the signature; nothing was released yet.
    AfterAttach,
    /// A durable change beside the batches (desk, rebuilt tables, newer tables, a log that moves) is about to be committed.
    BeforeAside,
    /// Its commit returned; nobody knows of it yet.
    AfterAside,
}

impl WritePoint {
    /// Every point of a batch, in the order in which it passes them.
    pub const BATCH: [Self; 6] = [
        Self::BeforeCommit,
        Self::AfterCommit,
        Self::BeforeMemory,
        Self::AfterMemory,
        Self::BeforeAttach,
        Self::AfterAttach,
    ];

    /// Every point of what is changed beside the batches.
    pub const ASIDE: [Self; 2] = [Self::BeforeAside, Self::AfterAside];
}

/// What goes wrong. At a point before a write it fails; at a point after, it fails but persists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injected {
    /// The device reports an error.
    Io,
    /// There is no space.
    DiskFull,
    /// The process ends: nothing after this point happens, nobody gets an answer.
    Died,
}

/// Decides at each write point. Called on the thread that writes.
pub trait Failpoints: Send + Sync {
    /// `None`: go on.
    fn reach(&self, point: WritePoint) -> Option<Injected>;
}

/// The failpoints of a store or a memory; empty outside of tests.
#[derive(Clone, Default)]
pub struct FailpointSet(Option<Arc<dyn Failpoints>>);

impl fmt::Debug for FailpointSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "FailpointSet(some)" } else { "FailpointSet(none)" })
    }
}

impl FailpointSet {
    /// Nothing fails but what really fails.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Asks `failpoints` at every write point.
    #[must_use]
    pub fn of(failpoints: Arc<dyn Failpoints>) -> Self {
        Self(Some(failpoints))
    }

    pub(crate) fn reach(&self, point: WritePoint) -> Result<(), Injected> {
        self.0.as_ref().and_then(|failpoints| failpoints.reach(point)).map_or(Ok(()), Err)
    }
}
