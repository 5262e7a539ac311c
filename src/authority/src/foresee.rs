//! What a policy, references or an IMA policy that aren't active would say: the newest evidence of each host, judged again under what is active and
//! under what isn't.
//!
//! Comes in: the store, the documents in force, a candidate that was loaded. Goes out: [`Foresight`], two verdicts for each host. Both come from the
//! decision function over the inputs that the log retains, so nothing but the candidate differs between them; revocations and all other documents are
//! today's, the time is that of the decision. Of a host that only attests it is the attestation that is judged again. Nothing is appended and nothing
//! signed. What can't be judged again is told of without verdicts, never as good: inputs that aren't retained any more, and what another IMA policy
//! would say of a list whose beginning isn't found.

mod lists;

use crate::appraise::References;
use crate::decide::{Family, Inputs, Situation, decide, decide_attestation};
use crate::policy::CompiledPolicy;
use crate::serve::documents::Documents;
use crate::store::{ReadFault, Reader};
use crate::verify::{BootLogCache, BootLogSource, Endorsed, SourceFault, judge_logged};
use countersign_core::challenge::ChallengeBody;
use countersign_core::control::{ControlError, ControlState};
use countersign_core::digest::Sha256Digest;
use countersign_core::document::Settings;
use countersign_core::leaf::control::EpochRecord;
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::host::{Enrolment, HostState};
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::leaf::{Kind, Leaf, LeafError, leaf_hash};
use countersign_core::name::{HostId, Origin, TrustDomain};
use countersign_core::record::{EvidenceRecord, InputsRecord};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::SignedRequest;
use countersign_tpm::ima::state::ImaState;
use lists::{Trail, WithList};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Most leaves that one call looks at.
pub const WINDOW: u64 = 4_096;
/// Most leaves before a host's newest that are searched for the beginning of its IMA list.
const TRAIL: u64 = 16_384;
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
    /// The control state that the candidate would lead to.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Its leaf.
    #[error(transparent)]
    Leaf(#[from] LeafError),
}

/// What isn't active.
#[derive(Clone, Copy, Debug)]
pub enum Candidate<'a> {
    /// A policy.
    Policy(&'a CompiledPolicy),
    /// References, with the IMA policy that they name.
    References(&'a References),
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
    /// What isn't active.
    pub candidate: Candidate<'a>,
    /// Who asks.
    pub by: Sha256Digest,
}

/// A verdict: `None` allows.
pub type Foretold = Option<RefusalCode>;

/// The newest evidence of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreseen {
    /// Which host.
    pub host: HostId,
    /// Index of the leaf.
    pub index: u64,
    /// Whether it came without a request: policy wasn't asked.
    pub attestation: bool,
    /// Under what is active and under the candidate; absent if the evidence can't be judged again.
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

/// Documents that belong together.
#[derive(Clone, Copy)]
struct Side<'a> {
    control: &'a ControlState,
    policy: Option<&'a CompiledPolicy>,
    references: Option<&'a References>,
}

/// Looks at the leaves below `before`, or at the newest.
///
/// # Errors
/// [`ForeseeFault`].
pub fn foresee(question: &Question<'_>, before: Option<u64>) -> Result<Foresight, ForeseeFault> {
    let documents = question.documents;
    let hypothetical = hypothetical(question)?;
    let now =
        Side { control: documents.control(), policy: documents.policy(), references: documents.references() };
    let then = match question.candidate {
        Candidate::Policy(policy) => Side { control: &hypothetical, policy: Some(policy), ..now },
        Candidate::References(references) => {
            Side { control: &hypothetical, references: Some(references), ..now }
        }
    };
    let cache = BootLogCache::new(BOOT_LOGS);
    let (newest, before) = newest(question, before)?;
    let mut pasts = HashMap::new();
    for (index, told) in &newest {
        if let Some(past) = Past::of(question.reader, told)? {
            pasts.insert(*index, past);
        }
    }
    find_lists(question, &mut pasts)?;
    let mut decisions = Vec::with_capacity(newest.len());
    for (index, told) in newest {
        let verdicts = match pasts.get(&index) {
            None => None,
            Some(past) => {
                past.again(question, &cache, now, now)?.zip(past.again(question, &cache, now, then)?)
            }
        };
        let attestation = matches!(told, Told::Attestation(..));
        decisions.push(Foreseen { host: told.host(), index, attestation, verdicts });
    }
    Ok(Foresight { decisions, before })
}

/// The control state as it would be with the candidate: nobody but the decision function sees it.
fn hypothetical(question: &Question<'_>) -> Result<ControlState, ForeseeFault> {
    let mut control = question.documents.control().clone();
    let (kind, document) = match question.candidate {
        Candidate::Policy(policy) => (Kind::Policy, *policy.digest()),
        Candidate::References(references) => (Kind::References, *references.digest()),
    };
    let record = EpochRecord { document, epoch: control.epoch() + 1, by: question.by };
    // Where the next control leaf may stand at the earliest.
    let index = control.last_index().map_or(0, |last| last.saturating_add(1));
    let leaf = Leaf { kind, index, time_ms: 0, salt: [0; 16], body: record.encode() };
    control.apply(&leaf.encode()?)?;
    Ok(control)
}

