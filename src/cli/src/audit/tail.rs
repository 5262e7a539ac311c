//! `audit tail`: follows a live authority over its admin listener, prints each leaf once a signed head covers it, and ends with the code when the
//! log goes back, forks or doesn't verify.
//!
//! Everything is recomputed here from the leaves: trees, control chain, signatures. With `--state` a run goes on where the last one stopped, and
//! remembers what it saw.

use super::verify::told;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::profile;
use anyhow::Context as _;
use countersign_authority::audit::{
    Follow, FollowFault, FollowState, HeadExport, LogSource, MAX_FOLLOW_STATE, Unreadable,
};
use countersign_client::{Client, ClientError};
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::record::Outcome as Told;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::note::SignedNote;
use countersign_core::refusal::RefusalCode;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Before an authority that doesn't answer is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Admin profile of a viewer or above.
    #[arg(long, env = "COUNTERSIGN_PROFILE", default_value = "admin.toml")]
    profile: PathBuf,
    /// What was seen, kept between runs. Without it every run begins at the first leaf.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Print nothing of what was there at the start.
    #[arg(long)]
    new_only: bool,
    /// End when everything was taken that is there.
    #[arg(long)]
    once: bool,
    /// How often to look for a new head, ms.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(50..=3_600_000))]
    every_ms: u64,
    /// Print one JSON document a line.
    #[arg(long)]
    json: bool,
}

/// The admin listener as a log. Calls wait on the runtime.
struct Live<'a> {
    runtime: &'a Runtime,
    client: &'a Client,
}

fn unreadable(error: ClientError) -> Unreadable {
    Unreadable(error.to_string())
}

impl LogSource for Live<'_> {
    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, Unreadable> {
        let page = self.runtime.block_on(self.client.leaves(from, count)).map_err(unreadable)?;
        if page.from != from {
            return Err(Unreadable(format!("asked for leaves from {from}, got them from {}", page.from)));
        }
        Ok(page.leaves.into_iter().map(|leaf| leaf.0).collect())
    }

    fn heads(&self, from: u64, count: u64) -> Result<Vec<HeadExport>, Unreadable> {
        let page = self.runtime.block_on(self.client.heads(from, count)).map_err(unreadable)?;
        let heads = page.heads.into_iter().map(|text| {
            if HeadBody::parse(&text).is_ok() {
                return Ok(HeadExport { text, note: None });
            }
            let note = SignedNote::parse(&text).map_err(|_| Unreadable("a head isn't one".to_owned()))?;
            Ok(HeadExport { text: note.text().to_owned(), note: Some(text) })
        });
        heads.collect()
    }

    fn blob(&self, _: &Sha256Digest) -> Result<Option<Vec<u8>>, Unreadable> {
        Ok(None)
    }
}

/// What asks this process to end.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    /// Waits for at most this long; `true` if the process is to end.
    async fn within(&mut self, time: Duration) -> bool {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => true,
            _ = self.interrupt.recv() => true,
            () = tokio::time::sleep(time) => false,
        }
    }
}

pub(super) fn run(args: &Args) -> Outcome {
    let admin = profile::open(&args.profile)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut ends = {
        let _inside = runtime.enter();
        Ends { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? }
    };
    let live = Live { runtime: &runtime, client: &admin.client };
    let mut kept = args.state.as_deref().map(read_state).transpose()?.flatten();
    let mut quiet = args.new_only;
    let begin = |kept: &Option<FollowState>| match kept {
        Some(state) => Follow::resume(&admin.bundle, state),
        None => Ok(Follow::new(&admin.bundle)),
    };
    let mut follow = match begin(&kept) {
        Ok(follow) => follow,
        Err(fault) => return told(&fault, false),
    };
    loop {
        let mut printed = Ok(());
        let looked = follow.look(&live, &mut |leaf, bytes| {
            if !quiet && printed.is_ok() {
                printed = print(leaf, bytes, args.json);
            }
        });
        printed?;
        let pause = match looked {
            Ok(more) => {
                // Without one, the run goes on from an earlier head, and hands out again what came after it.
                if let Some(state) = follow.state() {
                    if let (true, Some(path)) = (more, &args.state) {
                        write_state(path, &state)?;
                    }
                    kept = Some(state);
                }
                if more { Duration::ZERO } else { Duration::from_millis(args.every_ms) }
            }
            Err(FollowFault::Unreadable(fault)) => {
                anstream::eprintln!("{fault}");
                if args.once {
                    return Err(anyhow::Error::new(fault).into());
                }
                follow = match begin(&kept) {
                    Ok(follow) => follow,
                    Err(fault) => return told(&fault, false),
                };
                AGAIN_AFTER
            }
            Err(fault) => return told(&fault, false),
        };
        if pause > Duration::ZERO {
            quiet = false;
            if args.once {
                return Ok(ExitCode::SUCCESS);
            }
        }
        if runtime.block_on(ends.within(pause)) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

pub(super) fn read_state(path: &Path) -> Result<Option<FollowState>, Failure> {
    let length = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(anyhow::Error::new(error).context(path.display().to_string()).into()),
    };
    let invalid = |what: &dyn std::fmt::Display| {
        Failure::refused(RefusalCode::CheckpointInvalid, format!("{}: {what}", path.display()))
    };
    if length > MAX_FOLLOW_STATE {
        return Err(invalid(&"larger than any memory of this command"));
    }
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| invalid(&error))
}

/// Whole or not at all. A crash before it prints the leaves since the last time again, and never leaves one out.
pub(super) fn write_state(path: &Path, state: &FollowState) -> Result<(), Failure> {
    output::write_file(path, &serde_json::to_vec(state)?, false)
}

fn print(leaf: &Leaf, bytes: &[u8], json: bool) -> Result<(), Failure> {
    let hash = leaf_hash(bytes).to_hex();
    let (what, about) = summary(leaf);
    let mut out = std::io::stdout().lock();
    if json {
        let document = serde_json::json!({
            "index": leaf.index, "leaf": hash, "time_ms": leaf.time_ms, "kind": leaf.kind.name(), "what": what, "about": about,
        });
        writeln!(out, "{document}")?;
    } else {
        let about = if about.is_empty() { String::new() } else { format!(" {about}") };
        writeln!(out, "{:>8}  {}  {what}{about}", leaf.index, output::time(leaf.time_ms))?;
    }
    out.flush()?;
    Ok(())
}

/// What a leaf is, and what it is about, in a word each. Nothing of a host's text gets here that isn't of a narrow alphabet.
fn summary(leaf: &Leaf) -> (String, String) {
    match leaf.kind {
        Kind::Allow | Kind::Deny => match Decision::parse(&leaf.body) {
            Ok(decision) => {
                let verdict = match decision.verdict {
                    Verdict::Allow { .. } => "allow".to_owned(),
                    Verdict::Deny(code) => format!("deny {code}"),
                };
                let Decision { runtime, action, audience, .. } = decision;
                (verdict, format!("{runtime} {} {audience}", action.as_str()))
            }
            Err(_) => (leaf.kind.name().to_owned(), String::new()),
        },
        Kind::Outcome => match Told::parse(&leaf.body) {
            Ok(told) => {
                let result =
                    told.refused.map_or_else(|| "started".to_owned(), |code| format!("refused {code}"));
                (format!("outcome {result}"), format!("leaf {}", told.artifact.0))
            }
            Err(_) => (leaf.kind.name().to_owned(), String::new()),
        },
        kind => (kind.name().to_owned(), String::new()),
    }
}
