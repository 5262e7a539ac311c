//! `countersign admin migrate`: moves a log from one kind of store to another, with the authority stopped.
//!
//! Comes in: the authority's configuration and where the new store is to be. Goes out: the same log there, verified whole before and after,
//! and the section of the configuration that names it. Refused: a log that doesn't verify, a store that another process writes, a target that
//! holds a store. The old store stays as it is; once the new one has grown, the signer's memory refuses it.

use crate::authority::PostgresArgs;
use crate::failure::Outcome;
use crate::profile;
use anyhow::{Context, bail};
use clap::Subcommand;
use countersign_authority::audit::{Report, StoreLog, verify};
use countersign_authority::config::{Config, Store};
use countersign_authority::store::sqlite::{self, SqliteOptions};
use countersign_authority::store::{Place, Reader, postgres};
use countersign_core::bundle::TrustBundle;
use std::path::PathBuf;
use std::process::ExitCode;

/// From where to where.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Move the log from its file into a PostgreSQL database. The authority must be stopped.
    SqliteToPostgres(Args),
}

/// Arguments of `admin migrate sqlite-to-postgres`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Configuration of the authority.
    #[arg(long, default_value = "/var/lib/countersign/authority.toml")]
    config: PathBuf,
    #[command(flatten)]
    postgres: PostgresArgs,
}

pub(super) fn run(command: &Command) -> Outcome {
    let Command::SqliteToPostgres(args) = command;
    let config = Config::load(&args.config).map_err(anyhow::Error::new)?;
    let Store::Sqlite { path } = &config.store else {
        return Err(anyhow::anyhow!("the log of this authority isn't in a file").into());
    };
    let store = args.postgres.store()?.context("--postgres and --postgres-database are needed")?;
    let Place::Postgres(target) = store.place(&config.origin) else {
        return Err(anyhow::anyhow!("--postgres is needed").into());
    };
    let bundle = profile::bundle(&config.bundle_path())?;
    // Holding the writer keeps the authority from starting meanwhile.
    let (_writer, source) = sqlite::open(&SqliteOptions::new(path, config.origin.clone()))
        .with_context(|| path.display().to_string())?;
    let before = audited(&source, &bundle).context("the log in the file")?;
    postgres::create(&target).context("the new store")?;
    let bar = crate::audit::bar(before.leaves);
    let copied = postgres::import(&target, &source, &mut |done| bar.set_position(done));
    bar.finish_and_clear();
    copied.context("the log was not moved")?;
    let moved = postgres::open_reader(&target).context("the new store")?;
    let after = audited(&moved, &bundle).context("the log in the database")?;
    if after.newest != before.newest || after.leaves != before.leaves {
        return Err(anyhow::anyhow!("the log in the database isn't the one in the file").into());
    }
    anstream::println!("{} leaves moved and verified; newest head {}", after.leaves, after.newest.to_hex());
    anstream::println!("put this in place of the section [store] of {}:\n", args.config.display());
    anstream::println!("[store]\n{}", toml::to_string(&store).context("configuration")?);
    Ok(ExitCode::SUCCESS)
}

fn audited(reader: &dyn Reader, bundle: &TrustBundle) -> anyhow::Result<Report> {
    let log = StoreLog::new(reader).map_err(anyhow::Error::new)?;
    let newest = reader.newest_committed().map_err(anyhow::Error::new)?;
    if newest.is_none_or(|tip| tip.head.body().size != log.size()) {
        bail!("its newest head isn't signed: start the authority once, and stop it");
    }
    verify(&log, bundle, &mut |_| {}).map_err(|finding| anyhow::anyhow!("it does not verify: {finding}"))
}
