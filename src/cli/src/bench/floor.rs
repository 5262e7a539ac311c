//! The cryptographic floor of one artifact on this machine, in the same run: what nobody can save.
//!
//! Comes in: a typical quote, holder signature and leaf. Goes out: the time of one verification of an AK's quote signature (P-256), one of a
//! holder signature (Ed25519, strict) and three leaf hashes (SHA-256, SHA3-512, BLAKE2b-512), on an otherwise idle process.

use super::host::Typical;
use super::stats::median;
use anyhow::Context;
use countersign_core::merkle::{Blake2b512Tree, Sha3_512Tree, Sha256Tree, TreeHash};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Medians of as many rounds are taken, and the best of them: interruptions only ever make it slower.
const ROUNDS: usize = 7;
const ITERATIONS: usize = 200;

/// Times of one artifact's cryptography.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    pub(crate) quote_signature: Duration,
    pub(crate) holder_signature: Duration,
    pub(crate) leaf_hashes: Duration,
}

impl Floor {
    /// All of it, microseconds.
    pub(crate) fn micros(&self) -> f64 {
        (self.quote_signature + self.holder_signature + self.leaf_hashes).as_secs_f64() * 1e6
    }
}

/// Measures with the very keys, messages and code that the authority verifies with.
pub(crate) fn measure(typical: &Typical) -> anyhow::Result<Floor> {
    typical.verify_quote().context("a simulated quote doesn't verify")?;
    typical.verify_holder().context("a simulated holder signature doesn't verify")?;
    let leaf = typical.leaf.as_slice();
    Ok(Floor {
        quote_signature: best_median(|| typical.verify_quote().is_ok()),
        holder_signature: best_median(|| typical.verify_holder().is_ok()),
        leaf_hashes: best_median(|| {
            let leaf = black_box(leaf);
            black_box(Sha256Tree::leaf_hash(leaf));
            black_box(Sha3_512Tree::leaf_hash(leaf));
            black_box(Blake2b512Tree::leaf_hash(leaf));
            true
        }),
    })
}

/// Best of several medians.
fn best_median(mut work: impl FnMut() -> bool) -> Duration {
    let rounds = (0..ROUNDS).filter_map(|_| {
        let mut nanos: Vec<u64> = (0..ITERATIONS)
            .map(|_| {
                let began = Instant::now();
                black_box(work());
                u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
            })
            .collect();
        median(&mut nanos)
    });
    Duration::from_nanos(rounds.min().unwrap_or(0))
}
