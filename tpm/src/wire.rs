//! Bounded reader and writer of marshalled TPM bytes.
//!
//! Comes in: a byte slice. Goes out: integers (big endian for TPM structures, little endian for the event log) and
//! sub-slices of the input. Refuses to read past the end, to accept a sized buffer above the caller's cap, and to
//! leave bytes over. Nothing is allocated by the reader.

use thiserror::Error;

/// Why marshalled bytes could not be read or written. Positions count from the start of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// The input ends before the value does.
    #[error("input ends at byte {at}, {wanted} more wanted")]
    Truncated {
        /// Where the value starts.
        at: usize,
        /// How many bytes it needs.
        wanted: usize,
    },
    /// A sized buffer is longer than its type allows.
    #[error("sized buffer of {len} bytes at byte {at}, at most {cap} allowed")]
    TooLong {
        /// Where the size field stands.
        at: usize,
        /// The announced size.
        len: usize,
        /// The cap of its type.
        cap: usize,
    },
    /// Bytes follow the end of the structure.
    #[error("{left} bytes left over at byte {at}")]
    Trailing {
        /// Where the structure ends.
        at: usize,
        /// How many bytes follow.
        left: usize,
    },
}

/// Reads a structure from front to back.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Position of the next byte.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let truncated = WireError::Truncated { at: self.at, wanted: len };
        let end = self.at.checked_add(len).ok_or(truncated)?;
        let part = self.bytes.get(self.at..end).ok_or(truncated)?;
        self.at = end;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let at = self.at;
        <[u8; N]>::try_from(self.take(N)?).map_err(|_| WireError::Truncated { at, wanted: N })
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[b]| b)
    }

    /// UINT16, big endian.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    /// UINT32, big endian.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    /// UINT64, big endian.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// UINT16, little endian (event log).
    pub fn u16_le(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    /// UINT32, little endian (event log).
    pub fn u32_le(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    /// UINT64, little endian (event log).
    pub fn u64_le(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The contents of a TPM2B of at most `cap` bytes. TPM 2.0 Part 2, 10.4.
    pub fn tpm2b(&mut self, cap: usize) -> Result<&'a [u8], WireError> {
        let at = self.at;
        let len = usize::from(self.u16()?);
        if len > cap {
            return Err(WireError::TooLong { at, len, cap });
        }
        self.take(len)
    }

    /// Ends the reading: an error if a byte is left.
    pub fn finish(self) -> Result<(), WireError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(WireError::Trailing { at: self.at, left }),
        }
    }
}

/// Writes a structure from front to back.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// One byte.
    #[must_use]
    pub fn u8(mut self, value: u8) -> Self {
        self.bytes.push(value);
        self
    }

    /// UINT16, big endian.
    #[must_use]
    pub fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// UINT32, big endian.
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// UINT64, big endian.
    #[must_use]
    pub fn u64(self, value: u64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A TPM2B. Fails when the contents do not fit its 16-bit size.
    pub fn tpm2b(self, bytes: &[u8]) -> Result<Self, WireError> {
        let len = u16::try_from(bytes.len()).map_err(|_| WireError::TooLong {
            at: self.bytes.len(),
            len: bytes.len(),
            cap: usize::from(u16::MAX),
        })?;
        Ok(self.u16(len).raw(bytes))
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written() {
        let bytes = Writer::new().u8(1).u16(2).u32(3).u64(4).tpm2b(b"five").unwrap().into_bytes();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(2));
        assert_eq!(reader.u32(), Ok(3));
        assert_eq!(reader.u64(), Ok(4));
        assert_eq!(reader.tpm2b(4), Ok(b"five".as_slice()));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn refuses_above_the_cap_short_input_and_left_over_bytes() {
        let bytes = Writer::new().tpm2b(b"five").unwrap().into_bytes();
        assert_eq!(Reader::new(&bytes).tpm2b(3), Err(WireError::TooLong { at: 0, len: 4, cap: 3 }));
        assert_eq!(Reader::new(&bytes[..5]).tpm2b(9), Err(WireError::Truncated { at: 2, wanted: 4 }));
        let mut reader = Reader::new(&bytes);
        reader.u16().unwrap();
        assert_eq!(reader.finish(), Err(WireError::Trailing { at: 2, left: 4 }));
    }

    #[test]
    fn a_length_near_the_end_of_the_address_space_does_not_wrap() {
        let mut reader = Reader::new(b"abc");
        reader.u8().unwrap();
        assert!(reader.take(usize::MAX).is_err());
    }

    #[test]
    fn a_buffer_above_16_bits_is_not_written() {
        assert!(Writer::new().tpm2b(&vec![0; 65_536]).is_err());
    }
}
