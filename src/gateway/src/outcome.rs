//! Outcomes: what a gateway did with an artifact, reported to the log, at once or from a bounded spool (PROTOCOL §8.14, §11.1).
//!
//! Comes in: the outcome of one admission of a genuine artifact. Goes out: `POST /v1/outcomes`. Reporting never changes what was decided: what
//! can't be sent is spooled; what can't be spooled, and what the authority will never take, is named in the log of this process, which is then the only
//! place where it stands. The oldest are kept when the spool is full, since whoever fills it does so afterwards.

use crate::lock::FileLock;
use crate::snapshot::store::{StateDir, StoreFault, read_bounded, replace};
use crate::source::{Source, SourceFault};
use countersign_core::api::{OutcomeDocument, OutcomesCall};
use countersign_core::leaf::decision::LeafRef;
use countersign_core::refusal::RefusalCode;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

/// Most bytes that wait to be sent: about 1,500 outcomes.
pub const MAX_SPOOL_BYTES: u64 = 256 * 1024;
/// Most outcomes of one call (PROTOCOL §11.1).
const MAX_CALL: usize = 256;
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// An outcome in its outside form.
#[must_use]
pub fn outcome(artifact: LeafRef, refused: Option<RefusalCode>, time_ms: u64) -> OutcomeDocument {
    let (index, leaf) = artifact;
    OutcomeDocument {
        index,
        leaf: leaf.to_hex(),
        refused: refused.map(|code| code.as_str().to_owned()),
        time_ms,
    }
}

/// The outcomes that wait in a state directory, one JSON object a line.
#[derive(Clone, Copy, Debug)]
pub struct OutcomeSpool<'a> {
    dir: &'a StateDir,
}

impl<'a> OutcomeSpool<'a> {
    /// The spool of this directory.
    #[must_use]
    pub const fn new(dir: &'a StateDir) -> Self {
        Self { dir }
    }

    /// Sends one outcome within `deadline`, or spools it.
    pub async fn report<S: Source>(&self, source: &S, outcome: OutcomeDocument, deadline: Duration) {
        let call = OutcomesCall { outcomes: vec![outcome.clone()] };
        match tokio::time::timeout(deadline, source.outcomes(call)).await {
            Ok(Ok(())) => return,
            Ok(Err(fault)) if is_final(&fault) => return give_up(&[outcome], &fault),
            Ok(Err(error)) => tracing::info!(%error, "the outcome is spooled"),
            Err(_) => tracing::info!("the outcome is spooled: the authority didn't answer in time"),
        }
        if let Err(error) = self.append(&outcome).await {
            tracing::error!(%error, "an outcome is lost");
        }
    }

    async fn lock(&self) -> Result<FileLock, StoreFault> {
        Ok(FileLock::acquire(&self.dir.file("outcomes.lock"), LOCK_PATIENCE).await?)
    }

    /// Adds one outcome durably; refused when the spool is full.
    pub async fn append(&self, outcome: &OutcomeDocument) -> Result<(), StoreFault> {
        let _lock = self.lock().await?;
        let path = self.dir.file("outcomes.jsonl");
        let io = |source| StoreFault::Io { path: path.clone(), source };
        // A newline on both sides: what a crash left of a line before spoils nothing behind it.
        let json = serde_json::to_vec(outcome).map_err(|error| io(error.into()))?;
        let line = [b"\n", json.as_slice(), b"\n"].concat();
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).mode(0o600).open(&path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        if len.saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX)) > MAX_SPOOL_BYTES {
            return Err(StoreFault::TooLarge);
        }
        // A crash here leaves the line whole, absent, or cut, and then it doesn't parse and is dropped.
        file.write_all(&line).map_err(io)?;
        file.sync_data().map_err(io)
    }

    /// What waits, oldest first.
    pub fn waiting(&self) -> Result<Vec<OutcomeDocument>, StoreFault> {
        let bytes = read_bounded(&self.dir.file("outcomes.jsonl"), MAX_SPOOL_BYTES)?.unwrap_or_default();
        let lines = bytes.split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Sends what waits, in calls of at most 256, and forgets what was taken or never will be. A crash in between sends a call twice.
    pub(crate) async fn flush<S: Source>(&self, source: &S, deadline: Duration) {
        if let Err(error) = self.try_flush(source, deadline).await {
            tracing::warn!(%error, "outcomes wait on");
        }
    }

    async fn try_flush<S: Source>(&self, source: &S, deadline: Duration) -> Result<(), FlushFault> {
        let mut most = MAX_CALL;
        loop {
            let batch: Vec<OutcomeDocument> = self.waiting()?.into_iter().take(most).collect();
            if batch.is_empty() {
                return Ok(());
            }
            let call = source.outcomes(OutcomesCall { outcomes: batch.clone() });
            match tokio::time::timeout(deadline, call).await.map_err(|_| FlushFault::TimedOut)? {
                Ok(()) => {}
                // One outcome that isn't understood spoils its call: the others go without it.
                Err(SourceFault::Refused(RefusalCode::Malformed)) if batch.len() > 1 => {
                    most = batch.len().div_ceil(2);
                    continue;
                }
                Err(fault) if is_final(&fault) => give_up(&batch, &fault),
                Err(fault) => return Err(fault.into()),
            }
            self.forget(batch.len()).await?;
            most = MAX_CALL;
        }
    }

    /// Drops the oldest `sent`. Only the holder of the state lock flushes, and others only append behind.
    async fn forget(&self, sent: usize) -> Result<(), StoreFault> {
        let _lock = self.lock().await?;
        let path = self.dir.file("outcomes.jsonl");
        let mut rest = Vec::new();
        for outcome in self.waiting()?.iter().skip(sent) {
            let line = serde_json::to_vec(outcome)
                .map_err(|error| StoreFault::Io { path: path.clone(), source: error.into() })?;
            rest.extend_from_slice(&line);
            rest.push(b'\n');
        }
        replace(&path, &rest)
    }
}

/// Whether the authority will never take what it refused so: nothing of the call stands (PROTOCOL §8.14), or it isn't of the protocol's form. Kept, such outcomes
/// would hold back for ever what waits behind them.
const fn is_final(fault: &SourceFault) -> bool {
    matches!(
        fault,
        SourceFault::Refused(
            RefusalCode::NotFound
                | RefusalCode::NotAnAllow
                | RefusalCode::AudienceMismatch
                | RefusalCode::OutcomeImplausible
                | RefusalCode::Malformed
        )
    )
}

fn give_up(outcomes: &[OutcomeDocument], fault: &SourceFault) {
    for OutcomeDocument { index, leaf, refused, time_ms } in outcomes {
        tracing::error!(index, leaf, refused, time_ms, %fault, "an outcome is lost: the authority doesn't take it");
    }
}

#[derive(Debug, thiserror::Error)]
enum FlushFault {
    #[error(transparent)]
    Store(#[from] StoreFault),
    #[error(transparent)]
    Source(#[from] SourceFault),
    #[error("the authority didn't answer in time")]
    TimedOut,
}
