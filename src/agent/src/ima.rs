//! The kernel's IMA list: the entries that the authority doesn't know yet.
//!
//! Comes in: how many entries the authority knows. Goes out: the entries behind them, or all of them. The list is read after the quote, since it
//! only grows: what was measured in between stands behind the quoted moment, and the authority takes nothing from it.
//!
//! The first evidence of a process carries the whole list: entries that the authority knows may be of the boot before. So does the first one
//! after the TPM was reset or restarted (a resume from hibernation is one), which the quote just taken shows, since the authority goes on from
//! what it knows under the same boot only; and the first one after a refusal that has to do with the list.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use countersign_core::api::{B64, ImaEntriesDocument};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::refusal::RefusalCode;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::ima::MAX_LIST_BYTES;
use countersign_tpm::ima::list::Entries;

/// Hash of the template-hash column of `binary_runtime_measurements`.
const COLUMN: HashAlg = HashAlg::Sha1;

/// Entries, named by digest.
#[derive(Debug)]
pub(crate) struct ImaPart {
    pub(crate) from: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Sha256Digest,
}

impl ImaPart {
    pub(crate) fn document(&self) -> ImaEntriesDocument {
        ImaEntriesDocument { from: self.from, column: COLUMN.id(), list: self.digest.to_hex() }
    }

    /// The member to be sent; nothing has to be sent for no entries.
    pub(crate) fn member(&self) -> Option<B64> {
        (!self.bytes.is_empty()).then(|| B64(self.bytes.clone()))
    }
}

/// What tells one boot of a TPM from another: resetCount and restartCount (TPM 2.0 Part 2, 10.11.1).
pub(crate) type Boot = (u32, u32);

/// The list's file.
pub(crate) struct ImaFile {
    path: PathBuf,
    /// Under which boot this process has sent the whole list.
    sent: Mutex<Option<Boot>>,
}

impl ImaFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, sent: Mutex::new(None) }
    }

    /// Entries that an authority lacks which knows `known` of them, beside a quote of this boot; `None` if there is no list to read. Blocks.
    pub(crate) fn since(&self, known: u64, boot: Option<Boot>) -> Option<ImaPart> {
        let mut bytes = match self.read() {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(file = %self.path.display(), error = %error, "the IMA list can't be read");
                return None;
            }
        };
        let before = std::mem::replace(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner), boot);
        let known = if boot.is_some() && before == boot { known } else { 0 };
        // A list shorter than what is known is of another boot.
        let from = match start_of(&bytes, known) {
            Some(start) => {
                bytes.drain(..start);
                known
            }
            None => 0,
        };
        let digest = sha256(&bytes);
        Some(ImaPart { from, bytes, digest })
    }

    /// After this refusal the whole list is sent, if the refusal has to do with it.
    pub(crate) fn learn(&self, code: &str) {
        let of_the_list = RefusalCode::parse(code).is_some() && code.starts_with("ima-");
        if of_the_list {
            *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn read(&self) -> std::io::Result<Vec<u8>> {
        let most = u64::try_from(MAX_LIST_BYTES).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        File::open(&self.path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() > MAX_LIST_BYTES {
            return Err(std::io::Error::other(format!("larger than {MAX_LIST_BYTES} bytes")));
        }
        Ok(bytes)
    }
}

/// Where the entry with this number begins; `None` if the list has fewer, or can't be read that far.
fn start_of(bytes: &[u8], number: u64) -> Option<usize> {
    let mut entries = Entries::new(bytes, COLUMN).ok()?;
    for _ in 0..number {
        entries.next()?.ok()?;
    }
    Some(entries.position())
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_tpm::simulated::ima::SimulatedIma;

    #[test]
    fn the_whole_list_goes_first_then_what_is_new_and_all_again_after_a_refusal_of_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("list");
        let file = ImaFile::new(path.clone());
        let boot = Some((7, 0));
        assert!(file.since(0, boot).is_none());
        let mut list = SimulatedIma::after_boot(HashAlg::Sha256, &[]);
        list.measure(HashAlg::Sha256, b"/a", &[1; 32]);
        std::fs::write(&path, list.bytes()).unwrap();
        let sent = |known| {
            let part = file.since(known, boot).unwrap();
            assert_eq!(part.digest, sha256(&part.bytes));
            (part.from, part.bytes)
        };
        // What the authority knows may be of another boot.
        assert_eq!(sent(1), (0, list.bytes().to_vec()));
        assert_eq!(sent(1), (1, list.bytes_from(1).to_vec()));
        assert_eq!(sent(2), (2, Vec::new()));
        assert!(file.since(2, boot).unwrap().member().is_none());
        assert_eq!(sent(3), (0, list.bytes().to_vec()));
        file.learn("policy-denied");
        assert_eq!(sent(2).0, 2);
        file.learn("ima-base-moved");
        assert_eq!(sent(2).0, 0);
        assert_eq!(sent(2).0, 2);
        // Hibernation raises restartCount, and what wasn't a quote proves no boot.
        for other in [Some((7, 1)), Some((8, 0)), None, None] {
            assert_eq!(file.since(2, other).unwrap().from, 0, "{other:?}");
        }
        assert_eq!(sent(2).0, 0);
        assert_eq!(sent(2).0, 2);
    }

    #[test]
    fn a_list_larger_than_any_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("list");
        File::create(&path).unwrap().set_len(u64::try_from(MAX_LIST_BYTES).unwrap() + 1).unwrap();
        assert!(ImaFile::new(path).since(0, Some((1, 0))).is_none());
    }
}
