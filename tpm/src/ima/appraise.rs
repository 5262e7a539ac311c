//! A submission held against the quote and the policy: from new entries to facts and the next state.
//!
//! Comes in: a verified quote, the state that earlier evidence left, new entries, the policy. Goes out: [`Appraised`].
//! Refused, each with its own code: what isn't a list, what doesn't lead to the quoted register, what goes back behind
//! what was seen, files that the policy doesn't know. A refusal changes nothing: the caller keeps the state it has.
//!
//! The order: form of the submission against the state; replay up to the longest prefix that the register proves; only
//! then is any entry of that prefix believed, and judged. What follows the prefix was measured after the quote: it is
//! read, counted as a fact, bounded, and believed for nothing.

use thiserror::Error;

use super::aggregate::{self, Aggregate};
use super::list::{Entries, Entry, ListError};
use super::policy::{Grounds, Objection, RuntimePolicy};
use super::recognition::Recognition;
use super::register::{Register, Rule};
use super::signature::KeyId;
use super::state::{BootId, ImaState};
use super::template::Measured;
use super::value::Value;
use super::{MAX_ENTRIES, MAX_REPORTED, MEMFD};
use crate::algorithm::HashAlg;
use crate::eventlog::VerifiedBootLog;
use crate::quote::VerifiedQuote;

/// Most signatures that one appraisal checks, at about 15 to 40 us each.
pub const MAX_SIGNATURES: usize = 20_000;

/// New entries of a host.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    /// How many entries of this boot come before the first one here; 0 for the whole list.
    pub from: u64,
    /// Hash of the template-hash column: SHA-1 for `binary_runtime_measurements`.
    pub column: HashAlg,
    /// Binary entries.
    pub list: &'a [u8],
}

/// A file that the policy doesn't accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Which entry since the boot.
    pub entry: u64,
    /// Its path.
    pub path: String,
    /// Why.
    pub objection: Objection,
}

