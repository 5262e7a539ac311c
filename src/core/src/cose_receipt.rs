//! COSE receipts (RFC 9942, PROTOCOL §16): inclusion of a leaf in the SHA-256 tree, as generic verifiers of COSE read it.
//!
//! In: the root of a signed head and a signature over it, or a receipt as received with the leaf that it is about. Out: the bytes, or a
//! [`CoseInclusion`], which only [`verify`] makes. Refused: everything that [`encode`] wouldn't write, since it is what is signed that counts and
//! this log writes one form.
//!
//! The signature is over the root alone, as RFC 9942 has it; issuer and time are in the protected header. The structure that is signed begins
//! with CBOR and a head with its origin's first letter, so that neither can be taken for the other (RFC 9052 §4.4).

use crate::cbor::{CborError, Decoder, encode_array, encode_map};
use crate::digest::Sha256Digest;
use crate::key::{Algorithm, SIGNATURE_LEN, VerifyingKey};
use crate::merkle::{MAX_PROOF_HASHES, ProofRefused, Sha256Tree, TreeHash, root_of_inclusion};

/// Largest receipt: 64 hashes, a header with an origin of 255 characters.
pub const MAX_COSE_RECEIPT_BYTES: usize = 4_096;
/// Media type of a COSE_Sign1 (RFC 9052 §11.3.1).
pub const MEDIA_TYPE: &str = "application/cose; cose-type=\"cose-sign1\"";

/// RFC 9052 §4.2: COSE_Sign1, in one byte.
const TAG_SIGN1: u8 = 0xd2;
/// RFC 9052 §3.1.
const ALG: i64 = 1;
const KID: i64 = 4;
/// RFC 9597: CWT claims; RFC 8392: issuer, time of issue.
const CWT_CLAIMS: i64 = 15;
const ISS: i64 = 1;
const IAT: i64 = 6;
/// RFC 9942: verifiable data structure, and its proofs.
const VDS: i64 = 395;
const VDP: i64 = 396;
const RFC9162_SHA256: i64 = 1;
const INCLUSION_PROOFS: i64 = -1;
/// RFC 9053 §2: EdDSA, which libraries know, and ECDSA with SHA-256.
const EDDSA: i64 = -8;
const ES256: i64 = -7;

/// Why bytes aren't a receipt for a leaf.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoseReceiptRefused {
    /// Longer than [`MAX_COSE_RECEIPT_BYTES`], or without the tag of a COSE_Sign1.
    #[error("not a tagged COSE_Sign1 of at most {MAX_COSE_RECEIPT_BYTES} bytes")]
    Sign1,
    /// Not the CBOR that a receipt is.
    #[error("the receipt is malformed: {0}")]
    Cbor(#[from] CborError),
    /// A value that a receipt of this log doesn't have.
    #[error("the receipt's {0} isn't that of a receipt of this log")]
    Value(&'static str),
    /// The path has another length than this place in this tree.
    #[error("the inclusion path: {0}")]
    Path(#[from] ProofRefused),
    /// No known key signed the root that leaf and path lead to.
    #[error("no known key signed the root that the leaf and its path lead to")]
    Unsigned,
}

/// What goes into the protected header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootStatement {
    /// Issuer: the log's origin.
    pub issuer: String,
    /// Time of the head whose root it is, Unix seconds.
    pub issued_at: u64,
    /// The key that signs.
    pub key: VerifyingKey,
}

impl RootStatement {
    fn protected(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(ALG).int(match self.key.algorithm() {
                Algorithm::EdDsa => EDDSA,
                Algorithm::Es256 => ES256,
            });
            map.entry(KID).bytes(self.key.thumbprint().as_bytes());
            map.entry(CWT_CLAIMS).map(|claims| {
                claims.entry(ISS).text(&self.issuer);
                claims.entry(IAT).uint(self.issued_at);
            });
            map.entry(VDS).int(RFC9162_SHA256);
        })
    }

    /// What is signed over this root: Sig_structure (RFC 9052 §4.4) with the root as detached payload.
    #[must_use]
    pub fn to_be_signed(&self, root: &Sha256Digest) -> Vec<u8> {
        encode_array(|array| {
            array.item().text("Signature1");
            array.item().bytes(&self.protected());
            array.item().bytes(&[]);
            array.item().bytes(root.as_bytes());
        })
    }
}

