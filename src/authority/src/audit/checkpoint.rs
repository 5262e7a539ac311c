//! Verification from a checkpoint: an auditor who verified up to a head verifies what was added since.
//!
//! Comes in: a log, the pinned trust bundle, and what an earlier verification kept. Goes out: that the log goes on from that very head, by its
//! leaves in all three trees, and is right from there; and what to keep for the next time. Refused: a checkpoint that isn't whole, isn't signed by a
//! key that its control leaves vouch for, or is of another log; a log that ends before it or goes on from another head.
//!
//! The state of the control chain comes from the control leaves in the checkpoint, which its signed head fixes. What an outcome says of a leaf
//! below the checkpoint is held against the checkpoint's own tree, never taken from the source.

use super::follow::{Follow, FollowFault, FollowState};
use super::outcomes::OutcomeFault;
use super::verify::{FindingKind, Report, Walk};
use super::{Finding, Leaves, LogSource};
use crate::outcome::Unfounded;
use countersign_core::bundle::TrustBundle;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::leaf_hash;
use countersign_core::merkle::{Frontier, Sha256Tree, verify_inclusion};

/// What a verification from a checkpoint amounts to.
#[derive(Clone, Debug)]
pub struct CheckpointReport {
    /// The log; heads and kinds are those since the checkpoint, whose own head is counted.
    pub report: Report,
    /// Size of the checkpoint; 0 without one.
    pub from: u64,
    /// What to keep for the next time.
    pub state: FollowState,
}

/// Verifies a log from a checkpoint, or from its first leaf, and keeps what the next verification begins with.
///
/// # Errors
/// [`FollowFault`].
pub fn verify_from(
    source: &dyn LogSource,
    bundle: &TrustBundle,
    checkpoint: Option<&FollowState>,
    progress: &mut dyn FnMut(u64),
) -> Result<CheckpointReport, FollowFault> {
    let Some(state) = checkpoint else {
        let mut follow = Follow::new(bundle);
        follow.walk.run(source, progress).map_err(wrong)?;
        return reported(&follow, 0);
    };
    let mut follow = Follow::resume(bundle, state)?;
    let (from, root) = (follow.size(), follow.walk.sha256.root());
    joined(&follow, source)?;
    follow.walk.run(source, progress)?;
    below(&follow.walk, source, (from, &root))?;
    follow.walk.below.clear();
    reported(&follow, from)
}

fn wrong(finding: Finding) -> FollowFault {
    match finding.kind {
        FindingKind::Unreadable(unreadable) => FollowFault::Unreadable(unreadable),
        _ => FollowFault::Wrong(finding),
    }
}

fn reported(follow: &Follow<'_>, from: u64) -> Result<CheckpointReport, FollowFault> {
    let report = follow.walk.report().map_err(wrong)?;
    let state = follow.state().ok_or(FollowFault::State("its head"))?;
    Ok(CheckpointReport { report, from, state })
}

/// The log has the checkpoint's head, or there is nothing to go on from.
fn joined(follow: &Follow<'_>, source: &dyn LogSource) -> Result<(), FollowFault> {
    let size = follow.size();
    let page = source.heads(size, 1)?;
    match page.first() {
        None => Err(FollowFault::RolledBack(size)),
        Some(head) if Some(&head.text) == follow.head.as_ref() => Ok(()),
        Some(head) => Err(Follow::missing(size, head)),
    }
}

/// Every leaf below the checkpoint that an outcome names is in the checkpoint's tree, at its place.
pub(super) fn below(
    walk: &Walk<'_>,
    source: &dyn LogSource,
    (size, root): (u64, &Sha256Digest),
) -> Result<(), FollowFault> {
    let mut open = walk.below.clone();
    let mut failed = None;
    for (name, outcome) in &walk.below {
        let Some(path) = source.inclusion(name.0, size)? else { break };
        if verify_inclusion::<Sha256Tree>(&name.1, name.0, size, &path, root).is_err() {
            failed.get_or_insert(*outcome);
        }
        open.remove(name);
    }
    if failed.is_none() && !open.is_empty() {
        // A source without paths is read once more, up to the checkpoint.
        let (mut tree, mut leaves) = (Frontier::<Sha256Tree>::new(), Leaves::new(source));
        while leaves.next < size {
            let Some((index, bytes)) = leaves.next()? else { break };
            let hash = leaf_hash(&bytes);
            open.remove(&(index, hash));
            tree.append(hash, |_| {}).map_err(|_| FollowFault::State("its size"))?;
        }
        if tree.root() != *root {
            return Err(FollowFault::Forked(format!("other leaves below size {size}")));
        }
        failed = open.values().min().copied();
    }
    failed.map_or(Ok(()), |index| {
        let kind = FindingKind::Outcome(OutcomeFault::Unfounded(Unfounded::NoSuchLeaf));
        Err(FollowFault::Wrong(Finding { leaf: Some(index), head: None, kind }))
    })
}
