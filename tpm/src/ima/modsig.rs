//! Signatures that are appended to kernel modules and images, as the template ima-modsig carries them.
//!
//! Comes in: the bytes of the field `modsig`, a CMS SignedData in DER (RFC 5652 §5, PKCS #7). Goes out: [`AppendedSignature`], who signed by
//! which algorithms and the signature's value. Nothing is verified here: that is [`super::signature::Keyring`]'s, over the digest that the
//! kernel put beside it. Refused: whatever isn't of the one form that Linux measures.
//!
//! Linux security/integrity/ima/ima_modsig.c, crypto/asymmetric_keys/pkcs7.asn1, pkcs7_parser.c and pkcs7_verify.c, scripts/sign-file.c. What Linux
//! takes and this reader too: id-data without content, one signer, named by issuer and serial number or by key identifier, RSA with PKCS #1 v1.5
//! padding or ECDSA. What Linux refuses, and so this reader: other content, and signed attributes (pkcs7_verify, for modules). Of a message with
//! more than one signer Linux computes no digest (pkcs7_get_digest), so none of them is in a list. Linux reads BER and this reader DER,
//! which is what every signer writes. Certificates that come along are claims of whoever wrote the message, and are stepped over.

use crate::algorithm::HashAlg;
use crate::ek::EkRefusal;
use crate::ek::tlv::{Elements, INTEGER, NULL, OCTET_STRING, SEQUENCE, SET, context, context_primitive};
use der::asn1::ObjectIdentifier;

/// Longest signature that is read. Without certificates it has 300 to 700 bytes, with some below 10 KiB.
pub const MAX_MODSIG_BYTES: usize = 64 * 1024;
/// Most algorithms that a message announces. Signers write one.
const MAX_ALGORITHMS: usize = 8;

// RFC 5652 §4 and §5.1.
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
// RFC 5754 §2.
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
// RFC 3370 §3.2, RFC 5754 §3.3.
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ECDSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");

/// How a message names the key that signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer<'a> {
    /// By the certificate: its issuer's name in DER, and the content of its serial number. Compared byte by byte, as Linux does.
    Certificate {
        /// Name, with its header.
        issuer: &'a [u8],
        /// Serial number, as it stands.
        serial: &'a [u8],
    },
    /// By the whole subject key identifier.
    Key(&'a [u8]),
}

/// The kinds of keys that sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5.
    Rsa,
    /// ECDSA; the value is an ECDSA-Sig-Value.
    Ecdsa,
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendedSignature<'a> {
    /// Who signed.
    pub signer: Signer<'a>,
    /// Hash of what was signed: SHA-256 or longer.
    pub hash: HashAlg,
    /// Kind of the key.
    pub scheme: Scheme,
    /// The signature.
    pub value: &'a [u8],
}

impl<'a> AppendedSignature<'a> {
    /// Reads the field. `None` if it isn't of that one form, to its last byte.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() > MAX_MODSIG_BYTES {
            return None;
        }
        Self::read(bytes).ok()
    }

    fn read(bytes: &'a [u8]) -> Result<Self, EkRefusal> {
        let mut outer = Elements::of(bytes, "appended signature");
        let mut info = outer.inside(SEQUENCE)?;
        outer.finish()?;
        if info.oid()? != SIGNED_DATA {
            return Err(info.malformed());
        }
        let mut explicit = info.inside(context(0))?;
        info.finish()?;
        let mut signed = explicit.inside(SEQUENCE)?;
        explicit.finish()?;
        let version = signed.expect(INTEGER)?;
        algorithms(signed.inside(SET)?)?;
        let mut content = signed.inside(SEQUENCE)?;
        // Content that came along would be another one than the file (RFC 5652 §5.2, "external signatures").
        if content.oid()? != DATA || !content.is_empty() {
            return Err(content.malformed());
        }
        // Certificates and revocation lists. RFC 5652 §5.1.
        signed.optional(context(0))?;
        signed.optional(context(1))?;
        let mut signers = signed.inside(SET)?;
        signed.finish()?;
        let signer = signers.inside(SEQUENCE)?;
        signers.finish()?;
        signer_info(signer, version)
    }
}