/// The bytes of a receipt: leaf `index` in the tree of `size` leaves whose root was signed.
#[must_use]
pub fn encode(
    statement: &RootStatement,
    signature: &[u8; SIGNATURE_LEN],
    size: u64,
    index: u64,
    path: &[Sha256Digest],
) -> Vec<u8> {
    let proof = encode_array(|array| {
        array.item().uint(size);
        array.item().uint(index);
        array.item().array(|hashes| path.iter().for_each(|hash| hashes.item().bytes(hash.as_bytes())));
    });
    let sign1 = encode_array(|array| {
        array.item().bytes(&statement.protected());
        array.item().map(|map| {
            map.entry(VDP).map(|proofs| {
                proofs.entry(INCLUSION_PROOFS).array(|list| list.item().bytes(&proof));
            });
        });
        array.item().null();
        array.item().bytes(signature);
    });
    [&[TAG_SIGN1][..], &sign1].concat()
}

/// A leaf's inclusion under a root that a known key signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoseInclusion {
    index: u64,
    size: u64,
    root: Sha256Digest,
    issued_at: u64,
}

impl CoseInclusion {
    /// Index of the leaf.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Leaves in the tree. Not signed by itself: it follows from the path's length only up to what that can tell.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The signed root.
    #[must_use]
    pub const fn root(&self) -> &Sha256Digest {
        &self.root
    }

    /// Time of the head, Unix seconds.
    #[must_use]
    pub const fn issued_at(&self) -> u64 {
        self.issued_at
    }
}

struct Parts<'a> {
    protected: &'a [u8],
    size: u64,
    index: u64,
    path: Vec<Sha256Digest>,
    signature: &'a [u8],
}

fn parts(bytes: &[u8]) -> Result<Parts<'_>, CoseReceiptRefused> {
    let sign1 = bytes.strip_prefix(&[TAG_SIGN1]).filter(|_| bytes.len() <= MAX_COSE_RECEIPT_BYTES);
    let mut decoder = Decoder::new(sign1.ok_or(CoseReceiptRefused::Sign1)?)?;
    decoder.array_of(4)?;
    let protected = decoder.bytes()?;
    decoder.map_of(1)?;
    decoder.expect_key(VDP)?;
    decoder.map_of(1)?;
    decoder.expect_key(INCLUSION_PROOFS)?;
    decoder.array_of(1)?;
    let proof = decoder.bytes()?;
    decoder.null()?;
    let signature = decoder.bytes()?;
    decoder.finish()?;
    let mut decoder = Decoder::new(proof)?;
    decoder.array_of(3)?;
    let (size, index) = (decoder.uint()?, decoder.uint()?);
    let count = decoder.array()?;
    if count > MAX_PROOF_HASHES {
        return Err(CoseReceiptRefused::Path(ProofRefused::TooLong));
    }
    let hashes = (0..count).map(|_| decoder.byte_array().map(Sha256Digest::new));
    let path = hashes.collect::<Result<_, CborError>>()?;
    decoder.finish()?;
    Ok(Parts { protected, size, index, path, signature })
}

/// Verifies a receipt for exactly this leaf, from this log, by one of these keys.
///
/// # Errors
/// [`CoseReceiptRefused`].
pub fn verify(
    bytes: &[u8],
    leaf: &[u8],
    issuer: &str,
    keys: &[VerifyingKey],
) -> Result<CoseInclusion, CoseReceiptRefused> {
    let parts = parts(bytes)?;
    let mut header = Decoder::new(parts.protected)?;
    header.map_of(4)?;
    header.expect_key(ALG)?;
    header.int()?;
    header.expect_key(KID)?;
    let kid = header.bytes()?;
    header.expect_key(CWT_CLAIMS)?;
    header.map_of(2)?;
    header.expect_key(ISS)?;
    if header.text()? != issuer {
        return Err(CoseReceiptRefused::Value("issuer"));
    }
    header.expect_key(IAT)?;
    let issued_at = header.uint()?;
    header.expect_key(VDS)?;
    header.int()?;
    header.finish()?;
    let key =
        keys.iter().find(|key| key.thumbprint().as_bytes() == kid).ok_or(CoseReceiptRefused::Unsigned)?;
    let statement = RootStatement { issuer: issuer.to_owned(), issued_at, key: key.clone() };
    // One form: algorithm and data structure are those that the key and this log have.
    if statement.protected() != parts.protected {
        return Err(CoseReceiptRefused::Value("protected header"));
    }
    let (size, index) = (parts.size, parts.index);
    let leaf_hash = Sha256Tree::leaf_hash(leaf);
    let root = root_of_inclusion::<Sha256Tree>(&leaf_hash, index, size, &parts.path)?;
    let signed = key.verify(&statement.to_be_signed(&root), parts.signature);
    signed.map_err(|_| CoseReceiptRefused::Unsigned)?;
    Ok(CoseInclusion { index, size, root, issued_at })
}

#[cfg(test)]
#[path = "cose_receipt_tests.rs"]
mod tests;
