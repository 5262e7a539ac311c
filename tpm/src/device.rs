//! The host's own TPM, through the TCG software stack.
//!
//! Comes in: a TCTI address, key blobs that the caller keeps, and what is to be quoted, certified or signed. Goes out:
//! bytes of the same forms that the rest of this crate verifies. Refuses nothing on its own account: what a TPM says
//! about itself is judged by whoever receives it.
//!
//! One thread owns a [`HostTpm`]; it is `Send` and not `Sync`. Keys are loaded when they are used and stay loaded
//! until room is needed, the TPM forgets them or the connection ends; nothing that was loaded outlives the value, unless
//! the process is killed: what is left then in a TPM without a resource manager is flushed by the next one that needs room.
//! Trusted beside the TPM itself: libtss2 and the transport. Sessions are passwords over that transport, so the
//! secret of a credential can be read by whoever listens on the bus; on such hosts use a TPM with a protected bus.

mod counter;
mod endorsement;
mod error;
mod evidence;
mod identity;
mod keys;
mod room;

use std::str::FromStr;
use std::time::Duration;

use tss_esapi::Context;
use tss_esapi::handles::{KeyHandle, ObjectHandle};
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Private, Public as TssPublic};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::UnMarshall;

pub use counter::{COUNTER_AUTH_BYTES, CounterIndex};
pub use endorsement::EkProfile;
pub use error::{DeviceError, ErrorClass};
pub use evidence::{Attested, QuoteEvidence};
pub use keys::KeyBlob;

/// Times that a call is repeated while the TPM says "later".
const RETRIES: u32 = 20;
/// First pause between repetitions; it doubles up to [`LONGEST_PAUSE`]. A self test takes seconds at most.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A key known to a [`HostTpm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyId(usize);

/// Where a key comes from when it isn't loaded.
enum Source {
    Blob(KeyBlob),
    /// The TPM itself keeps it at this handle.
    Persistent(u32),
}

struct Key {
    source: Source,
    public: crate::public::Public,
    handle: Option<KeyHandle>,
}

/// A connection to the TPM and the keys used over it.
pub struct HostTpm {
    /// As configured, for people.
    address: String,
    tcti: TctiNameConf,
    /// Nobody else is at the TPM while this connection stands.
    alone: bool,
    /// `None` only while reopening fails.
    context: Option<Context>,
    keys: Vec<Key>,
}

impl HostTpm {
    /// Connects. `tcti` is an address such as `device:/dev/tpmrm0` or `swtpm:host=127.0.0.1,port=2321`.
    pub fn open(tcti: &str) -> Result<Self, DeviceError> {
        Self::connected(tcti, room::is_bare(tcti))
    }

    /// Connects to a TPM that nobody else uses while this connection stands, whatever its address: what is loaded there may be flushed when it
    /// is full.
    pub fn open_alone(tcti: &str) -> Result<Self, DeviceError> {
        Self::connected(tcti, true)
    }

    fn connected(tcti: &str, alone: bool) -> Result<Self, DeviceError> {
        let address = TctiNameConf::from_str(tcti).map_err(|_| DeviceError::Address(tcti.to_owned()))?;
        let mut tpm =
            Self { address: tcti.to_owned(), tcti: address, alone, context: None, keys: Vec::new() };
        tpm.reopen()?;
        Ok(tpm)
    }

    /// Drops the connection and makes a new one. Keys stay known and are loaded again when they are used.
    pub fn reopen(&mut self) -> Result<(), DeviceError> {
        self.forget_handles();
        // The old context flushes what it loaded; over a dead connection that fails at once.
        self.context = None;
        let context = Context::new(self.tcti.clone())
            .map_err(|error| DeviceError::Unreachable { address: self.address.clone(), error })?;
        self.context = Some(context);
        Ok(())
    }

    /// Creates a restricted P-256 attestation key (ECDSA with SHA-256, no dictionary attack protection).
    pub fn create_attestation_key(&mut self) -> Result<KeyBlob, DeviceError> {
        self.create(&keys::attestation_template()?)
    }

    /// Creates an unrestricted P-256 signing key: a host key, or a signer of heads.
    pub fn create_signing_key(&mut self) -> Result<KeyBlob, DeviceError> {
        self.create(&keys::signing_template()?)
    }

    /// Makes a blob's key usable. The blob is tried at once, so that one of another TPM is refused here.
    pub fn load(&mut self, blob: &KeyBlob) -> Result<KeyId, DeviceError> {
        let public = blob.parse_public()?;
        self.know(Source::Blob(blob.clone()), public)
    }

    /// A key that the TPM keeps at a persistent handle and that an empty password uses, such as an initial attestation
    /// key. Whoever may evict it can put another key in its place: a handle that suddenly leads to another key is an error.
    pub fn persistent(&mut self, handle: u32) -> Result<KeyId, DeviceError> {
        let (object, public) = self.persistent_object(handle)?.ok_or(DeviceError::NoKeyAt(handle))?;
        self.close(object.into());
        self.know(Source::Persistent(handle), public)
    }

    fn know(&mut self, source: Source, public: crate::public::Public) -> Result<KeyId, DeviceError> {
        self.keys.push(Key { source, public, handle: None });
        let id = KeyId(self.keys.len() - 1);
        if let Err(error) = self.with_keys([id], |_, _| Ok(())) {
            self.keys.pop();
            return Err(error);
        }
        Ok(id)
    }

