//! The exec door: runs a program if, and only if, an artifact approves these very bytes with these very arguments, here and now.
//!
//! In the order of the data: the program is opened, sealed and hashed ([`program`]); the gate makes ready; the holder key signs a fresh nonce;
//! [`crate::admit::admit`] judges; the outcome is reported; the process becomes the program ([`launch`]). Whatever fails before is a
//! [`Refusal`], and nothing ran.

pub mod environment;
pub mod launch;
pub mod program;

use crate::admit::{AdmissionInput, Measured, Permit, Rules, admit};
use crate::clock::ClockReading;
use crate::holder::key::HolderKey;
use crate::holder::{HolderProof, holder_preimage};
use crate::outcome::{OutcomeSpool, outcome};
use crate::pull::{Gate, PullLimits};
use crate::refusal::Refusal;
use crate::snapshot::store::StateDir;
use crate::source::Source;
use countersign_core::artifact::Receipt;
use countersign_core::bundle::TrustBundle;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::decision::LeafRef;
use countersign_core::name::Action;
use countersign_core::refusal::RefusalCode;
use countersign_core::verified_heads::VerifiedHeads;
use environment::EnvironmentName;
use program::SealedProgram;
use std::ffi::OsString;
use std::path::PathBuf;
use tokio::signal::unix::SignalKind;

/// The action that artifacts for this door name.
pub const EXEC_ACTION: &str = "exec";

/// What to run, and by which right.
#[derive(Debug)]
pub struct ExecOptions {
    /// Name, audiences, lease.
    pub rules: Rules,
    /// Memory of this gateway.
    pub state_dir: PathBuf,
    /// Pinned trust.
    pub bundle: TrustBundle,
    /// The artifact's text.
    pub artifact: String,
    /// The holder's key.
    pub holder: HolderKey,
    /// The program; no search in PATH.
    pub program: PathBuf,
    /// The exact arguments, `argv[0]` included; at least that.
    pub argv: Vec<OsString>,
    /// Names that are passed on beside the fixed ones.
    pub environment: Vec<EnvironmentName>,
    /// Bounds of pulls.
    pub limits: PullLimits,
}