/// Why a submission is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImaRefusal {
    /// The bytes aren't a list.
    #[error("{0}")]
    Malformed(#[from] ListError),
    /// The quote doesn't cover the list's register.
    #[error("PCR {0} isn't in the quote")]
    NotQuoted(u32),
    /// The per-bank list is of another bank than the quote.
    #[error("the list is of the {} bank, the quote of {}", .list.name(), .quote.name())]
    WrongBank {
        /// Of the list.
        list: HashAlg,
        /// Of the quote.
        quote: HashAlg,
    },
    /// The whole list is needed: nothing is known of this boot, or policy, bank or boot moved.
    #[error("the whole list is needed: {0}")]
    ListNeeded(&'static str),
    /// The entries don't begin where the last good evidence ended.
    #[error("entries from {from} were sent, {known} are known")]
    Base {
        /// As sent.
        from: u64,
        /// As known.
        known: u64,
    },
    /// The register was never extended: IMA doesn't run, or not into this bank.
    #[error("the register of the list was never extended")]
    RegisterEmpty,
    /// An entry says that it extended another register.
    #[error("entry {entry} extends PCR {pcr}")]
    OtherRegister {
        /// Which since the boot.
        entry: u64,
        /// The register.
        pcr: u32,
    },
    /// An entry's logged template hash isn't that of its data.
    #[error("entry {entry} was edited: its data doesn't hash to its template hash")]
    Edited {
        /// Which since the boot.
        entry: u64,
    },
    /// A list that says it is whole doesn't begin with boot_aggregate.
    #[error("the list doesn't begin with boot_aggregate")]
    Trimmed,
    /// The list or the quote is older than what was seen of this boot.
    #[error("{known} entries were seen, the quote proves {proven}")]
    Rewound {
        /// Seen before.
        known: u64,
        /// In this submission.
        proven: u64,
    },
    /// No prefix of the list leads to the quoted value.
    #[error("no prefix of {entries} entries leads to the quoted value of PCR {pcr}")]
    Mismatch {
        /// The register.
        pcr: u32,
        /// Entries replayed, since the boot.
        entries: u64,
    },
    /// The register holds padded SHA-1 hashes, which the policy doesn't take.
    #[error("the kernel extends padded SHA-1 hashes, which the policy doesn't accept")]
    PaddedSha1,
    /// More entries follow the quoted moment than allowed.
    #[error("more than {max} entries follow the quoted moment")]
    Lag {
        /// Allowed.
        max: u64,
    },
    /// More violations than the policy allows.
    #[error("entry {entry} is a violation (it names {path:?})")]
    Violation {
        /// The one too many, since the boot.
        entry: u64,
        /// As the host says it; nothing proves it.
        path: String,
    },
    /// boot_aggregate isn't the digest of the quoted boot registers.
    #[error("boot_aggregate: {}", .0.as_str())]
    BootAggregate(Aggregate),
    /// boot_aggregate can't be compared, and the policy demands that it is.
    #[error("boot_aggregate is of registers that the quote doesn't cover")]
    BootAggregateUnchecked,
    /// A measured buffer isn't the one of its digest.
    #[error("the buffer of entry {entry} doesn't hash to its digest")]
    Buffer {
        /// Which since the boot.
        entry: u64,
    },
    /// Files that the policy doesn't accept.
    #[error("{total} files aren't accepted; first {:?}", .first.first())]
    Files {
        /// How many.
        total: u64,
        /// The first of them.
        first: Vec<Rejected>,
    },
}

impl ImaRefusal {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "ima-malformed",
            Self::NotQuoted(_) => "ima-pcr-not-quoted",
            Self::WrongBank { .. } => "ima-wrong-bank",
            Self::ListNeeded(_) => "ima-list-needed",
            Self::Base { .. } => "ima-base-moved",
            Self::RegisterEmpty => "ima-register-empty",
            Self::OtherRegister { .. } => "ima-other-register",
            Self::Edited { .. } => "ima-entry-edited",
            Self::Trimmed => "ima-trimmed",
            Self::Rewound { .. } => "ima-rewound",
            Self::Mismatch { .. } => "ima-mismatch",
            Self::PaddedSha1 => "ima-padded",
            Self::Lag { .. } => "ima-lag",
            Self::Violation { .. } => "ima-violation",
            Self::BootAggregate(_) => "ima-boot-aggregate",
            Self::BootAggregateUnchecked => "ima-boot-aggregate-unchecked",
            Self::Buffer { .. } => "ima-buffer",
            Self::Files { first, .. } => match first.first().map(|one| one.objection) {
                Some(Objection::Digest) => "ima-file-digest",
                Some(Objection::Signature(_)) => "ima-file-signature",
                Some(Objection::TooManySignatures) => "ima-too-many-signatures",
                Some(Objection::Unknown) | None => "ima-file-unknown",
            },
        }
    }
}

/// A submission that holds. Only [`appraise`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appraised {
    state: ImaState,
    new: u64,
    ignored: u64,
}

impl Appraised {
    /// The state after it: the facts about the boot, and where the next submission begins.
    pub fn state(&self) -> &ImaState {
        &self.state
    }

    /// Entries that this submission added.
    pub fn new_entries(&self) -> u64 {
        self.new
    }

    /// Entries that follow the quoted moment: read, and believed for nothing.
    pub fn ignored_entries(&self) -> u64 {
        self.ignored
    }
}

/// Appraises new entries. `prior` is what the last good evidence left, of whatever boot.
pub fn appraise(
    quote: &VerifiedQuote,
    prior: Option<&ImaState>,
    submission: &Submission<'_>,
    policy: &RuntimePolicy,
) -> Result<Appraised, ImaRefusal> {
    appraise_booted(quote, None, prior, submission, policy)
}

