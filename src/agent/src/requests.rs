//! From what a runtime wants to exact request bytes, and from signed request bytes to one that the agent passes on.
//!
//! Host and runtime come from the TPM and from the rule that matched the process, never from the caller. Refused: actions, audiences, lifetimes and
//! delegations that the rule doesn't give, a request for another host or runtime, a holder signature that doesn't verify.

use std::path::Path;

use countersign_core::api::B64;
use countersign_core::name::{HostId, RuntimeId, TrustDomain};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{
    MAX_PARENTS, Request, RequestDocument, RequestError, SignedRequest, argv_digest, holder_preimage,
};
use data_encoding::HEXLOWER;

use crate::config::RuntimeRule;
use crate::local::{Arguments, PrepareCall, Prepared, SignedRequestDocument, Workload};
use crate::peer::Peer;
use crate::program::{ProgramError, measure};
use crate::refused::Refused;

/// Why a request isn't made or passed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Not of the form of PROTOCOL §3, or its holder signature fails.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The program can't be measured.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The rule doesn't name the action.
    #[error("the agent's rule for this runtime doesn't name the action")]
    Action,
    /// The rule doesn't name the audience.
    #[error("the agent's rule for this runtime doesn't name the audience")]
    Audience,
    /// The rule gives a shorter lifetime.
    #[error("the agent's rule for this runtime gives at most {0} seconds")]
    Lifetime(u64),
    /// The rule gives no delegation.
    #[error("the agent's rule for this runtime gives no delegation")]
    Delegation,
    /// Fewer consents than parents.
    #[error("the request has parents whose holders didn't sign it")]
    Consent,
    /// The request names another host.
    #[error("the request names another host")]
    Host,
    /// The request names a runtime that the caller isn't.
    #[error("the request names a runtime that this process isn't")]
    Runtime,
    /// No randomness for an identifier.
    #[error("the system gives no randomness")]
    Randomness,
}

impl From<AskError> for Refused {
    fn from(error: AskError) -> Self {
        let code = match &error {
            AskError::Request(RequestError::Signature) => RefusalCode::HolderSignatureInvalid,
            AskError::Request(_) => RefusalCode::RequestMalformed,
            AskError::Program(_) => RefusalCode::ProgramUnreadable,
            AskError::Action => RefusalCode::ActionNotMapped,
            AskError::Audience => RefusalCode::AudienceMismatch,
            AskError::Lifetime(_) | AskError::Delegation => RefusalCode::Forbidden,
            AskError::Consent => RefusalCode::ConsentMissing,
            AskError::Host => RefusalCode::RequestHostMismatch,
            AskError::Runtime => RefusalCode::PeerUnknown,
            AskError::Randomness => RefusalCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// Under which names a rule's runtime asks.
pub(crate) struct Asking<'a> {
    pub(crate) trust_domain: &'a TrustDomain,
    pub(crate) host: &'a HostId,
    pub(crate) rule: &'a RuntimeRule,
}

impl Asking<'_> {
    /// The runtime's identifier: host and rule alone decide it.
    fn runtime(&self) -> Result<RuntimeId, AskError> {
        RuntimeId::new(self.trust_domain, self.host, &self.rule.name)
            .map_err(|error| AskError::Request(error.into()))
    }

    /// Makes request bytes. Blocks if a program is to be measured.
    pub(crate) fn prepare(&self, peer: &Peer, call: &PrepareCall) -> Result<Prepared, AskError> {
        let id = match &call.id {
            Some(id) => id.clone(),
            None => random_id()?,
        };
        let mut document = RequestDocument {
            v: 1,
            id,
            host: self.host.to_hex(),
            runtime: self.runtime()?.as_str().to_owned(),
            holder: call.holder.clone(),
            workload: String::new(),
            action: call.action.clone(),
            args: match &call.args {
                Arguments::Argv(argv) => argv_digest(argv).to_hex(),
                Arguments::Sha256(digest) => digest.clone(),
            },
            aud: call.aud.clone(),
            ttl_secs: call.ttl_secs.min(self.rule.max_ttl_secs),
            parents: call.parents.clone(),
            delegation: call.delegation.clone(),
        };
        // A file is opened and hashed only for a request that is otherwise in order.
        match &call.workload {
            Workload::Sha256(digest) => document.workload.clone_from(digest),
            Workload::Path(path) => {
                document.workload = "00".repeat(32);
                self.check(&bytes(&document)?)?;
                document.workload = measure(peer, Path::new(path))?.to_hex();
            }
        }
        let bytes = bytes(&document)?;
        self.check(&bytes)?;
        let digest = countersign_core::digest::sha256(&bytes).to_hex();
        Ok(Prepared { to_sign: B64(holder_preimage(&bytes)), digest, request: B64(bytes) })
    }

    /// Takes signed request bytes, as sent, if the rule allows them.
    pub(crate) fn submit(&self, call: SignedRequestDocument) -> Result<SignedRequest, AskError> {
        // What costs nothing comes before the signature.
        let request = self.check(&call.request.0)?;
        // Only the authority knows the parents' holders; that somebody agreed for each can be seen here.
        if call.consents.len() < request.parents.len() {
            return Err(AskError::Consent);
        }
        let consents = call.consents.into_iter().map(|consent| consent.0).collect();
        Ok(SignedRequest::verify(call.request.0, call.signature.0, consents)?)
    }

    fn check(&self, bytes: &[u8]) -> Result<Request, AskError> {
        let request = Request::parse(bytes)?;
        if request.host != *self.host {
            return Err(AskError::Host);
        }
        if request.runtime != self.runtime()? {
            return Err(AskError::Runtime);
        }
        if !self.rule.actions.contains(&request.action) {
            return Err(AskError::Action);
        }
        if !self.rule.audiences.contains(&request.audience) {
            return Err(AskError::Audience);
        }
        if request.ttl_secs > self.rule.max_ttl_secs {
            return Err(AskError::Lifetime(self.rule.max_ttl_secs));
        }
        if request.delegation.is_some() && !self.rule.may_delegate {
            return Err(AskError::Delegation);
        }
        Ok(request)
    }
}

fn bytes(document: &RequestDocument) -> Result<Vec<u8>, AskError> {
    if document.parents.len() > MAX_PARENTS {
        return Err(AskError::Request(RequestError::Member("parents")));
    }
    serde_json::to_vec(document).map_err(|error| AskError::Request(error.into()))
}

fn random_id() -> Result<String, AskError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| AskError::Randomness)?;
    Ok(HEXLOWER.encode(&bytes))
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