    /// Public area of a loaded key.
    pub fn public(&self, key: KeyId) -> Result<&crate::public::Public, DeviceError> {
        self.keys.get(key.0).map(|key| &key.public).ok_or(DeviceError::UnknownKey)
    }

    /// Frees the TPM's memory; keys stay known.
    pub fn unload_all(&mut self) {
        // What the TPM keeps persistently takes none of that memory and can't be flushed.
        let loaded = self.keys.iter_mut().filter(|key| matches!(key.source, Source::Blob(_)));
        let handles: Vec<KeyHandle> = loaded.filter_map(|key| key.handle.take()).collect();
        for handle in handles {
            self.flush(handle.into());
        }
    }

    fn create(&mut self, template: &[u8]) -> Result<KeyBlob, DeviceError> {
        let public = TssPublic::unmarshall(template).map_err(|error| DeviceError::tss("template", error))?;
        self.with_keys([], |tpm, []| {
            tpm.with_primary(|context, primary| {
                let made = context.create(primary, public.clone(), None, None, None, None)?;
                KeyBlob::from_tss(&made.out_public, &made.out_private)
            })
        })
    }

    /// Handle of a key, loading it if need be.
    fn handle(&mut self, id: KeyId) -> Result<KeyHandle, DeviceError> {
        let key = self.keys.get(id.0).ok_or(DeviceError::UnknownKey)?;
        if let Some(handle) = key.handle {
            return Ok(handle);
        }
        let handle = match &key.source {
            Source::Blob(blob) => {
                let public = blob.tss_public()?;
                let private = Private::try_from(blob.private().to_vec())
                    .map_err(|error| DeviceError::tss("read blob", error))?;
                self.with_primary(|context, primary| context.load(primary, private.clone(), public.clone()))?
            }
            Source::Persistent(at) => {
                let (at, known) = (*at, key.public.bytes().to_vec());
                let (object, public) = self.persistent_object(at)?.ok_or(DeviceError::NoKeyAt(at))?;
                if public.bytes() != known {
                    self.close(object.into());
                    return Err(DeviceError::OtherKeyAt(at));
                }
                object
            }
        };
        if let Some(key) = self.keys.get_mut(id.0) {
            key.handle = Some(handle);
        }
        Ok(handle)
    }

    /// Runs `body` under the storage primary, which lives only that long. It is made anew from the endorsement seed
    /// each time, so nothing persistent is claimed, and it lies under the endorsement hierarchy, because a TPM
    /// obfuscates the counters of attestations by keys of the owner hierarchy. TPM 2.0 Part 1, 36.7.
    fn with_primary<T>(
        &mut self,
        mut body: impl FnMut(&mut Context, KeyHandle) -> tss_esapi::Result<T>,
    ) -> Result<T, DeviceError> {
        let template = TssPublic::unmarshall(&keys::storage_template()?)
            .map_err(|error| DeviceError::tss("template", error))?;
        let primary = self.call("CreatePrimary", |context| {
            context.create_primary(Hierarchy::Endorsement, template.clone(), None, None, None, None)
        })?;
        let result = self.call("use of the storage key", |context| body(context, primary.key_handle));
        self.flush(primary.key_handle.into());
        result
    }

    /// Runs one command with password authorization, again while the TPM asks for patience, and once more after
    /// making room when its memory is full.
    fn call<T>(
        &mut self,
        what: &'static str,
        body: impl FnMut(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, DeviceError> {
        self.call_with(what, (Some(AuthSession::Password), None, None), body)
    }

    fn call_with<T>(
        &mut self,
        what: &'static str,
        sessions: (Option<AuthSession>, Option<AuthSession>, Option<AuthSession>),
        mut body: impl FnMut(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, DeviceError> {
        let mut pause = FIRST_PAUSE;
        for attempt in 0.. {
            let context = self.context.as_mut().ok_or(DeviceError::Closed)?;
            let error = match context.execute_with_sessions(sessions, &mut body) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match error::classify(error) {
                ErrorClass::Busy if attempt < RETRIES => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                _ => return Err(DeviceError::tss(what, error)),
            }
        }
        Err(DeviceError::Closed)
    }

    /// Runs `body` with the handles of `keys`. When the TPM no longer knows a handle (a reset) or has no room, all
    /// keys are dropped and loaded once more; for room, what a predecessor left goes too (`room.rs`).
    fn with_keys<T, const N: usize>(
        &mut self,
        keys: [KeyId; N],
        mut body: impl FnMut(&mut Self, [KeyHandle; N]) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        let mut attempt = |tpm: &mut Self| {
            let mut handles = [KeyHandle::from(0); N];
            for (handle, key) in handles.iter_mut().zip(keys) {
                *handle = tpm.handle(key)?;
            }
            body(tpm, handles)
        };
        match attempt(self) {
            Err(error) if error.is_stale_handle() => {
                self.forget_handles();
                self.reopen()?;
                attempt(self)
            }
            Err(error) if error.is_full() => {
                self.make_room();
                attempt(self)
            }
            result => result,
        }
    }

    /// A failed flush leaves nothing to do: the context tries again when it is dropped.
    fn flush(&mut self, handle: ObjectHandle) {
        if let Some(context) = self.context.as_mut() {
            let _ = context.flush_context(handle);
        }
    }

    fn forget_handles(&mut self) {
        for key in &mut self.keys {
            key.handle = None;
        }
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
