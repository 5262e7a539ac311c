//! What audits find wrong, as one closed list of stable codes beside [`countersign_core::refusal::RefusalCode`]: those say why somebody was turned away,
//! these why a log, a decision in it or a document made from it doesn't hold.
//!
//! A code never changes its meaning and is never reused. `docs/ERRORS.md` is written from this table, too.

use super::dual_chain::ChainFault;
use super::outcomes::OutcomeFault;
use super::reconcile::DiscrepancyKind;
use super::replayed::{MismatchKind, Missing};
use super::verify::FindingKind;
use std::fmt;

macro_rules! codes {
    ($($variant:ident = $code:literal, $meaning:literal;)+) => {
        /// A stable name of something that is wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum AuditCode {
            $(#[doc = $meaning] $variant,)+
        }

        impl AuditCode {
            /// Every code, in the order of `docs/ERRORS.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable code, kebab-case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }
        }
    };
}

codes! {
    LogUnreadable = "log-unreadable", "The log can't be read further; nothing is said of the rest.";
    LogEmpty = "log-empty", "The log has no head.";
    LeafMalformed = "leaf-malformed", "A leaf's envelope or body doesn't parse.";
    LeafIndex = "leaf-index", "A leaf carries another index than that of its place.";
    LeafTime = "leaf-time", "A leaf's time is before that of the leaf before, or after that of its head.";
    LeafBody = "leaf-body", "A decision's verdict isn't its leaf's kind, or it was issued by another authority.";
    LeavesMissing = "leaves-missing", "There are fewer leaves than the newest head says.";
    LeafUncovered = "leaf-uncovered", "A leaf is under no head.";
    ControlChain = "control-chain", "A control leaf doesn't follow from those before, or nobody who may has signed it.";
    HeadMalformed = "head-malformed", "A head's body doesn't parse.";
    HeadOrigin = "head-origin", "A head is of another log.";
    HeadSize = "head-size", "A head isn't larger than the head before.";
    HeadRoot = "head-root", "A root in a head isn't that of the leaves.";
    HeadPrev = "head-prev", "A head names another head than the one before.";
    HeadControl = "head-control", "A head's control number or digest isn't that of the control chain.";
    HeadSignature = "head-signature", "A note isn't over its head, doesn't parse, or a known key's signature fails.";
    HeadUnvouched = "head-unvouched", "No active head key that the heads before vouch for has signed a head.";
    RotationUnsigned = "rotation-unsigned", "A head key was activated, and the first signed head after that lacks its signature.";
    NewestHeadUnsigned = "newest-head-unsigned", "The newest head has no signature.";
    LastGoodHeadMissing = "last-good-head-missing", "The last good head of a compromised key isn't a head of this log.";
    OutcomeGatewayUnknown = "outcome-gateway-unknown", "An outcome was told by a key that was never a gateway's.";
    OutcomeGatewayEnded = "outcome-gateway-ended", "An outcome was told by a gateway that had been revoked or removed.";
    OutcomeUnfounded = "outcome-unfounded", "An outcome can't be true: there is no such allow, or its time or audience doesn't fit.";
    OutcomeRepeated = "outcome-repeated", "An outcome was told before.";
    InputMissing = "input-missing", "Something that a leaf names isn't there any more, and no pruning explains it.";
    InputAltered = "input-altered", "The bytes under a digest that a leaf names are others.";
    EngineOther = "engine-other", "A decision was made by another version of the decision function than this program has.";
    RecordMalformed = "record-malformed", "A leaf or a record that it names doesn't parse.";
    InputMismatch = "input-mismatch", "What a decision, host state or enrolment rests on isn't what the log shows.";
    EnrolmentDiffers = "enrolment-differs", "An enrolment says something else than the records that it names.";
    RequestUnfit = "request-unfit", "The request of a decision would have been refused without being logged.";
    EvidenceUnfit = "evidence-unfit", "The evidence of a decision would have been refused without being logged.";
    DecisionDiffers = "decision-differs", "The same inputs lead to another decision.";
    BudgetOverdrawn = "budget-overdrawn", "An artifact has more children than its budget covers.";
    StartedRevoked = "started-revoked", "Something started after its revocation, and longer after it than a gateway's lease.";
    StartedInLease = "started-in-lease", "Something started after its revocation, within a gateway's lease.";
    StartedElsewhere = "started-elsewhere", "Two gateways started the same artifact.";
    OutcomeAbsent = "outcome-absent", "An artifact has ended and no gateway told of it.";
    RefusalUnfounded = "refusal-unfounded", "A gateway refused for a reason that the log doesn't show.";
    ChainMalformed = "chain-malformed", "An exported chain isn't JSON, has no events, or an event lacks a field.";
    ChainSequence = "chain-sequence", "The events of an exported chain have a gap, a repeat or another start.";
    ChainLink = "chain-link", "An event of an exported chain doesn't name the event before.";
    ChainTime = "chain-time", "A time in an exported chain isn't one, or is before that of the event before.";
    ChainOperation = "chain-operation", "An event of an exported chain is of another operation.";
    ChainHash = "chain-hash", "The content of an event of an exported chain isn't what its hash says.";
}