/// The same with the boot log that explains the quote: the kernel makes boot_aggregate before systemd measures its words into the boot
/// registers, so the values without these are compared, too.
pub fn appraise_booted(
    quote: &VerifiedQuote,
    explained: Option<&VerifiedBootLog>,
    prior: Option<&ImaState>,
    submission: &Submission<'_>,
    policy: &RuntimePolicy,
) -> Result<Appraised, ImaRefusal> {
    let pcr = policy.settings().pcr;
    let quoted = quote.pcr(pcr).ok_or(ImaRefusal::NotQuoted(pcr))?;
    let bank = quote.bank();
    if submission.column != HashAlg::Sha1 && submission.column != bank {
        return Err(ImaRefusal::WrongBank { list: submission.column, quote: bank });
    }
    let clock = quote.clock();
    let boot = BootId { reset_count: clock.reset_count, restart_count: clock.restart_count };
    let prior = prior.filter(|prior| prior.boot == boot);
    let start = match submission.from {
        0 => ImaState::fresh(boot, *policy.digest(), bank, Rule::Rehashed),
        _ => resumed(prior, submission, policy, bank)?,
    };
    if quoted.iter().all(|byte| *byte == 0) {
        return Err(ImaRefusal::RegisterEmpty);
    }
    let replayed = replay(&start, prior, submission, policy, quoted)?;
    judge((quote, explained), start, &replayed, submission, policy)
}

fn resumed(
    prior: Option<&ImaState>,
    submission: &Submission<'_>,
    policy: &RuntimePolicy,
    bank: HashAlg,
) -> Result<ImaState, ImaRefusal> {
    let prior = prior.ok_or(ImaRefusal::ListNeeded("nothing is known of this boot"))?;
    if prior.policy != *policy.digest() {
        return Err(ImaRefusal::ListNeeded("another policy is in force"));
    }
    if prior.bank != bank {
        return Err(ImaRefusal::ListNeeded("another bank is quoted"));
    }
    if prior.counts.entries != submission.from {
        return Err(ImaRefusal::Base { from: submission.from, known: prior.counts.entries });
    }
    Ok(prior.clone())
}

/// What the register proves of a submission.
struct Replayed {
    register: Register,
    rule: Rule,
    /// Entries that it proves.
    matched: usize,
    /// Entries behind them.
    ignored: u64,
    /// Of each proven entry, whether its hash alone says that the policy lists it.
    listed: Vec<bool>,
}

fn replay(
    start: &ImaState,
    prior: Option<&ImaState>,
    submission: &Submission<'_>,
    policy: &RuntimePolicy,
    quoted: &[u8],
) -> Result<Replayed, ImaRefusal> {
    let first = walk(start, start.rule, submission, policy, quoted)?;
    let walked = match first.proven {
        Some(_) => first,
        // Only after the kernel's own rule failed, and only to say so unless the policy takes it.
        None if submission.from == 0 && start.bank != HashAlg::Sha1 => {
            let padded = walk(start, Rule::PaddedSha1, submission, policy, quoted)?;
            match (padded.proven, policy.settings().accept_padded_sha1) {
                (Some(_), true) => padded,
                (Some(_), false) => return Err(ImaRefusal::PaddedSha1),
                (None, _) => return Err(diagnose(&first, prior, submission, policy)),
            }
        }
        None => return Err(diagnose(&first, prior, submission, policy)),
    };
    let matched = walked.proven.unwrap_or_default();
    // What is logged beside proven data and disagrees with it was changed on its way.
    if let Some(entry) = walked.edited.filter(|entry| *entry < matched) {
        return Err(ImaRefusal::Edited { entry: since_boot(submission, entry) });
    }
    let proven = since_boot(submission, matched);
    if let Some(prior) = prior.filter(|prior| proven < prior.counts.entries) {
        return Err(ImaRefusal::Rewound { known: prior.counts.entries, proven });
    }
    let ignored = u64::try_from(walked.entries.saturating_sub(matched)).unwrap_or(u64::MAX);
    Ok(Replayed { register: walked.register, rule: walked.rule, matched, ignored, listed: walked.listed })
}

fn since_boot(submission: &Submission<'_>, entry: usize) -> u64 {
    submission.from.saturating_add(u64::try_from(entry).unwrap_or(u64::MAX))
}

/// One walk over a submission.
struct Walked {
    rule: Rule,
    /// As at the quoted moment if that was reached, else after the last entry.
    register: Register,
    /// Entries up to the quoted moment.
    proven: Option<usize>,
    /// All entries.
    entries: usize,
    /// The first one whose template hash isn't that of its data.
    edited: Option<usize>,
    aggregate_first: bool,
    /// Of each entry up to the quoted moment, whether its hash alone says that the policy lists it.
    listed: Vec<bool>,
}

