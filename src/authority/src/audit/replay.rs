//! Replay: every decision and host state once more, and every enrolment against its records, from what the log names and nothing else.
//!
//! What is taken from a decision's inputs record is only what no log can tell: the decision time, the holder signature, which recent state of
//! the host was read. All else (policy, epoch, references, control, parents, budgets, revocations, spent challenges, reused identifiers) is
//! folded from the leaves before, put into the same functions that decided, and compared with the leaf byte for byte.

use super::committed::Heads;
use super::enrolled;
use super::fold::Fold;
use super::named::{BootLogs, Stop, named};
use super::of_its_time::{is_of_its_time, record_of_its_time, told_of_its_time};
use super::replayed::{Mismatch, MismatchKind, Missing, ReplayReport};
use super::{Leaves, LogSource, PAGE, Unreadable};
use crate::appraise::References;
use crate::decide::{ENGINE, Family, Inputs, Situation, decide, decide_attestation};
use crate::policy::{CompiledPolicy, PolicyCache};
use crate::store::project::tells_of_host;
use crate::verify::{BootLogCache, BootLogSource, CallError, Endorsed, Judged, judge_logged};
use countersign_core::bundle::TrustBundle;
use countersign_core::challenge::ChallengeBody;
use countersign_core::control::ControlState;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::Settings;
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::host::{Enrolment, HostState};
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::leaf::record::JoinToken;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::name::HostId;
use countersign_core::record::{EvidenceRecord, InputsRecord};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::SignedRequest;
use countersign_tpm::ima::state::ImaState;
use countersign_tpm::public::Public;
use std::sync::Arc;

/// Boot log replays kept.
const BOOT_LOGS: usize = 256;

/// Replays the log from its first leaf. Run [`super::verify()`] over the same source first: this function looks at no tree and no signature
/// of a head. `progress` is told how many leaves are done.
pub fn replay(
    source: &dyn LogSource,
    bundle: &TrustBundle,
    progress: &mut dyn FnMut(u64),
) -> Result<ReplayReport, Unreadable> {
    let mut replay = Replay {
        source,
        bundle,
        fold: Fold::new(ControlState::of_bundle(bundle)),
        policies: PolicyCache::default(),
        references: None,
        boot_logs: BootLogCache::new(BOOT_LOGS),
        judged: None,
        in_run: false,
        heads: Heads::new(source),
        report: ReplayReport::default(),
    };
    let mut leaves = Leaves::new(source);
    while let Some((index, bytes)) = leaves.next()? {
        replay.take(index, &bytes)?;
        if (index + 1).is_multiple_of(PAGE) {
            progress(index + 1);
        }
    }
    progress(leaves.next);
    Ok(replay.report)
}

/// How a leaf stands that isn't wrong.
enum Standing {
    Repeated,
    Pruned,
}

/// What a leaf was made from that a pruning may take, and of which host it is.
struct Members {
    own: Vec<Sha256Digest>,
    host: HostId,
    state: HostState,
    denies: bool,
}

struct Replay<'a> {
    source: &'a dyn LogSource,
    bundle: &'a TrustBundle,
    fold: Fold,
    policies: PolicyCache,
    references: Option<References>,
    boot_logs: BootLogCache,
    /// The newest judgement, and whether its challenge was fresh.
    judged: Option<(Arc<Judged>, bool)>,
    heads: Heads<'a>,
    /// Whether something was pruned of the newest decision.
    in_run: bool,
    report: ReplayReport,
}

/// What is in force at a leaf.
struct InForce {
    policy: Option<Arc<CompiledPolicy>>,
    settings: Settings,
}

