//! A PKCS#11 module, opened once a process and shared by all who use it.
//!
//! Login, C_Initialize and C_Finalize act on the whole process, so they are kept here: one session for each token is held open as an
//! anchor, which keeps the login alive, and an **era** counts the incarnations of the module. A session or handle belongs to one era:
//! after C_Finalize the module may give the same number to another object, so what is left of an older era is forgotten, never closed
//! and never used.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;

use super::Pkcs11Config;
use super::gate::{Gate, Pass};
use super::opening_lock::OpeningLock;
use super::pin::{self, PinStamp};
use crate::{FaultClass, SignFault};

/// How long to wait at the gate: longer than any device call that is going to end.
const GATE_PATIENCE: Duration = Duration::from_secs(10);

static MODULES: Mutex<BTreeMap<PathBuf, Arc<Pkcs11Module>>> = Mutex::new(BTreeMap::new());

pub(super) struct Pkcs11Module {
    library: Pkcs11,
    gate: Gate,
    /// 0 until the first C_Initialize.
    era: AtomicU64,
    tokens: Mutex<BTreeMap<String, TokenState>>,
}

#[derive(Default)]
struct TokenState {
    anchor: Option<Anchor>,
    refused: Option<RefusedPin>,
}

struct Anchor {
    era: u64,
    slot: Slot,
    /// Open for the sake of the login: a token logs out when its last session closes. PKCS #11 3.0, 5.6.9.
    _session: Session,
}

struct RefusedPin {
    stamp: PinStamp,
    class: FaultClass,
}

