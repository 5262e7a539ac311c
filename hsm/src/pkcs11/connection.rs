//! One user's session with a token, reopened when it is lost.
//!
//! A call that fails is tried again after the mildest cure: a new session; then the module started over, which brings back a token that
//! was away (SoftHSM never finds one again otherwise). What fails after both is the fault that the caller sees.
use std::sync::Arc;

use cryptoki::session::Session;

use super::Pkcs11Config;
use super::module::Pkcs11Module;
use crate::{FaultClass, SignFault};

pub(super) struct Connection {
    module: Arc<Pkcs11Module>,
    config: Arc<Pkcs11Config>,
    open: Option<Open>,
    opened: u64,
}

struct Open {
    era: u64,
    session: Session,
}

/// A session that may be used for the length of one call.
pub(super) struct Live<'call> {
    pub(super) session: &'call Session,
    /// Grows with each session of this connection; handles found under another number are void.
    pub(super) number: u64,
}

#[derive(Clone, Copy)]
enum Cure {
    Session,
    Module,
}

impl Connection {
    pub(super) fn new(config: Arc<Pkcs11Config>) -> Result<Self, SignFault> {
        let module = Pkcs11Module::shared(&config.module)?;
        if module.era() == 0 {
            // Another thread may be first; `start_over` sees that.
            module.start_over(&config, 0)?;
        }
        Ok(Self { module, config, open: None, opened: 0 })
    }

    pub(super) fn config(&self) -> &Arc<Pkcs11Config> {
        &self.config
    }

    /// Makes a call, and makes it again after each cure. `work` must bear being repeated.
    pub(super) fn run<T>(
        &mut self,
        mut work: impl FnMut(&Live<'_>) -> Result<T, SignFault>,
    ) -> Result<T, SignFault> {
        let mut result = self.attempt(&mut work);
        for cure in [Cure::Session, Cure::Module] {
            match &result {
                Err(fault) if cure.helps(fault.class()) => {
                    tracing::debug!(code = fault.code(), "curing a token fault: {fault}");
                    if self.apply(cure)? {
                        let token = &self.config.token_label;
                        tracing::warn!(token, code = fault.code(), "started the PKCS#11 module over");
                    }
                    result = self.attempt(&mut work);
                }
                _ => {}
            }
        }
        result
    }

    /// As [`Connection::run`], but takes nothing for an answer only from a module that has just been started over: a token that was taken
    /// away under a running module looks empty, not absent.
    pub(super) fn run_until_sure<T>(
        &mut self,
        mut work: impl FnMut(&Live<'_>) -> Result<Option<T>, SignFault>,
    ) -> Result<Option<T>, SignFault> {
        if let Some(found) = self.run(&mut work)? {
            return Ok(Some(found));
        }
        self.apply(Cure::Module)?;
        self.run(&mut work)
    }

    fn attempt<T>(
        &mut self,
        work: &mut impl FnMut(&Live<'_>) -> Result<T, SignFault>,
    ) -> Result<T, SignFault> {
        let module = Arc::clone(&self.module);
        let _pass = module.pass()?;
        let era = module.era();
        let open = match self.open.take().filter(|open| open.era == era) {
            Some(open) => open,
            None => {
                let session = module.open_session(&self.config)?;
                self.opened += 1;
                Open { era, session }
            }
        };
        let open = self.open.insert(open);
        work(&Live { session: &open.session, number: self.opened })
    }

    /// Whether the module was started over.
    fn apply(&mut self, cure: Cure) -> Result<bool, SignFault> {
        let era = self.open.as_ref().map_or_else(|| self.module.era(), |open| open.era);
        self.close();
        match cure {
            Cure::Session => Ok(false),
            Cure::Module => self.module.start_over(&self.config, era),
        }
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        // A session of an older era has no number of its own any more; a module that hangs is left alone.
        if let Ok(_pass) = self.module.pass()
            && open.era == self.module.era()
        {
            let _ = open.session.close();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

impl Cure {
    fn helps(self, class: FaultClass) -> bool {
        match self {
            Self::Session => class == FaultClass::Retry,
            Self::Module => {
                matches!(class, FaultClass::Retry | FaultClass::TokenAbsent | FaultClass::KeyMissing)
            }
        }
    }
}