fn walk(
    start: &ImaState,
    rule: Rule,
    submission: &Submission<'_>,
    policy: &RuntimePolicy,
    quoted: &[u8],
) -> Result<Walked, ImaRefusal> {
    let mut register = Register::resume(start.bank, rule, start.value);
    let mut walked = Walked {
        rule,
        register,
        proven: None,
        entries: 0,
        edited: None,
        aggregate_first: false,
        listed: Vec::new(),
    };
    let quoted = Value::new(start.bank, quoted);
    let mut listed = Recognition::new(policy);
    // A register doesn't come back to a value, so the first match is the only one, and the longest prefix.
    if quoted == Some(*register.value()) {
        walked.proven = Some(0);
    }
    let max_lag = policy.settings().max_lag;
    for entry in Entries::new(submission.list, submission.column)? {
        let entry = entry?;
        walked.entries += 1;
        if let Some(proven) = walked.proven {
            let lag = walked.entries.saturating_sub(proven);
            if u64::try_from(lag).map_or(true, |lag| lag > max_lag) {
                return Err(ImaRefusal::Lag { max: max_lag });
            }
            continue;
        }
        if entry.pcr() != policy.settings().pcr {
            let at = since_boot(submission, entry.index());
            return Err(ImaRefusal::OtherRegister { entry: at, pcr: entry.pcr() });
        }
        if entry.index() == 0 {
            walked.aggregate_first = is_aggregate(&entry);
        }
        let extended = register.extend(&entry, submission.column);
        if !extended.agrees && walked.edited.is_none() {
            walked.edited = Some(entry.index());
        }
        listed.note(&entry, &extended, &register);
        if quoted == Some(*register.value()) {
            walked.proven = Some(walked.entries);
        }
    }
    walked.register = register;
    walked.listed = listed.finish();
    Ok(walked)
}

fn is_aggregate(entry: &Entry<'_>) -> bool {
    matches!(entry.measured(), Ok(Some(measured)) if measured.path == aggregate::NAME)
}

/// The likeliest reason why no prefix leads to the quoted value.
fn diagnose(
    walked: &Walked,
    prior: Option<&ImaState>,
    submission: &Submission<'_>,
    policy: &RuntimePolicy,
) -> ImaRefusal {
    if let Some(entry) = walked.edited {
        return ImaRefusal::Edited { entry: since_boot(submission, entry) };
    }
    let entries = since_boot(submission, walked.entries);
    match prior {
        _ if submission.from == 0 && !walked.aggregate_first => ImaRefusal::Trimmed,
        Some(prior) if entries < prior.counts.entries => {
            ImaRefusal::Rewound { known: prior.counts.entries, proven: entries }
        }
        _ => ImaRefusal::Mismatch { pcr: policy.settings().pcr, entries },
    }
}

fn judge(
    (quote, boot): (&VerifiedQuote, Option<&VerifiedBootLog>),
    start: ImaState,
    replayed: &Replayed,
    submission: &Submission<'_>,
    policy: &RuntimePolicy,
) -> Result<Appraised, ImaRefusal> {
    let mut judging = Judging {
        quote,
        boot,
        policy,
        state: ImaState { rule: replayed.rule, value: *replayed.register.value(), ..start },
        signatures: MAX_SIGNATURES,
        rejected: Vec::new(),
        total: 0,
    };
    let entries = Entries::new(submission.list, submission.column)?.take(replayed.matched.min(MAX_ENTRIES));
    for entry in entries {
        let entry = entry?;
        let listed = replayed.listed.get(entry.index()).is_some_and(|listed| *listed);
        judging.entry(&entry, listed)?;
    }
    if judging.total > 0 {
        return Err(ImaRefusal::Files { total: judging.total, first: judging.rejected });
    }
    let new = u64::try_from(replayed.matched).unwrap_or(u64::MAX);
    Ok(Appraised { state: judging.state, new, ignored: replayed.ignored })
}

