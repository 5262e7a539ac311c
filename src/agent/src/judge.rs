//! What the authority says is believed only as far as the log under a pinned trust bundle shows it.
//!
//! Comes in: receipts. Goes out: leaves under heads that a head key signed. Refused: receipts that don't hold, and receipts for something else than
//! what was asked. Head keys are those of the trust bundle and those that the control chain adds, each vouched for by a head that a key believed
//! before has signed (PROTOCOL §13.1). The chain is pulled when a receipt's head is ahead of what is known of it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use countersign_core::api::{B64, DecisionDocument};
use countersign_core::artifact::{ArtifactError, Receipt, verify_head_signature, verify_note_with};
use countersign_core::bundle::TrustBundle;
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlState;
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::host::Enrolment;
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::name::HostId;
use countersign_core::note::SignedNote;
use countersign_core::refusal::RefusalCode;
use countersign_core::request::SignedRequest;

use crate::authority::{AuthorityApi, CallError};
use crate::identity::HostIdentity;
use crate::refused::Refused;

/// Most pages of one pull of the control chain.
const MAX_PAGES: usize = 1_000;
/// Most control leaves of one pull, bytes in them, and rotation heads: nothing of it is verified before all of it is there.
const MAX_LEAVES: usize = 65_536;
const MAX_BYTES: usize = 32 * 1024 * 1024;
const MAX_ROTATIONS: usize = 64;

