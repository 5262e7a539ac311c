//! Evidence for one call: a quote bound to the call's challenge and requests, and the boot log by its digest.
//!
//! Comes in: a challenge offer, request digests. Goes out: the evidence document, and the bytes behind the digests for an authority that lacks them.
//! The boot log is read again when its file changed; otherwise its digest is remembered. Refused: an offer that demands registers that no TPM has.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_core::api::{B64, ChallengeOffer, EvidenceDocument, PcrValue};
use countersign_core::challenge::MAX_CHALLENGE_LEN;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{qualifying_data, request_root};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::attest::Attest;
use countersign_tpm::eventlog::MAX_LOG_BYTES;
use countersign_tpm::quote::PcrSelectionSpec;
use data_encoding::HEXLOWER;

use crate::device::Quoted;
use crate::ima::{Boot, ImaFile, ImaPart};
use crate::refused::Refused;
use crate::tpm::{TpmError, TpmWorker};

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EvidenceError {
    /// The challenge offer isn't one that a TPM can answer.
    #[error("the authority demands a quote that no TPM makes: {0}")]
    Offer(String),
    /// The TPM didn't quote.
    #[error(transparent)]
    Tpm(#[from] TpmError),
}

impl From<EvidenceError> for Refused {
    fn from(error: EvidenceError) -> Self {
        match error {
            EvidenceError::Offer(_) => Self::new(RefusalCode::FeedInvalid, error.to_string()),
            EvidenceError::Tpm(error) => error.into(),
        }
    }
}

/// The boot log's bytes and their name.
#[derive(Debug)]
pub(crate) struct BootLog {
    bytes: Vec<u8>,
    digest: Sha256Digest,
}

/// What tells one content of a file from another without reading it. The kernel's own log shows size 0 and never changes while it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp([i64; 5], u64, u64);

/// Reads the boot log when it changed.
pub(crate) struct BootLogFile {
    path: PathBuf,
    cached: Mutex<Option<(Stamp, Arc<BootLog>)>>,
}

impl BootLogFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, cached: Mutex::new(None) }
    }

    /// The log, or `None` if there is none to read: then the evidence names none and the authority says what follows. Blocks.
    pub(crate) fn current(&self) -> Option<Arc<BootLog>> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read(cached.as_ref()) {
            Ok(found) => {
                let log = Arc::clone(&found.1);
                *cached = Some(found);
                Some(log)
            }
            Err(error) => {
                tracing::warn!(file = %self.path.display(), error = %error, "the boot log can't be read");
                *cached = None;
                None
            }
        }
    }

    fn read(&self, cached: Option<&(Stamp, Arc<BootLog>)>) -> std::io::Result<(Stamp, Arc<BootLog>)> {
        let file = File::open(&self.path)?;
        let about = file.metadata()?;
        let times = [about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec()];
        let [mtime, mtime_nsec, ctime, ctime_nsec] = times;
        let size = i64::try_from(about.size()).unwrap_or(i64::MAX);
        let stamp = Stamp([mtime, mtime_nsec, ctime, ctime_nsec, size], about.dev(), about.ino());
        if let Some((known, log)) = cached
            && *known == stamp
        {
            return Ok((stamp, Arc::clone(log)));
        }
        let most = u64::try_from(MAX_LOG_BYTES).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() > MAX_LOG_BYTES {
            return Err(std::io::Error::other(format!("larger than {MAX_LOG_BYTES} bytes")));
        }
        let digest = sha256(&bytes);
        Ok((stamp, Arc::new(BootLog { bytes, digest })))
    }
}

/// Evidence for one challenge, sent first without its members.
#[derive(Clone)]
pub(crate) struct Evidence {
    pub(crate) document: EvidenceDocument,
    boot_log: Option<Arc<BootLog>>,
    ima: Option<Arc<ImaPart>>,
}

/// Files that evidence is made of beside the quote.
#[derive(Clone)]
pub(crate) struct Logs {
    pub(crate) boot_log: Arc<BootLogFile>,
    pub(crate) ima: Arc<ImaFile>,
}

impl Evidence {
    /// Quotes. The logs are read on the TPM's thread, since all of it may block; the IMA list after the quote, and only if it is wanted. New
    /// entries of it are sent at once: the authority can't have them.
    pub(crate) async fn collect(
        worker: &TpmWorker,
        logs: Logs,
        origin: &str,
        offer: &ChallengeOffer,
        requests: &[Sha256Digest],
    ) -> Result<Self, EvidenceError> {
        let selection = selection(offer)?;
        let qualifying = qualifying_data(origin, &offer.challenge.0, &request_root(requests));
        let wanted = offer.ima_entries;
        let made = worker
            .call(move |device| {
                let boot_log = logs.boot_log.current();
                let quoted = device.quote(&qualifying, &selection)?;
                let boot = boot_of(&quoted);
                Ok((quoted, boot_log, wanted.and_then(|known| logs.ima.since(known, boot))))
            })
            .await?;
        let (quoted, boot_log, ima) = made;
        let ima = ima.map(Arc::new);
        let value =
            |(index, value): &(u32, Vec<u8>)| PcrValue { index: *index, value: HEXLOWER.encode(value) };
        let document = EvidenceDocument {
            attest: B64(quoted.attested.attest),
            signature: B64(quoted.attested.signature),
            bank: offer.bank,
            pcrs: quoted.pcrs.iter().map(value).collect(),
            boot_log: boot_log.as_ref().map(|log| log.digest.to_hex()),
            ima: ima.as_ref().map(|ima| ima.document()),
            members: ima.iter().filter_map(|ima| ima.member()).collect(),
        };
        Ok(Self { document, boot_log, ima })
    }

