//! What a policy that isn't active would say: the newest decision about each host, made again under the active policy and under the other one.
//!
//! Comes in: the store, the documents in force, a policy that was loaded. Goes out: [`Foresight`], two verdicts for each host. Both come from the
//! decision function over the inputs that the log retains, so nothing but the policy differs between them; revocations and references are
//! today's, the time is that of the decision. Nothing is appended and nothing signed. A decision whose inputs aren't retained any more is told
//! of without verdicts, never as good.

use crate::decide::{Family, Inputs, Situation, decide};
use crate::policy::CompiledPolicy;
use crate::serve::documents::Documents;
use crate::store::{ReadFault, Reader};
use crate::verify::{BootLogCache, BootLogSource, Endorsed, SourceFault, judge_logged};
use countersign_core::control::{ControlError, ControlState};
use countersign_core::digest::Sha256Digest;
use countersign_core::document::Settings;
use countersign_core::leaf::control::EpochRecord;
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::host::Enrolment;
use countersign_core::leaf::{Kind, Leaf, LeafError, leaf_hash};
use countersign_core::name::{HostId, Origin, TrustDomain};
use countersign_core::record::{EvidenceRecord, InputsRecord};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::SignedRequest;
use countersign_tpm::ima::state::ImaState;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Most leaves that one call looks at.
pub const WINDOW: u64 = 4_096;
/// Most hosts of one answer. Each costs two decisions: about a millisecond, with a whole IMA list a quarter of a second.
const MAX_HOSTS: usize = 64;
/// Leaves read at once: at most 16 MiB.
const PAGE: u64 = 256;
/// Boot logs replayed and kept while one call is answered; hosts of one build share theirs.
const BOOT_LOGS: usize = 16;

/// Why nothing can be foreseen.
#[derive(Debug, thiserror::Error)]
pub enum ForeseeFault {
    /// The store failed.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// The control state that the other policy would lead to.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Its leaf.
    #[error(transparent)]
    Leaf(#[from] LeafError),
}

/// What is compared.
pub struct Question<'a> {
    /// Name of the log.
    pub origin: &'a Origin,
    /// Trust domain of runtimes.
    pub trust_domain: &'a TrustDomain,
    /// The log and its blobs.
    pub reader: &'a dyn Reader,
    /// Control state, active policy, references.
    pub documents: &'a Documents,
    /// The policy that isn't active.
    pub candidate: &'a CompiledPolicy,
    /// Who asks.
    pub by: Sha256Digest,
}

/// A verdict: `None` allows.
pub type Foretold = Option<RefusalCode>;

/// The newest decision about a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreseen {
    /// Which host.
    pub host: HostId,
    /// Index of the decision's leaf.
    pub index: u64,
    /// Under the active policy and under the other one; absent if the decision can't be made again.
    pub verdicts: Option<(Foretold, Foretold)>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foresight {
    /// Newest first.
    pub decisions: Vec<Foreseen>,
    /// Leaves below this index weren't looked at; absent when all were.
    pub before: Option<u64>,
}

/// Looks at the leaves below `before`, or at the newest.
///
/// # Errors
/// [`ForeseeFault`].
pub fn foresee(question: &Question<'_>, before: Option<u64>) -> Result<Foresight, ForeseeFault> {
    let hypothetical = hypothetical(question)?;
    let cache = BootLogCache::new(BOOT_LOGS);
    let (newest, before) = newest_decisions(question.reader, before)?;
    let mut decisions = Vec::with_capacity(newest.len());
    for (index, decision) in newest {
        let verdicts = match past(question.reader, &decision)? {
            None => None,
            Some(past) => {
                let active = question.documents.policy();
                let now = past.again(question, &cache, question.documents.control(), active)?;
                let then = past.again(question, &cache, &hypothetical, Some(question.candidate))?;
                now.zip(then)
            }
        };
        decisions.push(Foreseen { host: decision.host, index, verdicts });
    }
    Ok(Foresight { decisions, before })
}

/// The control state as it would be with the other policy: nobody but the decision function sees it.
fn hypothetical(question: &Question<'_>) -> Result<ControlState, ForeseeFault> {
    let mut control = question.documents.control().clone();
    let record =
        EpochRecord { document: *question.candidate.digest(), epoch: control.epoch() + 1, by: question.by };
    // Where the next control leaf may stand at the earliest.
    let index = control.last_index().map_or(0, |last| last.saturating_add(1));
    let leaf = Leaf { kind: Kind::Policy, index, time_ms: 0, salt: [0; 16], body: record.encode() };
    control.apply(&leaf.encode()?)?;
    Ok(control)
}

/// Decisions, each with the index of its leaf, newest first.
type Newest = Vec<(u64, Decision)>;

