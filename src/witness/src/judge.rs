//! Whether a checkpoint may be cosigned: the checks of C2SP tlog-witness, "add-checkpoint", in their order. Pure.
//!
//! In: a request, the keys of its log, what was cosigned last. Out: [`Continues`], which only this module makes, or why not, with the status
//! that the specification gives.

use countersign_core::digest::Sha256Digest;
use countersign_core::merkle::{ProofRefused, Sha256Tree, TreeHash, verify_consistency};
use countersign_core::note::{self, NoteKey};
use countersign_core::witness::AddCheckpoint;

/// What was cosigned last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cosigned {
    /// Size; 0 before the first.
    pub size: u64,
    /// Root.
    pub root: Sha256Digest,
}

impl Cosigned {
    /// Nothing yet: the tree without leaves, which is a part of every tree.
    #[must_use]
    pub fn nothing() -> Self {
        Self { size: 0, root: Sha256Tree::empty_root() }
    }
}

/// A checkpoint that continues what was cosigned last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continues {
    cosigned: Cosigned,
    text: String,
}

impl Continues {
    /// What is cosigned last from now on.
    #[must_use]
    pub const fn cosigned(&self) -> Cosigned {
        self.cosigned
    }

    /// The text of the checkpoint.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Why a checkpoint isn't cosigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCosigned {
    /// No known key of the log signed it, or one of their lines fails.
    #[error("no key of the log signed the checkpoint")]
    Unsigned,
    /// The old size is above the checkpoint's.
    #[error("the old size is above the checkpoint's")]
    OldAbove,
    /// The old size isn't the one cosigned last.
    #[error("the size cosigned last is {size}")]
    OtherOld {
        /// Cosigned last.
        size: u64,
    },
    /// Another root at the size cosigned last: two histories.
    #[error("another tree of size {size} was cosigned")]
    OtherRoot {
        /// Cosigned last.
        size: u64,
    },
    /// The proof doesn't join the two.
    #[error("the consistency proof doesn't hold: {0}")]
    Proof(ProofRefused),
}

impl NotCosigned {
    /// HTTP status (C2SP tlog-witness).
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Unsigned => 403,
            Self::OldAbove => 400,
            Self::OtherOld { .. } | Self::OtherRoot { .. } => 409,
            Self::Proof(_) => 422,
        }
    }

    /// Whether a log that signed this may have two histories: worth keeping.
    #[must_use]
    pub const fn is_evidence(&self) -> bool {
        matches!(self, Self::OtherRoot { .. } | Self::Proof(ProofRefused::Root | ProofRefused::OldRoot))
    }
}

