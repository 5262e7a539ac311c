//! The leaf: envelope and closed list of kinds (PROTOCOL §5.1, §5.2).
//!
//! What comes in are exact leaf bytes; what goes out is a [`Leaf`] whose body is still bytes, so that nothing is ever re-encoded. Each kind's body
//! has a module of its own. Refused: other versions, unknown kinds, anything that isn't deterministic CBOR, more than 65,535 bytes.

pub mod appraisal;
pub mod body;
pub mod control;
pub mod decision;
pub mod device;
pub mod field;
pub mod host;
pub mod host_state;
pub mod record;

use crate::cbor::{CborError, Decoder, encode_array};
use crate::digest::Sha256Digest;
use crate::merkle::{Sha256Tree, TreeHash};

/// Largest leaf: an entry of a C2SP tlog-tiles bundle has a 16-bit length.
pub const MAX_LEAF_LEN: usize = 65_535;

/// Why bytes aren't a leaf or a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Not deterministic CBOR of the right shape.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Longer than [`MAX_LEAF_LEN`].
    #[error("leaf of {0} bytes is longer than 65535")]
    TooLong(usize),
    /// Another version of the envelope.
    #[error("leaf version {0} is unknown")]
    Version(u64),
    /// A kind outside of the closed list.
    #[error("leaf kind {0} is unknown")]
    Kind(u64),
    /// A member whose value is outside of its domain.
    #[error("{0} has a value outside of its domain")]
    Value(&'static str),
}

/// What a leaf records (PROTOCOL §5.2). A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A decision that allows.
    Allow = 1,
    /// A decision that denies.
    Deny = 2,
    /// A host's enrolment or renewal.
    Enrolment = 3,
    /// A host's attested state without a request.
    HostState = 4,
    /// Introduction, activation, deactivation of a key.
    Key = 5,
    /// Activation of a policy.
    Policy = 6,
    /// Activation of reference values.
    References = 7,
    /// Revocation or reinstatement.
    Revocation = 8,
    /// An operator or gateway added or removed.
    Principal = 9,
    /// A sign of life.
    Heartbeat = 10,
    /// Counts of what could not be logged one by one.
    Faults = 11,
    /// A statement of the recovery key.
    Recovery = 12,
    /// A join token made.
    JoinToken = 13,
    /// A gateway's outcome receipt.
    Outcome = 14,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Allow,
        Self::Deny,
        Self::Enrolment,
        Self::HostState,
        Self::Key,
        Self::Policy,
        Self::References,
        Self::Revocation,
        Self::Principal,
        Self::Heartbeat,
        Self::Faults,
        Self::Recovery,
        Self::JoinToken,
        Self::Outcome,
    ];

    /// The number in the envelope.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind of this number.
    pub fn from_number(number: u64) -> Result<Self, LeafError> {
        Self::ALL.into_iter().find(|kind| u64::from(kind.number()) == number).ok_or(LeafError::Kind(number))
    }

    /// Whether leaves of this kind are links of the control chain (PROTOCOL §5.4).
    #[must_use]
    pub const fn is_control(self) -> bool {
        matches!(
            self,
            Self::Key | Self::Policy | Self::References | Self::Revocation | Self::Principal | Self::Recovery
        )
    }

    /// The name in PROTOCOL §5.2.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Enrolment => "enrolment",
            Self::HostState => "host-state",
            Self::Key => "key",
            Self::Policy => "policy",
            Self::References => "references",
            Self::Revocation => "revocation",
            Self::Principal => "principal",
            Self::Heartbeat => "heartbeat",
            Self::Faults => "faults",
            Self::Recovery => "recovery",
            Self::JoinToken => "join-token",
            Self::Outcome => "outcome",
        }
    }
}

/// The SHA-256 leaf hash of exact leaf bytes (PROTOCOL §5.3): the hash that names a leaf.
#[must_use]
pub fn leaf_hash(leaf_bytes: &[u8]) -> Sha256Digest {
    Sha256Tree::leaf_hash(leaf_bytes)
}

/// A parsed envelope. The body is bytes of the kind's own format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// What it records.
    pub kind: Kind,
    /// Zero-based index in the log.
    pub index: u64,
    /// Time of the batch, ms since the Unix epoch.
    pub time_ms: u64,
    /// Makes neighbours' hashes in a proof tell nothing.
    pub salt: [u8; 16],
    /// The kind's body.
    pub body: Vec<u8>,
}

impl Leaf {
    /// The exact leaf bytes.
    pub fn encode(&self) -> Result<Vec<u8>, LeafError> {
        let bytes = encode_array(|leaf| {
            leaf.item().uint(1);
            leaf.item().uint(u64::from(self.kind.number()));
            leaf.item().uint(self.index);
            leaf.item().uint(self.time_ms);
            leaf.item().bytes(&self.salt);
            leaf.item().bytes(&self.body);
        });
        if bytes.len() > MAX_LEAF_LEN { Err(LeafError::TooLong(bytes.len())) } else { Ok(bytes) }
    }

    /// Parses exact leaf bytes; the body isn't looked into.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        if bytes.len() > MAX_LEAF_LEN {
            return Err(LeafError::TooLong(bytes.len()));
        }
        let mut decoder = Decoder::new(bytes)?;
        decoder.array_of(6)?;
        match decoder.uint()? {
            1 => {}
            other => return Err(LeafError::Version(other)),
        }
        let kind = Kind::from_number(decoder.uint()?)?;
        let index = decoder.uint()?;
        let time_ms = decoder.uint()?;
        let salt = decoder.byte_array()?;
        let body = decoder.bytes()?.to_vec();
        decoder.finish()?;
        Ok(Self { kind, index, time_ms, salt, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf() -> Leaf {
        Leaf {
            kind: Kind::Heartbeat,
            index: 7,
            time_ms: 1_700_000_000_000,
            salt: [9; 16],
            body: vec![0xa1, 1, 1],
        }
    }

    #[test]
    fn a_leaf_parses_back_to_itself() {
        let bytes = leaf().encode().unwrap();
        assert_eq!(Leaf::parse(&bytes).unwrap(), leaf());
    }

    #[test]
    fn unknown_kinds_and_versions_are_refused() {
        let mut bytes = leaf().encode().unwrap();
        bytes[2] = 15;
        assert_eq!(Leaf::parse(&bytes), Err(LeafError::Kind(15)));
        bytes[2] = 0;
        assert_eq!(Leaf::parse(&bytes), Err(LeafError::Kind(0)));
        bytes[1] = 2;
        assert_eq!(Leaf::parse(&bytes), Err(LeafError::Version(2)));
    }

    #[test]
    fn a_leaf_longer_than_an_entry_bundle_allows_is_refused() {
        let mut long = leaf();
        long.body = vec![0; MAX_LEAF_LEN];
        assert!(matches!(long.encode(), Err(LeafError::TooLong(_))));
        assert!(matches!(Leaf::parse(&vec![0; MAX_LEAF_LEN + 1]), Err(LeafError::TooLong(_))));
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = leaf().encode().unwrap();
        for end in 0..bytes.len() {
            assert!(Leaf::parse(&bytes[..end]).is_err(), "{end}");
        }
    }
}
