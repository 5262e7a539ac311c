//! Witnesses of this log: asked for a cosignature after a head is signed, off every request's path (C2SP tlog-witness, PROTOCOL §15).
//!
//! Comes in: signed heads, the quorum file. Goes out: cosignatures, attached to their heads in the store; the newest head that enough
//! witnesses cosigned; an alarm, if one of them refuses because it has cosigned another history, or more than this log has. While there is an
//! alarm nothing is appended and nothing issued, and neither time nor a restart ends it: an officer sets the witness aside, or not.
//!
//! A witness that can't be reached, or says no for any other reason, stops nothing here. What that means is for those who demand a quorum.

mod client;
mod round;
mod standing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use countersign_core::api::admin::{
    WitnessAlarm, WitnessCall, WitnessDocument, Witnesses as WitnessesDocument,
};
use countersign_core::digest::Sha256Digest;
use countersign_core::note::{NoteSignature, SignedNote};
use countersign_core::refusal::RefusalCode;
use countersign_core::witness::{MAX_QUORUM_BYTES, Quorum, QuorumMalformed};
use tokio::sync::watch;

use crate::api::problem::Refused;
use crate::config::Config;
use crate::store::SignedHead;

pub use client::EndpointError;
pub use round::run;
pub use standing::StandingFault;

use client::Endpoint;
use standing::{SetAside, Standing};

/// Heads whose cosignatures are gathered at once: a slow witness may be so many rounds behind.
const GATHERED: usize = 16;
/// How long a head is asked about before a newer one takes its place, although too few cosigned it.
const ROUND: Duration = Duration::from_secs(2);
/// Longest reason of an officer.
const MAX_REASON_LEN: usize = 256;

/// Why the witnesses can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum WitnessesError {
    /// The quorum file can't be read.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The quorum file isn't well-formed.
    #[error("{path}: {source}")]
    Quorum {
        /// Which file.
        path: PathBuf,
        /// Which line, and why.
        source: QuorumMalformed,
    },
    /// A witness's address, or the CAs.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Alarm and decisions of earlier processes.
    #[error(transparent)]
    Standing(#[from] StandingFault),
}

/// What a witness did when it was asked last.
#[derive(Clone, Debug, Default)]
struct Asked {
    cosigned: u64,
    fault: Option<String>,
}

/// The lines that a head has got so far.
struct Gathered {
    head: Arc<SignedHead>,
    lines: Vec<NoteSignature>,
}

/// The witnesses, and what is known of them. Shared by the tasks that ask and those that answer calls.
pub struct Witnesses {
    quorum: Option<Quorum>,
    /// By the place of the witness in the quorum file.
    endpoints: Vec<Option<Arc<Endpoint>>>,
    asked: Mutex<Vec<Asked>>,
    target: watch::Sender<Option<Arc<SignedHead>>>,
    targeted: Mutex<Option<Instant>>,
    gathered: Mutex<BTreeMap<u64, Gathered>>,
    witnessed: ArcSwapOption<SignedHead>,
    standing: ArcSwap<Standing>,
    /// Set while there is an alarm; the sequencer looks at it.
    halt: Arc<AtomicBool>,
    /// Held while the file is replaced.
    writing: Mutex<()>,
    file: PathBuf,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Witnesses {
    /// Reads the quorum file and what earlier processes left.
    ///
    /// # Errors
    /// [`WitnessesError`].
    pub fn open(config: &Config) -> Result<Self, WitnessesError> {
        let quorum = config.witnesses.quorum_file.as_deref().map(load_quorum).transpose()?;
        let tls = config.witnesses.ca_file.as_deref().map(client::tls_client).transpose()?;
        let witnesses = quorum.as_ref().map_or(&[][..], Quorum::witnesses);
        let endpoint = |url: &String| Endpoint::parse(url, tls.as_ref()).map(Arc::new);
        let endpoints: Vec<_> = witnesses
            .iter()
            .map(|witness| witness.url.as_ref().map(endpoint).transpose())
            .collect::<Result<_, _>>()?;
        let file = config.state_dir.join("witness-standing.json");
        let standing = Standing::load(&file)?;
        if let Some(alarm) = &standing.alarm {
            tracing::error!(
                witness = alarm.witness,
                kind = alarm.kind,
                "a witness's alarm stands: nothing is issued until an officer decides"
            );
        }
        let halt = Arc::new(AtomicBool::new(standing.alarm.is_some()));
        Ok(Self {
            halt,
            asked: Mutex::new(vec![Asked::default(); endpoints.len()]),
            quorum,
            endpoints,
            target: watch::Sender::new(None),
            targeted: Mutex::default(),
            gathered: Mutex::default(),
            witnessed: ArcSwapOption::empty(),
            standing: ArcSwap::from_pointee(standing),
            writing: Mutex::default(),
            file,
        })
    }

    /// Refuses while there is an alarm.
    ///
    /// # Errors
    /// `witness-conflict`.
    pub fn admission(&self) -> Result<(), Refused> {
        if self.has_alarm() { Err(RefusalCode::WitnessConflict.into()) } else { Ok(()) }
    }

    /// What is set while there is an alarm.
    #[must_use]
    pub fn halt(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.halt)
    }

