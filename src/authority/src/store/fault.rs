//! How a store fails, by what may be done next. No message of a database ever reaches a caller: callers get the code.

use countersign_core::leaf::LeafError;
use countersign_core::refusal::RefusalCode;

use super::failpoint::Injected;

/// Why a call did not succeed, though the store is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// No space left.
    DiskFull,
    /// Another process holds the store's lock, or the work took longer than it may.
    Locked,
    /// The database can't be reached, is shutting down, or takes no writes. The next call connects again.
    Disconnected,
    /// The connection was lost while a commit was under way, and nobody could be asked in time whether it took place, or it took place and the
    /// synchronous standby hasn't confirmed it. All that the batch would have changed is read again, under the lock, by whatever is appended next; a call that is repeated finds its outcome.
    OutcomeUnknown,
}

/// Why the writer must not be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Reading or syncing failed: what is durable is known only after a restart.
    Io,
    /// The store contradicts itself.
    Corrupt,
    /// The database was deleted, replaced or restored under the process.
    FileReplaced,
    /// An earlier call ended in one of these.
    Poisoned,
    /// The store refused what this program should not have asked.
    Defect,
}

/// A write that didn't happen, or of which nobody knows whether it did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreFault {
    /// Nothing was changed (or nobody knows, see [`Unavailable::OutcomeUnknown`]), and the store is sound. The same call may succeed later,
    /// with this same writer.
    #[error("store unavailable ({kind:?}) in {call}: {reason}")]
    Unavailable {
        /// Why.
        kind: Unavailable,
        /// Which call.
        call: &'static str,
        /// The store's own words, for the operator.
        reason: String,
    },
    /// The change may or may not be durable. The process has to start again from what is: a second try after a failed fsync proves
    /// nothing, since the kernel drops the dirty pages.
    #[error("store broken ({kind:?}) in {call}: {reason}")]
    Fatal {
        /// Why.
        kind: Broken,
        /// Which call.
        call: &'static str,
        /// The store's own words, for the operator.
        reason: String,
    },
}

impl StoreFault {
    pub(crate) fn fatal(kind: Broken, call: &'static str, reason: impl ToString) -> Self {
        Self::Fatal { kind, call, reason: reason.to_string() }
    }

    pub(crate) fn unavailable(kind: Unavailable, call: &'static str, reason: impl ToString) -> Self {
        Self::Unavailable { kind, call, reason: reason.to_string() }
    }

    pub(crate) fn injected(injected: Injected, call: &'static str) -> Self {
        match injected {
            Injected::DiskFull => Self::unavailable(Unavailable::DiskFull, call, "injected"),
            Injected::Io | Injected::Died => Self::fatal(Broken::Io, call, "injected"),
        }
    }

    /// Whether the writer is lost.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Fatal { .. })
    }

    /// What callers are told.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        RefusalCode::LogUnavailable
    }
}

/// A read that failed. Absence is never a fault: it is `None`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFault {
    /// Every reader stayed busy for too long.
    #[error("no reader became free in time")]
    Busy,
    /// The store couldn't be read.
    #[error("store can't be read in {call}: {reason}")]
    Io {
        /// Which call.
        call: &'static str,
        /// The store's own words, for the operator.
        reason: String,
    },
    /// What was read isn't what was written.
    #[error("store is corrupt: {0}")]
    Corrupt(&'static str),
}

impl ReadFault {
    /// What callers are told.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Busy => RefusalCode::Overloaded,
            Self::Io { .. } | Self::Corrupt(_) => RefusalCode::LogUnavailable,
        }
    }
}

/// Why the tables couldn't be rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RebuildFault {
    /// A leaf can't be read any more.
    #[error("leaf {index}: {source}")]
    Leaf {
        /// Which.
        index: u64,
        /// Why.
        source: LeafError,
    },
    /// The leaves have a gap, or one is at another place than it says.
    #[error("leaf {index} is missing or out of place")]
    Gap {
        /// Where.
        index: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreFault),
}
