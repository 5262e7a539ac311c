//! Runs one target over seeds and mutations of them until a deadline.

use super::{Mutator, Target};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How long one input may take before it counts as a finding: a thousand times what the slowest takes in a release build.
const MAX_TIME: Duration = Duration::from_secs(10);

/// What was run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Session {
    /// Inputs that were tried.
    pub inputs: u64,
    /// The slowest of them.
    pub slowest: Duration,
}

/// An input that a target didn't take well.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which target.
    pub target: &'static str,
    /// The bytes.
    pub input: Vec<u8>,
    /// Whether it panicked; otherwise it took too long.
    pub panicked: bool,
}

/// Every seed as it is, then mutations until `time` is over.
///
/// # Errors
/// The first input that makes the target panic or take too long.
pub fn run(target: Target, seeds: &[Vec<u8>], time: Duration, seed: u64) -> Result<Session, Finding> {
    let end = Instant::now() + time;
    let mut session = Session::default();
    for input in seeds {
        judge(target, input, &mut session)?;
    }
    let mut mutator = Mutator::new(seed);
    let pick = |mutator: &mut Mutator| seeds.get(mutator.below(seeds.len())).map_or(&[][..], Vec::as_slice);
    // The clock is looked at before each input, so that a slow target ends in time too; at least one mutation is tried.
    loop {
        let mut input = pick(&mut mutator).to_vec();
        let other = pick(&mut mutator);
        mutator.mutate(&mut input, other);
        judge(target, &input, &mut session)?;
        if Instant::now() >= end {
            return Ok(session);
        }
    }
}

fn judge(target: Target, input: &[u8], session: &mut Session) -> Result<(), Finding> {
    let start = Instant::now();
    let panicked = catch_unwind(AssertUnwindSafe(|| (target.body)(input))).is_err();
    let taken = start.elapsed();
    session.inputs += 1;
    session.slowest = session.slowest.max(taken);
    if panicked || taken > MAX_TIME {
        return Err(Finding { target: target.name, input: input.to_vec(), panicked });
    }
    Ok(())
}