impl fmt::Display for AuditCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FindingKind {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> AuditCode {
        match self {
            Self::Unreadable(_) => AuditCode::LogUnreadable,
            Self::Malformed(_) => AuditCode::LeafMalformed,
            Self::Index(_) => AuditCode::LeafIndex,
            Self::Time => AuditCode::LeafTime,
            Self::Body => AuditCode::LeafBody,
            Self::Outcome(fault) => fault.code(),
            Self::Control(_) => AuditCode::ControlChain,
            Self::LeavesMissing => AuditCode::LeavesMissing,
            Self::Uncovered => AuditCode::LeafUncovered,
            Self::HeadMalformed => AuditCode::HeadMalformed,
            Self::Origin => AuditCode::HeadOrigin,
            Self::Size => AuditCode::HeadSize,
            Self::Root(_) => AuditCode::HeadRoot,
            Self::Prev => AuditCode::HeadPrev,
            Self::ControlLine => AuditCode::HeadControl,
            Self::Signature(_) => AuditCode::HeadSignature,
            Self::Unsigned => AuditCode::HeadUnvouched,
            Self::Rotation => AuditCode::RotationUnsigned,
            Self::LastGood => AuditCode::LastGoodHeadMissing,
            Self::NewestUnsigned => AuditCode::NewestHeadUnsigned,
            Self::Empty => AuditCode::LogEmpty,
        }
    }
}

impl OutcomeFault {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> AuditCode {
        match self {
            Self::UnknownGateway => AuditCode::OutcomeGatewayUnknown,
            Self::EndedGateway => AuditCode::OutcomeGatewayEnded,
            Self::Unfounded(_) => AuditCode::OutcomeUnfounded,
            Self::Twice => AuditCode::OutcomeRepeated,
        }
    }
}

impl Missing {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> AuditCode {
        match self {
            Self::Blob(_) => AuditCode::InputMissing,
            Self::Altered(_) => AuditCode::InputAltered,
            Self::Engine(_) => AuditCode::EngineOther,
        }
    }
}

impl MismatchKind {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> AuditCode {
        match self {
            Self::Malformed(_) => AuditCode::RecordMalformed,
            Self::Input(_) => AuditCode::InputMismatch,
            Self::Enrolment(_) => AuditCode::EnrolmentDiffers,
            Self::Request => AuditCode::RequestUnfit,
            Self::Evidence(_) => AuditCode::EvidenceUnfit,
            Self::Body => AuditCode::DecisionDiffers,
            Self::Budget => AuditCode::BudgetOverdrawn,
        }
    }
}

impl DiscrepancyKind {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> AuditCode {
        match self {
            Self::Malformed => AuditCode::LeafMalformed,
            Self::Outcome(fault) => fault.code(),
            Self::StartedRevoked => AuditCode::StartedRevoked,
            Self::StartedInLease => AuditCode::StartedInLease,
            Self::NoOutcome => AuditCode::OutcomeAbsent,
            Self::StartedElsewhere => AuditCode::StartedElsewhere,
            Self::RefusedWithoutReason => AuditCode::RefusalUnfounded,
        }
    }
}

