//! Certificate revocation lists, out of an operator's directory; nothing is ever fetched.
//!
//! Comes in: a CertificateList as DER. Goes out: [`Crl`], which can be asked for a serial number once its signature was verified with the
//! issuer's key. Refused: lists above [`MAX_CRL_BYTES`], indirect or partial ones and deltas (their critical extensions say so), entries with
//! critical extensions.

use super::EkRefusal;
use super::certificate::Certificate;
use super::keys::Scheme;
use super::name::Name;
use super::tlv::{
    Elements, GENERALIZED_TIME, INTEGER, OCTET_STRING, SEQUENCE, UTC_TIME, context, time, without_zeros,
};
use der::asn1::ObjectIdentifier;
use std::collections::HashSet;

/// Longest revocation list taken: some hundred thousand entries.
pub const MAX_CRL_BYTES: usize = 8 * 1024 * 1024;

const ISSUING_DISTRIBUTION_POINT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.28");

/// A revocation list that was read. Its signature is verified when it is used.
#[derive(Clone, Debug)]
pub(super) struct Crl {
    tbs: Vec<u8>,
    scheme: Scheme,
    signature: Vec<u8>,
    issuer: Name,
    this_update: u64,
    next_update: Option<u64>,
    serials: HashSet<Vec<u8>>,
}

impl Crl {
    pub(super) fn parse(der: &[u8]) -> Result<Self, EkRefusal> {
        if der.len() > MAX_CRL_BYTES {
            return Err(EkRefusal::TooLong(der.len()));
        }
        let mut outer = Elements::of(der, "revocation list");
        let mut list = outer.inside(SEQUENCE)?;
        outer.finish()?;
        let tbs = list.next()?;
        if tbs.tag != SEQUENCE {
            return Err(list.malformed());
        }
        let algorithm = list.expect(SEQUENCE)?;
        let signature = list.whole_bits()?;
        list.finish()?;
        let mut fields = Elements::of(tbs.content, "revocation list");
        // Version 2 or absent. RFC 5280 §5.1.2.1.
        if fields.peek() == Some(INTEGER) && fields.small()? != 1 {
            return Err(fields.malformed());
        }
        if fields.expect(SEQUENCE)? != algorithm {
            return Err(EkRefusal::Malformed("signature algorithm"));
        }
        let issuer = Name::read(fields.expect(SEQUENCE)?)?;
        let this_update = time(&fields.next()?)?;
        let next_update = match fields.peek() {
            Some(UTC_TIME | GENERALIZED_TIME) => Some(time(&fields.next()?)?),
            _ => None,
        };
        let serials = match fields.optional(SEQUENCE)? {
            Some(content) => entries(content)?,
            None => HashSet::new(),
        };
        if let Some(content) = fields.optional(context(0))? {
            let mut outer = Elements::of(content, "extensions of the revocation list");
            critical(&mut outer.inside(SEQUENCE)?, |number, value| {
                *number == ISSUING_DISTRIBUTION_POINT && covers_all(value)
            })?;
            outer.finish()?;
        }
        fields.finish()?;
        Ok(Self {
            tbs: tbs.whole.to_vec(),
            scheme: Scheme::read(algorithm)?,
            signature: signature.to_vec(),
            issuer,
            this_update,
            next_update,
            serials,
        })
    }

    pub(super) const fn issuer(&self) -> &Name {
        &self.issuer
    }

    /// The issuer may sign lists and signed this one.
    pub(super) fn is_signed_by(&self, issuer: &Certificate) -> bool {
        let signed = |key: &super::keys::CertifiedKey| key.verify(self.scheme, &self.tbs, &self.signature);
        issuer.signs_revocation_lists() && issuer.key().and_then(signed).is_ok()
    }

    /// The list names this serial number (without leading zeros).
    pub(super) fn revokes(&self, serial: &[u8]) -> bool {
        self.serials.contains(serial)
    }

    /// The list speaks for this moment. One without nextUpdate never ends to. RFC 5280 §5.1.2.5.
    pub(super) fn is_current(&self, now_unix_secs: u64) -> bool {
        self.this_update <= now_unix_secs && self.next_update.is_none_or(|next| now_unix_secs <= next)
    }
}

/// revokedCertificates. RFC 5280 §5.1.2.6.
fn entries(content: &[u8]) -> Result<HashSet<Vec<u8>>, EkRefusal> {
    let mut list = Elements::of(content, "revoked certificates");
    let mut serials = HashSet::new();
    while !list.is_empty() {
        let mut entry = list.inside(SEQUENCE)?;
        serials.insert(without_zeros(entry.expect(INTEGER)?).to_vec());
        time(&entry.next()?)?;
        if let Some(content) = entry.optional(SEQUENCE)? {
            critical(&mut Elements::of(content, "extensions of an entry"), |_, _| false)?;
        }
        entry.finish()?;
    }
    Ok(serials)
}

/// Walks extensions; a critical one must be understood. RFC 5280 §5.2, §5.3.
fn critical(
    list: &mut Elements<'_>,
    understood: impl Fn(&ObjectIdentifier, &[u8]) -> bool,
) -> Result<(), EkRefusal> {
    while !list.is_empty() {
        let mut extension = list.inside(SEQUENCE)?;
        let number = extension.oid()?;
        let critical = extension.flag()?;
        let value = extension.expect(OCTET_STRING)?;
        extension.finish()?;
        if critical && !understood(&number, value) {
            return Err(EkRefusal::CriticalExtension(number.to_string()));
        }
    }
    Ok(())
}

/// An issuing distribution point that names a place and nothing else: the list is about all certificates of the issuer. RFC 5280 §5.2.5.
fn covers_all(value: &[u8]) -> bool {
    let mut outer = Elements::of(value, "issuing distribution point");
    let Ok(mut point) = outer.inside(SEQUENCE) else { return false };
    point.optional(context(0)).is_ok() && point.is_empty() && outer.is_empty()
}
