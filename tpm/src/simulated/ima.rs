//! A kernel without a kernel: measurement lists of realistic form, and what they extend.
//!
//! Comes in: what would have been measured. Goes out: the binary list, and the digests that a TPM has to be extended
//! with so that a quote agrees with it.

use crate::algorithm::HashAlg;
use crate::ima::aggregate;
use crate::ima::list::Entries;
use crate::ima::template::Template;

use super::{SimulatedTpm, SimulationError};

/// The register of the list.
pub const PCR: u32 = 10;

/// A growing list, with SHA-1 in its template-hash column.
#[derive(Debug, Clone, Default)]
pub struct SimulatedIma {
    list: Vec<u8>,
    /// Where each entry begins.
    starts: Vec<usize>,
}

impl SimulatedIma {
    /// A list that begins as the kernel's does: with the digest of boot registers 0 to 9.
    pub fn after_boot(bank: HashAlg, pcrs: &[Vec<u8>]) -> Self {
        let mut list = Self::default();
        let values: Vec<&[u8]> = pcrs.iter().map(Vec::as_slice).collect();
        list.measure(bank, aggregate::NAME, &bank.digest_parts(&values));
        list
    }

    /// Measures a file: template ima-ng.
    pub fn measure(&mut self, alg: HashAlg, path: &[u8], digest: &[u8]) {
        self.entry(Template::ImaNg, &fields(&[&named(alg, digest), &ended(path)]));
    }

    /// Measures a file with its signature: template ima-sig.
    pub fn measure_signed(&mut self, alg: HashAlg, path: &[u8], digest: &[u8], signature: &[u8]) {
        self.entry(Template::ImaSig, &fields(&[&named(alg, digest), &ended(path), signature]));
    }

    /// Measures a buffer: template ima-buf.
    pub fn measure_buffer(&mut self, alg: HashAlg, name: &[u8], buffer: &[u8]) {
        let digest = alg.digest(buffer);
        self.entry(Template::ImaBuf, &fields(&[&named(alg, &digest), &ended(name), buffer]));
    }

    /// A violation: a zero template hash beside data that nothing proves.
    pub fn violate(&mut self, path: &[u8]) {
        let data = fields(&[&named(HashAlg::Sha256, &[0; 32]), &ended(path)]);
        self.push(PCR, &[0; 20], Template::ImaNg, &data);
    }

    /// Any entry of a template with lengths, its hash computed.
    pub fn entry(&mut self, template: Template, data: &[u8]) {
        let hash = HashAlg::Sha1.digest(data);
        self.push(PCR, &hash, template, data);
    }

    /// Any entry at all.
    pub fn push(&mut self, pcr: u32, hash: &[u8], template: Template, data: &[u8]) {
        self.starts.push(self.list.len());
        self.list.extend_from_slice(&pcr.to_le_bytes());
        self.list.extend_from_slice(hash);
        self.list.extend_from_slice(&fields(&[template.name().as_bytes(), data]));
    }

    /// The list from an entry on.
    pub fn bytes_from(&self, entry: usize) -> &[u8] {
        self.starts.get(entry).and_then(|start| self.list.get(*start..)).unwrap_or_default()
    }

    /// The whole list.
    pub fn bytes(&self) -> &[u8] {
        &self.list
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.starts.len()
    }

    /// What a kernel since 5.8 extends into `bank` for the entries from `entry` on.
    pub fn extensions(&self, bank: HashAlg, entry: usize) -> Vec<Vec<u8>> {
        let Ok(entries) = Entries::new(self.bytes_from(entry), HashAlg::Sha1) else { return Vec::new() };
        let extension = |entry: crate::ima::list::Entry<'_>| match entry.is_violation() {
            true => vec![0xff; bank.digest_len()],
            false => entry.template_hash(bank).as_bytes().to_vec(),
        };
        entries.filter_map(Result::ok).map(extension).collect()
    }

    /// Extends a simulated TPM in both banks with the entries from `entry` on.
    pub fn extend(&self, tpm: &mut SimulatedTpm, entry: usize) -> Result<(), SimulationError> {
        for bank in super::BANKS {
            for digest in self.extensions(bank, entry) {
                tpm.extend(bank, PCR, &digest)?;
            }
        }
        Ok(())
    }
}

/// Fields with their lengths, as in template data.
pub fn fields(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// A digest with its algorithm, as in d-ng.
pub fn named(alg: HashAlg, digest: &[u8]) -> Vec<u8> {
    [alg.name().as_bytes(), b":\0", digest].concat()
}

/// A path with its end, as in n-ng.
pub fn ended(path: &[u8]) -> Vec<u8> {
    [path, b"\0"].concat()
}
