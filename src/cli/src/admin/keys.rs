//! `admin keys`.

mod compromise;

use super::Context;
use crate::failure::Failure;
use crate::output;
use anyhow::bail;
use countersign_core::api::admin::{KeyDocument, Keys, PrepareKeyCall, RotateCall, WithdrawKeyCall};
use countersign_core::digest::sha256;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::{KeyPurpose, key_introduction};
use std::time::{Duration, Instant};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List head and JWT keys and their states.
    List,
    /// Make a new key in the token, introduce it, and activate it: a head key once every gateway knows it, a JWT key after the lease.
    Rotate {
        /// What the key is to sign.
        #[arg(long, value_enum, default_value_t = PurposeArg::Head)]
        purpose: PurposeArg,
        /// Label of the new key in its token.
        #[arg(long)]
        label: String,
        /// Wait until the new key is active.
        #[arg(long)]
        wait: bool,
        /// How long to wait, seconds.
        #[arg(long, default_value_t = 120)]
        timeout_secs: u64,
    },
    /// End a JWT key at once, without a successor: what it signed isn't believed any more by who fetches the keys again.
    Withdraw {
        /// Thumbprint of the key, hexadecimal.
        thumbprint: String,
    },
    /// State with the recovery key that a head key is in other hands, from which head on it doesn't count.
    Compromise(compromise::Args),
}

/// Which keys are rotated.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum PurposeArg {
    /// Heads of the log.
    Head,
    /// Attestation results.
    Jwt,
}

impl From<PurposeArg> for KeyPurpose {
    fn from(purpose: PurposeArg) -> Self {
        match purpose {
            PurposeArg::Head => Self::Head,
            PurposeArg::Jwt => Self::Jwt,
        }
    }
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let keys = match command {
        Command::List => context.admin.client.keys().await?,
        Command::Withdraw { thumbprint } => {
            context.admin.client.withdraw_key(&WithdrawKeyCall { thumbprint }).await?
        }
        Command::Compromise(args) => compromise::run(context, &args).await?,
        Command::Rotate { purpose, label, wait, timeout_secs } => {
            let keys = rotate(context, label, purpose.into()).await?;
            if wait { wait_active(context, Duration::from_secs(timeout_secs)).await? } else { keys }
        }
    };
    if context.json {
        return output::json(&keys);
    }
    let named = |keys: Vec<KeyDocument>, purpose| keys.into_iter().map(move |key| (key, purpose));
    let rows = named(keys.head, "head")
        .chain(named(keys.jwt, "jwt"))
        .map(|(key, purpose)| {
            let number =
                |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            vec![
                key.thumbprint,
                purpose.to_owned(),
                key.alg,
                key.state,
                key.introduced.to_string(),
                number(key.activated),
                number(key.ended),
            ]
        })
        .collect();
    output::table(&["THUMBPRINT", "PURPOSE", "ALG", "STATE", "INTRODUCED", "ACTIVATED", "ENDED"], rows);
    Ok(())
}

/// The authority makes the key; the word for it is the officer's own, over exactly what the log will say of it.
async fn rotate(context: &Context, label: String, purpose: KeyPurpose) -> Result<Keys, Failure> {
    let word = if purpose == KeyPurpose::Jwt { "jwt" } else { "head" };
    let call = PrepareKeyCall { label, purpose: Some(word.to_owned()) };
    let prepared = context.admin.client.prepare_key(&call).await?;
    let key = VerifyingKey::try_from(prepared.key).map_err(anyhow::Error::new)?;
    let thumbprint = key.thumbprint().to_hex();
    anstream::eprintln!(
        "approving {word} key {thumbprint}, {} in {}",
        key.algorithm().name(),
        prepared.backend
    );
    let origin = context.admin.bundle.origin().as_str();
    let custody = sha256(&prepared.custody.0);
    let act = key_introduction(origin, purpose, &key, &prepared.backend, &custody);
    let approval = context.admin.approve(&act)?;
    Ok(context.admin.client.rotate_key(&RotateCall { thumbprint, approval }).await?)
}

/// Asks until no key is waiting for its activation. Waiting for a state of the other side, bounded.
async fn wait_active(context: &Context, limit: Duration) -> Result<Keys, Failure> {
    let began = Instant::now();
    loop {
        let keys = context.admin.client.keys().await?;
        if keys.head.iter().chain(&keys.jwt).all(|key| key.state != "pre-activation") {
            return Ok(keys);
        }
        if began.elapsed() > limit {
            let late: anyhow::Result<Keys> =
                (|| bail!("the new key isn't active after {} s", limit.as_secs()))();
            return late.map_err(Failure::from);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
