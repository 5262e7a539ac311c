//! A source that asks the authority in memory, and can be told to fail.

use crate::authority::Authority;
use countersign_core::api::{Acknowledgement, ConsistencyProof, Feed, OutcomeDocument, OutcomesCall};
use countersign_core::note::{NoteSignature, SignedNote};
use countersign_core::refusal::RefusalCode;
use countersign_gateway::source::{Source, SourceFault};
use std::sync::Mutex;

/// What witnesses put under a head's text.
pub(crate) type Cosigns = Box<dyn Fn(&str) -> Vec<NoteSignature> + Send>;

/// Why a call of outcomes is refused, if it is.
pub(crate) type Refuses = fn(&[OutcomeDocument]) -> Option<RefusalCode>;

pub(crate) struct Memory {
    pub(crate) authority: Mutex<Authority>,
    pub(crate) seen: Mutex<Seen>,
    pub(crate) page: usize,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) down: bool,
    pub(crate) hangs: bool,
    pub(crate) endless: bool,
    pub(crate) feeds: usize,
    pub(crate) witnessed: bool,
    pub(crate) proofs: usize,
    pub(crate) acknowledged: Vec<(u64, u64)>,
    /// What witnesses put under the heads of feeds.
    pub(crate) witnesses: Option<Cosigns>,
    pub(crate) outcomes: Vec<OutcomeDocument>,
    pub(crate) refuses: Option<Refuses>,
}

impl Memory {
    pub(crate) fn new(authority: Authority) -> Self {
        Self { authority: Mutex::new(authority), seen: Mutex::default(), page: 1_000 }
    }

    pub(crate) fn authority<T>(&self, with: impl FnOnce(&mut Authority) -> T) -> T {
        with(&mut self.authority.lock().unwrap())
    }

    pub(crate) fn seen<T>(&self, with: impl FnOnce(&mut Seen) -> T) -> T {
        with(&mut self.seen.lock().unwrap())
    }

    async fn reach(&self) -> Result<(), SourceFault> {
        if self.seen(|seen| seen.hangs) {
            std::future::pending::<()>().await;
        }
        if self.seen(|seen| seen.down) {
            return Err(SourceFault::Unreachable { detail: "down".to_owned() });
        }
        Ok(())
    }
}

impl Source for Memory {
    async fn feed(&self, size: u64, control: u64, witnessed: bool) -> Result<Feed, SourceFault> {
        self.seen(|seen| {
            seen.feeds += 1;
            seen.witnessed = witnessed;
        });
        self.reach().await?;
        let mut feed = self.authority(|authority| authority.feed_page(size, control, self.page));
        if self.seen(|seen| seen.endless) {
            feed.more = true;
        }
        let note = SignedNote::parse(&feed.head).unwrap();
        if let Some(more) = self.seen(|seen| seen.witnesses.as_ref().map(|lines| lines(note.text()))) {
            feed.head = SignedNote::new(note.text(), [note.signatures(), &more].concat()).unwrap().format();
        }
        Ok(feed)
    }

    async fn consistency(&self, from: u64, to: u64) -> Result<ConsistencyProof, SourceFault> {
        self.seen(|seen| seen.proofs += 1);
        self.reach().await?;
        Ok(ConsistencyProof { proof: self.authority(|authority| authority.consistency(from, to)) })
    }

    async fn acknowledge(&self, ack: Acknowledgement) -> Result<(), SourceFault> {
        self.reach().await?;
        self.seen(|seen| seen.acknowledged.push((ack.control, ack.size)));
        Ok(())
    }

    async fn outcomes(&self, call: OutcomesCall) -> Result<(), SourceFault> {
        self.reach().await?;
        self.seen(|seen| {
            if let Some(code) = seen.refuses.and_then(|refuses| refuses(&call.outcomes)) {
                return Err(SourceFault::Refused(code));
            }
            seen.outcomes.extend(call.outcomes);
            Ok(())
        })
    }
}
