//! Starting: what is found is compared with what is remembered, before anything is appended or signed.
//!
//! Comes in: a store, a key ring, the signer's memory, the control state before the first leaf. Goes out: a running [`Sequencer`].
//! Refused, each with its own error: a store older than the signer's memory (rolled back), one that tells another story (forked), one
//! whose trees or control chain don't lead to its newest head, a memory older than the store's newest signed head.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use countersign_core::control::{ControlError, ControlState};
use countersign_core::merkle::{ProofError, Sha256Tree, root_at};
use crossbeam_channel::bounded;
use tokio::sync::watch;

use super::hosts::HostRows;
use super::others::Others;
use super::run::{State, Thread};
use super::{Counters, FaultCounts, Health, Leftovers, NO_HEARTBEAT, Sequencer, SequencerLimits, Shared};
use crate::clock::{Clock, ClockWatch};
use crate::sign::{HeadSigner, KeyRing, Remembered, SignerMemory};
use crate::store::{
    MAX_PAGE, ReadFault, Reader, SignedHead, StoreFault, StoredTree, Tip, Writer, newest_signed_head,
};

/// What a sequencer is made of.
pub struct SequencerParts {
    /// The log's one writer.
    pub writer: Box<dyn Writer>,
    /// The same store's reading side.
    pub reader: Arc<dyn Reader>,
    /// The control state before the first control leaf; its origin is the log's.
    pub genesis: ControlState,
    /// Head keys at hand.
    pub ring: KeyRing,
    /// The signer's memory.
    pub memory: SignerMemory,
    /// Copies of such a memory kept elsewhere (in a token, by a witness). They may be older than the store, never newer.
    pub witnessed: Vec<Remembered>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// While it is set nothing is appended, signed or released, but for the leaf and the head with which a process begins.
    pub halt: Arc<AtomicBool>,
    /// Whether other processes append to the same log, with signers and memories of their own.
    pub shared: bool,
    /// Bounds.
    pub limits: SequencerLimits,
}

/// Why the sequencer doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// The store has fewer leaves than were signed: it was restored from a backup, or its newest part was lost.
    #[error("the store was rolled back: it ends at size {store}, size {remembered} was to be signed")]
    RolledBack {
        /// Newest size in the store.
        store: u64,
        /// Size in the memory.
        remembered: u64,
    },
    /// The store has another body of a size that was to be signed, or none.
    #[error("the store tells another story: its head of size {0} isn't the one that was to be signed")]
    Forked(u64),
    /// The tree's first leaves don't lead to the root that was to be signed.
    #[error("the leaves don't lead to the root of size {0} that was to be signed")]
    Inconsistent(u64),
    /// The store has a signed head that the memory doesn't know: the memory was restored or made anew.
    #[error("the signer's memory ends at size {remembered}, but size {signed} was signed")]
    MemoryOlder {
        /// Size in the memory.
        remembered: u64,
        /// Newest signed size in the store.
        signed: u64,
    },
    /// The newest head isn't what the trees or the control chain say.
    #[error("the store contradicts itself: {0}")]
    Contradiction(&'static str),
    /// A control leaf doesn't follow the ones before it.
    #[error("control leaf {number}: {source}")]
    Control {
        /// Its number.
        number: u64,
        /// Why.
        source: ControlError,
    },
    /// The store can't be written.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// The operating system gives no thread.
    #[error("no thread for the sequencer: {0}")]
    Thread(#[from] std::io::Error),
}

impl Shared {
    fn new(
        (control, signed): (ControlState, Option<SignedHead>),
        clock: Arc<dyn Clock>,
        halt: Arc<AtomicBool>,
        shared: bool,
    ) -> Self {
        Self {
            control: ArcSwap::from_pointee(control),
            signed: ArcSwapOption::new(signed.map(Arc::new)),
            health: watch::Sender::new(Health::Serving),
            faults: FaultCounts::default(),
            hosts: HostRows::new(shared),
            counters: Counters::default(),
            clock,
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            heartbeat_max_age_ms: AtomicU64::new(NO_HEARTBEAT),
            look: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            halt,
        }
    }
}

impl Sequencer {
    /// Compares, commits a leaf of its own (a heartbeat with reason start, unless the log is empty), signs it, and starts the thread.
    ///
    /// A signer that is down doesn't keep it from starting: it starts with [`Health::SignerDown`] and heals.
    ///
    /// # Errors
    /// [`StartFault`]; nothing was signed.
    pub fn start(parts: SequencerParts) -> Result<Self, StartFault> {
        let SequencerParts {
            mut writer,
            reader,
            genesis,
            ring,
            memory,
            witnessed,
            clock,
            halt,
            shared,
            limits,
        } = parts;
        writer.settle()?;
        let (control, tip) = newest(reader.as_ref(), genesis)?;
        let newest_size = tip.as_ref().map_or(0, |tip| tip.head.body().size);
        compare(reader.as_ref(), newest_size, memory.newest())?;
        for copy in witnessed {
            compare(reader.as_ref(), newest_size, copy)?;
        }
        let signed = newest_signed_head(reader.as_ref())?;
        let signed_size = signed.as_ref().map_or(0, |head| head.size());
        let remembered = memory.newest().size;
        // Another replica signs what it committed, and this one's memory doesn't hear of it. A memory that was restored is no danger then: what
        // is signed next lies above every head in the store, and the one remembered has just been found in it.
        if signed_size > remembered && !shared {
            return Err(StartFault::MemoryOlder { remembered, signed: signed_size });
        }
        let signed_control = signed.as_ref().map_or(0, |head| head.body().control_seq);
        let signer = HeadSigner::new(control.origin(), ring, memory, signed_control);
        let watch = ClockWatch::start(clock.as_ref());
        let seen = Arc::new(Shared::new((control, signed), clock, halt, shared));
        // One place for waking.
        let (sender, jobs) = bounded(limits.queue.saturating_add(1));
        let (desk_sender, desk) = bounded(limits.desk);
        let leftovers = Leftovers { jobs: jobs.clone(), desk: desk.clone() };
        let newest = tip.map(|tip| tip.head);
        let mut thread = Thread {
            shared: Arc::clone(&seen),
            limits,
            jobs,
            desk,
            writer,
            reader,
            signer,
            watch,
            own: None,
            others: Others::new(shared, newest.as_ref()),
            newest,
            state: State::new(),
        };
        thread.begin();
        let name = "sequencer".to_owned();
        let last_word = LastWord { seen: Arc::clone(&seen), leftovers: leftovers.clone() };
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            // Dropped after the thread's own state, so that the store is closed when it is heard.
            let _last_word = last_word;
            thread.run();
        })?;
        Ok(Self { jobs: sender, desk: desk_sender, leftovers, shared: seen, thread: Some(thread) })
    }
}