/// The entries of the proven prefix, one after the other.
struct Judging<'a> {
    quote: &'a VerifiedQuote,
    boot: Option<&'a VerifiedBootLog>,
    policy: &'a RuntimePolicy,
    state: ImaState,
    signatures: usize,
    rejected: Vec<Rejected>,
    total: u64,
}

impl Judging<'_> {
    fn entry(&mut self, entry: &Entry<'_>, listed: bool) -> Result<(), ImaRefusal> {
        let at = self.state.counts.entries;
        self.state.counts.entries = at.saturating_add(1);
        if listed && at > 0 {
            return Ok(());
        }
        let Some(measured) = entry.measured()? else {
            // A violation says nothing that could be compared: the list doesn't begin with boot_aggregate then.
            return if at == 0 { Err(ImaRefusal::Trimmed) } else { self.violation(at, entry) };
        };
        if at == 0 {
            return self.aggregate(&measured);
        }
        let measured = measured.told_by_data().ok_or(ImaRefusal::Buffer { entry: at })?;
        if measured.buffer.is_some() {
            self.state.counts.buffers = self.state.counts.buffers.saturating_add(1);
        }
        // A kernel started by kexec adds its own boot_aggregate behind the list that it took over.
        if measured.path == aggregate::NAME && self.compare(&measured) == Aggregate::Checked {
            return Ok(());
        }
        if measured.path.starts_with(MEMFD) {
            self.state.counts.memfd = self.state.counts.memfd.saturating_add(1);
        }
        match self.policy.judge(&measured, &mut self.signatures) {
            Ok(grounds) => self.accept(grounds),
            Err(objection) => self.reject(at, &measured, objection),
        }
        Ok(())
    }

    fn violation(&mut self, at: u64, entry: &Entry<'_>) -> Result<(), ImaRefusal> {
        let counts = &mut self.state.counts;
        counts.violations = counts.violations.saturating_add(1);
        if counts.violations > self.policy.settings().max_violations {
            let path = readable(entry.hinted_path().unwrap_or_default());
            return Err(ImaRefusal::Violation { entry: at, path });
        }
        Ok(())
    }

    fn aggregate(&mut self, measured: &Measured<'_>) -> Result<(), ImaRefusal> {
        if measured.path != aggregate::NAME {
            return Err(ImaRefusal::Trimmed);
        }
        self.state.aggregate = self.compare(measured);
        if !self.policy.settings().require_boot_aggregate {
            return Ok(());
        }
        match self.state.aggregate {
            Aggregate::Checked => Ok(()),
            Aggregate::NotQuoted => Err(ImaRefusal::BootAggregateUnchecked),
            Aggregate::Zero | Aggregate::Mismatch => Err(ImaRefusal::BootAggregate(self.state.aggregate)),
        }
    }

    fn compare(&self, measured: &Measured<'_>) -> Aggregate {
        let bank = self.quote.bank();
        let quoted = aggregate::compare(measured, bank, |pcr| self.quote.pcr(pcr));
        match (quoted, self.boot) {
            (Aggregate::Mismatch, Some(boot)) => aggregate::compare(measured, bank, |pcr| {
                let quoted = self.quote.pcr(pcr)?;
                Some(boot.before_words(pcr).unwrap_or(quoted))
            }),
            _ => quoted,
        }
    }

    fn accept(&mut self, grounds: Grounds) {
        let counts = &mut self.state.counts;
        match grounds {
            Grounds::Listed | Grounds::Anywhere => {}
            Grounds::Signed(KeyId(_)) => counts.signed = counts.signed.saturating_add(1),
            Grounds::Excluded(number) => {
                counts.excluded = counts.excluded.saturating_add(1);
                self.state.mark_exclude(number);
            }
        }
    }

    fn reject(&mut self, entry: u64, measured: &Measured<'_>, objection: Objection) {
        self.total = self.total.saturating_add(1);
        if self.rejected.len() < MAX_REPORTED {
            self.rejected.push(Rejected { entry, path: readable(measured.path), objection });
        }
    }
}

/// A path for people: what isn't UTF-8 is replaced.
fn readable(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
