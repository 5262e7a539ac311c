//! Reconciliation: what gateways say that they did, against what was decided. Offline, over the log alone.
//!
//! Goes out: allows of which no gateway told, outcomes that no allow explains, outcomes told twice, by whom they don't concern, at a time at
//! which the artifact wasn't good, or after it was revoked. Run [`super::verify()`] over the same source first: this function looks at no tree
//! and no signature of a head. An artifact that served only to make children isn't missed.
//!
//! Memory: the artifacts that ended within the last day, and at most [`MAX_LISTED`] discrepancies; beyond, they are counted.

use super::outcomes::{Book, OutcomeFault};
use super::{Leaves, LogSource, Unreadable};
use crate::outcome::{Founded, TAKEN_FOR_MS, allow};
use crate::sequence::CLOCK_TOLERANCE_MS;
use countersign_core::bundle::TrustBundle;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::control::{Revocation, Subject};
use countersign_core::leaf::decision::{Decision, LeafRef, Verdict};
use countersign_core::leaf::record::Outcome;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::refusal::RefusalCode;
use std::collections::{BTreeMap, BTreeSet};

/// Discrepancies that are listed one by one.
pub const MAX_LISTED: usize = 10_000;

/// What the log itself doesn't say.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Audiences of each gateway, by its name; one that isn't named has none. `None`: audiences aren't compared, and the report says so.
    pub audiences: Option<BTreeMap<String, BTreeSet<String>>>,
    /// How long after an artifact's end an outcome may still be on its way, ms; more than a day is as good as a day.
    pub patience_ms: u64,
}

/// How grave a discrepancy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Can happen in an honest system, and is worth a look.
    Notice,
    /// Something is missing: an event that was lost, or an artifact that nobody used.
    Gap,
    /// An honest authority and honest gateways don't write this.
    Wrong,
}

impl Weight {
    /// For tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Gap => "gap",
            Self::Wrong => "wrong",
        }
    }
}

/// What doesn't fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum DiscrepancyKind {
    /// The leaf or its body doesn't parse.
    #[error("the leaf doesn't parse")]
    Malformed,
    /// The outcome leaf itself.
    #[error(transparent)]
    Outcome(#[from] OutcomeFault),
    /// Started when the gateway's lease on the state before the revocation had run out.
    #[error("started after it was revoked, and longer after than a lease")]
    StartedRevoked,
    /// Started when the gateway need not have known.
    #[error("started after it was revoked, within the lease")]
    StartedInLease,
    /// The artifact ended and nothing was heard of it.
    #[error("allowed, ended, and no gateway told of it")]
    NoOutcome,
    /// Two gateways started it.
    #[error("started at more than one gateway")]
    StartedElsewhere,
    /// The reason that the gateway gave doesn't hold.
    #[error("refused for a reason that the log doesn't show")]
    RefusedWithoutReason,
}

impl DiscrepancyKind {
    /// How grave it is.
    #[must_use]
    pub const fn weight(self) -> Weight {
        match self {
            Self::Malformed | Self::Outcome(_) | Self::StartedRevoked => Weight::Wrong,
            Self::NoOutcome => Weight::Gap,
            Self::StartedInLease | Self::StartedElsewhere | Self::RefusedWithoutReason => Weight::Notice,
        }
    }
}

/// One discrepancy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discrepancy {
    /// Leaf at which it shows: the outcome, or the allow that none is about.
    pub leaf: u64,
    /// The artifact that it is about, as far as it is known.
    pub artifact: Option<LeafRef>,
    /// Thumbprint and name of the gateway that told; the name is empty if nobody of that key is known.
    pub gateway: Option<(Sha256Digest, String)>,
    /// Gateway's time of an outcome, end of an artifact without one, ms.
    pub time_ms: u64,
    /// What.
    pub kind: DiscrepancyKind,
}

/// What a reconciliation amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciliation {
    /// Leaves read.
    pub leaves: u64,
    /// Time of the newest leaf, ms: "now".
    pub now_ms: u64,
    /// Allows.
    pub allows: u64,
    /// Outcomes that fit an allow, by result.
    pub started: u64,
    /// Refusals by gateways that fit.
    pub refused: u64,
    /// Allows of which nothing was heard and which served to make children.
    pub delegated: u64,
    /// Allows of which something may still be heard.
    pub pending: u64,
    /// Whether audiences were compared.
    pub audiences_compared: bool,
    /// Discrepancies in the order in which they showed, at most [`MAX_LISTED`].
    pub listed: Vec<Discrepancy>,
    /// All discrepancies by weight, those that aren't listed included.
    pub counts: BTreeMap<Weight, u64>,
}

impl Reconciliation {
    /// How many of a weight.
    #[must_use]
    pub fn count(&self, weight: Weight) -> u64 {
        self.counts.get(&weight).copied().unwrap_or(0)
    }