/// The hashes that the message announces: each an AlgorithmIdentifier, and nothing depends on them.
fn algorithms(mut announced: Elements<'_>) -> Result<(), EkRefusal> {
    for _ in 0..MAX_ALGORITHMS {
        if announced.is_empty() {
            return Ok(());
        }
        announced.inside(SEQUENCE)?.oid()?;
    }
    announced.finish()
}

/// SignerInfo. RFC 5652 §5.3.
fn signer_info<'a>(mut info: Elements<'a>, version: &[u8]) -> Result<AppendedSignature<'a>, EkRefusal> {
    // Version 1 names a certificate and version 3 a key, in the message's own version (pkcs7_note_signerinfo_version).
    if info.expect(INTEGER)? != version {
        return Err(info.malformed());
    }
    let signer = match version {
        [1] => {
            let mut name = info.inside(SEQUENCE)?;
            let issuer = name.next()?;
            let serial = name.expect(INTEGER)?;
            name.finish()?;
            if issuer.tag != SEQUENCE || serial.is_empty() {
                return Err(info.malformed());
            }
            Signer::Certificate { issuer: issuer.whole, serial }
        }
        [3] => Signer::Key(info.expect(context_primitive(0))?),
        _ => return Err(info.malformed()),
    };
    let hash = digest_algorithm(info.inside(SEQUENCE)?)?;
    // Signed attributes begin with [0], which no algorithm does.
    let scheme = signature_algorithm(info.inside(SEQUENCE)?, hash)?;
    let value = info.expect(OCTET_STRING)?;
    // Unsigned attributes: nobody signed them.
    info.optional(context(1))?;
    info.finish()?;
    Ok(AppendedSignature { signer, hash, scheme, value })
}

/// RFC 5754 §2: parameters are absent, and NULL is let through.
fn digest_algorithm(mut algorithm: Elements<'_>) -> Result<HashAlg, EkRefusal> {
    let hash = match algorithm.oid()? {
        SHA256 => HashAlg::Sha256,
        SHA384 => HashAlg::Sha384,
        SHA512 => HashAlg::Sha512,
        _ => return Err(algorithm.malformed()),
    };
    no_parameters(algorithm)?;
    Ok(hash)
}

fn signature_algorithm(mut algorithm: Elements<'_>, hash: HashAlg) -> Result<Scheme, EkRefusal> {
    let scheme = match (algorithm.oid()?, hash) {
        // RFC 3370 §3.2: the hash is the digest algorithm's.
        (RSA_ENCRYPTION, _) => {
            no_parameters(algorithm)?;
            return Ok(Scheme::Rsa);
        }
        (ECDSA_SHA256, HashAlg::Sha256)
        | (ECDSA_SHA384, HashAlg::Sha384)
        | (ECDSA_SHA512, HashAlg::Sha512) => Scheme::Ecdsa,
        _ => return Err(algorithm.malformed()),
    };
    // RFC 5754 §3.3: no parameters at all.
    algorithm.finish()?;
    Ok(scheme)
}

/// Absent, or NULL.
fn no_parameters(mut algorithm: Elements<'_>) -> Result<(), EkRefusal> {
    match algorithm.optional(NULL)? {
        None | Some([]) => algorithm.finish(),
        Some(_) => Err(algorithm.malformed()),
    }
}

/// Issuer and serial number of a certificate, as a message would name it. RFC 5280 §4.1.
pub(super) fn issued(certificate: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let read = || -> Result<(Vec<u8>, Vec<u8>), EkRefusal> {
        let mut body = Elements::of(certificate, "certificate").inside(SEQUENCE)?.inside(SEQUENCE)?;
        body.optional(context(0))?;
        let serial = body.expect(INTEGER)?;
        body.expect(SEQUENCE)?;
        let issuer = body.next()?;
        if issuer.tag != SEQUENCE {
            Err(body.malformed())
        } else {
            Ok((issuer.whole.to_vec(), serial.to_vec()))
        }
    };
    read().ok()
}
