//! What an authority remembers of an enrolment between its two calls (PROTOCOL §12).
//!
//! Comes in: what a host sent when it began, the digest of its token, the secret that its TPM has to show. Goes out: a row of the store, and all of
//! it again. Nothing that was found out about it is kept: the end judges anew. Refused: rows of another form, of an earlier version for instance.

use countersign_core::api::EnrolmentBegin;
use countersign_core::cbor::{CborError, Decoder, encode_map};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::LeafError;
use countersign_core::leaf::field::{read_digest_or_null, write_digest};
use zeroize::Zeroizing;

/// Number of this form. The first one had none, and another number of members.
const FORM: u64 = 2;

/// An enrolment that was begun.
pub(super) struct Pending {
    /// What was sent, without its token.
    pub(super) sent: EnrolmentBegin,
    /// SHA-256 of the token.
    pub(super) token: Option<Sha256Digest>,
    pub(super) secret: Zeroizing<[u8; 32]>,
}

/// Why a row isn't a pending enrolment.
#[derive(Debug, thiserror::Error)]
pub(super) enum PendingFault {
    /// Its members.
    #[error("a pending enrolment: {0}")]
    Members(#[from] LeafError),
    /// What was sent.
    #[error("what a pending enrolment was begun with: {0}")]
    Sent(#[from] serde_json::Error),
    /// Another form.
    #[error("a pending enrolment of form {0}")]
    Form(u64),
}

impl From<CborError> for PendingFault {
    fn from(fault: CborError) -> Self {
        Self::Members(fault.into())
    }
}

impl Pending {
    /// The row. Holds the secret.
    pub(super) fn encode(&self) -> Result<Vec<u8>, PendingFault> {
        let sent = serde_json::to_vec(&self.sent)?;
        Ok(encode_map(|map| {
            map.entry(1).uint(FORM);
            map.entry(2).bytes(&sent);
            write_digest(map.entry(3), self.token.as_ref());
            map.entry(4).bytes(self.secret.as_slice());
        }))
    }

    /// Reads a row.
    pub(super) fn parse(row: &[u8]) -> Result<Self, PendingFault> {
        let mut decoder = Decoder::new(row)?;
        decoder.map_of(4)?;
        decoder.expect_key(1)?;
        let form = decoder.uint()?;
        if form != FORM {
            return Err(PendingFault::Form(form));
        }
        decoder.expect_key(2)?;
        let sent = serde_json::from_slice(decoder.bytes()?)?;
        decoder.expect_key(3)?;
        let token = read_digest_or_null(&mut decoder)?;
        decoder.expect_key(4)?;
        let secret = Zeroizing::new(decoder.byte_array()?);
        decoder.finish()?;
        Ok(Self { sent, token, secret })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::api::{B64, IdevidBegin};

    fn pending() -> Pending {
        let der = |byte: u8| B64(vec![byte; 3]);
        let sent = EnrolmentBegin {
            token: None,
            ek_certificate: Some(der(1)),
            ek_intermediates: vec![der(2), der(3)],
            ek_public: Some(der(4)),
            ak_certificate: None,
            ak_intermediates: Vec::new(),
            ak_public: der(5),
            host_key_public: der(6),
            idevid: Some(IdevidBegin { certificate: der(7), intermediates: vec![der(8)], public: der(9) }),
        };
        Pending { sent, token: Some(Sha256Digest::new([1; 32])), secret: Zeroizing::new([2; 32]) }
    }

    #[test]
    fn a_row_holds_everything_that_was_sent() {
        let mut begun = pending();
        for token in [begun.token, None] {
            begun.token = token;
            let read = Pending::parse(&begun.encode().unwrap()).unwrap();
            assert_eq!(read.sent.ek_intermediates, begun.sent.ek_intermediates);
            assert_eq!((read.token, *read.secret), (begun.token, *begun.secret));
            assert_eq!(read.encode().unwrap(), begun.encode().unwrap());
        }
    }

    #[test]
    fn rows_of_other_forms_are_none() {
        let row = pending().encode().unwrap();
        for len in 0..row.len() {
            assert!(Pending::parse(&row[..len]).is_err(), "{len}");
        }
        assert!(Pending::parse(&[&row[..], &[0]].concat()).is_err());
        // The form before this one: ten members, the first one the EK.
        let earlier = encode_map(|map| (1..=10).for_each(|key| map.entry(key).bytes(&[0; 32])));
        assert!(matches!(Pending::parse(&earlier), Err(PendingFault::Members(_))));
        let later = encode_map(|map| (1..=4).for_each(|key| map.entry(key).uint(FORM + 1)));
        assert!(matches!(Pending::parse(&later), Err(PendingFault::Form(3))));
        let unreadable = encode_map(|map| {
            map.entry(1).uint(FORM);
            map.entry(2).bytes(b"{}");
            map.entry(3).null();
            map.entry(4).bytes(&[2; 32]);
        });
        assert!(matches!(Pending::parse(&unreadable), Err(PendingFault::Sent(_))));
    }
}
