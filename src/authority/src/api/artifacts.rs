//! Artifacts: the main path (PROTOCOL §9, DESIGN "The main path").
//!
//! decode -> verify -> look earlier answers up -> decide -> append under guards -> receipts. A call whose versions moved between reading and
//! appending is decided again, three times; one whose challenge was spent meanwhile is decided as a replay, and its denials are logged.

use super::ancestors::{Ancestors, LookupFault};
use super::attempts::Attempts;
use super::evidence::{Blob, Heard, endorsed_now, guards, hear, kept, named, spend, stale_refusal};
use super::problem::Refused;
use super::{Call, faulted, json};
use crate::decide::{self, Family, Inconsistent, Inputs, Situation, decide};
use crate::sequence::{Append, Entry, EntryBody, Guard, Outcome, Pending, RequestRef, Spend};
use crate::serve::Authority;
use crate::serve::refusals::Refusal;
use crate::stale::Redecisions;
use crate::store::{LeafReceipt, ReadFault, Reader, SignedHead, receipts_for};
use crate::verify::{Asked, Endorsed};
use axum::response::Response;
use countersign_core::api::{ArtifactsAnswer, ArtifactsCall, DecisionDocument, EvidenceDocument};
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::record::ChallengeStanding;
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{MAX_REQUESTS, SignedRequest};
use countersign_core::tlog_proof::TlogProof;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What becomes of one request of a call.
enum Fate {
    /// It was answered before; the leaf at this index is the answer.
    Known(u64),
    /// It is decided now; the entry at this place of the append is the answer.
    Decided { entry: usize, verdict: Verdict },
    /// It comes with a challenge that another leaf calls used or expired already: refused without a leaf of its own.
    Refused,
}

/// A call decided under one state, and on its way into the log unless all of it was answered before.
struct Drafted {
    fates: Vec<Fate>,
    pending: Option<Pending>,
    standing: ChallengeStanding,
    /// Why the evidence is refused: the same for all requests of the call.
    refusal: Option<Refusal>,
}

impl Drafted {
    fn count(&self, of: impl Fn(&Fate) -> bool) -> usize {
        self.fates.iter().filter(|fate| of(fate)).count()
    }
}

/// `POST /v1/artifacts`.
pub(super) async fn issue(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let attempts = Attempts::one(&authority);
    let answered = answer_call(&authority, call, &attempts).await;
    answered.map_err(|refused| attempts.refused(refused))
}

async fn answer_call(
    authority: &Arc<Authority>,
    call: Call,
    attempts: &Arc<Attempts>,
) -> Result<Response, Refused> {
    let caller = call.caller.host()?;
    authority.admission()?;
    let documents = authority.documents().await?;
    let (worker, account) = (Arc::clone(authority), Arc::clone(attempts));
    let first = move || {
        let (challenge, requests, evidence) = parts(&call)?;
        account.hold(requests.len());
        let (heard, endorsed) = hear(&worker, &documents, caller, challenge, requests, evidence)?;
        let drafted = draft(&worker, &account, &heard, &endorsed, Look::First)?;
        Ok((Arc::new(heard), drafted))
    };
    let (heard, mut drafted) = authority.run(first).await?;
    let mut replay = false;
    let mut redecisions = Redecisions::default();
    loop {
        let open = drafted.count(|fate| !matches!(fate, Fate::Known(_)));
        let standing = drafted.standing;
        let Some(pending) = drafted.pending else { return respond(authority, drafted.fates, None).await };
        let outcome = authority.settled(pending).await?;
        if let Outcome::Appended(receipts) = outcome {
            drafted
                .refusal
                .take()
                .into_iter()
                .for_each(|refusal| authority.note_refusal(heard.host, refusal));
            if standing == ChallengeStanding::Fresh {
                authority.remember_blobs(&heard.members);
            } else if open > 1 {
                // What the sequencer hasn't seen is held open by the draft.
                return Err(stale_refusal(standing).into());
            }
            return respond(authority, drafted.fates, Some((receipts.leaves, receipts.head))).await;
        }
        attempts.hold(open);
        match outcome {
            // All answered meanwhile: the next look finds them.
            Outcome::Existing(_) | Outcome::Stale => {}
            Outcome::ChallengeSpent => replay = true,
            Outcome::Spent(Spend::Mark { .. }) => return Err(stale_refusal(standing).into()),
            Outcome::BlobsGone(gone) => return Err(authority.needs_again(gone)),
            Outcome::Appended(_) | Outcome::Spent(_) | Outcome::Refused(_) => {
                return Err(RefusalCode::Internal.into());
            }
        }
        redecisions.once_more()?;
        let (worker, heard, account) = (Arc::clone(authority), Arc::clone(&heard), Arc::clone(attempts));
        // Documents that moved with the control state are loaded before the worker needs them.
        authority.documents().await?;
        let look = Look::Again { challenge_spent: replay };
        let again = move || draft(&worker, &account, &heard, &endorsed_now(&worker, &heard)?, look);
        drafted = authority.run(again).await?;
    }
}

