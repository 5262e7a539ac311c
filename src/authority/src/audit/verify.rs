//! The whole log, offline: every leaf, every head, three trees, the control chain, every signature (PROTOCOL §5, §6).

use super::ahead::{CheckedLeaf, LogName, ReadAhead};
use super::outcomes::{Book, OutcomeFault};
use super::{HeadExport, LogSource, PAGE, Unreadable};
use countersign_core::bundle::TrustBundle;
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlState;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::decision::LeafRef;
use countersign_core::leaf::record::Outcome;
use countersign_core::leaf::{Kind, Leaf, LeafError};
use countersign_core::merkle::{Blake2b512Tree, Frontier, Sha3_512Tree, Sha256Tree, TreeHash};
use countersign_core::note::{self, NoteKey, SignedNote};
use std::collections::BTreeMap;

/// What a log that verified amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Leaves.
    pub leaves: u64,
    /// Committed heads.
    pub heads: u64,
    /// Those of them that are signed.
    pub signed_heads: u64,
    /// Control number at the end.
    pub control: u64,
    /// Leaves by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Digest of the newest head body: what to compare with gateways and witnesses.
    pub newest: Sha256Digest,
    /// Time of the newest head, ms.
    pub newest_ms: u64,
}

/// What is wrong, and exactly where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {kind}", place(.leaf, .head))]
pub struct Finding {
    /// Index of the leaf at fault.
    pub leaf: Option<u64>,
    /// Size of the head at fault.
    pub head: Option<u64>,
    /// What is wrong.
    pub kind: FindingKind,
}

fn place(leaf: &Option<u64>, head: &Option<u64>) -> String {
    match (leaf, head) {
        (Some(index), _) => format!("leaf {index}"),
        (None, Some(size)) => format!("head of size {size}"),
        (None, None) => "log".to_owned(),
    }
}