    fn stand(&self, standing: Standing) {
        self.halt.store(standing.alarm.is_some(), Ordering::SeqCst);
        self.standing.store(Arc::new(standing));
    }

    /// Whether a witness refuses this log and no officer has decided yet.
    #[must_use]
    pub fn has_alarm(&self) -> bool {
        self.standing.load().alarm.is_some()
    }

    /// The newest head that enough witnesses cosigned, with what cosignatures it has; `None` without a quorum file, and before the first.
    #[must_use]
    pub fn witnessed(&self) -> Option<Arc<SignedHead>> {
        self.witnessed.load_full()
    }

    /// What readers of C2SP logs are shown: without a quorum file the newest signed head, with one the newest that has a quorum. `None` if there is no
    /// such head yet.
    #[must_use]
    pub fn shown(&self, signed: Arc<SignedHead>, now_ms: u64) -> Option<Arc<SignedHead>> {
        let Some(quorum) = &self.quorum else { return Some(signed) };
        let enough = |head: &SignedHead| {
            SignedNote::parse(head.note())
                .is_ok_and(|note| quorum.check(&note, head.body().time_ms, now_ms).is_ok())
        };
        // A quorum of nobody is met by every head.
        self.witnessed().or_else(|| Some(signed).filter(|head| enough(head)))
    }

    /// How all of it stands.
    #[must_use]
    pub fn document(&self) -> WitnessesDocument {
        let standing = self.standing.load();
        let asked = lock(&self.asked);
        let quorum = self.quorum.as_ref().map_or(&[][..], Quorum::witnesses);
        let rows = quorum.iter().zip(&self.endpoints).zip(asked.iter());
        let witnesses = rows.map(|((witness, endpoint), asked)| WitnessDocument {
            name: witness.name.clone(),
            key: witness.key.vkey(),
            asked: endpoint.is_some() && !standing.is_set_aside(&witness.name),
            cosigned: asked.cosigned,
            fault: asked.fault.clone(),
        });
        WitnessesDocument {
            witnessed: self.witnessed().map_or(0, |head| head.size()),
            alarm: standing.alarm.clone(),
            witnesses: witnesses.collect(),
        }
    }

    /// An officer's decision. Durable before it holds.
    ///
    /// # Errors
    /// `not-found` for a witness that nobody knows, `conflicting-act` if it is so already, `malformed`, `log-unavailable` if it can't be kept.
    pub fn decide(&self, call: &WitnessCall, by: &Sha256Digest, now_ms: u64) -> Result<(), Refused> {
        if call.reason.is_empty() || call.reason.len() > MAX_REASON_LEN {
            return Err(Refused::new(RefusalCode::Malformed, "a reason of 1 to 256 bytes is needed"));
        }
        let writing = lock(&self.writing);
        let mut standing = Standing::clone(&self.standing.load());
        let named = |alarm: &WitnessAlarm| alarm.witness == call.witness;
        let listed = self
            .quorum
            .as_ref()
            .is_some_and(|quorum| quorum.witnesses().iter().any(|witness| witness.name == call.witness));
        // A witness that was taken out of the file may still have an alarm.
        if !listed && !standing.alarm.as_ref().is_some_and(named) && !standing.is_set_aside(&call.witness) {
            return Err(RefusalCode::NotFound.into());
        }
        let aside = standing.is_set_aside(&call.witness);
        if aside == call.set_aside && !standing.alarm.as_ref().is_some_and(named) {
            return Err(Refused::new(RefusalCode::ConflictingAct, "it is in that state already"));
        }
        standing.set_aside.retain(|one| one.witness != call.witness);
        if call.set_aside {
            standing.alarm = standing.alarm.filter(|alarm| !named(alarm));
            let (witness, reason) = (call.witness.clone(), call.reason.clone());
            standing.set_aside.push(SetAside { witness, by: by.to_hex(), reason, at_ms: now_ms });
        }
        standing.keep(&self.file).map_err(|fault| {
            tracing::error!(%fault, "the decision about a witness can't be kept");
            Refused::from(RefusalCode::LogUnavailable)
        })?;
        tracing::warn!(witness = call.witness, set_aside = call.set_aside, %by, reason = call.reason, "an officer decided about a witness");
        self.stand(standing);
        drop(writing);
        Ok(())
    }