impl Pkcs11Module {
    /// The module at `path`, loaded when nobody has asked for it yet. It stays loaded until the process ends.
    pub(super) fn shared(path: &Path) -> Result<Arc<Self>, SignFault> {
        let path = path.canonicalize().map_err(|error| {
            SignFault::new(FaultClass::Misconfigured, "dlopen", format!("{}: {error}", path.display()))
        })?;
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&path) {
            return Ok(Arc::clone(module));
        }
        let library = Pkcs11::new(&path)?;
        let module = Arc::new(Self {
            library,
            gate: Gate::default(),
            era: AtomicU64::new(0),
            tokens: Mutex::new(BTreeMap::new()),
        });
        modules.insert(path, Arc::clone(&module));
        Ok(module)
    }

    /// The incarnation of the module. Stable while a [`Pass`] is held.
    pub(super) fn era(&self) -> u64 {
        self.era.load(Ordering::SeqCst)
    }

    /// Permission to make calls.
    pub(super) fn pass(&self) -> Result<Pass<'_>, SignFault> {
        self.gate.enter(GATE_PATIENCE).ok_or_else(|| hung("another call does not let the module start over"))
    }

    /// Starts the module, or starts it over if it is still in the era `seen`, and logs in to the configured token. Whether anything was done.
    pub(super) fn start_over(&self, config: &Pkcs11Config, seen: u64) -> Result<bool, SignFault> {
        let _alone = self.gate.alone(GATE_PATIENCE).ok_or_else(|| hung("a call does not return"))?;
        if self.era() != seen {
            return Ok(false);
        }
        let lock = OpeningLock::take(config)?;
        let mut tokens = self.tokens();
        for token in tokens.values_mut() {
            token.anchor = None;
        }
        // From here on nothing of the old era is used, whatever the next two calls answer.
        self.era.store(seen + 1, Ordering::SeqCst);
        if seen != 0 {
            tracing::debug!(token = config.token_label, "starting the PKCS#11 module over");
            if let Err(error) = self.library.clone().finalize() {
                tracing::warn!("C_Finalize: {error}");
            }
        }
        match self.library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(error.into()),
        }
        let token = tokens.entry(config.token_label.clone()).or_default();
        self.anchor(config, token, &lock)?;
        Ok(true)
    }

    /// Opens a session that is logged in. The caller holds a [`Pass`], and closes the session before it gives the pass back or keeps it
    /// with the era: the session does not close itself, since its number may be another's after the module started over.
    pub(super) fn open_session(&self, config: &Pkcs11Config) -> Result<Session, SignFault> {
        let mut tokens = self.tokens();
        let token = tokens.entry(config.token_label.clone()).or_default();
        let slot = match &token.anchor {
            Some(anchor) if anchor.era == self.era() => anchor.slot,
            _ => {
                let lock = OpeningLock::take(config)?;
                self.anchor(config, token, &lock)?
            }
        };
        let session = self.library.open_rw_session_no_drop(slot)?;
        if is_user(&session) {
            return Ok(session);
        }
        // The device dropped the login and all sessions under it, the anchor's too.
        token.anchor = None;
        let logged_in =
            OpeningLock::take(config).and_then(|lock| self.log_in(config, slot, &session, token, &lock));
        close_unless(logged_in, session)
    }

    fn tokens(&self) -> MutexGuard<'_, BTreeMap<String, TokenState>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the token and logs in to it. On failure there is no anchor.
    fn anchor(
        &self,
        config: &Pkcs11Config,
        token: &mut TokenState,
        lock: &OpeningLock,
    ) -> Result<Slot, SignFault> {
        token.anchor = None;
        let slot = self.find_slot(config)?;
        let session = self.library.open_rw_session_no_drop(slot)?;
        let logged_in = self.log_in(config, slot, &session, token, lock);
        let session = close_unless(logged_in, session)?;
        token.anchor = Some(Anchor { era: self.era(), slot, _session: session });
        Ok(slot)
    }

    fn find_slot(&self, config: &Pkcs11Config) -> Result<Slot, SignFault> {
        let mut found = None;
        for slot in self.library.get_slots_with_token()? {
            // A slot whose token just went has none of our label.
            let Ok(info) = self.library.get_token_info(slot) else { continue };
            if info.label().trim_end() == config.token_label && found.replace(slot).is_some() {
                return Err(SignFault::new(
                    FaultClass::Misconfigured,
                    "C_GetTokenInfo",
                    "two tokens carry the label",
                ));
            }
        }
        found.ok_or_else(|| {
            SignFault::new(
                FaultClass::TokenAbsent,
                "C_GetSlotList",
                format!(
                    "no token labelled {:?} (SoftHSM looks for its tokens where SOFTHSM2_CONF says)",
                    config.token_label
                ),
            )
        })
    }

    /// One try of the PIN, unless this writing of it was refused before.
    fn log_in(
        &self,
        config: &Pkcs11Config,
        slot: Slot,
        session: &Session,
        token: &mut TokenState,
        _lock: &OpeningLock,
    ) -> Result<(), SignFault> {
        if is_user(session) {
            return Ok(());
        }
        let pin = pin::read(config)?;
        if let Some(refused) = token.refused.as_ref().filter(|refused| refused.stamp == pin.stamp) {
            let reason = "refused before; not tried again until the PIN file is written anew";
            return Err(SignFault::new(refused.class, "C_Login", reason));
        }
        // PKCS #11 3.0, 3.2, CKF_USER_PIN_LOCKED.
        if self.library.get_token_info(slot)?.user_pin_locked() {
            return Err(SignFault::new(FaultClass::PinLocked, "C_GetTokenInfo", "CKF_USER_PIN_LOCKED"));
        }
        match session.login(UserType::User, Some(&pin.secret)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                token.refused = None;
                Ok(())
            }
            Err(error) => {
                let fault = SignFault::from(error);
                if matches!(fault.class(), FaultClass::PinWrong | FaultClass::PinLocked) {
                    tracing::error!(
                        token = config.token_label,
                        code = fault.code(),
                        "PIN refused; it is not tried again"
                    );
                    token.refused = Some(RefusedPin { stamp: pin.stamp, class: fault.class() });
                }
                Err(fault)
            }
        }
    }
}

fn is_user(session: &Session) -> bool {
    session
        .get_session_info()
        .is_ok_and(|info| matches!(info.session_state(), SessionState::RoUser | SessionState::RwUser))
}

fn close_unless(usable: Result<(), SignFault>, session: Session) -> Result<Session, SignFault> {
    match usable {
        Ok(()) => Ok(session),
        Err(fault) => {
            // Only the module loses by a session that does not close.
            let _ = session.close();
            Err(fault)
        }
    }
}

fn hung(reason: &'static str) -> SignFault {
    SignFault::new(FaultClass::Timeout, "module", reason)
}
