//! Boot logs: fetched by digest, replayed once, compared with every quote.
//!
//! A log is tens of kilobytes and the same for every call between two boots. What it leads to depends on the log, the bank and the registers
//! only, so that is cached; what is never cached is the comparison with the quote at hand. Registers that grow after boot may agree with the
//! log in one quote and not in another, PCR 11 by one boot phase more, others by a separator of the system; facts follow from how they agree, so
//! a cached replay serves only quotes that agree with it just so.
//!
//! The log is the largest hostile input and is parsed after the host's TPM was heard: a panic there is a finding, hence a logged denial.

use super::call::{CallError, Subject};
use super::{Finding, Quoted, contained};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::record::EvidenceRecord;
use countersign_core::refusal::RefusalCode;
use countersign_tpm::eventlog::{BootLogRefusal, EventLog, VerifiedBootLog, verify_replay};
use countersign_tpm::quote::VerifiedQuote;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Registers that a firmware boot log explains to its end: 0 to 7 (firmware), 8, 9 (boot loader) and 14 (shim). Others, such as 10 (IMA)
/// and 11 to 15 (unified kernel images and what follows them), grow after boot; references may name them, the log needn't lead to them.
const EXPLAINED: [u32; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14];

/// The registers of a selection that a boot log has to explain.
#[must_use]
pub fn explained_by_boot_log(selected: &[u32]) -> Vec<u32> {
    selected.iter().copied().filter(|pcr| EXPLAINED.contains(pcr)).collect()
}

/// The store that holds members can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store of evidence members failed: {0}")]
pub struct SourceFault(pub String);

/// Where members come from: those sent inline with the call, then the store.
pub trait BootLogSource {
    /// Whether the member can be fetched, and so can be by an auditor later. Asked when the replay is cached.
    fn holds(&self, digest: &Sha256Digest) -> Result<bool, SourceFault>;

    /// The member's bytes; `None` if it has to be sent.
    fn fetch(&self, digest: &Sha256Digest) -> Result<Option<Arc<[u8]>>, SourceFault>;

    /// Whether members are kept at all. Of a challenge that wasn't fresh they aren't, and nothing that is decided depends on them.
    fn keeps(&self) -> bool {
        true
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    log: Sha256Digest,
    bank: u16,
    /// All quoted registers: they say which separators were required.
    selected: Vec<u32>,
}

/// Most memory that all kept replays take together, whatever hosts send. One of a usual log takes 5 to 20 KiB, so that this is room for a
/// thousand; one may take a megabyte (`MAX_FACTS_BYTES`), and of those it is room for sixteen.
pub const MAX_CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Replays that held, least recently used dropped first. Failures aren't kept: they end in a denial, and a hostile log must not push
/// others out.
#[derive(Debug)]
pub struct BootLogCache {
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Key, (u64, Arc<VerifiedBootLog>)>,
    by_use: BTreeMap<u64, Key>,
    clock: u64,
    /// What `entries` and `by_use` take.
    bytes: usize,
}

impl BootLogCache {
    /// Keeps up to `capacity` replays, and up to [`MAX_CACHE_BYTES`] of them.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, inner: Mutex::default() }
    }

    fn find(&self, key: &Key) -> Option<Arc<VerifiedBootLog>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.touch(key)
    }

    fn keep(&self, key: Key, verified: Arc<VerifiedBootLog>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.insert(key, verified, self.capacity);
    }
}

impl Inner {
    fn touch(&mut self, key: &Key) -> Option<Arc<VerifiedBootLog>> {
        let (used, verified) = self.entries.get_mut(key)?;
        self.clock += 1;
        if let Some(key) = self.by_use.remove(used) {
            self.by_use.insert(self.clock, key);
        }
        *used = self.clock;
        Some(Arc::clone(verified))
    }

    fn insert(&mut self, key: Key, verified: Arc<VerifiedBootLog>, capacity: usize) {
        let bytes = weight(&key, &verified);
        if capacity == 0 || bytes > MAX_CACHE_BYTES {
            return;
        }
        self.drop(&key);
        while self.entries.len() >= capacity || self.bytes.saturating_add(bytes) > MAX_CACHE_BYTES {
            let Some(oldest) = self.by_use.first_key_value().map(|(_, key)| key.clone()) else { break };
            self.drop(&oldest);
        }
        self.clock += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.by_use.insert(self.clock, key.clone());
        self.entries.insert(key, (self.clock, verified));
    }