    /// A witness refuses this log. Holds at once, kept or not.
    fn raise(&self, alarm: WitnessAlarm) {
        let _writing = lock(&self.writing);
        let mut standing = Standing::clone(&self.standing.load());
        if standing.alarm.is_some() || standing.is_set_aside(&alarm.witness) {
            return;
        }
        tracing::error!(
            code = RefusalCode::WitnessConflict.as_str(),
            witness = alarm.witness,
            kind = alarm.kind,
            size = alarm.size,
            witness_size = alarm.witness_size,
            "a witness refuses this log; nothing is issued until an officer decides"
        );
        standing.alarm = Some(alarm);
        self.stand(standing.clone());
        if let Err(fault) = standing.keep(&self.file) {
            tracing::error!(%fault, "the alarm can't be kept; it holds for this process");
        }
    }

    /// Chooses what to ask about: the newest signed head, once the one before was cosigned by enough or has had its time. So that several
    /// witnesses cosign the same head, however fast heads are made.
    fn aim(&self, newest: Option<Arc<SignedHead>>, now: Instant) {
        let Some(newest) = newest else { return };
        let current = self.target.borrow().as_ref().map(|head| head.size());
        let mut targeted = lock(&self.targeted);
        let met = self.witnessed.load().as_ref().map_or(0, |head| head.size());
        let over = targeted.is_none_or(|since| now.duration_since(since) >= ROUND);
        if current.is_none_or(|size| size < newest.size() && (met >= size || over)) {
            *targeted = Some(now);
            self.target.send_replace(Some(newest));
        }
    }

    /// Takes a cosignature that was verified and is in the store, and looks whether its head has enough of them now.
    fn gather(&self, head: &Arc<SignedHead>, line: NoteSignature, now_ms: u64) {
        let Some(quorum) = &self.quorum else { return };
        let mut gathered = lock(&self.gathered);
        let entry = gathered
            .entry(head.size())
            .or_insert_with(|| Gathered { head: Arc::clone(head), lines: Vec::new() });
        // One line a witness: a later one says the same of the same head.
        if !entry.lines.iter().any(|known| known.name() == line.name() && known.key_id() == line.key_id()) {
            entry.lines.push(line);
        }
        let Ok(cosigned) = entry.head.with_signatures(&entry.lines) else { return };
        while gathered.len() > GATHERED {
            gathered.pop_first();
        }
        let enough = SignedNote::parse(cosigned.note())
            .is_ok_and(|note| quorum.check(&note, cosigned.body().time_ms, now_ms).is_ok());
        let newest = self.witnessed.load().as_ref().map_or(0, |head| head.size());
        if enough && cosigned.size() >= newest {
            self.witnessed.store(Some(Arc::new(cosigned)));
        }
    }

    fn note(&self, at: usize, cosigned: Option<u64>, fault: Option<String>) {
        if let Some(asked) = lock(&self.asked).get_mut(at) {
            asked.cosigned = cosigned.unwrap_or(asked.cosigned);
            asked.fault = fault;
        }
    }
}

impl Standing {
    fn is_set_aside(&self, witness: &str) -> bool {
        self.set_aside.iter().any(|one| one.witness == witness)
    }
}

/// Reads a quorum file.
///
/// # Errors
/// [`WitnessesError`].
pub fn load_quorum(path: &std::path::Path) -> Result<Quorum, WitnessesError> {
    let file = |source| WitnessesError::File { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(file)?.len();
    if usize::try_from(size).map_or(true, |size| size > MAX_QUORUM_BYTES) {
        return Err(file(std::io::Error::from(std::io::ErrorKind::FileTooLarge)));
    }
    let text = std::fs::read_to_string(path).map_err(file)?;
    Quorum::parse(&text).map_err(|source| WitnessesError::Quorum { path: path.to_owned(), source })
}
