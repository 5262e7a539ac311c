//! Who is at the other end of the local socket, as the kernel and the agent's own eyes tell it.
//!
//! Comes in: a connected socket and the rules. Goes out: the rule that maps the process to a runtime. Refused: a process that no rule matches, one
//! that ended, changed its user or was replaced while it was looked at, one outside of the agent's process namespace.
//!
//! User and group are the kernel's word (SO_PEERCRED) and hold against every other user. The executable is what /proc/PID/exe opens: compared with
//! a rule's path by device and inode as the agent sees that path, never by name, so that a process in a mount namespace of its own gains nothing;
//! and hashed from that one open file. It tells programs of different users apart and finds mistakes; a user who can start a mapped program
//! can also act through it (ptrace, preloading, handing on a connection). The kernel may also have given the process id to another process before
//! the agent looked: the uid and gid of that process must still be those of the connection. What follows is host-asserted, and artifacts say so.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use countersign_core::digest::Sha256Digest;
use countersign_core::refusal::RefusalCode;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::config::{Executable, RuntimeRule};
use crate::program::{ProgramError, hash};
use crate::refused::Refused;

/// Longest /proc file that is read.
const MAX_PROC_FILE: u64 = 16 * 1024;

/// Why a process isn't mapped to a runtime.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// The kernel doesn't say who it is.
    #[error("the kernel doesn't tell who is connected: {0}")]
    Credentials(nix::Error),
    /// /proc doesn't say what it is, or it has ended.
    #[error("process {pid} can't be looked at: {source}")]
    Unseen { pid: i32, source: std::io::Error },
    /// It is another process, or another user's, than when it connected.
    #[error("process {0} changed while it was looked at")]
    Changed(i32),
    /// Its executable can't be hashed.
    #[error("the executable of process {pid}: {source}")]
    Executable { pid: i32, source: ProgramError },
    /// No rule.
    #[error("no rule matches process {pid} of user {uid}")]
    NoRule { pid: i32, uid: u32 },
}

impl From<PeerError> for Refused {
    fn from(error: PeerError) -> Self {
        // What the agent saw of the process is for the log; the process itself learns only that it isn't known.
        tracing::warn!(code = "peer-unknown", error = %error, "a local caller is refused");
        Self::new(RefusalCode::PeerUnknown, "no rule of the agent maps this process to a runtime")
    }
}

/// The process at the other end, as it was when it connected.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: i32,
    started: u64,
}

impl Peer {
    /// Asks the kernel. To be called as soon as the connection is accepted.
    pub(crate) fn of(socket: &impl AsFd) -> Result<Self, PeerError> {
        let credentials = getsockopt(socket, PeerCredentials).map_err(PeerError::Credentials)?;
        let (uid, gid, pid) = (credentials.uid(), credentials.gid(), credentials.pid());
        // unix(7): 0 for a process that has no number in this namespace.
        if pid <= 0 {
            return Err(PeerError::Changed(pid));
        }
        let peer = Self { uid, gid, pid, started: start_time(pid)? };
        peer.check_owner()?;
        Ok(peer)
    }

    /// The first rule that matches. Blocks: it may hash a whole executable.
    pub(crate) fn rule<'r>(&self, rules: &'r [RuntimeRule]) -> Result<&'r RuntimeRule, PeerError> {
        let exe = self.open(&format!("/proc/{}/exe", self.pid))?;
        let about = exe.metadata().map_err(|source| PeerError::Unseen { pid: self.pid, source })?;
        let inode = (about.dev(), about.ino());
        let mut digest = None;
        let mut found = None;
        for rule in rules {
            if rule.uid.is_some_and(|uid| uid != self.uid) || rule.gid.is_some_and(|gid| gid != self.gid) {
                continue;
            }
            if let Some(executable) = &rule.executable
                && !self.executes(executable, inode, &exe, &mut digest)?
            {
                continue;
            }
            found = Some(rule);
            break;
        }
        self.still()?;
        found.ok_or(PeerError::NoRule { pid: self.pid, uid: self.uid })
    }

    fn executes(
        &self,
        rule: &Executable,
        inode: (u64, u64),
        exe: &File,
        digest: &mut Option<Sha256Digest>,
    ) -> Result<bool, PeerError> {
        if let Some(path) = &rule.path {
            // As the agent sees the path: what the process calls it proves nothing.
            match std::fs::metadata(path) {
                Ok(about) if (about.dev(), about.ino()) == inode => {}
                _ => return Ok(false),
            }
        }
        let Some(wanted) = &rule.sha256 else { return Ok(true) };
        let found = match digest {
            Some(found) => *found,
            None => {
                let found = hash(exe).map_err(|source| PeerError::Executable { pid: self.pid, source })?;
                *digest.insert(found)
            }
        };
        Ok(found == *wanted)
    }

    /// Whether the process is still the one that connected, running as the same user.
    pub(crate) fn still(&self) -> Result<(), PeerError> {
        if start_time(self.pid)? != self.started {
            return Err(PeerError::Changed(self.pid));
        }
        self.check_owner()
    }

    fn check_owner(&self) -> Result<(), PeerError> {
        let status = read(self.pid, "status")?;
        if (effective(&status, "Uid:"), effective(&status, "Gid:")) == (Some(self.uid), Some(self.gid)) {
            Ok(())
        } else {
            Err(PeerError::Changed(self.pid))
        }
    }

    fn open(&self, path: &str) -> Result<File, PeerError> {
        File::open(Path::new(path)).map_err(|source| PeerError::Unseen { pid: self.pid, source })
    }
}

/// Field 22 of proc_pid_stat(5). The name before it may hold anything, so counting begins behind the last parenthesis.
fn start_time(pid: i32) -> Result<u64, PeerError> {
    let stat = read(pid, "stat")?;
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_ascii_whitespace());
    let field = fields.and_then(|mut fields| fields.nth(19)).and_then(|field| field.parse().ok());
    field.ok_or(PeerError::Changed(pid))
}

/// The second number behind a label: real, effective, saved, file system.
fn effective(status: &str, label: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn read(pid: i32, name: &str) -> Result<String, PeerError> {
    use std::io::Read as _;
    let unseen = |source| PeerError::Unseen { pid, source };
    let file = File::open(format!("/proc/{pid}/{name}")).map_err(unseen)?;
    let mut bytes = Vec::new();
    file.take(MAX_PROC_FILE).read_to_end(&mut bytes).map_err(unseen)?;
    // A process may name itself in any bytes.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