/// Judges a request about a log with these keys of which `last` was cosigned.
///
/// # Errors
/// [`NotCosigned`].
pub fn judge(request: &AddCheckpoint, keys: &[NoteKey], last: &Cosigned) -> Result<Continues, NotCosigned> {
    note::verify(&request.note, keys).map_err(|_| NotCosigned::Unsigned)?;
    let (old, new) = (request.old_size, &request.checkpoint);
    if old > new.size {
        return Err(NotCosigned::OldAbove);
    }
    if old != last.size {
        return Err(NotCosigned::OtherOld { size: last.size });
    }
    if old == new.size && last.root != new.root {
        return Err(NotCosigned::OtherRoot { size: last.size });
    }
    verify_consistency::<Sha256Tree>(old, &last.root, new.size, &new.root, &request.proof)
        .map_err(NotCosigned::Proof)?;
    let cosigned = Cosigned { size: new.size, root: new.root };
    Ok(Continues { cosigned, text: request.note.text().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::key::VerifyingKey;
    use countersign_core::merkle::root_of_leaf_hashes;
    use countersign_core::note::SignedNote;
    use data_encoding::BASE64;
    use ed25519_dalek::{Signer as _, SigningKey};

    const ORIGIN: &str = "log.example";

    fn log(seed: u8) -> (SigningKey, NoteKey) {
        let secret = SigningKey::from_bytes(&[seed; 32]);
        let key = VerifyingKey::ed25519(secret.verifying_key().as_bytes()).unwrap();
        (secret, NoteKey::new(ORIGIN, key).unwrap())
    }

    fn leaves(count: u8, salt: u8) -> Vec<Sha256Digest> {
        (0..count).map(|at| Sha256Tree::leaf_hash(&[at, salt])).collect()
    }

    fn root(leaves: &[Sha256Digest]) -> Sha256Digest {
        root_of_leaf_hashes::<Sha256Tree>(leaves)
    }

    fn cosigned(leaves: &[Sha256Digest]) -> Cosigned {
        Cosigned { size: leaves.len() as u64, root: root(leaves) }
    }

    fn request(
        old: u64,
        proof: &[Sha256Digest],
        tree: &[Sha256Digest],
        secret: &SigningKey,
    ) -> AddCheckpoint {
        let text = format!("{ORIGIN}\n{}\n{}\n", tree.len(), BASE64.encode(root(tree).as_bytes()));
        let line = log(1).1.line(&secret.sign(text.as_bytes()).to_bytes());
        let note = SignedNote::new(&text, vec![line]).unwrap().format();
        AddCheckpoint::parse(AddCheckpoint::encode(old, proof, &note).as_bytes()).unwrap()
    }

    #[test]
    fn what_continues_is_cosigned_and_everything_else_has_its_status() {
        let (secret, key) = log(1);
        let keys = [key];
        let (two, three, other) = (leaves(2, 0), leaves(3, 0), leaves(3, 9));
        // RFC 9162 §2.1.4.1: from two leaves to three it takes the third.
        let proof = [three[2]];
        let check = |old, proof: &[Sha256Digest], tree: &[Sha256Digest], last: Cosigned| {
            judge(&request(old, proof, tree, &secret), &keys, &last).map(|good| good.cosigned())
        };
        assert_eq!(check(2, &proof, &three, cosigned(&two)), Ok(cosigned(&three)));
        assert_eq!(check(0, &[], &three, Cosigned::nothing()), Ok(cosigned(&three)));
        assert_eq!(check(3, &[], &three, cosigned(&three)), Ok(cosigned(&three)), "the same again");
        assert_eq!(check(0, &[], &[], Cosigned::nothing()), Ok(Cosigned::nothing()), "an empty log");
        for (old, proof, tree, last, expected) in [
            (4, &[][..], &three, cosigned(&three), NotCosigned::OldAbove),
            (0, &[], &three, cosigned(&two), NotCosigned::OtherOld { size: 2 }),
            (2, &proof, &three, cosigned(&three), NotCosigned::OtherOld { size: 3 }),
            (2, &[], &two, cosigned(&three), NotCosigned::OtherOld { size: 3 }),
            (2, &[], &three, Cosigned::nothing(), NotCosigned::OtherOld { size: 0 }),
            (3, &[], &three, cosigned(&other), NotCosigned::OtherRoot { size: 3 }),
            (2, &proof, &other, cosigned(&two), NotCosigned::Proof(ProofRefused::Root)),
            (2, &[other[2]], &other, cosigned(&two), NotCosigned::Proof(ProofRefused::Root)),
            (2, &[], &three, cosigned(&two), NotCosigned::Proof(ProofRefused::TooShort)),
            (2, &[proof[0], proof[0]], &three, cosigned(&two), NotCosigned::Proof(ProofRefused::TooLong)),
            (3, &proof, &three, cosigned(&three), NotCosigned::Proof(ProofRefused::TooLong)),
            (0, &proof, &three, Cosigned::nothing(), NotCosigned::Proof(ProofRefused::TooLong)),
        ] {
            assert_eq!(check(old, proof, tree, last), Err(expected));
        }
    }

    #[test]
    fn only_a_known_key_of_the_log_counts() {
        let (secret, key) = log(1);
        let three = leaves(3, 0);
        let unsigned = |keys: &[NoteKey], secret: &SigningKey| {
            judge(&request(0, &[], &three, secret), keys, &Cosigned::nothing()) == Err(NotCosigned::Unsigned)
        };
        assert!(!unsigned(std::slice::from_ref(&key), &secret));
        assert!(!unsigned(&[log(2).1, key.clone()], &secret));
        assert!(unsigned(&[log(2).1], &secret), "a key that isn't followed");
        assert!(unsigned(&[key], &log(2).0), "the known key's line, made by another");
        assert!(unsigned(&[], &secret));
    }
}
