//! An export file (PROTOCOL §11.3) as a source of audits: a log without a store.
//!
//! Comes in: text of one JSON object a line, each a page of leaves or of heads. Where each page stands is kept in memory, its content isn't.
//! Refused: lines over the size of any answer, what isn't such a page, leaves with a gap or heads whose sizes don't rise. Members of decisions
//! aren't in an export, so nothing in it can be replayed.

use super::{HeadExport, LogSource, Unreadable};
use countersign_core::api::admin::{Heads, Leaves};
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::Sha256Digest;
use countersign_core::note::SignedNote;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Longest line, bytes: clients take no larger answer.
const MAX_LINE: u64 = 16 * 1024 * 1024;

/// Most leaves or heads of a page (PROTOCOL §11.2).
const MAX_ITEMS: u64 = 1_024;

/// Where a page stands in the file.
#[derive(Clone, Copy)]
struct Page {
    /// Index of its first leaf, or size of its first head.
    first: u64,
    /// How many.
    count: u64,
    offset: u64,
    length: u64,
}

/// A file and, of each kind, the page that was read last.
struct Reading {
    file: File,
    leaves: Option<(u64, Vec<Vec<u8>>)>,
    heads: Option<(u64, Vec<HeadExport>)>,
}

/// An export that was looked through once.
pub struct ExportLog {
    reading: Mutex<Reading>,
    leaves: Vec<Page>,
    heads: Vec<Page>,
    size: u64,
}

impl ExportLog {
    /// Reads the file from start to end, to know where everything stands.
    ///
    /// # Errors
    /// The file can't be read, or isn't an export.
    pub fn open(path: &Path) -> Result<Self, Unreadable> {
        let said = |error: std::io::Error| Unreadable(format!("{}: {error}", path.display()));
        let mut file = BufReader::new(File::open(path).map_err(said)?);
        let (mut leaves, mut heads, mut size) = (Vec::new(), Vec::new(), 0);
        let (mut offset, mut number, mut next_head, mut line) = (0, 0_u64, 0, Vec::new());
        loop {
            line.clear();
            let length = (&mut file).take(MAX_LINE).read_until(b'\n', &mut line).map_err(said)?;
            let length = u64::try_from(length).unwrap_or(MAX_LINE);
            if length == 0 {
                break;
            }
            number += 1;
            let wrong = |what: &str| Unreadable(format!("{}: line {number} {what}", path.display()));
            if length == MAX_LINE && line.last() != Some(&b'\n') {
                return Err(wrong("is longer than 16 MiB"));
            }
            if let Ok(page) = serde_json::from_slice::<Leaves>(&line) {
                if page.from != size {
                    return Err(wrong(&format!(
                        "has leaves from {} on, where {size} was to follow",
                        page.from
                    )));
                }
                let count = page.leaves.len() as u64;
                if count > MAX_ITEMS {
                    return Err(wrong("has more than 1,024 leaves"));
                }
                leaves.push(Page { first: size, count, offset, length });
                size += count;
            } else {
                let page = parse_heads(&line).map_err(|what| wrong(&what))?;
                if page.len() as u64 > MAX_ITEMS {
                    return Err(wrong("has more than 1,024 heads"));
                }
                for (at, _) in &page {
                    if *at < next_head {
                        return Err(wrong("has heads whose sizes don't rise"));
                    }
                    next_head = at.saturating_add(1);
                }
                if let Some((first, _)) = page.first() {
                    heads.push(Page { first: *first, count: page.len() as u64, offset, length });
                }
            }
            offset += length;
        }
        let reading = Mutex::new(Reading { file: file.into_inner(), leaves: None, heads: None });
        leaves.retain(|page| page.count > 0);
        Ok(Self { reading, leaves, heads, size })
    }

    /// Leaves in the file.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

/// The page that holds `key`: the last that begins at or before it.
fn page_of(pages: &[Page], key: u64) -> Option<Page> {
    let after = pages.partition_point(|page| page.first <= key);
    pages.get(after.checked_sub(1)?).copied()
}

fn read_line(file: &mut File, page: &Page) -> Result<Vec<u8>, Unreadable> {
    let failed = |error: std::io::Error| Unreadable(error.to_string());
    file.seek(SeekFrom::Start(page.offset)).map_err(failed)?;
    let mut line = Vec::new();
    file.take(page.length).read_to_end(&mut line).map_err(failed)?;
    Ok(line)
}

/// Heads of a page, each with its size.
fn parse_heads(line: &[u8]) -> Result<Vec<(u64, HeadExport)>, String> {
    let page: Heads = serde_json::from_slice(line).map_err(|error| format!("is no page: {error}"))?;
    page.heads
        .into_iter()
        .map(|head| parse_head(head).ok_or_else(|| "has a malformed head".to_owned()))
        .collect()
}

/// A signed note, or the bare body of a head that was never signed.
fn parse_head(text: String) -> Option<(u64, HeadExport)> {
    if let Ok(body) = HeadBody::parse(&text) {
        return Some((body.size, HeadExport { text, note: None }));
    }
    let body = SignedNote::parse(&text).ok()?.text().to_owned();
    let size = HeadBody::parse(&body).ok()?.size;
    Some((size, HeadExport { text: body, note: Some(text) }))
}

impl LogSource for ExportLog {
    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, Unreadable> {
        let Some(page) = page_of(&self.leaves, from).filter(|page| from - page.first < page.count) else {
            return Ok(Vec::new());
        };
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.leaves.as_ref().is_none_or(|(first, _)| *first != page.first) {
            let line = read_line(&mut reading.file, &page)?;
            let parsed: Leaves = serde_json::from_slice(&line)
                .map_err(|_| Unreadable("the export changed while it was read".to_owned()))?;
            reading.leaves = Some((page.first, parsed.leaves.into_iter().map(|leaf| leaf.0).collect()));
        }
        let held = reading.leaves.as_ref().map_or(&[][..], |(_, leaves)| leaves);
        let skip = usize::try_from(from - page.first).unwrap_or(usize::MAX);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        Ok(held.iter().skip(skip).take(count).cloned().collect())
    }

    fn heads(&self, from: u64, count: u64) -> Result<Vec<HeadExport>, Unreadable> {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        // The page that begins at or before it may end before it: then the next one has it.
        let start = self.heads.partition_point(|page| page.first <= from).saturating_sub(1);
        for page in self.heads.iter().skip(start) {
            if reading.heads.as_ref().is_none_or(|(first, _)| *first != page.first) {
                let line = read_line(&mut reading.file, page)?;
                let parsed = parse_heads(&line).map_err(Unreadable)?;
                reading.heads = Some((page.first, parsed.into_iter().map(|(_, head)| head).collect()));
            }
            let held = reading.heads.as_ref().map_or(&[][..], |(_, heads)| heads);
            let size = |head: &HeadExport| HeadBody::parse(&head.text).map_or(0, |body| body.size);
            let found: Vec<_> = held.iter().filter(|head| size(head) >= from).take(count).cloned().collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    fn blob(&self, _: &Sha256Digest) -> Result<Option<Vec<u8>>, Unreadable> {
        Ok(None)
    }
}