    fn drop(&mut self, key: &Key) {
        let Some((used, verified)) = self.entries.remove(key) else { return };
        self.by_use.remove(&used);
        self.bytes = self.bytes.saturating_sub(weight(key, &verified));
    }
}

/// What an entry takes: the replay, and its name twice.
fn weight(key: &Key, verified: &VerifiedBootLog) -> usize {
    let key = size_of::<Key>() + size_of_val(key.selected.as_slice());
    verified.bytes().saturating_add(2 * key)
}

#[cfg(test)]
#[path = "boot_log_tests.rs"]
mod tests;

/// Holds the boot log named by the evidence against the quote, and fetches the IMA entries beside it.
pub(super) fn judge_boot_log(
    subject: &Subject<'_>,
    record: &EvidenceRecord,
    quote: VerifiedQuote,
) -> Result<Quoted, CallError> {
    let values: Vec<&[u8]> = quote.pcrs().map(|(_, value)| value).collect();
    let pcr_digest = sha256(&values.concat());
    let boot = match record.boot_log {
        Some(_) if !subject.source.keeps() => Ok(Err(Finding::new(
            RefusalCode::BootLogMissing,
            "members of a challenge that wasn't fresh aren't kept",
        ))),
        Some(digest) => replay(subject, digest, &quote),
        None => Ok(Err(Finding::new(RefusalCode::BootLogMissing, "the evidence names no boot log"))),
    };
    // All members that are missing are asked for at once.
    let (boot, ima) = match (boot, super::ima::fetch(subject, record)) {
        (Err(CallError::EvidenceNeeded(log)), Err(CallError::EvidenceNeeded(list))) => {
            return Err(CallError::EvidenceNeeded([log, list].concat()));
        }
        (boot, ima) => (boot?, ima?),
    };
    Ok(Quoted { quote, pcr_digest, boot, ima })
}

fn replay(
    subject: &Subject<'_>,
    digest: Sha256Digest,
    quote: &VerifiedQuote,
) -> Result<Result<Arc<VerifiedBootLog>, Finding>, CallError> {
    let selected = subject.settings.pcrs.clone();
    let key = Key { log: digest, bank: subject.settings.bank, selected };
    if let Some(verified) = subject.cache.find(&key) {
        // What was replayed before may never have been stored: an auditor must be able to replay it too.
        if !subject.source.holds(&digest)? {
            return Err(CallError::EvidenceNeeded(vec![digest]));
        }
        // Of a quote that stands to it otherwise the log is replayed again: other facts follow, or a refusal that tells where the two part.
        if verified.serves(quote) {
            return Ok(Ok(verified));
        }
    }
    let Some(bytes) = subject.source.fetch(&digest)? else {
        return Err(CallError::EvidenceNeeded(vec![digest]));
    };
    if sha256(&bytes) != digest {
        return Err(CallError::Source(SourceFault("a member doesn't hash to its name".to_owned())));
    }
    let replayed = contained(|| replay_afresh(&bytes, quote, &key.selected)).unwrap_or_else(|| {
        Err(Finding::new(RefusalCode::VerifierPanicked, "the boot log made its reader panic"))
    });
    Ok(replayed.inspect(|verified| subject.cache.keep(key, Arc::clone(verified))))
}

fn replay_afresh(
    bytes: &[u8],
    quote: &VerifiedQuote,
    selected: &[u32],
) -> Result<Arc<VerifiedBootLog>, Finding> {
    #[cfg(test)]
    assert_ne!(bytes, super::kit::PANICS, "told to panic");
    let log = EventLog::parse(bytes)
        .map_err(|error| Finding::new(RefusalCode::BootLogMalformed, error.to_string()))?;
    let verified = verify_replay(&log, quote, &explained_by_boot_log(selected)).map_err(|refusal| {
        let code = match &refusal {
            BootLogRefusal::SeparatorMissing { .. }
            | BootLogRefusal::SeparatorRepeated { .. }
            | BootLogRefusal::SeparatorFalse { .. } => RefusalCode::BootLogSeparator,
            BootLogRefusal::NothingCovered
            | BootLogRefusal::NotQuoted { .. }
            | BootLogRefusal::Replay(_)
            | BootLogRefusal::Mismatch { .. } => RefusalCode::BootLogMismatch,
        };
        Finding::new(code, refusal.to_string())
    })?;
    Ok(Arc::new(verified))
}
