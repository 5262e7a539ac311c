//! `audit verify --quorum-file`: how far witnesses vouch for a log, and `audit head`.

use super::Source;
use crate::failure::{Failure, Outcome};
use anyhow::Context;
use countersign_authority::audit::{LogSource, StoreLog, WitnessedFault, WitnessedHead, newest_witnessed};
use countersign_authority::witness::load_quorum;
use countersign_core::refusal::RefusalCode;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// What is demanded of witnesses.
#[derive(clap::Args)]
pub(super) struct Demand {
    /// Witnesses of which enough must have cosigned a head (C2SP tlog-policy).
    #[arg(long)]
    quorum_file: Option<PathBuf>,
    /// How much younger than that head the newest one may be, seconds.
    #[arg(long, default_value_t = 60, requires = "quorum_file")]
    max_unwitnessed_secs: u64,
}

#[derive(clap::Args)]
pub(crate) struct HeadArgs {
    #[command(flatten)]
    source: Source,
    /// Its size.
    size: u64,
}

pub(super) fn run_head(args: &HeadArgs) -> Outcome {
    let (_, reader) = args.source.open()?;
    let log = StoreLog::new(reader.as_ref()).map_err(anyhow::Error::new)?;
    let heads = log.heads(args.size, 1).map_err(anyhow::Error::new)?;
    let head = heads.into_iter().find(|head| head.text.lines().nth(1) == Some(&args.size.to_string()));
    let head = head.with_context(|| format!("no head of size {}", args.size))?;
    anstream::print!("{}", head.note.unwrap_or(head.text));
    Ok(ExitCode::SUCCESS)
}

impl Demand {
    /// The newest head with a quorum, if one is demanded.
    pub(super) fn check(
        &self,
        log: &dyn LogSource,
        newest_ms: u64,
    ) -> Result<Option<WitnessedHead>, Failure> {
        let Some(path) = &self.quorum_file else { return Ok(None) };
        let quorum = load_quorum(path).map_err(anyhow::Error::new)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?;
        let now_ms = u64::try_from(now.as_millis()).context("the clock")?;
        let unmet = |detail: String| Failure::refused(RefusalCode::WitnessQuorumUnmet, detail);
        let found = newest_witnessed(log, &quorum, now_ms).map_err(|fault| match fault {
            WitnessedFault::Invalid { .. } => {
                Failure::refused(RefusalCode::CosignatureInvalid, fault.to_string())
            }
            WitnessedFault::Unreadable(_) => Failure::Error(anyhow::Error::new(fault)),
        })?;
        let found =
            found.ok_or_else(|| unmet("no head has the cosignatures that are demanded".to_owned()))?;
        let behind_ms = newest_ms.saturating_sub(found.time_ms);
        if behind_ms > self.max_unwitnessed_secs.saturating_mul(1_000) {
            let size = found.size;
            return Err(unmet(format!(
                "the newest head with a quorum has size {size} and is {behind_ms} ms older than the newest head"
            )));
        }
        Ok(Some(found))
    }
}
