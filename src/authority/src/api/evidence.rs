//! What `POST /v1/artifacts` and `POST /v1/attestations` have in common: evidence from its outside form to a verified call.

use super::artifacts::read_fault;
use super::faulted;
use super::problem::Refused;
use crate::decide::Situation;
use crate::sequence::{Guard, Spend};
use crate::serve::Authority;
use crate::serve::documents::Documents;
use crate::serve::refusals::Refusal;
use crate::store::Reader;
use crate::verify::{Asked, BootLogSource, Call, CallError, Endorsed, Evidence, SourceFault, VerifiedCall};
use countersign_core::api::EvidenceDocument;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::control::Subject;
use countersign_core::name::HostId;
use countersign_core::record::{ChallengeStanding, ImaEntries, MAX_PCRS};
use countersign_core::refusal::RefusalCode;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Most members of one call: a call names one boot log and one list of IMA entries.
const MAX_MEMBERS: usize = 4;

/// Bytes that a leaf names by SHA-256.
pub(super) type Blob = (Sha256Digest, Arc<[u8]>);

/// A verified call and what has to be kept with it.
pub(super) struct Heard {
    pub(super) host: HostId,
    pub(super) key: Sha256Digest,
    pub(super) call: VerifiedCall,
    /// Members sent inline that the evidence names.
    pub(super) members: Vec<Blob>,
}

/// Verifies the evidence of one call, under the host's state as it was last seen. CPU work: runs on a worker.
pub(super) fn hear(
    authority: &Authority,
    documents: &Documents,
    (host, key): (HostId, Sha256Digest),
    challenge: Vec<u8>,
    requests: Vec<Asked>,
    evidence: EvidenceDocument,
) -> Result<(Heard, Endorsed), Refused> {
    let endorsed = authority.endorsed_as_seen(&host, &key)?;
    let malformed = |what: &'static str| Refused::new(RefusalCode::Malformed, what);
    if evidence.members.len() > MAX_MEMBERS {
        return Err(malformed("too many members"));
    }
    if evidence.pcrs.len() > MAX_PCRS {
        return Err(malformed("too many PCR values"));
    }
    let boot_log = match &evidence.boot_log {
        Some(text) => {
            Some(Sha256Digest::from_hex(text).map_err(|_| malformed("boot_log isn't a SHA-256 digest"))?)
        }
        None => None,
    };
    let ima = match &evidence.ima {
        Some(ima) => {
            let list = Sha256Digest::from_hex(&ima.list)
                .map_err(|_| malformed("ima.list isn't a SHA-256 digest"))?;
            Some(ImaEntries { from: ima.from, column: ima.column, list })
        }
        None => None,
    };
    let pcrs = evidence.pcrs.iter().map(|pcr| {
        let value = data_encoding::HEXLOWER.decode(pcr.value.as_bytes());
        Ok((pcr.index, value.map_err(|_| malformed("a PCR value isn't lower-case hex"))?))
    });
    let pcrs = pcrs.collect::<Result<Vec<_>, Refused>>()?;
    let inline: HashMap<Sha256Digest, Arc<[u8]>> =
        evidence.members.into_iter().map(|member| (sha256(&member.0), Arc::from(member.0))).collect();
    let named = [boot_log, ima.map(|ima| ima.list)].into_iter().flatten();
    let members: Vec<Blob> =
        named.filter_map(|digest| inline.get(&digest).map(|bytes| (digest, Arc::clone(bytes)))).collect();
    charge(authority, host, requests.len(), &members)?;
    let source = Members { inline: &inline, authority };
    let call = Call {
        challenge,
        requests,
        attest: evidence.attest.0,
        signature: evidence.signature.0,
        bank: evidence.bank,
        pcrs,
        boot_log,
        ima,
    };
    let keys = authority.challenge_keys_for(&call.challenge);
    let verified = authority
        .verifier()
        .verify(&endorsed, call, &documents.settings(), &keys, &source)
        .map_err(|error| refused(authority, host, error))?;
    Ok((Heard { host, key, call: verified, members }, endorsed))
}

/// Takes what the call would use up, before any of it is looked at: leaves, and room for members that aren't known yet.
fn charge(authority: &Authority, host: HostId, requests: usize, members: &[Blob]) -> Result<(), Refused> {
    let (budgets, now) = (authority.budgets(), Instant::now());
    let leaves = requests.max(1) as u64;
    // The first denials of a revoked host are news, the hundredth fills the log.
    let revoked = authority.control().is_revoked(&Subject::Host(host));
    if revoked && !budgets.revoked_denials.take_many(host, leaves, now) {
        return Err(RefusalCode::HostRevoked.into());
    }
    let mut kib = 0_u64;
    for (digest, bytes) in members {
        if !authority.holds_blob(digest).map_err(read_fault)? {
            kib = kib.saturating_add((bytes.len() as u64).div_ceil(1_024));
        }
    }
    let affordable = budgets.host_requests.take_many(host, leaves, now)
        && (kib == 0 || budgets.host_evidence_kib.take_many(host, kib, now));
    if affordable { Ok(()) } else { Err(RefusalCode::RateLimited.into()) }
}