/// A leaf that came of evidence.
enum Told {
    Decision(Box<Decision>),
    /// With its leaf's time.
    Attestation(Box<HostStateRecord>, u64),
}

impl Told {
    fn of(bytes: &[u8]) -> Option<Self> {
        let leaf = Leaf::parse(bytes).ok()?;
        let (told, code) = match leaf.kind {
            Kind::Allow | Kind::Deny => {
                let decision = Decision::parse(&leaf.body).ok()?;
                let code = match decision.verdict {
                    Verdict::Allow { .. } => None,
                    Verdict::Deny(code) => Some(code),
                };
                (Self::Decision(Box::new(decision)), code)
            }
            Kind::HostState => {
                let record = HostStateRecord::parse(&leaf.body).ok()?;
                let code = record.code;
                (Self::Attestation(Box::new(record), leaf.time_ms), code)
            }
            _ => return None,
        };
        // What a stale challenge led to says nothing of the host, nor of a document.
        let stale = matches!(code, Some(RefusalCode::ChallengeSpent | RefusalCode::ChallengeExpired));
        (!stale).then_some(told)
    }

    const fn host(&self) -> HostId {
        match self {
            Self::Decision(decision) => decision.host,
            Self::Attestation(record, _) => record.host,
        }
    }

    const fn evidence(&self) -> &Sha256Digest {
        match self {
            Self::Decision(decision) => &decision.evidence,
            Self::Attestation(record, _) => &record.evidence,
        }
    }
}

/// Leaves, each with its index, newest first.
type Newest = Vec<(u64, Told)>;

/// Walks leaves back from `end` to `stop`, until `visit` says that it has seen enough; where that was.
fn walk_back(
    reader: &dyn Reader,
    (stop, mut end): (u64, u64),
    mut visit: impl FnMut(u64, &[u8]) -> Result<bool, ReadFault>,
) -> Result<Option<u64>, ReadFault> {
    while end > stop {
        let from = end.saturating_sub(PAGE).max(stop);
        let leaves = reader.leaves(from, end - from)?;
        for (index, bytes) in (from..).zip(leaves).collect::<Vec<_>>().into_iter().rev() {
            if visit(index, &bytes)? {
                return Ok(Some(index));
            }
        }
        end = from;
    }
    Ok(None)
}

/// The newest leaf of each host, back to the end of the window, and where to go on. Of a policy decisions say more than attestations, so an older
/// one takes an attestation's place there.
fn newest(question: &Question<'_>, before: Option<u64>) -> Result<(Newest, Option<u64>), ReadFault> {
    let size = question.reader.newest_committed()?.map_or(0, |tip| tip.head.body().size);
    let end = before.unwrap_or(size).min(size);
    let stop = end.saturating_sub(WINDOW);
    let decisions_first = matches!(question.candidate, Candidate::Policy(_));
    let mut found: HashMap<HostId, (u64, Told)> = HashMap::new();
    let full = walk_back(question.reader, (stop, end), |index, bytes| {
        if found.len() >= MAX_HOSTS {
            return Ok(true);
        }
        let Some(told) = Told::of(bytes) else { return Ok(false) };
        let better = match found.get(&told.host()) {
            None => true,
            Some((_, Told::Attestation(..))) => decisions_first && matches!(told, Told::Decision(_)),
            Some(_) => false,
        };
        if better {
            found.insert(told.host(), (index, told));
        }
        Ok(false)
    })?;
    let mut newest: Newest = found.into_values().collect();
    newest.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
    Ok((newest, full.map(|index| index + 1).or((stop > 0).then_some(stop))))
}

fn evidence(reader: &dyn Reader, digest: &Sha256Digest) -> Result<Option<EvidenceRecord>, ReadFault> {
    Ok(reader.blob(digest)?.and_then(|bytes| EvidenceRecord::parse(&bytes).ok()))
}

/// Puts the lists of those hosts together that have to be judged from the first entry.
fn find_lists(question: &Question<'_>, pasts: &mut HashMap<u64, Past>) -> Result<(), ReadFault> {
    let reader = question.reader;
    let mut open: HashMap<HostId, u64> = HashMap::new();
    for (index, past) in pasts.iter_mut() {
        past.list = Trail::of(reader, &past.evidence)?;
        if past.list.as_ref().is_some_and(Trail::wants_more) {
            open.insert(past.host.host, *index);
        }
    }
    let Some(end) = open.values().max().copied() else { return Ok(()) };
    walk_back(reader, (end.saturating_sub(TRAIL), end), |index, bytes| {
        let Some(told) = Told::of(bytes) else { return Ok(false) };
        let Some(past) = open.get(&told.host()).filter(|of| index < **of).and_then(|of| pasts.get_mut(of))
        else {
            return Ok(false);
        };
        if let (Some(trail), Some(record)) = (&mut past.list, evidence(reader, told.evidence())?) {
            trail.earlier(reader, &record)?;
            if !trail.wants_more() {
                open.remove(&told.host());
            }
        }
        Ok(open.is_empty())
    })?;
    Ok(())
}