/// Says that it is over, also when the thread panics: a watcher must not stay green over a dead thread, and nobody waits for it.
struct LastWord {
    seen: Arc<Shared>,
    leftovers: Leftovers,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.seen.set_health(Health::Failed);
        }
        // In this order: see `Sequencer::drop_leftovers`.
        self.seen.ended.store(true, Ordering::SeqCst);
        self.leftovers.drop_all();
    }
}

/// The newest committed head and the control state at it. A replica may append a control leaf between the two reads: then they are read
/// again, and what doesn't agree when nothing moved is a contradiction.
fn newest(reader: &dyn Reader, genesis: ControlState) -> Result<(ControlState, Option<Tip>), StartFault> {
    let mut control = fold(reader, genesis)?;
    loop {
        let Some(tip) = reader.newest_committed()? else { return Ok((control, None)) };
        match agree(&tip, &control) {
            Ok(()) => return Ok((control, Some(tip))),
            Err(contradiction) => {
                let before = control.number();
                control = fold(reader, control)?;
                if control.number() == before {
                    return Err(contradiction);
                }
            }
        }
    }
}

/// The control state after every control leaf of the store.
fn fold(reader: &dyn Reader, mut control: ControlState) -> Result<ControlState, StartFault> {
    loop {
        let leaves = reader.control_leaves(control.number(), MAX_PAGE)?;
        if leaves.is_empty() {
            return Ok(control);
        }
        for (_, bytes) in leaves {
            let number = control.number() + 1;
            control.apply(&bytes).map_err(|source| StartFault::Control { number, source })?;
        }
    }
}

fn agree(tip: &Tip, control: &ControlState) -> Result<(), StartFault> {
    let head = tip.head.body();
    if head.origin != control.origin() {
        return Err(StartFault::Contradiction("the newest head is another log's"));
    }
    if !tip.frontiers.agree_with(head) {
        return Err(StartFault::Contradiction("the newest head isn't that of the trees"));
    }
    if head.control_seq != control.number() || head.control_digest != *control.digest() {
        return Err(StartFault::Contradiction("the newest head isn't that of the control chain"));
    }
    Ok(())
}

/// What was to be signed must be in the store, and the leaves must lead to it.
fn compare(reader: &dyn Reader, newest_size: u64, remembered: Remembered) -> Result<(), StartFault> {
    let size = remembered.size;
    if size == 0 {
        return Ok(());
    }
    if size > newest_size {
        return Err(StartFault::RolledBack { store: newest_size, remembered: size });
    }
    let head = reader.head(size)?.ok_or(StartFault::Forked(size))?;
    if *head.digest() != remembered.digest || head.body().sha256_root != remembered.root {
        return Err(StartFault::Forked(size));
    }
    let root = root_at::<Sha256Tree, _>(size, &StoredTree(reader)).map_err(|fault| match fault {
        ProofError::Source(fault) => StartFault::Read(fault),
        ProofError::Range { .. } => StartFault::Inconsistent(size),
    })?;
    if root == remembered.root { Ok(()) } else { Err(StartFault::Inconsistent(size)) }
}