    fn add(&mut self, found: Discrepancy) {
        *self.counts.entry(found.kind.weight()).or_default() += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(found);
        }
    }
}

/// Reconciles the log from its first leaf. `progress` is told how many leaves are done.
///
/// # Errors
/// The source can't be read.
pub fn reconcile(
    source: &dyn LogSource,
    bundle: &TrustBundle,
    terms: &Terms,
    progress: &mut dyn FnMut(u64),
) -> Result<Reconciliation, Unreadable> {
    let mut pass = Pass {
        source,
        terms,
        lease_ms: bundle.lease_secs().saturating_mul(1_000),
        book: Book::default(),
        revocations: BTreeMap::new(),
        open: BTreeMap::new(),
        ends: BTreeSet::new(),
        report: Reconciliation { audiences_compared: terms.audiences.is_some(), ..Reconciliation::default() },
    };
    let mut leaves = Leaves::new(source);
    while let Some((index, bytes)) = leaves.next()? {
        pass.take(index, &bytes)?;
        if (index + 1).is_multiple_of(super::PAGE) {
            progress(index + 1);
        }
    }
    pass.report.leaves = leaves.next;
    pass.close(u64::MAX);
    progress(leaves.next);
    Ok(pass.report)
}

/// An allow of which more may be heard.
struct Open {
    leaf: Sha256Digest,
    heard: bool,
    has_children: bool,
    /// Where it was started first.
    started_at: Option<Sha256Digest>,
}

/// From when until when a subject was revoked, ms.
type Spans = Vec<(u64, Option<u64>)>;

struct Pass<'a> {
    source: &'a dyn LogSource,
    terms: &'a Terms,
    lease_ms: u64,
    book: Book,
    revocations: BTreeMap<Subject, Spans>,
    open: BTreeMap<u64, Open>,
    /// End, ms, and index of what is open.
    ends: BTreeSet<(u64, u64)>,
    report: Reconciliation,
}