/// Challenge, requests and evidence of a call, as they came.
fn parts(call: &Call) -> Result<(Vec<u8>, Vec<Asked>, EvidenceDocument), Refused> {
    let document: ArtifactsCall = call.document()?;
    if document.requests.is_empty() || document.requests.len() > MAX_REQUESTS {
        return Err(Refused::new(RefusalCode::Malformed, "a call has 1 to 256 requests"));
    }
    let requests = document.requests.into_iter().map(|signed| Asked {
        request: signed.request.0,
        signature: signed.signature.0,
        consents: signed.consents.into_iter().map(|consent| consent.0).collect(),
    });
    Ok((document.challenge.0, requests.collect(), document.evidence))
}

/// Decides every request of a call that has no answer yet, and queues the answers.
fn draft(
    authority: &Authority,
    attempts: &Attempts,
    heard: &Heard,
    endorsed: &Endorsed,
    look: Look,
) -> Result<Drafted, Refused> {
    let documents = authority.documents_in_force()?;
    let judged = heard.call.judged();
    let situation = Situation {
        origin: authority.origin(),
        trust_domain: authority.trust_domain(),
        host: endorsed,
        judged,
        challenge_spent: look == Look::Again { challenge_spent: true },
        control: documents.control(),
        policy: documents.policy(),
        references: documents.references(),
        time_ms: authority.decision_time_ms(),
    };
    let standing = situation.standing();
    let mut draft = Draft {
        authority,
        standing,
        fates: Vec::new(),
        append: Append::default(),
        budgets: BTreeMap::new(),
        ancestors: Ancestors::default(),
        refusal: None,
    };
    let hopeful = look == Look::First && standing == ChallengeStanding::Fresh;
    for request in heard.call.requests() {
        if !hopeful || !draft.allow(&situation, request)? {
            draft.request(&situation, request)?;
        }
    }
    let Draft { fates, mut append, budgets, refusal, .. } = draft;
    let mut drafted = Drafted { fates, pending: None, standing, refusal };
    // From here on the sequencer accounts for what it is given.
    attempts.hold(drafted.count(|fate| matches!(fate, Fate::Refused)));
    if append.entries.is_empty() {
        return Ok(drafted);
    }
    append.guards = guards(&situation);
    append.guards.extend(budgets.iter().map(|(index, budget)| Guard::BudgetLeft(*index, budget.found)));
    append.spends.push(spend(heard, standing));
    append.blobs.extend(kept(heard, standing));
    append.named = named(heard, standing);
    drafted.pending = Some(authority.submit(append)?);
    Ok(drafted)
}

/// How often a call was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Not yet: nearly every call is a new one, and the append transaction finds out when it isn't.
    First,
    /// It was sent back: everything is read from the store.
    Again { challenge_spent: bool },
}

/// What is left of a parent's budget while the requests of one call are decided one after the other.
struct Budget {
    /// In the store.
    found: u64,
    /// After the requests of this call that were allowed so far.
    left: u64,
}

struct Draft<'a> {
    authority: &'a Authority,
    standing: ChallengeStanding,
    fates: Vec<Fate>,
    append: Append,
    budgets: BTreeMap<u64, Budget>,
    ancestors: Ancestors,
    refusal: Option<Refusal>,
}