/// The newest decision about each host, back to the end of the window, and where to go on.
fn newest_decisions(reader: &dyn Reader, before: Option<u64>) -> Result<(Newest, Option<u64>), ReadFault> {
    let size = reader.newest_committed()?.map_or(0, |tip| tip.head.body().size);
    let mut end = before.unwrap_or(size).min(size);
    let stop = end.saturating_sub(WINDOW);
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    while end > stop {
        let from = end.saturating_sub(PAGE).max(stop);
        let leaves = reader.leaves(from, end - from)?;
        for (index, bytes) in (from..).zip(leaves).collect::<Vec<_>>().into_iter().rev() {
            if found.len() >= MAX_HOSTS {
                return Ok((found, Some(index + 1)));
            }
            let Ok(leaf) = Leaf::parse(&bytes) else { continue };
            if !matches!(leaf.kind, Kind::Allow | Kind::Deny) {
                continue;
            }
            let Ok(decision) = Decision::parse(&leaf.body) else { continue };
            // What a stale challenge led to says nothing of the host, nor of a policy.
            let stale = Verdict::Deny(RefusalCode::ChallengeSpent) == decision.verdict
                || Verdict::Deny(RefusalCode::ChallengeExpired) == decision.verdict;
            if !stale && seen.insert(decision.host) {
                found.push((index, decision));
            }
        }
        end = from;
    }
    Ok((found, (stop > 0).then_some(stop)))
}

/// A decision's inputs as the log retains them.
struct Past {
    record: InputsRecord,
    request: SignedRequest,
    evidence: EvidenceRecord,
    host: Endorsed,
}

/// `None` if something isn't there any more, or isn't what it was.
fn past(reader: &dyn Reader, decision: &Decision) -> Result<Option<Past>, ReadFault> {
    let Some(record) = reader.blob(&decision.inputs)?.and_then(|bytes| InputsRecord::parse(&bytes).ok())
    else {
        return Ok(None);
    };
    let request = reader.blob(&decision.request)?.and_then(|bytes| {
        SignedRequest::verify(bytes, record.holder_signature.clone(), record.consents.clone()).ok()
    });
    let evidence = reader.blob(&decision.evidence)?.and_then(|bytes| EvidenceRecord::parse(&bytes).ok());
    let (Some(request), Some(evidence)) = (request, evidence) else { return Ok(None) };
    Ok(endorsed(reader, &record)?.map(|host| Past { record, request, evidence, host }))
}

/// The host as the decision saw it.
fn endorsed(reader: &dyn Reader, record: &InputsRecord) -> Result<Option<Endorsed>, ReadFault> {
    let (index, hash) = record.enrolment;
    let leaf = reader.leaf(index)?.filter(|bytes| leaf_hash(bytes) == hash);
    let enrolment = leaf
        .and_then(|bytes| Leaf::parse(&bytes).ok())
        .filter(|leaf| leaf.kind == Kind::Enrolment)
        .and_then(|leaf| Enrolment::parse(&leaf.body).ok());
    let Some(enrolment) = enrolment else { return Ok(None) };
    let Some(ak) = reader.blob(&enrolment.ak_public)? else { return Ok(None) };
    let ima = match &record.prior.ima {
        None => None,
        Some(digest) => {
            let state = reader.blob(digest)?.and_then(|bytes| ImaState::parse(&bytes).ok());
            let Some(state) = state else { return Ok(None) };
            Some(Arc::new(state))
        }
    };
    let host = Endorsed::new(&enrolment, record.enrolment, &ak, record.prior).ok();
    Ok(host.map(|host| host.at(record.prior, ima)))
}

impl Past {
    /// The verdict under this control state; `None` if the inputs don't lead to one.
    fn again(
        &self,
        question: &Question<'_>,
        cache: &BootLogCache,
        control: &ControlState,
        policy: Option<&CompiledPolicy>,
    ) -> Result<Option<Foretold>, ReadFault> {
        let settings = policy.map_or_else(Settings::default, |policy| policy.settings().clone());
        let blobs = Blobs(question.reader);
        let boot_logs = (cache, &blobs as &dyn BootLogSource);
        let (id, ak) = (self.host.host, &self.host.ak);
        let judged = judge_logged(question.origin, id, ak, &settings, self.evidence.clone(), boot_logs);
        let Ok(judged) = judged else { return Ok(None) };
        let left: BTreeMap<u64, u64> =
            self.record.parents.iter().map(|(name, left)| (name.0, *left)).collect();
        let family = Family::resolve(&self.request.request().parents, |index| {
            let leaf = question.reader.leaf(index)?;
            Ok::<_, ReadFault>(leaf.map(|bytes| (bytes, left.get(&index).copied().unwrap_or(0))))
        })?;
        let outcome = decide(&Inputs {
            situation: Situation {
                origin: question.origin,
                trust_domain: question.trust_domain,
                host: &self.host,
                judged: &judged,
                challenge_spent: false,
                control,
                policy,
                references: question.documents.references(),
                time_ms: self.record.time_ms,
            },
            request: &self.request,
            family: &family,
            request_id_reused: self.record.request_id_reused,
        });
        Ok(outcome.ok().map(|outcome| match outcome.decision().verdict {
            Verdict::Allow { .. } => None,
            Verdict::Deny(code) => Some(code),
        }))
    }
}

/// Members in the store, for evidence that is judged once more.
pub(crate) struct Blobs<'a>(pub(crate) &'a dyn Reader);

impl BootLogSource for Blobs<'_> {
    fn holds(&self, digest: &Sha256Digest) -> Result<bool, SourceFault> {
        Ok(self.fetch(digest)?.is_some())
    }

    fn fetch(&self, digest: &Sha256Digest) -> Result<Option<Arc<[u8]>>, SourceFault> {
        let found = self.0.blob(digest).map_err(|fault| SourceFault(fault.to_string()))?;
        Ok(found.map(Arc::from))
    }
}
