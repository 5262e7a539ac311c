//! `countersign holder`: keys that artifacts are bound to.

use crate::failure::Outcome;
use anyhow::Context;
use clap::Subcommand;
use countersign_core::key::Algorithm;
use countersign_gateway::holder::key::HolderKey;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make an Ed25519 holder key in a file that only its owner can read.
    Keygen {
        /// PKCS#8 PEM file; must not exist.
        file: PathBuf,
    },
}

pub(crate) fn run(command: &Command) -> Outcome {
    let Command::Keygen { file } = command;
    let key = HolderKey::generate(Algorithm::EdDsa).context("holder key")?;
    key.write_new(file).with_context(|| file.display().to_string())?;
    anstream::println!("{}", key.public().thumbprint());
    Ok(ExitCode::SUCCESS)
}
