//! `admin keys`.

use super::Context;
use crate::failure::Failure;
use crate::output;
use anyhow::bail;
use countersign_core::api::admin::{Keys, RotateCall};
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
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let keys = match command {
        Command::List => context.admin.client.keys().await?,
        Command::Rotate { label, wait, timeout_secs } => {
            let keys = context.admin.client.rotate_key(&RotateCall { label }).await?;
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
