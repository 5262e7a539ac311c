//! What `POST /v1/artifacts` and `POST /v1/attestations` have in common: evidence from its outside form to a verified call.

use super::faulted;
use super::problem::Refused;
use crate::decide::Situation;
use crate::sequence::Guard;
use crate::serve::Authority;
use crate::serve::documents::Documents;
use crate::store::Reader;
use crate::verify::{Asked, BootLogSource, Call, CallError, Endorsed, SourceFault, VerifiedCall};
use countersign_core::api::EvidenceDocument;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::name::HostId;
use countersign_core::record::MAX_PCRS;
use countersign_core::refusal::RefusalCode;
use std::collections::HashMap;
use std::sync::Arc;

/// Most members of one call: a call names one boot log.
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

/// Verifies the evidence of one call, under the host's state as it is now. CPU work: runs on a worker.
pub(super) fn hear(
    authority: &Authority,
    documents: &Documents,
    (host, key): (HostId, Sha256Digest),
    challenge: Vec<u8>,
    requests: Vec<Asked>,
    evidence: EvidenceDocument,
) -> Result<(Heard, Endorsed), Refused> {
    let endorsed = authority.endorsed(&host, &key)?;
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
    let pcrs = evidence.pcrs.iter().map(|pcr| {
        let value = data_encoding::HEXLOWER.decode(pcr.value.as_bytes());
        Ok((pcr.index, value.map_err(|_| malformed("a PCR value isn't lower-case hex"))?))
    });
    let pcrs = pcrs.collect::<Result<Vec<_>, Refused>>()?;
    let inline: HashMap<Sha256Digest, Arc<[u8]>> =
        evidence.members.into_iter().map(|member| (sha256(&member.0), Arc::from(member.0))).collect();
    let source = Members { inline: &inline, authority };
    let call = Call {
        challenge,
        requests,
        attest: evidence.attest.0,
        signature: evidence.signature.0,
        bank: evidence.bank,
        pcrs,
        boot_log,
    };
    let keys = authority.challenge_keys();
    let verified = authority
        .verifier()
        .verify(&endorsed, call, &documents.settings(), &keys, &source)
        .map_err(|error| refused(authority, error))?;
    let members = boot_log.and_then(|digest| inline.get(&digest).map(|bytes| (digest, Arc::clone(bytes))));
    Ok((Heard { host, key, call: verified, members: members.into_iter().collect() }, endorsed))
}

/// What isn't logged as a decision is answered and counted (PROTOCOL §9.4).
fn refused(authority: &Authority, error: CallError) -> Refused {
    let code = error.code();
    if code != RefusalCode::EvidenceNeeded {
        authority.count_fault(code);
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
