//! Whole IMA lists out of the parts that hosts sent: another IMA policy judges all that ran since the boot, not what is new.
//!
//! Comes in: evidence records of one host, newest first. Goes out: the entries from the first to the last that the newest of them sent, once the
//! parts reach back to the first. A part of another boot, or one that leaves a gap, is passed over. Nothing is believed here: a list put together
//! wrongly doesn't lead to the quoted register.

use crate::store::{ReadFault, Reader};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::record::{EvidenceRecord, ImaEntries};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::attest::Attest;
use countersign_tpm::ima::list::Entries;
use std::sync::Arc;

/// Longest list that is put together: what one submission may be.
const MAX_LIST: usize = 32 * 1024 * 1024;

/// A list in the making.
pub(super) struct Trail {
    boot: (u32, u32),
    column: u16,
    /// The entry that the first part so far begins with.
    from: u64,
    /// Parts, newest first, each cut where the next one begins.
    parts: Vec<Arc<[u8]>>,
    bytes: usize,
}

fn boot(record: &EvidenceRecord) -> Option<(u32, u32)> {
    let clock = Attest::parse(&record.attest).ok()?.clock;
    Some((clock.reset_count, clock.restart_count))
}

fn list(reader: &dyn Reader, ima: &ImaEntries) -> Result<Option<Arc<[u8]>>, ReadFault> {
    if ima.list == sha256(&[]) {
        return Ok(Some(Arc::from([])));
    }
    Ok(reader.blob(&ima.list)?.map(Arc::from))
}

impl Trail {
    /// Begins with the newest evidence; `None` if it has no entries, or none that are kept.
    pub(super) fn of(reader: &dyn Reader, record: &EvidenceRecord) -> Result<Option<Self>, ReadFault> {
        let (Some(ima), Some(boot)) = (&record.ima, boot(record)) else { return Ok(None) };
        let Some(part) = list(reader, ima)? else { return Ok(None) };
        let bytes = part.len();
        Ok(Some(Self { boot, column: ima.column, from: ima.from, parts: vec![part], bytes }))
    }

    /// Whether earlier evidence is needed.
    pub(super) const fn wants_more(&self) -> bool {
        self.from > 0
    }

    /// Takes earlier evidence into account.
    pub(super) fn earlier(&mut self, reader: &dyn Reader, record: &EvidenceRecord) -> Result<(), ReadFault> {
        let Some(ima) = &record.ima else { return Ok(()) };
        let fits = ima.from < self.from && ima.column == self.column && boot(record) == Some(self.boot);
        if !fits {
            return Ok(());
        }
        let Some(part) = list(reader, ima)? else { return Ok(()) };
        if let Some(cut) = first(&part, self.column, self.from.saturating_sub(ima.from))
            && self.bytes.saturating_add(cut.len()) <= MAX_LIST
        {
            self.bytes = self.bytes.saturating_add(cut.len());
            self.parts.push(Arc::from(cut));
            self.from = ima.from;
        }
        Ok(())
    }

    /// The list from its first entry, and how evidence names it.
    pub(super) fn whole(&self) -> Option<(ImaEntries, Arc<[u8]>)> {
        let bytes = (!self.wants_more()).then(|| {
            let parts: Vec<&[u8]> = self.parts.iter().rev().map(AsRef::as_ref).collect();
            parts.concat()
        })?;
        Some((ImaEntries { from: 0, column: self.column, list: sha256(&bytes) }, bytes.into()))
    }
}

/// So many entries from the beginning; `None` if there are fewer.
fn first(list: &[u8], column: u16, count: u64) -> Option<&[u8]> {
    let mut entries = Entries::new(list, HashAlg::from_id(column).ok()?).ok()?;
    for _ in 0..count {
        entries.next()?.ok()?;
    }
    list.get(..entries.position())
}

/// Members in the store, and a list that was put together.
pub(super) struct WithList<'a> {
    pub(super) blobs: super::Blobs<'a>,
    pub(super) list: Option<(Sha256Digest, Arc<[u8]>)>,
}

impl crate::verify::BootLogSource for WithList<'_> {
    fn holds(&self, digest: &Sha256Digest) -> Result<bool, crate::verify::SourceFault> {
        Ok(self.fetch(digest)?.is_some())
    }

    fn fetch(&self, digest: &Sha256Digest) -> Result<Option<Arc<[u8]>>, crate::verify::SourceFault> {
        match &self.list {
            Some((name, bytes)) if name == digest => Ok(Some(Arc::clone(bytes))),
            _ => self.blobs.fetch(digest),
        }
    }
}
