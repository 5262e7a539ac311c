//! Random changes of bytes, the same for the same seed.

/// Longest input that mutations lead to: above every bound of the parsers but the boot log's.
const MAX_LEN: usize = 160 * 1024;
/// Values that lengths and counts are often wrong about.
const NUMBERS: [u32; 10] = [0, 1, 2, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// Source of mutations: xorshift64*, which is plenty for choosing bytes.
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// A source; a seed of 0 is taken for 1.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: if seed == 0 { 1 } else { seed } }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 for 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        usize::try_from(self.next().checked_rem(bound).unwrap_or(0)).unwrap_or(0)
    }

    /// Changes `bytes` in one to eight places; `other` is what parts are spliced in from.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(8) {
            self.change(bytes, other);
        }
        bytes.truncate(MAX_LEN);
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        match self.below(9) {
            0 => {
                let bit = self.below(8);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
            }
            1 => {
                let value = self.next().to_le_bytes()[0];
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = value);
            }
            2 => self.number(bytes, at),
            3 => bytes.truncate(at),
            4 => {
                let len = self.below(64).min(bytes.len().saturating_sub(at));
                bytes.drain(at..at + len);
            }
            5 => self.repeat(bytes, at),
            6 => {
                let from = self.below(other.len());
                let part: Vec<u8> = other.iter().skip(from).take(self.below(256)).copied().collect();
                bytes.splice(at..at, part);
            }
            7 => {
                let tail = other.get(self.below(other.len())..).unwrap_or_default();
                bytes.truncate(at);
                bytes.extend_from_slice(tail);
            }
            _ => {
                let value = self.next().to_le_bytes()[0];
                let count = 1 + self.below(16);
                bytes.splice(at..at, std::iter::repeat_n(value, count));
            }
        }
    }

    /// Overwrites a length or a count, in either byte order.
    fn number(&mut self, bytes: &mut [u8], at: usize) {
        let chosen = NUMBERS.get(self.below(NUMBERS.len())).copied().unwrap_or_default();
        let value = match self.below(3) {
            0 => chosen.to_le_bytes(),
            1 => chosen.to_be_bytes(),
            _ => u32::try_from(self.below(300)).unwrap_or_default().to_le_bytes(),
        };
        let width = 1 << self.below(3);
        bytes.iter_mut().skip(at).take(width).zip(value).for_each(|(byte, new)| *byte = new);
    }

    fn repeat(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let len = (1 + self.below(128)).min(bytes.len().saturating_sub(at));
        let part: Vec<u8> = bytes.iter().skip(at).take(len).copied().collect();
        let times = 1 + self.below(8);
        bytes.splice(at..at, part.repeat(times));
    }
}