impl ChainFault {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> AuditCode {
        match self {
            Self::NotJson | Self::NoEvents | Self::Empty | Self::Field(..) => AuditCode::ChainMalformed,
            Self::Sequence(..) => AuditCode::ChainSequence,
            Self::Link(_) | Self::LinkB(_) => AuditCode::ChainLink,
            Self::Time(..) | Self::TimeBack(..) => AuditCode::ChainTime,
            Self::Operation(..) => AuditCode::ChainOperation,
            Self::Hash(_) | Self::HashB(_) => AuditCode::ChainHash,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Unreadable;
    use crate::outcome::Unfounded;
    use countersign_core::digest::Sha256Digest;
    use countersign_core::leaf::LeafError;
    use countersign_core::refusal::RefusalCode;
    use std::collections::BTreeSet;

    #[test]
    fn each_kind_has_its_code() {
        let named = |text: &str| text.to_owned();
        let kinds = [
            (FindingKind::Unreadable(Unreadable(named("x"))), "log-unreadable"),
            (FindingKind::Malformed(LeafError::Kind(99)), "leaf-malformed"),
            (FindingKind::Index(1), "leaf-index"),
            (FindingKind::Time, "leaf-time"),
            (FindingKind::Body, "leaf-body"),
            (FindingKind::Outcome(OutcomeFault::UnknownGateway), "outcome-gateway-unknown"),
            (FindingKind::Outcome(OutcomeFault::EndedGateway), "outcome-gateway-ended"),
            (FindingKind::Outcome(OutcomeFault::Unfounded(Unfounded::Audience)), "outcome-unfounded"),
            (FindingKind::Outcome(OutcomeFault::Twice), "outcome-repeated"),
            (FindingKind::Control(named("x")), "control-chain"),
            (FindingKind::LeavesMissing, "leaves-missing"),
            (FindingKind::Uncovered, "leaf-uncovered"),
            (FindingKind::HeadMalformed, "head-malformed"),
            (FindingKind::Origin, "head-origin"),
            (FindingKind::Size, "head-size"),
            (FindingKind::Root("sha-256"), "head-root"),
            (FindingKind::Prev, "head-prev"),
            (FindingKind::ControlLine, "head-control"),
            (FindingKind::Signature(named("x")), "head-signature"),
            (FindingKind::Unsigned, "head-unvouched"),
            (FindingKind::LastGood, "last-good-head-missing"),
            (FindingKind::NewestUnsigned, "newest-head-unsigned"),
            (FindingKind::Empty, "log-empty"),
        ];
        for (kind, code) in kinds {
            assert_eq!(kind.code().as_str(), code);
        }
        let mismatches = [
            (MismatchKind::Malformed("x"), "record-malformed"),
            (MismatchKind::Input("x"), "input-mismatch"),
            (MismatchKind::Enrolment("x"), "enrolment-differs"),
            (MismatchKind::Request, "request-unfit"),
            (MismatchKind::Evidence(RefusalCode::QuoteMalformed), "evidence-unfit"),
            (MismatchKind::Body, "decision-differs"),
            (MismatchKind::Budget, "budget-overdrawn"),
        ];
        for (kind, code) in mismatches {
            assert_eq!(kind.code().as_str(), code);
        }
        let missing = [
            Missing::Blob(Sha256Digest::ZERO),
            Missing::Altered(Sha256Digest::ZERO),
            Missing::Engine(named("x")),
        ];
        assert_eq!(
            missing.map(|one| one.code().as_str()),
            ["input-missing", "input-altered", "engine-other"]
        );
    }

    #[test]
    fn each_discrepancy_and_each_fault_of_a_chain_has_its_code() {
        let named = |text: &str| text.to_owned();
        let discrepancies = [
            (DiscrepancyKind::Malformed, "leaf-malformed"),
            (DiscrepancyKind::StartedRevoked, "started-revoked"),
            (DiscrepancyKind::StartedInLease, "started-in-lease"),
            (DiscrepancyKind::NoOutcome, "outcome-absent"),
            (DiscrepancyKind::StartedElsewhere, "started-elsewhere"),
            (DiscrepancyKind::RefusedWithoutReason, "refusal-unfounded"),
        ];
        for (kind, code) in discrepancies {
            assert_eq!(kind.code().as_str(), code);
        }
        let chains = [
            (ChainFault::NotJson, "chain-malformed"),
            (ChainFault::NoEvents, "chain-malformed"),
            (ChainFault::Empty, "chain-malformed"),
            (ChainFault::Field(named("1"), "x"), "chain-malformed"),
            (ChainFault::Sequence(1, named("2")), "chain-sequence"),
            (ChainFault::Link(1), "chain-link"),
            (ChainFault::LinkB(1), "chain-link"),
            (ChainFault::Time(1, named("x")), "chain-time"),
            (ChainFault::TimeBack(1, named("x")), "chain-time"),
            (ChainFault::Operation(1, named("x"), named("y")), "chain-operation"),
            (ChainFault::Hash(1), "chain-hash"),
            (ChainFault::HashB(1), "chain-hash"),
        ];
        for (kind, code) in chains {
            assert_eq!(kind.code().as_str(), code);
        }
    }

    #[test]
    fn codes_are_distinct_kebab_case_and_no_refusals() {
        let mut seen = BTreeSet::new();
        for code in AuditCode::ALL {
            let text = code.as_str();
            assert!(seen.insert(text), "{text} stands twice");
            assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{text}");
            assert_eq!(RefusalCode::parse(text), None, "{text} says another thing, too");
        }
    }
}