impl Draft<'_> {
    /// Takes the request if it is allowed as a new one, and says whether it was. An allow whose identifier was used before is sent back by
    /// the append transaction; a denial would be logged, so what was used is looked up before it is decided.
    fn allow(&mut self, situation: &Situation<'_>, request: &SignedRequest) -> Result<bool, Refused> {
        let outcome = self.decide(situation, request, false)?;
        let allowed = matches!(outcome.decision().verdict, Verdict::Allow { .. });
        if allowed {
            self.take(situation, request, outcome);
        }
        Ok(allowed)
    }

    fn request(&mut self, situation: &Situation<'_>, request: &SignedRequest) -> Result<(), Refused> {
        let reader = self.authority.reader();
        let asked = request.request();
        let known = reader.outcome(&situation.host.host, &asked.id).map_err(read_fault)?;
        // DESIGN, "Challenge": a byte-identical retry gets the stored leaf; other bytes under the identifier are a reuse.
        if let Some(known) = known
            && known.request == *request.digest()
        {
            self.fates.push(Fate::Known(known.index));
            return Ok(());
        }
        // PROTOCOL §4.2: a challenge that isn't fresh leads to one leaf, whatever comes with it.
        if self.standing != ChallengeStanding::Fresh && !self.append.entries.is_empty() {
            self.fates.push(Fate::Refused);
            return Ok(());
        }
        let outcome = self.decide(situation, request, known.is_some())?;
        self.take(situation, request, outcome);
        Ok(())
    }

    fn decide(
        &mut self,
        situation: &Situation<'_>,
        request: &SignedRequest,
        request_id_reused: bool,
    ) -> Result<decide::Outcome, Refused> {
        let reader = self.authority.reader();
        let parents = &request.request().parents;
        let family = Family::resolve(parents, |index| self.fetch(reader, index))?;
        let inputs = Inputs { situation: *situation, request, family: &family, request_id_reused };
        decide(&inputs).map_err(inconsistent)
    }

    fn take(&mut self, situation: &Situation<'_>, request: &SignedRequest, outcome: decide::Outcome) {
        if let Verdict::Deny(code) = outcome.decision().verdict {
            tracing::debug!(code = code.as_str(), host = %situation.host.host, detail = outcome.detail, "denied");
        }
        if let Some(code) = outcome.evidence_refused() {
            self.refusal = Some(Refusal::new(code, &outcome.detail, situation.time_ms));
        }
        for (parent, amount) in &outcome.charges {
            if let Some(budget) = self.budgets.get_mut(parent) {
                budget.left = budget.left.saturating_sub(*amount);
            }
        }
        let entry = self.append.entries.len();
        self.fates.push(Fate::Decided { entry, verdict: outcome.decision().verdict });
        let blob = |digest, bytes: &[u8]| -> Blob { (digest, Arc::from(bytes)) };
        self.append.blobs.push(blob(outcome.decision().inputs, &outcome.inputs_bytes));
        self.append.blobs.push(blob(*request.digest(), request.bytes()));
        // One for all requests of the call.
        if let Some((digest, bytes)) = &outcome.ima
            && !self.append.blobs.iter().any(|(kept, _)| kept == digest)
        {
            self.append.blobs.push(blob(*digest, bytes));
        }
        let reference = RequestRef {
            host: situation.host.host,
            id: request.request().id.clone(),
            digest: *request.digest(),
        };
        self.append.entries.push(Entry {
            kind: outcome.kind(),
            body: EntryBody::Decision(Box::new(outcome.decision)),
            request: Some(reference),
            charges: outcome.charges,
        });
    }

    fn fetch(&mut self, reader: &dyn Reader, index: u64) -> Result<Option<(Vec<u8>, u64)>, LookupFault> {
        let found = self.ancestors.leaf(index, |index| reader.leaf(index))?;
        let Some(bytes) = found else { return Ok(None) };
        let left = match self.budgets.get(&index) {
            Some(budget) => budget.left,
            None => match reader.budget_left(index).map_err(LookupFault::Read)? {
                Some(found) => {
                    self.budgets.insert(index, Budget { found, left: found });
                    found
                }
                None => 0,
            },
        };
        Ok(Some((bytes, left)))
    }
}