impl Replay<'_> {
    fn take(&mut self, index: u64, bytes: &[u8]) -> Result<(), Unreadable> {
        self.heads.up_to(index)?;
        let Ok(leaf) = Leaf::parse(bytes) else {
            self.mismatch(index, MismatchKind::Malformed("leaf"));
            return Ok(());
        };
        match leaf.kind {
            Kind::Allow | Kind::Deny => self.take_decision(index, &leaf),
            Kind::HostState => self.take_host_state(index, &leaf),
            Kind::Enrolment => {
                self.fold.enter(None, None);
                self.take_enrolment(&leaf, leaf_hash(bytes))
            }
            Kind::JoinToken => {
                self.fold.enter(None, None);
                let made = JoinToken::parse(&leaf.body).map(|token| self.fold.make_token(&token));
                match made {
                    Ok(true) => {}
                    Ok(false) => self.mismatch(index, MismatchKind::Input("join token")),
                    Err(_) => self.mismatch(index, MismatchKind::Malformed("join token")),
                }
                Ok(())
            }
            kind => {
                self.fold.enter(None, None);
                if kind.is_control() && self.fold.apply_control(bytes).is_err() {
                    self.mismatch(index, MismatchKind::Malformed("control leaf"));
                }
                Ok(())
            }
        }
    }

    fn take_enrolment(&mut self, leaf: &Leaf, hash: Sha256Digest) -> Result<(), Unreadable> {
        let Ok(enrolment) = Enrolment::parse(&leaf.body) else {
            self.mismatch(leaf.index, MismatchKind::Malformed("enrolment"));
            return Ok(());
        };
        let admitted = self.fold.admit(&enrolment, leaf.time_ms).map_err(Stop::from);
        let origin = self.bundle.origin().as_str();
        match admitted.and_then(|()| enrolled::follows(self.source, origin, &enrolment)) {
            Ok(told) if self.fold.takes_session(told, leaf.time_ms) => self.report.enrolled += 1,
            Ok(_) => self.mismatch(leaf.index, MismatchKind::Input("form of the activation record")),
            Err(Stop::Missing(missing)) => self.report.not_replayable.push((leaf.index, missing)),
            Err(Stop::Mismatch(kind)) => self.mismatch(leaf.index, kind),
            Err(Stop::Unreadable(unreadable)) => return Err(unreadable),
        }
        self.fold.enrol(enrolment, (leaf.index, hash));
        Ok(())
    }

    fn mismatch(&mut self, index: u64, kind: MismatchKind) {
        self.report.mismatches.push(Mismatch { index, kind });
    }

    /// Files what became of a leaf with these members.
    fn settle(
        &mut self,
        leaf: &Leaf,
        members: &Members,
        verdict: Result<(), Stop>,
    ) -> Result<(), Unreadable> {
        let index = leaf.index;
        let was_in_run = std::mem::take(&mut self.in_run);
        let excused = match &verdict {
            Err(Stop::Missing(Missing::Blob(digest))) => Some(self.excuse(leaf, digest, members)),
            _ => None,
        };
        // What follows only if a pruned decision used the challenge isn't repeated.
        let follows = if self.fold.group.assumes_spent() { Standing::Pruned } else { Standing::Repeated };
        match excused.unwrap_or(verdict.map(|()| follows)) {
            Ok(Standing::Repeated) => {
                self.report.replayed += 1;
                self.report.denied += u64::from(members.denies);
            }
            Ok(Standing::Pruned) => {
                self.report.add_pruned(index, was_in_run);
                self.in_run = true;
            }
            Err(Stop::Missing(missing)) => self.report.not_replayable.push((index, missing)),
            Err(Stop::Mismatch(kind)) => self.mismatch(index, kind),
            Err(Stop::Unreadable(unreadable)) => return Err(unreadable),
        }
        Ok(())
    }

    /// Looks whether a pruning took all that a leaf lacks. It takes members of old leaves only; documents, keys and states it never takes.
    fn excuse(&mut self, leaf: &Leaf, missing: &Sha256Digest, members: &Members) -> Result<Standing, Stop> {
        if !members.own.contains(missing) {
            return Err(Stop::Missing(Missing::Blob(*missing)));
        }
        for digest in &members.own {
            match self.source.blob(digest).map_err(Stop::Unreadable)? {
                Some(bytes) if sha256(&bytes) == *digest => {}
                // Other bytes in its place are no pruning.
                Some(_) => return Err(Stop::Missing(Missing::Altered(*digest))),
                None => {
                    let told = self.source.pruned(digest).map_err(Stop::Unreadable)?;
                    if !told.is_some_and(|pruning| pruning.reaches(leaf)) {
                        return Err(Stop::Missing(Missing::Blob(*digest)));
                    }
                }
            }
        }
        // What the log alone shows is judged all the same.
        told_of_its_time(leaf, &self.fold)?;
        self.in_force()?;
        self.endorsed(&members.host, members.state)?;
        Ok(Standing::Pruned)
    }

    fn take_decision(&mut self, index: u64, leaf: &Leaf) -> Result<(), Unreadable> {
        let Ok(decision) = Decision::parse(&leaf.body) else {
            self.mismatch(index, MismatchKind::Malformed("decision"));
            return Ok(());
        };
        let code = code_of(&decision);
        let evidence = self.evidence(&decision.evidence);
        let challenge =
            self.enter((decision.host, leaf.time_ms), &decision.evidence, code, evidence.as_ref().ok());
        let members = Members {
            own: own_members(
                &[decision.request, decision.inputs, decision.evidence],
                &decision.host_state,
                evidence.as_ref().ok(),
            ),
            host: decision.host,
            state: decision.host_state,
            denies: code.is_some(),
        };
        let verdict = evidence.and_then(|evidence| self.repeat_decision(leaf, &decision, evidence));
        self.settle(leaf, &members, verdict)?;
        self.spend(decision.host, challenge, code, leaf.time_ms);
        if !self.fold.apply_decision(index, &decision) {
            self.mismatch(index, MismatchKind::Budget);
        }
        Ok(())
    }

    fn take_host_state(&mut self, index: u64, leaf: &Leaf) -> Result<(), Unreadable> {
        let Ok(record) = HostStateRecord::parse(&leaf.body) else {
            self.mismatch(index, MismatchKind::Malformed("host state"));
            return Ok(());
        };
        let evidence = self.evidence(&record.evidence);
        let challenge =
            self.enter((record.host, leaf.time_ms), &record.evidence, record.code, evidence.as_ref().ok());
        let members = Members {
            own: own_members(&[record.evidence], &record.state, evidence.as_ref().ok()),
            host: record.host,
            state: record.state,
            denies: record.code.is_some(),
        };
        let verdict = evidence.and_then(|evidence| self.repeat_attestation(leaf, &record, evidence));
        self.settle(leaf, &members, verdict)?;
        self.spend(record.host, challenge, record.code, leaf.time_ms);
        if record.basis.is_some() {
            self.fold.basis_since.get_or_insert(leaf.time_ms);
        }
        if tells_of_host(record.code, &record.evidence, &record.state) {
            self.fold.show(&record.host, &record.state);
        }
        Ok(())
    }

    /// Enters the append that the leaf is of. The code tells the standing: it is checked before everything else.
    fn enter(
        &mut self,
        (host, time_ms): (HostId, u64),
        evidence: &Sha256Digest,
        code: Option<RefusalCode>,
        record: Option<&EvidenceRecord>,
    ) -> Option<(Sha256Digest, u64)> {
        let challenge = record.and_then(|record| {
            let body = ChallengeBody::read_unverified(&record.challenge).ok()?;
            Some((sha256(&record.challenge), body.expires_ms))
        });
        let digest = challenge.as_ref().map(|(digest, _)| digest);
        self.fold.enter(Some((host, *evidence, is_fresh(code))), digest);
        if code == Some(RefusalCode::ChallengeSpent) && digest.is_some() {
            self.fold.assume_spent(&host, time_ms);
        }
        challenge
    }

    fn spend(
        &mut self,
        host: HostId,
        challenge: Option<(Sha256Digest, u64)>,
        code: Option<RefusalCode>,
        time_ms: u64,
    ) {
        match challenge.filter(|_| is_fresh(code)) {
            Some((digest, expires_ms)) => self.fold.spend(digest, expires_ms, time_ms),
            // The evidence named the challenge, and was pruned.
            None if is_fresh(code) && self.in_run => self.fold.spend_unseen(host, time_ms),
            None => {}
        }
    }

    fn repeat_decision(
        &mut self,
        leaf: &Leaf,
        decision: &Decision,
        evidence: EvidenceRecord,
    ) -> Result<(), Stop> {
        told_of_its_time(leaf, &self.fold)?;
        let record = InputsRecord::parse(&self.blob(&decision.inputs)?)
            .map_err(|_| MismatchKind::Malformed("inputs record"))?;
        if record.engine != ENGINE {
            return Err(Stop::Missing(Missing::Engine(record.engine)));
        }
        let request = self.request(decision, &record)?;
        if !is_of_its_time(leaf, record.time_ms, 0) {
            return Err(MismatchKind::Input("decision time").into());
        }
        if !self.fold.group.priors().contains(&record.prior) {
            return Err(MismatchKind::Input("prior host state").into());
        }
        let in_force = self.in_force()?;
        let host = self.endorsed(&decision.host, record.prior)?;
        let judged = self.judge(&host, &in_force, evidence, is_fresh(code_of(decision)))?;
        let family = self.family(&request)?;
        let outcome = decide(&Inputs {
            situation: self.situation(&host, &judged, &in_force, record.time_ms),
            request: &request,
            family: &family,
            request_id_reused: self.fold.reused(&decision.host, &decision.request_id, &decision.request),
        })
        .map_err(|_| MismatchKind::Input("evidence"))?;
        if outcome.body() == leaf.body {
            return Ok(());
        }
        Err(first_difference(&outcome.inputs, &record).map_or(MismatchKind::Body, MismatchKind::Input).into())
    }

    /// A host-state leaf names no inputs record: it has to follow from some state that a call under way may have read.
    fn repeat_attestation(
        &mut self,
        leaf: &Leaf,
        record: &HostStateRecord,
        evidence: EvidenceRecord,
    ) -> Result<(), Stop> {
        record_of_its_time(leaf, record, &self.fold)?;
        if let Some(basis) = record.basis.as_ref().filter(|basis| basis.engine != ENGINE) {
            return Err(Stop::Missing(Missing::Engine(basis.engine.clone())));
        }
        let in_force = self.in_force()?;
        let unread = HostState::unattested(0);
        let host = self.endorsed(&record.host, unread)?;
        let judged = self.judge(&host, &in_force, evidence, is_fresh(record.code))?;
        let trust_ms = in_force.settings.host_trust_secs.saturating_mul(1_000);
        let times = match (&record.basis, record.code) {
            (Some(basis), _) => vec![basis.time_ms],
            (None, None) => vec![record.state.trusted_until_ms.saturating_sub(trust_ms)],
            // Where it stands nowhere, the time of a refused attestation matters only on which side of the challenge's end it was.
            (None, Some(_)) => vec![leaf.time_ms, leaf.time_ms.min(judged.challenge().expires_ms)],
        };
        let mut boot_logs = false;
        for time_ms in times.into_iter().filter(|time_ms| is_of_its_time(leaf, *time_ms, 0)) {
            for prior in self.fold.group.priors() {
                let host = host.clone().at(*prior, self.ima_state(prior)?);
                let outcome = decide_attestation(&self.situation(&host, &judged, &in_force, time_ms))
                    .map_err(|_| MismatchKind::Input("evidence"))?;
                let body = match record.basis {
                    Some(_) => outcome.body,
                    None => HostStateRecord { basis: None, ..outcome.record.clone() }.encode(),
                };
                if body == leaf.body {
                    return Ok(());
                }
                boot_logs |= [record.code, outcome.record.code].into_iter().flatten().any(of_boot_log);
            }
        }
        // Which boot logs are taken differs between engines, and a short body doesn't say by which one it was judged.
        if record.basis.is_none() && boot_logs {
            return Err(Stop::Missing(Missing::Engine("before countersign-decision-4".to_owned())));
        }
        Err(MismatchKind::Body.into())
    }

    fn situation<'a>(
        &'a self,
        host: &'a Endorsed,
        judged: &'a Judged,
        in_force: &'a InForce,
        time_ms: u64,
    ) -> Situation<'a> {
        Situation {
            origin: self.bundle.origin(),
            trust_domain: self.bundle.trust_domain(),
            host,
            judged,
            challenge_spent: self.fold.group.spent(),
            control: &self.fold.control,
            policy: in_force.policy.as_deref(),
            references: self.references.as_ref(),
            time_ms,
        }
    }

    fn blob(&self, digest: &Sha256Digest) -> Result<Vec<u8>, Stop> {
        named(self.source, digest)
    }

    fn evidence(&self, digest: &Sha256Digest) -> Result<EvidenceRecord, Stop> {
        EvidenceRecord::parse(&self.blob(digest)?)
            .map_err(|_| MismatchKind::Malformed("evidence record").into())
    }

    fn request(&self, decision: &Decision, record: &InputsRecord) -> Result<SignedRequest, Stop> {
        let bytes = self.blob(&decision.request)?;
        let signed = SignedRequest::verify(bytes, record.holder_signature.clone(), record.consents.clone())
            .map_err(|_| MismatchKind::Request)?;
        let request = signed.request();
        let own = request.host == decision.host
            && *request.runtime.host() == decision.host
            && request.runtime.trust_domain() == self.bundle.trust_domain();
        if own { Ok(signed) } else { Err(MismatchKind::Request.into()) }
    }

    /// The documents that the control chain names here.
    fn in_force(&mut self) -> Result<InForce, Stop> {
        let policy = match self.fold.control.policy().copied() {
            None => None,
            Some(digest) => Some(match self.policies.find(&digest) {
                Some(policy) => policy,
                None => self
                    .policies
                    .load(&digest, &self.blob(&digest)?)
                    .map_err(|_| MismatchKind::Malformed("policy document"))?,
            }),
        };
        let named = self.fold.control.references().copied();
        if self.references.as_ref().map(|references| *references.digest()) != named {
            self.references = match named {
                None => None,
                Some(digest) => {
                    let bytes = self.blob(&digest)?;
                    Some(References::parse(&bytes, None, |named| self.blob(named))?)
                }
            };
        }
        let settings = policy.as_ref().map_or_else(Settings::default, |policy| policy.settings().clone());
        Ok(InForce { policy, settings })
    }

    fn endorsed(&mut self, host: &HostId, prior: HostState) -> Result<Endorsed, Stop> {
        let unknown = || Stop::from(MismatchKind::Input("enrolment"));
        let known = self.fold.hosts.get(host).ok_or_else(unknown)?;
        let ak = match &known.ak {
            Some(ak) => Arc::clone(ak),
            None => {
                let bytes = self.blob(&known.enrolment.ak_public)?;
                Arc::new(Public::parse(&bytes).map_err(|_| MismatchKind::Malformed("AK public area"))?)
            }
        };
        let known = self.fold.hosts.get_mut(host).ok_or_else(unknown)?;
        if ak.name().as_bytes() != known.enrolment.ak_name {
            return Err(MismatchKind::Malformed("AK public area").into());
        }
        known.ak = Some(Arc::clone(&ak));
        let known = self.fold.hosts.get(host).ok_or_else(unknown)?;
        Ok(Endorsed {
            host: *host,
            enrolment: known.leaf,
            ak,
            host_key_kind: known.enrolment.host_key_kind,
            endorsement: Arc::new(known.enrolment.endorsement.clone()),
            prior,
            ima: self.ima_state(&prior)?,
        })
    }

    fn ima_state(&self, prior: &HostState) -> Result<Option<Arc<ImaState>>, Stop> {
        let Some(digest) = &prior.ima else { return Ok(None) };
        let state = ImaState::parse(&self.blob(digest)?);
        Ok(Some(Arc::new(state.map_err(|_| MismatchKind::Malformed("state of the IMA appraisal"))?)))
    }

    /// The requests of a call share one judgement.
    fn judge(
        &mut self,
        host: &Endorsed,
        in_force: &InForce,
        evidence: EvidenceRecord,
        fresh: bool,
    ) -> Result<Arc<Judged>, Stop> {
        let digest = evidence.digest();
        let same = |judged: &&Arc<Judged>| {
            *judged.record_digest() == digest
                && *judged.host() == host.host
                && judged.ak().name() == host.ak.name()
                && *judged.settings() == in_force.settings
        };
        if let Some((judged, _)) =
            self.judged.as_ref().filter(|(judged, with)| *with == fresh && same(&judged))
        {
            return Ok(Arc::clone(judged));
        }
        let blobs = BootLogs { source: self.source, fresh };
        let origin = self.bundle.origin();
        let boot_logs = (&self.boot_logs, &blobs as &dyn BootLogSource);
        let judged = judge_logged(origin, host.host, &host.ak, &in_force.settings, evidence, boot_logs);
        let judged = judged.map_err(|error| match error {
            CallError::EvidenceNeeded(digests) => {
                Stop::Missing(Missing::Blob(digests.first().copied().unwrap_or(Sha256Digest::ZERO)))
            }
            CallError::Source(fault) => Stop::Unreadable(Unreadable(fault.0)),
            other => MismatchKind::Evidence(other.code()).into(),
        })?;
        // PROTOCOL §4.1: the challenge names a head of this log that was committed before.
        if !self.heads.known.contains(&judged.challenge().head) {
            return Err(MismatchKind::Input("head named by the challenge").into());
        }
        let judged = Arc::new(judged);
        self.judged = Some((Arc::clone(&judged), fresh));
        Ok(judged)
    }

    fn family(&self, request: &SignedRequest) -> Result<Family, Stop> {
        Family::resolve(&request.request().parents, |index| {
            let leaf = self.source.leaves(index, 1).map_err(Stop::Unreadable)?.into_iter().next();
            Ok(leaf.map(|bytes| (bytes, self.fold.budget_left(index))))
        })
    }
}

