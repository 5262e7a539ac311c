//! `authority join`: one more authority for a log that exists, on another machine.
//!
//! Comes in: a configuration that names the shared database and the token with the log's keys, and the trust bundle that everybody pins.
//! Goes out: the state directory that `serve` needs: the bundle, a TLS key with its certificate, and a signer's memory that begins at the
//! newest signed head. Refused: a store that isn't shared, a bundle of another log, a newest head that the log's keys didn't sign, a CA key
//! that isn't the bundle's, and a directory that holds any of these files.

use super::files::{self, Undo};
use super::{InitError, now_ms, tls_key};
use crate::config::Config;
use crate::custody::KeyStore;
use crate::serve::open_ca;
use crate::sign::{Remembered, SignerMemory, VouchedFault, newest_vouched};
use crate::store::failpoint::FailpointSet;
use countersign_core::bundle::TrustBundle;
use std::path::Path;

/// Makes the state directory of one more authority. Blocks: opens the token and the store.
///
/// # Errors
/// [`InitError`]; everything made so far is removed.
pub fn join(config: &Config, trust_bundle: &Path) -> Result<(), InitError> {
    let place = config.store.place(&config.origin);
    if !place.is_shared() {
        return Err(InitError::NotShared);
    }
    let file = |path: &Path, source| InitError::File { path: path.to_owned(), source };
    let bytes = std::fs::read(trust_bundle).map_err(|source| file(trust_bundle, source))?;
    let bundle = TrustBundle::verify(&bytes)?;
    if *bundle.origin() != config.origin || *bundle.trust_domain() != config.trust_domain {
        return Err(InitError::OtherLog);
    }
    let head = newest_vouched(place.open_reader()?.as_ref(), &bundle).map_err(|fault| match fault {
        VouchedFault::Unsigned => InitError::Unsigned,
        VouchedFault::Control(error) => error.into(),
        VouchedFault::Read(fault) => fault.into(),
    })?;
    let newest = Remembered { size: head.size(), digest: *head.digest(), root: head.body().sha256_root };
    let (keys, labels) = KeyStore::new(&config.signer);
    let ca = open_ca(&keys, &labels.ca, &bundle)?;
    files::make_directory(&config.state_dir).map_err(|source| file(&config.state_dir, source))?;
    let mut undo = Undo::new();
    let mut write = |path: &Path, bytes: &[u8], mode| {
        if path.exists() {
            return Err(InitError::Exists(path.to_owned()));
        }
        undo.file(path);
        files::create(path, bytes, mode).map_err(|source| InitError::File { path: path.to_owned(), source })
    };
    let (pem, key) = tls_key()?;
    let server = ca.server(&config.certificate_names(), &key, now_ms() / 1_000)?;
    write(&config.server_key_path(), pem.as_bytes(), 0o600)?;
    let chain = files::certificates_pem(&[&server, ca.certificate()]);
    write(&config.server_certificate_path(), chain.as_bytes(), 0o644)?;
    write(&config.bundle_path(), &bytes, 0o644)?;
    let memory = config.signer_memory_path();
    SignerMemory::create(&memory)?;
    undo.file(&memory);
    // What was signed so far is remembered from here on: an older database is refused by this replica, too.
    SignerMemory::open(&memory, FailpointSet::none())?.remember(newest)?;
    undo.forget();
    Ok(())
}