/// Kinds of findings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindingKind {
    /// The source failed: nothing was found out about the rest.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The envelope or the body doesn't parse.
    #[error("malformed: {0}")]
    Malformed(LeafError),
    /// The index inside isn't its place.
    #[error("carries index {0}")]
    Index(u64),
    /// Its time is before that of the one before, or after its head.
    #[error("its time is out of order")]
    Time,
    /// A decision whose verdict isn't its leaf's kind, or of another issuer.
    #[error("the body isn't one of this kind and log")]
    Body,
    /// An outcome that an honest authority wouldn't have taken.
    #[error("outcome: {0}")]
    Outcome(#[from] OutcomeFault),
    /// The control chain doesn't take it.
    #[error("control chain: {0}")]
    Control(String),
    /// There are fewer leaves than the head says.
    #[error("leaves are missing")]
    LeavesMissing,
    /// Leaves that no head covers.
    #[error("no head covers it")]
    Uncovered,
    /// The head body doesn't parse.
    #[error("the body doesn't parse")]
    HeadMalformed,
    /// A head of another log.
    #[error("the head is of another log")]
    Origin,
    /// Sizes don't rise.
    #[error("the size isn't larger than that of the head before")]
    Size,
    /// A root isn't the one of the leaves.
    #[error("the {0} root isn't that of the leaves")]
    Root(&'static str),
    /// `prev` isn't the head before.
    #[error("prev isn't the head before")]
    Prev,
    /// Control number or digest aren't those of the chain.
    #[error("the control number or digest isn't that of the chain")]
    ControlLine,
    /// The note isn't over this body, doesn't parse, or a known key's signature fails.
    #[error("a signature is invalid: {0}")]
    Signature(String),
    /// No signature of an active key that the heads before vouch for.
    #[error("no active head key that is vouched for has signed")]
    Unsigned,
    /// A key was activated since the last signed head, and hasn't signed this one.
    #[error("a head key that was activated before it hasn't signed it")]
    Rotation,
    /// A recovery statement names a last good head that this log doesn't have.
    #[error("the last good head of a compromised key isn't a head of this log")]
    LastGood,
    /// The newest head has no signature.
    #[error("the newest head isn't signed")]
    NewestUnsigned,
    /// No head at all.
    #[error("the log has no head")]
    Empty,
}

impl Finding {
    fn leaf(index: u64, kind: impl Into<FindingKind>) -> Self {
        Self { leaf: Some(index), head: None, kind: kind.into() }
    }

    fn head(size: u64, kind: impl Into<FindingKind>) -> Self {
        Self { leaf: None, head: Some(size), kind: kind.into() }
    }

    fn log(kind: impl Into<FindingKind>) -> Self {
        Self { leaf: None, head: None, kind: kind.into() }
    }
}

/// Verifies the whole log, and stops at the first finding. `progress` is told how many leaves are done.
pub fn verify(
    source: &dyn LogSource,
    bundle: &TrustBundle,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, Finding> {
    let mut walk = Walk::new(bundle);
    walk.run(source, progress)?;
    walk.report()
}

/// A log as far as it was walked.
pub(super) struct Walk<'a> {
    pub(super) bundle: &'a TrustBundle,
    pub(super) control: ControlState,
    pub(super) outcomes: Book,
    /// Keys by one of which the next signed head has to be signed: the bundle's, then those active at the newest signed head.
    pub(super) vouched: Vec<VerifyingKey>,
    /// Control number of the newest signed head: keys activated since sign the next one.
    pub(super) signed_number: u64,
    pub(super) sha256: Frontier<Sha256Tree>,
    pub(super) sha3: Frontier<Sha3_512Tree>,
    pub(super) blake2: Frontier<Blake2b512Tree>,
    pub(super) size: u64,
    pub(super) time_ms: u64,
    pub(super) previous: Sha256Digest,
    pub(super) newest_signed: bool,
    pub(super) heads: u64,
    pub(super) signed_heads: u64,
    pub(super) kinds: BTreeMap<&'static str, u64>,
    /// Leaves taken since somebody asked for them, if somebody wants them.
    kept: Option<Vec<Vec<u8>>>,
    /// Control leaves, if somebody wants them.
    pub(super) kept_control: Option<Vec<Vec<u8>>>,
    /// The newest head that counts as signed, as a note.
    pub(super) newest_note: Option<String>,
    /// Size of the checkpoint from which it goes on: what the source says of the leaves below isn't recomputed here.
    pub(super) base: u64,
    /// Leaves below the checkpoint that outcomes name, each with the outcome's index.
    pub(super) below: BTreeMap<LeafRef, u64>,
    /// Last good heads of compromised keys that were found to be this log's.
    last_good: Vec<Sha256Digest>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(bundle: &'a TrustBundle) -> Self {
        Self {
            bundle,
            control: ControlState::of_bundle(bundle),
            outcomes: Book::default(),
            vouched: bundle.head_keys().to_vec(),
            signed_number: 0,
            sha256: Frontier::new(),
            sha3: Frontier::new(),
            blake2: Frontier::new(),
            size: 0,
            time_ms: 0,
            previous: Sha256Digest::ZERO,
            newest_signed: false,
            heads: 0,
            signed_heads: 0,
            kinds: BTreeMap::new(),
            kept: None,
            kept_control: None,
            newest_note: None,
            base: 0,
            below: BTreeMap::new(),
            last_good: Vec::new(),
        }
    }

    /// Takes everything that the source has from where the walk stands, to its end.
    pub(super) fn run(
        &mut self,
        source: &dyn LogSource,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Finding> {
        let bundle = self.bundle;
        std::thread::scope(|scope| {
            let mut leaves = ReadAhead::start_at(scope, source, LogName::of(bundle), self.size);
            loop {
                // A head of no leaves isn't passed over: it is refused, as it has no batch.
                let from = if self.size == 0 { 0 } else { self.size + 1 };
                let page = source.heads(from, PAGE).map_err(Finding::log)?;
                if page.is_empty() {
                    break;
                }
                for head in page {
                    self.take_head(source, &mut leaves, &head)?;
                }
                progress(self.size);
            }
            self.check_last_good(source, true)?;
            match leaves.next().map_err(Finding::log)? {
                Some(leaf) => Err(Finding::leaf(leaf.index, FindingKind::Uncovered)),
                None => Ok(()),
            }
        })
    }

    /// Keeps the leaves that are taken from now on.
    pub(super) fn keep_leaves(&mut self) {
        self.kept.get_or_insert_default();
    }

    /// Leaves since the last time.
    pub(super) fn kept_leaves(&mut self) -> Vec<Vec<u8>> {
        self.kept.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn take_head(
        &mut self,
        source: &dyn LogSource,
        leaves: &mut ReadAhead<'_>,
        export: &HeadExport,
    ) -> Result<(), Finding> {
        let at = self.size;
        let head =
            HeadBody::parse(&export.text).map_err(|_| Finding::head(at, FindingKind::HeadMalformed))?;
        let size = head.size;
        // PROTOCOL §6.2: never a second body of one size.
        if size <= self.size {
            return Err(Finding::head(size, FindingKind::Size));
        }
        while self.size < size {
            let next = leaves.next().map_err(|error| Finding::leaf(self.size, error))?;
            let leaf = next.ok_or_else(|| Finding::leaf(self.size, FindingKind::LeavesMissing))?;
            self.take_leaf(source, leaf, head.time_ms)?;
        }
        self.check_body(&head).map_err(|kind| Finding::head(size, kind))?;
        self.previous = sha256(export.text.as_bytes());
        self.time_ms = head.time_ms;
        self.heads += 1;
        self.newest_signed = export.note.is_some();
        if let Some(note) = &export.note {
            self.newest_signed =
                self.check_note(note, &export.text, &head).map_err(|kind| Finding::head(size, kind))?;
            self.signed_heads += u64::from(self.newest_signed);
            if self.newest_signed {
                self.newest_note = Some(note.clone());
            }
        }
        Ok(())
    }

    fn take_leaf(
        &mut self,
        source: &dyn LogSource,
        checked: CheckedLeaf,
        head_ms: u64,
    ) -> Result<(), Finding> {
        let index = checked.index;
        let leaf = checked.leaf.map_err(|kind| Finding::leaf(index, kind))?;
        // PROTOCOL §5.1: times never decrease with the index.
        if leaf.time_ms < self.time_ms || leaf.time_ms > head_ms {
            return Err(Finding::leaf(index, FindingKind::Time));
        }
        self.time_ms = leaf.time_ms;
        checked.body.map_err(|kind| Finding::leaf(index, kind))?;
        if leaf.kind.is_control() {
            self.control
                .apply(&checked.bytes)
                .map_err(|error| Finding::leaf(index, FindingKind::Control(error.to_string())))?;
        }
        self.check_outcome(source, &leaf)?;
        let full = |_| Finding::leaf(index, FindingKind::Size);
        self.sha256.append(checked.sha256, |_| {}).map_err(full)?;
        self.sha3.append(checked.sha3, |_| {}).map_err(full)?;
        self.blake2.append(checked.blake2, |_| {}).map_err(full)?;
        *self.kinds.entry(leaf.kind.name()).or_default() += 1;
        if let Some(kept) = self.kept_control.as_mut().filter(|_| leaf.kind.is_control()) {
            kept.push(checked.bytes.clone());
        }
        if let Some(kept) = &mut self.kept {
            kept.push(checked.bytes);
        }
        self.size += 1;
        Ok(())
    }

    /// PROTOCOL §8.14: by a gateway, of an artifact before it, at a time that both admit, once.
    fn check_outcome(&mut self, source: &dyn LogSource, leaf: &Leaf) -> Result<(), Finding> {
        if leaf.kind != Kind::Outcome {
            self.outcomes.note(leaf);
            return Ok(());
        }
        let at = |kind| Finding::leaf(leaf.index, kind);
        let outcome = Outcome::parse(&leaf.body).map_err(|error| at(FindingKind::Malformed(error)))?;
        let judged = self.outcomes.take(source, leaf, &outcome, None).map_err(Finding::log)?;
        if outcome.artifact.0 < self.base {
            self.below.entry(outcome.artifact).or_insert(leaf.index);
        }
        judged.map(drop).map_err(|fault| at(FindingKind::Outcome(fault)))
    }

    fn check_body(&self, head: &HeadBody) -> Result<(), FindingKind> {
        if head.origin != self.bundle.origin().as_str() {
            return Err(FindingKind::Origin);
        }
        if head.sha256_root != self.sha256.root() {
            return Err(FindingKind::Root(Sha256Tree::NAME));
        }
        if head.sha3_root != self.sha3.root() {
            return Err(FindingKind::Root(Sha3_512Tree::NAME));
        }
        if head.blake2_root != self.blake2.root() {
            return Err(FindingKind::Root(Blake2b512Tree::NAME));
        }
        // PROTOCOL §6.1: the time of the batch.
        if head.time_ms != self.time_ms {
            return Err(FindingKind::Time);
        }
        if head.prev != self.previous {
            return Err(FindingKind::Prev);
        }
        if head.control_seq != self.control.number() || head.control_digest != *self.control.digest() {
            return Err(FindingKind::ControlLine);
        }
        Ok(())
    }

    /// PROTOCOL §6.3, §8.5: signed by a key active at the head's control number, by one that the signed heads before vouch for (the first
    /// head after an activation is signed by both), and no signature of any known key fails. `false` if only a compromised key signed: such
    /// a head is as good as unsigned, but for its key's last good one.
    fn check_note(&mut self, note: &str, text: &str, head: &HeadBody) -> Result<bool, FindingKind> {
        let invalid = |error: note::NoteError| FindingKind::Signature(error.to_string());
        let note = SignedNote::parse(note).map_err(invalid)?;
        if note.text() != text {
            return Err(FindingKind::Signature("the note is over another text".to_owned()));
        }
        let known = self.control.head_keys().iter().map(|known| &known.key).chain(&self.vouched);
        let mut keys: Vec<NoteKey> = Vec::new();
        for key in known {
            let key = NoteKey::new(&head.origin, key.clone()).map_err(invalid)?;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let verified = note::verify(&note, &keys).map_err(|error| match error {
            note::NoteError::NoKnownSignature => FindingKind::Unsigned,
            other => invalid(other),
        })?;
        let signed_by = |key: &VerifyingKey| verified.signers().iter().any(|signer| signer.key() == key);
        let active: Vec<VerifyingKey> = self.control.head_keys_at(head.control_seq).cloned().collect();
        if !active.iter().any(signed_by) {
            if !self.control.head_keys().iter().any(|known| known.compromised && signed_by(&known.key)) {
                return Err(FindingKind::Unsigned);
            }
            let mut pinned = self.control.compromised_at(head.control_seq);
            return Ok(pinned.any(|(key, last_good)| signed_by(key) && last_good == head));
        }
        if !self.control.still_believed(&self.vouched).iter().any(signed_by) {
            return Err(FindingKind::Unsigned);
        }
        let since = |at: u64| at > self.signed_number && at <= head.control_seq;
        let mut activated = self
            .control
            .head_keys()
            .iter()
            .filter(|known| !known.compromised && known.activated.is_some_and(since));
        if !activated.all(|known| signed_by(&known.key)) {
            return Err(FindingKind::Rotation);
        }
        self.vouched = active;
        self.signed_number = head.control_seq;
        Ok(true)
    }

    /// PROTOCOL §8.5: the head that a compromise pins is one of this log's: the bodies from there on lead to the one that was walked last. What the
    /// source shows of heads that were walked before, or lie below a checkpoint, is worth nothing otherwise. Not `ended`: a larger one than
    /// what was walked may still come.
    pub(super) fn check_last_good(&mut self, source: &dyn LogSource, ended: bool) -> Result<(), Finding> {
        let pinned = self.control.compromises().iter().map(|compromise| {
            let head = &compromise.last_good;
            (head.size, sha256(head.encode().as_bytes()))
        });
        let open: Vec<_> = pinned
            .filter(|(size, digest)| !self.last_good.contains(digest) && (ended || *size <= self.size))
            .collect();
        for (size, digest) in open {
            if !self.leads_here(source, size, digest).map_err(Finding::log)? {
                return Err(Finding::head(size, FindingKind::LastGood));
            }
            self.last_good.push(digest);
        }
        Ok(())
    }

    /// Whether the source has a chain of heads from the one of this size and digest to the one that was walked last (PROTOCOL §6.2, `prev`).
    fn leads_here(
        &self,
        source: &dyn LogSource,
        from: u64,
        digest: Sha256Digest,
    ) -> Result<bool, Unreadable> {
        let (mut next, mut before) = (from, None);
        while next <= self.size {
            let page = source.heads(next, PAGE)?;
            if page.is_empty() {
                return Ok(false);
            }
            for head in page {
                let Ok(body) = HeadBody::parse(&head.text) else { return Ok(false) };
                let own = sha256(head.text.as_bytes());
                let follows = before.map_or(own == digest, |before| body.prev == before);
                if !follows || body.size < next || body.size > self.size {
                    return Ok(false);
                }
                if own == self.previous {
                    return Ok(true);
                }
                (next, before) = (body.size.saturating_add(1), Some(own));
            }
        }
        Ok(false)
    }

    pub(super) fn report(&self) -> Result<Report, Finding> {
        if self.heads == 0 {
            return Err(Finding::log(FindingKind::Empty));
        }
        // Bodies that aren't signed are covered by a later signed head, or by nobody.
        if !self.newest_signed {
            return Err(Finding::head(self.size, FindingKind::NewestUnsigned));
        }
        Ok(Report {
            leaves: self.size,
            heads: self.heads,
            signed_heads: self.signed_heads,
            control: self.control.number(),
            kinds: self.kinds.clone(),
            newest: self.previous,
            newest_ms: self.time_ms,
        })
    }
}
