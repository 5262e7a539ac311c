//! Waiting for what other replicas commit. Only saves time: whoever waits looks anyway when nothing was heard for a while.

use std::time::{Duration, Instant};

use super::link::Link;
use super::{PostgresOptions, read, schema};

/// How long to leave a server alone that can't be reached.
const PAUSE: Duration = Duration::from_secs(1);

/// A connection that listens. Used by one thread.
pub struct Watch {
    options: PostgresOptions,
    link: Option<Link>,
    tried: Option<Instant>,
}

impl Watch {
    /// A watch that connects when it first waits.
    #[must_use]
    pub const fn new(options: PostgresOptions) -> Self {
        Self { options, link: None, tried: None }
    }

    /// Waits on this thread until something was committed or attached by anybody, or until `patience` has passed. While the server can't be
    /// reached it only waits.
    pub fn wait(&mut self, patience: Duration) {
        if self.link.is_none() && self.tried.is_none_or(|then| then.elapsed() >= PAUSE) {
            self.tried = Some(Instant::now());
            self.link = self.listen();
            if self.link.is_some() {
                // What happened before the first LISTEN was heard by nobody.
                return;
            }
        }
        let Some(link) = &self.link else { return std::thread::sleep(patience) };
        if link.notified(patience).is_err() {
            self.link = None;
        }
    }

    fn listen(&self) -> Option<Link> {
        let link = read::open(&self.options).ok()?;
        let listening = link.run(link.session.simply(&format!("LISTEN {}", schema::CHANNEL)));
        listening.flatten().ok().map(|()| link)
    }
}
