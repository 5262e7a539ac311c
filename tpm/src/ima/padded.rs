//! Short messages, padded once and hashed by SHA-1 and SHA-256 alike: FIPS 180-4, 5.1.1 pads for both in the same way.
//!
//! Comes in: the parts of a message. Goes out: its digests. Refused: messages above [`MAX_MESSAGE`], for which the usual interface is as fast.
//! An entry of a list is a short message hashed with two algorithms, and the buffer that takes messages piece by piece costs as much as
//! what it feeds.

use sha2::block_api::compress256;

const BLOCK: usize = 64;
const BUFFER: usize = 4 * BLOCK;
/// One byte ends the message, eight have its length.
pub(super) const MAX_MESSAGE: usize = BUFFER - 9;

/// FIPS 180-4, 5.3.1.
const SHA1_START: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
/// FIPS 180-4, 5.3.3.
const SHA256_START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A padded message.
pub(super) struct Padded {
    bytes: [u8; BUFFER],
    blocks: usize,
}

impl Padded {
    /// Nothing.
    pub(super) const fn empty() -> Self {
        Self { bytes: [0; BUFFER], blocks: 0 }
    }

    /// Pads a message into what is empty. `None` if it is too long.
    pub(super) fn fill(&mut self, parts: &[&[u8]]) -> Option<()> {
        let mut len = 0usize;
        for part in parts {
            let end = len.checked_add(part.len()).filter(|end| *end <= MAX_MESSAGE)?;
            self.bytes.get_mut(len..end)?.copy_from_slice(part);
            len = end;
        }
        *self.bytes.get_mut(len)? = 0x80;
        self.blocks = (len + 9).div_ceil(BLOCK);
        let bits = u64::try_from(len * 8).ok()?;
        let end = self.blocks * BLOCK;
        self.bytes.get_mut(end - 8..end)?.copy_from_slice(&bits.to_be_bytes());
        Some(())
    }

    fn blocks(&self) -> &[[u8; BLOCK]] {
        let (blocks, _) = self.bytes.as_chunks();
        blocks.get(..self.blocks).unwrap_or_default()
    }

    /// SHA-1 of the message.
    pub(super) fn sha1(&self) -> [u8; 20] {
        let mut state = SHA1_START;
        sha1::block_api::compress(&mut state, self.blocks());
        big_endian(&state)
    }

    /// SHA-256 of the message.
    pub(super) fn sha256(&self) -> [u8; 32] {
        let mut state = SHA256_START;
        compress256(&mut state, self.blocks());
        big_endian(&state)
    }
}

fn big_endian<const N: usize>(words: &[u32]) -> [u8; N] {
    let mut bytes = [0; N];
    for (slot, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *slot = word.to_be_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest;

    #[test]
    fn every_length_hashes_as_in_the_library() {
        let message: Vec<u8> = (0..BUFFER).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for len in 0..=MAX_MESSAGE {
            let message = &message[..len];
            for cut in [0, len / 3, len] {
                let (front, back) = message.split_at(cut);
                let mut padded = Padded::empty();
                padded.fill(&[front, back]).unwrap();
                assert_eq!(padded.sha256()[..], sha2::Sha256::digest(message)[..], "{len}");
                assert_eq!(padded.sha1()[..], sha1::Sha1::digest(message)[..], "{len}");
            }
        }
        assert!(Padded::empty().fill(&[&message[..MAX_MESSAGE], &[0]]).is_none());
        assert!(Padded::empty().fill(&[&message]).is_none());
    }
}