/// Why an answer of the authority isn't believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The receipt doesn't hold.
    #[error("receipt: {0}")]
    Receipt(#[from] ArtifactError),
    /// The receipt holds, but is about something else.
    #[error("the receipt isn't about {0}")]
    About(&'static str),
    /// The control chain doesn't hold together.
    #[error("the control chain doesn't hold: {0}")]
    Chain(String),
    /// The control chain couldn't be pulled.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl From<ReceiptError> for Refused {
    fn from(error: ReceiptError) -> Self {
        tracing::error!(error = %error, "the authority's answer isn't believed");
        match error {
            ReceiptError::Call(error) => error.into(),
            error => Self::new(RefusalCode::FeedInvalid, error.to_string()),
        }
    }
}

fn chain(error: impl std::fmt::Display) -> ReceiptError {
    ReceiptError::Chain(error.to_string())
}

/// Judges receipts under one trust bundle.
#[derive(Debug)]
pub(crate) struct Judge {
    bundle: TrustBundle,
    control: Mutex<ControlState>,
}

impl Judge {
    pub(crate) fn new(bundle: TrustBundle) -> Self {
        let control = Mutex::new(ControlState::of_bundle(&bundle));
        Self { bundle, control }
    }

    pub(crate) const fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    fn control(&self) -> ControlState {
        self.control.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The leaf of a receipt that holds. Pulls the control chain if the head is signed by a key that isn't known yet.
    pub(crate) async fn leaf<A: AuthorityApi>(&self, api: &A, text: &str) -> Result<Leaf, ReceiptError> {
        let receipt = Receipt::parse(text)?;
        if receipt.head().origin != self.bundle.origin().as_str() {
            return Err(ArtifactError::Origin.into());
        }
        let mut control = self.control();
        // PROTOCOL §6.3: which keys may sign a head follows from the control chain up to the head's number.
        if control.number() < receipt.head().control_seq {
            control = self.pull(api).await?;
        }
        verify_head_signature(receipt.note(), receipt.head(), &control)?;
        Ok(receipt.leaf().clone())
    }

    /// Follows the control chain to its newest head (PROTOCOL §13.1, without the lease and the links that only a gateway needs).
    async fn pull<A: AuthorityApi>(&self, api: &A) -> Result<ControlState, ReceiptError> {
        let mut control = self.control();
        let mut leaves = VecDeque::new();
        let mut rotations = Vec::new();
        let mut next = control.number();
        let mut bytes = 0_usize;
        for _ in 0..MAX_PAGES {
            let feed = api.feed(0, next).await?;
            next = next.saturating_add(u64::try_from(feed.control.len()).unwrap_or(u64::MAX));
            bytes = feed.control.iter().fold(bytes, |sum, leaf| sum.saturating_add(leaf.0.len()));
            leaves.extend(feed.control);
            rotations.extend(feed.rotations);
            if bytes > MAX_BYTES || leaves.len() > MAX_LEAVES || rotations.len() > MAX_ROTATIONS {
                return Err(chain("it is longer than any that is followed"));
            }
            if feed.more {
                continue;
            }
            let mut reached = (0, 0);
            for head in rotations.iter().chain([&feed.head]) {
                let now = self.step(&mut control, &mut leaves, head)?;
                if now.0 < reached.0 || now.1 < reached.1 {
                    return Err(chain("heads go back"));
                }
                reached = now;
            }
            if !leaves.is_empty() {
                return Err(chain("leaves follow its newest head"));
            }
            let mut known = self.control.lock().unwrap_or_else(PoisonError::into_inner);
            if known.number() < control.number() {
                *known = control.clone();
            }
            return Ok(control);
        }
        Err(chain("it has no end"))
    }

    /// Moves to the control number of one head, which a key believed before and a key believed after must have signed. Its size and time.
    fn step(
        &self,
        control: &mut ControlState,
        leaves: &mut VecDeque<B64>,
        head: &str,
    ) -> Result<(u64, u64), ReceiptError> {
        let note = SignedNote::parse(head).map_err(chain)?;
        let head = HeadBody::parse(note.text()).map_err(chain)?;
        if head.origin != self.bundle.origin().as_str() {
            return Err(ArtifactError::Origin.into());
        }
        let before: Vec<_> = match control.number() {
            0 => self.bundle.head_keys().to_vec(),
            number => control.head_keys_at(number).cloned().collect(),
        };
        while control.number() < head.control_seq {
            let leaf = leaves.pop_front().ok_or_else(|| chain("a head is ahead of its leaves"))?;
            control.apply(&leaf.0).map_err(chain)?;
        }
        if !control.begins_with(self.bundle.head_keys()) {
            return Err(chain("it doesn't begin with the trust bundle's head keys"));
        }
        if control.last_index().is_some_and(|last| last >= head.size) {
            return Err(chain("a head is smaller than what it covers"));
        }
        if head.control_seq != control.number() || head.control_digest != *control.digest() {
            return Err(chain("a head carries another chain"));
        }
        verify_note_with(&note, &head.origin, &control.still_believed(&before))?;
        verify_head_signature(&note, &head, control)?;
        Ok((head.size, head.time_ms))
    }

    /// Checks that a decision is about this request and says what the document says.
    pub(crate) async fn decision<A: AuthorityApi>(
        &self,
        api: &A,
        document: &DecisionDocument,
        request: &SignedRequest,
    ) -> Result<(), ReceiptError> {
        let leaf = self.leaf(api, &document.receipt).await?;
        let said = match leaf.kind {
            Kind::Allow => "allow",
            Kind::Deny => "deny",
            _ => return Err(ReceiptError::About("a decision")),
        };
        let decision = Decision::parse(&leaf.body).map_err(|_| ReceiptError::About("a decision"))?;
        if decision.request != *request.digest() || decision.host != request.request().host {
            return Err(ReceiptError::About("this request"));
        }
        let code = match &decision.verdict {
            Verdict::Allow { .. } => None,
            Verdict::Deny(code) => Some(code.as_str()),
        };
        if document.verdict != said || document.code.as_deref() != code || code.is_some() != (said == "deny")
        {
            return Err(ReceiptError::About("the verdict that came with it"));
        }
        Ok(())
    }

    /// Checks that a host-state leaf is this host's.
    pub(crate) async fn host_state<A: AuthorityApi>(
        &self,
        api: &A,
        receipt: &str,
        host: &HostId,
    ) -> Result<(Leaf, HostStateRecord), ReceiptError> {
        let leaf = self.leaf(api, receipt).await?;
        let record =
            (leaf.kind == Kind::HostState).then(|| HostStateRecord::parse(&leaf.body).ok()).flatten();
        match record {
            Some(record) if record.host == *host => Ok((leaf, record)),
            _ => Err(ReceiptError::About("this host's state")),
        }
    }

    /// Checks that an enrolment leaf names this host and its keys.
    pub(crate) async fn enrolment<A: AuthorityApi>(
        &self,
        api: &A,
        receipt: &str,
        identity: &HostIdentity,
    ) -> Result<(), ReceiptError> {
        let leaf = self.leaf(api, receipt).await?;
        let record = (leaf.kind == Kind::Enrolment).then(|| Enrolment::parse(&leaf.body).ok()).flatten();
        match record {
            Some(record)
                if record.host == identity.host
                    && record.host_key == identity.host_key
                    && record.ak_name == identity.ak_name =>
            {
                Ok(())
            }
            _ => Err(ReceiptError::About("this host's enrolment")),
        }
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