/// The inputs of a decision or an attestation as the log retains them.
struct Past {
    /// `None` for an attestation.
    asked: Option<(InputsRecord, SignedRequest)>,
    evidence: EvidenceRecord,
    host: Endorsed,
    time_ms: u64,
    list: Option<Trail>,
}

impl Past {
    /// `None` if something isn't there any more, or isn't what it was.
    fn of(reader: &dyn Reader, told: &Told) -> Result<Option<Self>, ReadFault> {
        let Some(evidence) = evidence(reader, told.evidence())? else { return Ok(None) };
        match told {
            Told::Decision(decision) => Self::of_decision(reader, decision, evidence),
            Told::Attestation(record, time_ms) => Self::of_attestation(reader, record, *time_ms, evidence),
        }
    }

    fn of_decision(
        reader: &dyn Reader,
        decision: &Decision,
        evidence: EvidenceRecord,
    ) -> Result<Option<Self>, ReadFault> {
        let record = reader.blob(&decision.inputs)?.and_then(|bytes| InputsRecord::parse(&bytes).ok());
        let Some(record) = record else { return Ok(None) };
        let request = reader.blob(&decision.request)?.and_then(|bytes| {
            SignedRequest::verify(bytes, record.holder_signature.clone(), record.consents.clone()).ok()
        });
        let Some(request) = request else { return Ok(None) };
        let (host, time_ms) = (endorsed(reader, &record)?, record.time_ms);
        Ok(host.map(|host| Self { asked: Some((record, request)), evidence, host, time_ms, list: None }))
    }

    /// The leaf tells the state after the evidence. Its counters take the evidence again; of its IMA list all is judged from the first entry.
    fn of_attestation(
        reader: &dyn Reader,
        record: &HostStateRecord,
        time_ms: u64,
        evidence: EvidenceRecord,
    ) -> Result<Option<Self>, ReadFault> {
        let Some(row) = reader.host(&record.host)? else { return Ok(None) };
        let Some(ak) = reader.blob(&row.enrolment.ak_public)? else { return Ok(None) };
        let prior = HostState { ima: None, ..record.state };
        let Ok(host) = Endorsed::new(&row.enrolment, row.enrolment_leaf, &ak, prior) else { return Ok(None) };
        let time_ms = record.basis.as_ref().map_or_else(
            || {
                // Decided before it was sequenced, while the challenge lived.
                let challenge = ChallengeBody::read_unverified(&evidence.challenge);
                challenge.map_or(time_ms, |challenge| challenge.expires_ms.min(time_ms))
            },
            |basis| basis.time_ms,
        );
        Ok(Some(Self { asked: None, evidence, host, time_ms, list: None }))
    }

    /// The verdict under one side; `None` if the inputs don't lead to one. A list that was judged under the IMA policy that is active `now` goes on
    /// from there under the same one alone.
    fn again(
        &self,
        question: &Question<'_>,
        cache: &BootLogCache,
        now: Side<'_>,
        side: Side<'_>,
    ) -> Result<Option<Foretold>, ReadFault> {
        let ima = |side: Side<'_>| side.references.and_then(|references| references.document().ima);
        let (mut evidence, mut host, mut list) = (self.evidence.clone(), self.host.clone(), None);
        if ima(side).is_some() && (self.asked.is_none() || ima(side) != ima(now)) {
            let Some((named, bytes)) = self.list.as_ref().and_then(Trail::whole) else { return Ok(None) };
            let prior = HostState { ima: None, ..host.prior };
            list = Some((named.list, bytes));
            (evidence.ima, host) = (Some(named), host.at(prior, None));
        }
        let settings = side.policy.map_or_else(Settings::default, |policy| policy.settings().clone());
        let members = WithList { blobs: Blobs(question.reader), list };
        let boot_logs = (cache, &members as &dyn BootLogSource);
        let judged = judge_logged(question.origin, host.host, &host.ak, &settings, evidence, boot_logs);
        let Ok(judged) = judged else { return Ok(None) };
        let situation = Situation {
            origin: question.origin,
            trust_domain: question.trust_domain,
            host: &host,
            judged: &judged,
            challenge_spent: false,
            control: side.control,
            policy: side.policy,
            references: side.references,
            time_ms: self.time_ms,
        };
        let Some((record, request)) = &self.asked else {
            return Ok(decide_attestation(&situation).ok().map(|outcome| outcome.record.code));
        };
        let left: BTreeMap<u64, u64> = record.parents.iter().map(|(name, left)| (name.0, *left)).collect();
        let family = Family::resolve(&request.request().parents, |index| {
            let leaf = question.reader.leaf(index)?;
            Ok::<_, ReadFault>(leaf.map(|bytes| (bytes, left.get(&index).copied().unwrap_or(0))))
        })?;
        let request_id_reused = record.request_id_reused;
        let outcome = decide(&Inputs { situation, request, family: &family, request_id_reused });
        Ok(outcome.ok().map(|outcome| match outcome.decision().verdict {
            Verdict::Allow { .. } => None,
            Verdict::Deny(code) => Some(code),
        }))
    }
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