/// What the leaf names itself, and the boot log and IMA entries inside of its evidence; the boot log of its state stands for the former if the
/// evidence is gone.
fn own_members(
    named: &[Sha256Digest],
    state: &HostState,
    evidence: Option<&EvidenceRecord>,
) -> Vec<Sha256Digest> {
    let inside = evidence.map(|record| [record.boot_log, record.ima.map(|ima| ima.list)]);
    // No new entries of the list are no member.
    let inside = inside.into_iter().flatten().flatten().filter(|digest| *digest != sha256(&[]));
    named.iter().copied().chain(state.boot_log).chain(inside).collect()
}

const fn of_boot_log(code: RefusalCode) -> bool {
    matches!(code, RefusalCode::BootLogMismatch | RefusalCode::BootLogSeparator)
}

fn is_fresh(code: Option<RefusalCode>) -> bool {
    !matches!(code, Some(RefusalCode::ChallengeExpired | RefusalCode::ChallengeSpent))
}

/// The input in which the record differs from what the log shows.
fn first_difference(shown: &InputsRecord, record: &InputsRecord) -> Option<&'static str> {
    let same = [
        ("request", shown.request == record.request),
        ("evidence", shown.evidence == record.evidence),
        ("challenge standing", shown.challenge == record.challenge),
        ("enrolment", shown.enrolment == record.enrolment),
        ("control", shown.control == record.control),
        ("policy", shown.policy == record.policy),
        ("epoch", shown.epoch == record.epoch),
        ("references", shown.references == record.references),
        ("parents", shown.parents == record.parents),
        ("request identifier", shown.request_id_reused == record.request_id_reused),
        ("revoked subjects", shown.revoked == record.revoked),
        ("trust domain", shown.trust_domain == record.trust_domain),
    ];
    same.into_iter().find(|(_, same)| !same).map(|(name, _)| name)
}

fn code_of(decision: &Decision) -> Option<RefusalCode> {
    match decision.verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny(code) => Some(code),
    }
}
