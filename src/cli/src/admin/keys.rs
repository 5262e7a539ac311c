//! `admin keys`.

mod compromise;

use super::Context;
use crate::failure::Failure;
use crate::output;
use anyhow::bail;
use countersign_core::api::admin::{Keys, PrepareKeyCall, RotateCall};
use countersign_core::digest::sha256;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::{KeyPurpose, key_introduction};
use std::time::{Duration, Instant};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List head keys and their states.
    List,
    /// Make a new head key in the token, introduce it, and activate it once every gateway knows it.
    Rotate {
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
    /// State with the recovery key that a head key is in other hands, from which head on it doesn't count.
    Compromise(compromise::Args),
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let keys = match command {
        Command::List => context.admin.client.keys().await?,
        Command::Compromise(args) => compromise::run(context, &args).await?,
        Command::Rotate { label, wait, timeout_secs } => {
            let keys = rotate(context, label).await?;
            if wait { wait_active(context, Duration::from_secs(timeout_secs)).await? } else { keys }
        }
    };
    if context.json {
        return output::json(&keys);
    }
    let rows = keys
        .head
        .into_iter()
        .map(|key| {
            let number =
                |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            vec![
                key.thumbprint,
                key.alg,
                key.state,
                key.introduced.to_string(),
                number(key.activated),
                number(key.ended),
            ]
        })
        .collect();
    output::table(&["THUMBPRINT", "ALG", "STATE", "INTRODUCED", "ACTIVATED", "ENDED"], rows);
    Ok(())
}

/// The authority makes the key; the word for it is the officer's own, over exactly what the log will say of it.
async fn rotate(context: &Context, label: String) -> Result<Keys, Failure> {
    let prepared = context.admin.client.prepare_key(&PrepareKeyCall { label }).await?;
    let key = VerifyingKey::try_from(prepared.key).map_err(anyhow::Error::new)?;
    let thumbprint = key.thumbprint().to_hex();
    anstream::eprintln!(
        "approving head key {thumbprint}, {} in {}",
        key.algorithm().name(),
        prepared.backend
    );
    let origin = context.admin.bundle.origin().as_str();
    let custody = sha256(&prepared.custody.0);
    let act = key_introduction(origin, KeyPurpose::Head, &key, &prepared.backend, &custody);
    let approval = context.admin.approve(&act)?;
    Ok(context.admin.client.rotate_key(&RotateCall { thumbprint, approval }).await?)
}

/// Asks until no key is waiting for its activation. Waiting for a state of the other side, bounded.
async fn wait_active(context: &Context, limit: Duration) -> Result<Keys, Failure> {
    let began = Instant::now();
    loop {
        let keys = context.admin.client.keys().await?;
        if keys.head.iter().all(|key| key.state != "pre-activation") {
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
