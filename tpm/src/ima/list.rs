//! The binary list: entries one after the other, borrowed from its bytes.
//!
//! Comes in: bytes as the kernel shows them on little-endian machines (or with `ima_canonical_fmt`), and the hash of
//! their template-hash column. Goes out: [`Entry`] after [`Entry`]. Refused: an unknown template, lengths above the
//! bounds or past the end, too many entries; what follows a refusal isn't read.

use thiserror::Error;

use super::template::{FieldError, Measured, Template};
use super::value::Value;
use super::{MAX_ENTRIES, MAX_LIST_BYTES, MAX_TEMPLATE_BYTES};
use crate::algorithm::HashAlg;
use crate::quote::MAX_PCR;
use crate::wire::{Reader, WireError};

/// Longest template name that is looked at: "ima-modsig" and "ima-sigv2" have 10 and 9 characters.
const MAX_NAME: usize = 16;

/// Why bytes aren't a list. Entries count from 0 in the bytes at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ListError {
    /// Above [`MAX_LIST_BYTES`].
    #[error("list of {0} bytes is too long")]
    TooLong(usize),
    /// Above [`MAX_ENTRIES`].
    #[error("list has too many entries")]
    TooManyEntries,
    /// An entry runs past the end.
    #[error("entry {entry} is malformed: {error}")]
    Wire {
        /// Which.
        entry: usize,
        /// What is wrong.
        error: WireError,
    },
    /// An entry names a register that doesn't exist.
    #[error("entry {entry} extends PCR {pcr}")]
    Pcr {
        /// Which.
        entry: usize,
        /// The register.
        pcr: u32,
    },
    /// An entry has a template that isn't known here.
    #[error("entry {entry} has an unknown template")]
    Template {
        /// Which.
        entry: usize,
    },
    /// Template data above [`MAX_TEMPLATE_BYTES`].
    #[error("entry {entry} has {len} bytes of template data")]
    DataTooLong {
        /// Which.
        entry: usize,
        /// How many are announced.
        len: usize,
    },
    /// The fields of an entry can't be understood.
    #[error("entry {entry}: {error}")]
    Field {
        /// Which.
        entry: usize,
        /// What is wrong.
        error: FieldError,
    },
    /// A line of the ASCII form has another number of columns, or a column that isn't what it must be.
    #[error("line {entry} of the ASCII list is malformed")]
    Line {
        /// Which.
        entry: usize,
    },
}

/// One entry, as claimed.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    index: usize,
    pcr: u32,
    logged: &'a [u8],
    template: Template,
    data: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Position in the bytes that were read, from 0.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// The register that it says it extended.
    pub const fn pcr(&self) -> u32 {
        self.pcr
    }

    /// The template.
    pub const fn template(&self) -> Template {
        self.template
    }

    /// The logged template hash. Nothing proves it; only what is recomputed is ever extended.
    pub const fn logged(&self) -> &'a [u8] {
        self.logged
    }

    /// Whether the kernel couldn't vouch for what it measured (a file open for writing while it was measured, or measured
    /// while open for writing): the logged hash is all zeros. The list doesn't tell the two apart.
    pub fn is_violation(&self) -> bool {
        self.logged.iter().all(|byte| *byte == 0)
    }

    /// Hash of the template data.
    pub fn template_hash(&self, bank: HashAlg) -> Value {
        let [value] = self.template_hashes([bank]);
        value
    }

    /// Hashes of the template data by several algorithms.
    pub(super) fn template_hashes<const N: usize>(&self, banks: [HashAlg; N]) -> [Value; N] {
        match self.template {
            Template::Ima => {
                // Hashed are the digest and the name in a field of 256 bytes, without the length that the list has.
                let (digest, rest) = self.data.split_at_checked(20).unwrap_or_default();
                let name = rest.get(4..).unwrap_or_default();
                let zeros = [0u8; 256];
                let padding = zeros.get(name.len()..).unwrap_or_default();
                Value::hash_each(banks, &[digest, name, padding])
            }
            _ => Value::hash_each(banks, &[self.data]),
        }
    }

    /// What the entry says. `None` for a violation, whose data nothing proves.
    pub fn measured(&self) -> Result<Option<Measured<'a>>, ListError> {
        if self.is_violation() {
            return Ok(None);
        }
        let read = self.template.read(self.data);
        read.map(Some).map_err(|error| ListError::Field { entry: self.index, error })
    }

    /// The path of a violation, as the host says it.
    pub fn hinted_path(&self) -> Option<&'a [u8]> {
        self.template.hinted_path(self.data)
    }
}

/// Reads a list from front to back. After an error there is nothing more.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    reader: Reader<'a>,
    hash_len: usize,
    next: usize,
    broken: bool,
}

impl<'a> Entries<'a> {
    /// A reader of a list whose template-hash column is of `column`: SHA-1 in `binary_runtime_measurements`, the bank's
    /// hash in the files that have it in their name.
    pub fn new(bytes: &'a [u8], column: HashAlg) -> Result<Self, ListError> {
        if bytes.len() > MAX_LIST_BYTES {
            return Err(ListError::TooLong(bytes.len()));
        }
        Ok(Self { reader: Reader::new(bytes), hash_len: column.digest_len(), next: 0, broken: false })
    }

    /// Where the next entry begins.
    pub fn position(&self) -> usize {
        self.reader.position()
    }

    fn read(&mut self) -> Result<Entry<'a>, ListError> {
        let index = self.next;
        if index == MAX_ENTRIES {
            return Err(ListError::TooManyEntries);
        }
        let wire = |error| ListError::Wire { entry: index, error };
        let pcr = self.reader.u32_le().map_err(wire)?;
        if pcr > MAX_PCR {
            return Err(ListError::Pcr { entry: index, pcr });
        }
        let logged = self.reader.take(self.hash_len).map_err(wire)?;
        let name_len = length(&mut self.reader).map_err(wire)?;
        if name_len > MAX_NAME {
            return Err(ListError::Template { entry: index });
        }
        let name = self.reader.take(name_len).map_err(wire)?;
        let template = Template::from_name(name).ok_or(ListError::Template { entry: index })?;
        let data = match template {
            Template::Ima => self.old_data().map_err(wire)?,
            _ => {
                let len = length(&mut self.reader).map_err(wire)?;
                if len > MAX_TEMPLATE_BYTES {
                    return Err(ListError::DataTooLong { entry: index, len });
                }
                self.reader.take(len).map_err(wire)?
            }
        };
        self.next += 1;
        Ok(Entry { index, pcr, logged, template, data })
    }

    /// The "ima" template has no length of its data: a digest, then the name with its length.
    fn old_data(&mut self) -> Result<&'a [u8], WireError> {
        let mut ahead = self.reader.clone();
        let start = ahead.position();
        ahead.take(20)?;
        let at = ahead.position();
        let name_len = length(&mut ahead)?;
        if name_len > super::template::IMA_NAME_MAX {
            return Err(WireError::TooLong { at, len: name_len, cap: super::template::IMA_NAME_MAX });
        }
        ahead.take(name_len)?;
        self.reader.take(ahead.position() - start)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.broken || self.reader.remaining() == 0 {
            return None;
        }
        let read = self.read();
        self.broken = read.is_err();
        Some(read)
    }
}

fn length(reader: &mut Reader<'_>) -> Result<usize, WireError> {
    let at = reader.position();
    let len = reader.u32_le()?;
    usize::try_from(len).map_err(|_| WireError::Truncated { at, wanted: usize::MAX })
}