/// Receipts for all requests, in their order.
async fn respond(
    authority: &Arc<Authority>,
    fates: Vec<Fate>,
    appended: Option<(Vec<LeafReceipt>, Arc<SignedHead>)>,
) -> Result<Response, Refused> {
    if !fates.iter().any(|fate| matches!(fate, Fate::Known(_))) {
        return json(&answer(fates, appended.as_ref(), &[])?);
    }
    let worker = Arc::clone(authority);
    let stored = authority.run(move || {
        let indexes: Vec<u64> = fates
            .iter()
            .filter_map(|fate| if let Fate::Known(index) = fate { Some(*index) } else { None })
            .collect();
        let head = worker.signed_head()?;
        // In the log and not yet under a signed head: the signer is behind, and a retry will find it.
        let receipts = receipts_for(worker.reader(), &indexes, head)
            .map_err(|fault| faulted(&fault, RefusalCode::SignerUnavailable))?;
        let known: Vec<DecisionDocument> = receipts
            .leaves
            .iter()
            .zip(receipts.texts())
            .map(|(leaf, receipt)| Ok(document(stored_verdict(&leaf.leaf)?, receipt)))
            .collect::<Result<_, Refused>>()?;
        answer(fates, appended.as_ref(), &known)
    });
    json(&stored.await?)
}

fn answer(
    fates: Vec<Fate>,
    appended: Option<&(Vec<LeafReceipt>, Arc<SignedHead>)>,
    known: &[DecisionDocument],
) -> Result<ArtifactsAnswer, Refused> {
    let mut known = known.iter();
    let decisions = fates.into_iter().map(|fate| match fate {
        Fate::Known(_) => known.next().cloned(),
        Fate::Refused => None,
        Fate::Decided { entry, verdict } => appended.and_then(|(leaves, head)| {
            leaves.get(entry).map(|leaf| document(verdict, receipt_text(leaf, head)))
        }),
    });
    let decisions =
        decisions.collect::<Option<Vec<_>>>().ok_or_else(|| Refused::from(RefusalCode::Internal))?;
    Ok(ArtifactsAnswer { decisions })
}

pub(super) fn receipt_text(receipt: &LeafReceipt, head: &SignedHead) -> String {
    TlogProof {
        extra: receipt.leaf.to_vec(),
        index: receipt.index,
        proof: receipt.proof.clone(),
        checkpoint: head.note().to_owned(),
    }
    .encode()
}

fn document(verdict: Verdict, receipt: String) -> DecisionDocument {
    let (verdict, code) = match verdict {
        Verdict::Allow { .. } => ("allow", None),
        Verdict::Deny(code) => ("deny", Some(code)),
    };
    DecisionDocument {
        verdict: verdict.to_owned(),
        code: code.map(|code| code.as_str().to_owned()),
        detail: code.map(|code| code.meaning().to_owned()),
        receipt,
    }
}

fn stored_verdict(leaf: &[u8]) -> Result<Verdict, Refused> {
    let leaf = Leaf::parse(leaf).map_err(|fault| faulted(&fault, RefusalCode::LogUnavailable))?;
    if !matches!(leaf.kind, Kind::Allow | Kind::Deny) {
        return Err(RefusalCode::Internal.into());
    }
    let decision =
        Decision::parse(&leaf.body).map_err(|fault| faulted(&fault, RefusalCode::LogUnavailable))?;
    Ok(decision.verdict)
}

pub(super) fn read_fault(fault: ReadFault) -> Refused {
    faulted(&fault, fault.code())
}

/// Inputs that don't belong together: the state moved while they were read. The caller repeats the call as it was.
pub(super) fn inconsistent(inconsistent: Inconsistent) -> Refused {
    match inconsistent {
        Inconsistent::Settings | Inconsistent::Documents | Inconsistent::Host => {
            RefusalCode::VersionsMoved.into()
        }
        Inconsistent::Request | Inconsistent::Family => faulted(&inconsistent, RefusalCode::Internal),
    }
}