/// What isn't logged as a decision is answered, and counted by whoever accounts for the call (PROTOCOL §9.4).
fn refused(authority: &Authority, host: HostId, error: CallError) -> Refused {
    let code = error.code();
    if error.tells_of_host() {
        authority.note_refusal(host, Refusal::new(code, &error.to_string(), authority.now_ms()));
    }
    match error {
        CallError::EvidenceNeeded(needed) => Refused::evidence_needed(needed),
        CallError::Source(fault) => faulted(&fault, code),
        CallError::Request { .. } | CallError::RequestHostMismatch { .. } | CallError::Requests => {
            Refused::new(code, error.to_string())
        }
        _ => code.into(),
    }
}

/// The host's endorsement and state as they are now, for another decision.
pub(super) fn endorsed_now(authority: &Authority, heard: &Heard) -> Result<Endorsed, Refused> {
    authority.endorsed(&heard.host, &heard.key)
}

/// Everything of a situation that may have moved when its decisions are appended.
pub(super) fn guards(situation: &Situation<'_>) -> Vec<Guard> {
    let Endorsed { host, enrolment, prior, .. } = situation.host;
    vec![
        Guard::HostVersion(*host, prior.version),
        Guard::Enrolment(*host, enrolment.0),
        Guard::Control(situation.control.number()),
        Guard::DecidedAt(situation.time_ms),
    ]
}

/// What a decision over this challenge uses up: the challenge, or, if that isn't fresh, the one leaf that is made of it.
pub(super) fn spend(heard: &Heard, standing: ChallengeStanding) -> Spend {
    let challenge = heard.call.challenge();
    let (digest, expires_ms) = (*challenge.digest(), challenge.body().expires_ms);
    match standing {
        ChallengeStanding::Fresh => Spend::Challenge { digest, expires_ms },
        ChallengeStanding::Spent | ChallengeStanding::Expired => Spend::Mark { digest, expires_ms },
    }
}

/// What is kept with the leaves: the evidence record, and its members only if the challenge was fresh. Nothing in a decision about a replay
/// depends on them, and whoever replays could name others each time.
pub(super) fn kept(heard: &Heard, standing: ChallengeStanding) -> impl Iterator<Item = Blob> {
    let judged = heard.call.judged();
    let record = (*judged.record_digest(), Arc::clone(judged.record_bytes()));
    let members = heard.members.iter().filter(move |_| standing == ChallengeStanding::Fresh);
    std::iter::once(record).chain(members.cloned())
}

/// Members that the evidence names and that weren't sent: they were in the store, and may be pruned until the leaf is appended.
pub(super) fn named(heard: &Heard, standing: ChallengeStanding) -> Vec<Sha256Digest> {
    let judged = heard.call.judged();
    // Of a quote that doesn't hold no member was looked for: its denial is logged whether there are any or not.
    if standing != ChallengeStanding::Fresh || matches!(judged.evidence(), Evidence::Refused(_)) {
        return Vec::new();
    }
    let record = judged.record();
    // No new entries of the IMA list are no member.
    let list = record.ima.map(|ima| ima.list).filter(|list| *list != sha256(&[]));
    let sent = |digest: &Sha256Digest| heard.members.iter().any(|(sent, _)| sent == digest);
    [record.boot_log, list].into_iter().flatten().filter(|digest| !sent(digest)).collect()
}

/// The refusal of what comes with a challenge that isn't fresh.
pub(super) const fn stale_refusal(standing: ChallengeStanding) -> RefusalCode {
    match standing {
        ChallengeStanding::Expired => RefusalCode::ChallengeExpired,
        ChallengeStanding::Spent | ChallengeStanding::Fresh => RefusalCode::ChallengeSpent,
    }
}

struct Members<'a> {
    inline: &'a HashMap<Sha256Digest, Arc<[u8]>>,
    authority: &'a Authority,
}

impl BootLogSource for Members<'_> {
    fn holds(&self, digest: &Sha256Digest) -> Result<bool, SourceFault> {
        Ok(self.inline.contains_key(digest) || self.authority.holds_blob(digest).map_err(source_fault)?)
    }

    fn fetch(&self, digest: &Sha256Digest) -> Result<Option<Arc<[u8]>>, SourceFault> {
        if let Some(bytes) = self.inline.get(digest) {
            return Ok(Some(Arc::clone(bytes)));
        }
        let reader: &dyn Reader = self.authority.reader();
        Ok(reader.blob(digest).map_err(source_fault)?.map(Arc::from))
    }
}

fn source_fault(fault: crate::store::ReadFault) -> SourceFault {
    SourceFault(fault.to_string())
}