impl Pass<'_> {
    fn take(&mut self, index: u64, bytes: &[u8]) -> Result<(), Unreadable> {
        let Ok(leaf) = Leaf::parse(bytes) else {
            self.malformed(index);
            return Ok(());
        };
        self.report.now_ms = self.report.now_ms.max(leaf.time_ms);
        // Of what ended longer ago nothing may be told any more.
        self.close(leaf.time_ms.saturating_sub(TAKEN_FOR_MS.saturating_mul(2)));
        match leaf.kind {
            Kind::Allow => match allow(&leaf) {
                Some((decision, exp)) => self.allow(index, bytes, &decision, exp),
                None => self.malformed(index),
            },
            Kind::Outcome => match Outcome::parse(&leaf.body) {
                Ok(outcome) => self.outcome(index, &leaf, &outcome)?,
                Err(_) => self.malformed(index),
            },
            Kind::Revocation => match Revocation::parse(&leaf.body) {
                Ok(record) => {
                    self.book.note(&leaf);
                    self.revocation(record, leaf.time_ms);
                }
                Err(_) => self.malformed(index),
            },
            _ => self.book.note(&leaf),
        }
        Ok(())
    }

    fn malformed(&mut self, leaf: u64) {
        let kind = DiscrepancyKind::Malformed;
        self.report.add(Discrepancy {
            leaf,
            artifact: None,
            gateway: None,
            time_ms: self.report.now_ms,
            kind,
        });
    }

    fn allow(&mut self, index: u64, bytes: &[u8], decision: &Decision, exp: u64) {
        self.report.allows += 1;
        for (parent, _) in &decision.lineage.parents {
            if let Some(open) = self.open.get_mut(parent) {
                open.has_children = true;
            }
        }
        let open = Open { leaf: leaf_hash(bytes), heard: false, has_children: false, started_at: None };
        self.open.insert(index, open);
        self.ends.insert((exp.saturating_mul(1_000), index));
    }

    fn revocation(&mut self, record: Revocation, time_ms: u64) {
        let spans = self.revocations.entry(record.subject).or_default();
        match (spans.last_mut(), record.revoke) {
            (Some((_, None)), true) => {}
            (_, true) => spans.push((time_ms, None)),
            (Some((_, until @ None)), false) => *until = Some(time_ms),
            (_, false) => {}
        }
    }

    fn outcome(&mut self, index: u64, leaf: &Leaf, outcome: &Outcome) -> Result<(), Unreadable> {
        let judged = self.book.take(self.source, leaf, outcome, self.terms.audiences.as_ref())?;
        let kinds = match judged {
            Ok(founded) => self.fits(outcome, &founded),
            Err(fault) => vec![fault.into()],
        };
        for kind in kinds {
            let name = self.book.gateway(&outcome.gateway).map(|gateway| gateway.name.clone());
            self.report.add(Discrepancy {
                leaf: index,
                artifact: Some(outcome.artifact),
                gateway: Some((outcome.gateway, name.unwrap_or_default())),
                time_ms: outcome.time_ms,
                kind,
            });
        }
        Ok(())
    }

    /// What is to be said of an outcome that can be true.
    fn fits(&mut self, outcome: &Outcome, founded: &Founded) -> Vec<DiscrepancyKind> {
        let mut kinds = Vec::new();
        let since = founded.decision.as_ref().and_then(|decision| self.revoked_since(outcome, decision));
        match outcome.refused {
            None => {
                self.report.started += 1;
                let lease_ms = self.lease_ms.saturating_add(CLOCK_TOLERANCE_MS);
                kinds.extend(since.map(|since| {
                    let known = outcome.time_ms > since.saturating_add(lease_ms);
                    if known { DiscrepancyKind::StartedRevoked } else { DiscrepancyKind::StartedInLease }
                }));
            }
            Some(code) => {
                self.report.refused += 1;
                if !reason_holds(code, outcome, founded, since.is_some()) {
                    kinds.push(DiscrepancyKind::RefusedWithoutReason);
                }
            }
        }
        if let Some(open) = self.open.get_mut(&outcome.artifact.0) {
            open.heard = true;
            if outcome.refused.is_none() {
                match open.started_at {
                    Some(first) if first != outcome.gateway => {
                        kinds.push(DiscrepancyKind::StartedElsewhere);
                    }
                    _ => open.started_at = Some(outcome.gateway),
                }
            }
        }
        kinds
    }

    /// Since when artifact, host or an ancestor named in the lineage was revoked at the gateway's time, leeway of its clock included.
    fn revoked_since(&self, outcome: &Outcome, decision: &Decision) -> Option<u64> {
        let lineage = &decision.lineage;
        let family = lineage.parents.iter().chain(lineage.root.as_ref()).chain([&outcome.artifact]);
        let subjects = family
            .map(|(index, leaf)| Subject::Artifact(*index, *leaf))
            .chain([Subject::Host(decision.host)]);
        let refused = outcome.refused.is_some();
        // The clocks differ by up to two seconds: each time in the gateway's favour.
        let holds = |(from, until): &&(u64, Option<u64>)| {
            let (from, until) = (*from, until.unwrap_or(u64::MAX));
            if refused {
                from <= outcome.time_ms.saturating_add(CLOCK_TOLERANCE_MS)
                    && outcome.time_ms <= until.saturating_add(self.lease_ms + CLOCK_TOLERANCE_MS)
            } else {
                from.saturating_add(CLOCK_TOLERANCE_MS) < outcome.time_ms
                    && outcome.time_ms.saturating_add(CLOCK_TOLERANCE_MS) < until
            }
        };
        let spans = subjects.filter_map(|subject| self.revocations.get(&subject));
        spans.flat_map(|spans| spans.iter().filter(holds).map(|(from, _)| *from)).min()
    }

    /// Settles every artifact that ended at or before `until_ms`.
    fn close(&mut self, until_ms: u64) {
        while let Some((ends_ms, index)) = self.ends.first().copied().filter(|(ends, _)| *ends <= until_ms) {
            self.ends.pop_first();
            let Some(open) = self.open.remove(&index) else { continue };
            if open.heard {
                continue;
            }
            if open.has_children {
                self.report.delegated += 1;
            } else if ends_ms.saturating_add(self.terms.patience_ms.min(TAKEN_FOR_MS)) >= self.report.now_ms {
                self.report.pending += 1;
            } else {
                self.report.add(Discrepancy {
                    leaf: index,
                    artifact: Some((index, open.leaf)),
                    gateway: None,
                    time_ms: ends_ms,
                    kind: DiscrepancyKind::NoOutcome,
                });
            }
        }
    }
}

/// Of the reasons that a gateway may give, those that the log can bear out; all others are the gateway's word.
fn reason_holds(code: RefusalCode, outcome: &Outcome, founded: &Founded, revoked: bool) -> bool {
    let nbf_ms = founded.decision.as_ref().map_or(0, |decision| match decision.verdict {
        Verdict::Allow { nbf, .. } => nbf.saturating_mul(1_000),
        Verdict::Deny(_) => 0,
    });
    match code {
        RefusalCode::Revoked => revoked,
        RefusalCode::Expired => outcome.time_ms.saturating_add(CLOCK_TOLERANCE_MS) >= founded.ends_ms,
        RefusalCode::NotYetValid => outcome.time_ms <= nbf_ms.saturating_add(CLOCK_TOLERANCE_MS),
        RefusalCode::NotAnAllow => founded.decision.is_none(),
        _ => true,
    }
}