    /// The same evidence with the members that the authority asked for; `None` if it asks for what isn't part of this evidence.
    pub(crate) fn with_members(&self, needed: &[String]) -> Option<EvidenceDocument> {
        let log = self.boot_log.as_ref()?;
        let digest = log.digest.to_hex();
        if needed.is_empty() || needed.iter().any(|needed| *needed != digest) {
            return None;
        }
        let ima = self.ima.iter().filter_map(|ima| ima.member());
        let members = [B64(log.bytes.clone())].into_iter().chain(ima).collect();
        Some(EvidenceDocument { members, ..self.document.clone() })
    }
}

/// The boot that the quote is of.
fn boot_of(quoted: &Quoted) -> Option<Boot> {
    let attest = Attest::parse(&quoted.attested.attest).ok()?;
    Some((attest.clock.reset_count, attest.clock.restart_count))
}

fn selection(offer: &ChallengeOffer) -> Result<PcrSelectionSpec, EvidenceError> {
    let refuse = |error: &dyn std::fmt::Display| EvidenceError::Offer(error.to_string());
    if offer.challenge.0.len() > MAX_CHALLENGE_LEN {
        return Err(refuse(&"challenge too long"));
    }
    let bank = HashAlg::from_id(offer.bank).map_err(|error| refuse(&error))?;
    PcrSelectionSpec::new(bank, &offer.pcrs).map_err(|error| refuse(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SimulatedHost, SimulatedOpener};
    use countersign_tpm::simulated::ima::SimulatedIma;

    #[test]
    fn the_boot_log_is_read_again_only_when_its_file_changed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("log");
        let file = BootLogFile::new(path.clone());
        assert!(file.current().is_none());
        std::fs::write(&path, b"one").unwrap();
        let first = file.current().unwrap();
        assert_eq!(first.digest, sha256(b"one"));
        assert!(Arc::ptr_eq(&first, &file.current().unwrap()));
        // Another file of the same size under the same name.
        std::fs::write(root.path().join("other"), b"two").unwrap();
        std::fs::rename(root.path().join("other"), &path).unwrap();
        assert_eq!(file.current().unwrap().digest, sha256(b"two"));
        std::fs::remove_file(&path).unwrap();
        assert!(file.current().is_none());
    }

    #[test]
    fn a_log_larger_than_any_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("log");
        std::fs::write(&path, vec![0; MAX_LOG_BYTES + 1]).unwrap();
        assert!(BootLogFile::new(path).current().is_none());
    }

    #[tokio::test]
    async fn after_a_resume_the_whole_ima_list_goes_beside_the_first_quote() {
        let root = tempfile::tempdir().unwrap();
        let list = root.path().join("list");
        let mut measured = SimulatedIma::after_boot(HashAlg::Sha256, &[]);
        measured.measure(HashAlg::Sha256, b"/a", &[1; 32]);
        std::fs::write(&list, measured.bytes()).unwrap();
        let host = SimulatedHost::new();
        let worker = TpmWorker::start(SimulatedOpener(Arc::clone(&host))).unwrap();
        let logs = Logs {
            boot_log: Arc::new(BootLogFile::new(root.path().join("none"))),
            ima: Arc::new(ImaFile::new(list)),
        };
        let offer = ChallengeOffer {
            challenge: B64(vec![1; 40]),
            expires_ms: 0,
            bank: 11,
            pcrs: vec![0, 1],
            ima_entries: Some(2),
        };
        let from = async || {
            let made = Evidence::collect(&worker, logs.clone(), "log.example", &offer, &[]).await.unwrap();
            made.document.ima.unwrap().from
        };
        assert_eq!([from().await, from().await], [0, 2]);
        host.tpm.lock().unwrap().resume();
        assert_eq!([from().await, from().await], [0, 2]);
    }

    #[test]
    fn only_members_of_this_evidence_are_sent() {
        let log = Arc::new(BootLog { bytes: b"log".to_vec(), digest: sha256(b"log") });
        let document = EvidenceDocument {
            attest: B64::default(),
            signature: B64::default(),
            bank: 11,
            pcrs: Vec::new(),
            boot_log: Some(log.digest.to_hex()),
            ima: None,
            members: Vec::new(),
        };
        let evidence = Evidence { document, boot_log: Some(Arc::clone(&log)), ima: None };
        let sent = evidence.with_members(&[log.digest.to_hex()]).unwrap();
        assert_eq!(sent.members, [B64(b"log".to_vec())]);
        assert!(evidence.with_members(&[sha256(b"x").to_hex()]).is_none());
        assert!(evidence.with_members(&[]).is_none());
    }

    #[test]
    fn an_offer_that_no_tpm_can_answer_is_refused() {
        let offer = |bank, pcrs: &[u32], len| ChallengeOffer {
            challenge: B64(vec![0; len]),
            expires_ms: 0,
            bank,
            pcrs: pcrs.to_vec(),
            ima_entries: None,
        };
        assert!(selection(&offer(11, &[0, 1], 160)).is_ok());
        for bad in [
            offer(4, &[0], 9),
            offer(11, &[], 9),
            offer(11, &[24], 9),
            offer(11, &[1, 0], 9),
            offer(11, &[0], 161),
        ] {
            assert!(selection(&bad).is_err(), "{bad:?}");
        }
    }
}