/// A program that may be started, once.
#[derive(Debug)]
pub struct Cleared {
    permit: Permit,
    program: SealedProgram,
    argv: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Cleared {
    /// The artifact by whose right.
    #[must_use]
    pub const fn artifact(&self) -> LeafRef {
        self.permit.artifact()
    }

    /// Becomes the program. Returns only if that failed, and then the process should end: descriptors that it inherited may be closed.
    pub fn launch(self) -> Refusal {
        let artifact = self.permit.artifact();
        let now_ms = match ClockReading::now() {
            Ok(now) => now.wall_ms,
            Err(error) => return Refusal::new(RefusalCode::Internal, error).of_artifact(artifact),
        };
        let fault = launch::launch(self.permit, &self.program, &self.argv, &self.environment, now_ms);
        Refusal::new(fault.code(), fault).of_artifact(artifact)
    }
}

/// Judges; nothing runs yet. Needs a tokio runtime with all drivers. A refusal of a genuine artifact is reported to the authority, best effort.
pub async fn clear<S: Source>(options: &ExecOptions, source: &S) -> Result<Cleared, Refusal> {
    let state = open(options)?;
    let result = judge(options, &state, source).await;
    if let Err(refusal) = &result
        && let Some(artifact) = refusal.artifact()
    {
        report(&state, source, options, artifact, Some(refusal.code())).await;
    }
    result
}

fn open(options: &ExecOptions) -> Result<StateDir, Refusal> {
    StateDir::open(&options.state_dir).map_err(|error| Refusal::new(RefusalCode::SnapshotMissing, error))
}

async fn judge<S: Source>(options: &ExecOptions, state: &StateDir, source: &S) -> Result<Cleared, Refusal> {
    if options.argv.is_empty() {
        return Err(Refusal::new(
            RefusalCode::ArgumentsMismatch,
            "a program has at least its name as argument",
        ));
    }
    default_pipe_signal()?;
    let program =
        SealedProgram::open(&options.program).map_err(|refused| Refusal::new(refused.code(), refused))?;
    let measured = Measured {
        action: Action::parse(EXEC_ACTION).map_err(|error| Refusal::new(RefusalCode::Internal, error))?,
        arguments: launch::arguments_digest(&options.argv),
        workload: *program.digest(),
    };
    // Only to know what to pull and to sign; `admit` parses again what it judges.
    let receipt = Receipt::parse(&options.artifact).ok();
    let verified = VerifiedHeads::default();
    let gate = Gate {
        source,
        bundle: &options.bundle,
        state,
        rules: &options.rules,
        limits: &options.limits,
        verified: &verified,
    };
    let ready = gate.ready(receipt.as_ref()).await?;
    let now = ClockReading::now().map_err(|error| Refusal::new(RefusalCode::SnapshotMissing, error))?;
    let leaf_hash = receipt.as_ref().map_or(Sha256Digest::ZERO, |receipt| *receipt.leaf_hash());
    let holder = prove(&options.holder, &options.rules.name, &leaf_hash, now.wall_ms)?;
    let input = AdmissionInput {
        rules: &options.rules,
        snapshot: ready.snapshot.as_ref(),
        verified: &verified,
        now: &now,
        artifact: &options.artifact,
        link: ready.link.as_ref(),
        measured: &measured,
        holder: &holder,
    };
    let permit = admit(&input).map_err(|refusal| ready.explain(refusal))?;
    let mut environment = environment::scrub(std::env::vars_os(), &options.environment);
    environment.extend(environment::owner());
    Ok(Cleared { permit, program, argv: options.argv.clone(), environment })
}

/// Catches SIGPIPE from here on. Rust programs ignore it, and what is ignored stays ignored in the program that this process becomes; what is
/// caught is at its default there (execve(2)).
fn default_pipe_signal() -> Result<(), Refusal> {
    tokio::signal::unix::signal(SignalKind::pipe())
        .map(drop)
        .map_err(|error| Refusal::new(RefusalCode::Internal, error))
}

/// The door's own nonce, fresh for this presentation, signed by the key that the presenter could read.
fn prove(
    key: &HolderKey,
    gateway: &str,
    leaf_hash: &Sha256Digest,
    time_ms: u64,
) -> Result<HolderProof, Refusal> {
    let mut nonce = vec![0; 32];
    getrandom::fill(&mut nonce).map_err(|error| Refusal::new(RefusalCode::Internal, error))?;
    let signature = key.sign(&holder_preimage(gateway, leaf_hash, &nonce, time_ms)).to_vec();
    Ok(HolderProof { nonce, time_ms, signature })
}

async fn report<S: Source>(
    state: &StateDir,
    source: &S,
    options: &ExecOptions,
    artifact: LeafRef,
    refused: Option<RefusalCode>,
) {
    let Ok(now) = ClockReading::now() else { return };
    let outcome = outcome(artifact, refused, now.wall_ms);
    OutcomeSpool::new(state).report(source, outcome, options.limits.courtesy).await;
}

/// The whole door, for a process that does nothing else: judges, reports the start, becomes the program. Returns only a refusal, and then
/// nothing ran; the process should end.
pub fn run_exec<S: Source>(options: &ExecOptions, source: &S) -> Refusal {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Refusal::new(RefusalCode::Internal, error),
    };
    let cleared = match runtime.block_on(clear(options, source)) {
        Ok(cleared) => cleared,
        Err(refusal) => return refusal,
    };
    let state = match open(options) {
        Ok(state) => state,
        Err(refusal) => return refusal,
    };
    let artifact = cleared.artifact();
    // Before, since afterwards this program is gone. A crash here reports a start that didn't happen, never hides one that did.
    runtime.block_on(report(&state, source, options, artifact, None));
    let refusal = cleared.launch();
    runtime.block_on(report(&state, source, options, artifact, Some(refusal.code())));
    refusal
}
