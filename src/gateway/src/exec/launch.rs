//! The launch: the last step, which takes a [`Permit`] and a sealed program and, if all goes well, never comes back.
//!
//! Refused: a program or arguments other than the permit's, a permit that expired on the way. The new program gets the permitted arguments, the
//! environment given, descriptors 0, 1 and 2 and no other, no way to gain privileges, and signal handling as a program expects it.

use super::program::SealedProgram;
use crate::admit::Permit;
use countersign_core::refusal::RefusalCode;
use countersign_core::request::argv_digest;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::libc;
use nix::sys::signal::SigSet;
use nix::unistd::execveat;
use std::convert::Infallible;
use std::ffi::{CString, NulError, OsString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt as _;

/// Why the program wasn't started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchFault {
    /// Another program than the permitted one.
    #[error("the sealed program isn't the permitted one")]
    Workload,
    /// Other arguments than the permitted ones.
    #[error("the arguments aren't the permitted ones")]
    Arguments,
    /// Too late.
    #[error("the permit expired before the program could be started")]
    Expired,
    /// A NUL inside of an argument or a variable.
    #[error("arguments and variables can't hold NUL")]
    Nul(#[from] NulError),
    /// The kernel refuses a preparation.
    #[error("{call}: {source}")]
    Preparation {
        /// Which call.
        call: &'static str,
        /// What it said.
        source: Errno,
    },
    /// Inherited descriptors can't be found.
    #[error("inherited descriptors: {0}")]
    Descriptors(io::Error),
    /// The kernel refuses the program.
    #[error("execveat: {0}")]
    Exec(Errno),
}

impl LaunchFault {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Workload => RefusalCode::WorkloadMismatch,
            Self::Arguments | Self::Nul(_) => RefusalCode::ArgumentsMismatch,
            Self::Expired => RefusalCode::Expired,
            Self::Exec(_) => RefusalCode::ProgramUnsupported,
            Self::Preparation { .. } | Self::Descriptors(_) => RefusalCode::Internal,
        }
    }
}

/// Digest of the exact arguments, program name included (PROTOCOL §3.4).
pub(super) fn arguments_digest(argv: &[OsString]) -> countersign_core::digest::Sha256Digest {
    let argv: Vec<&[u8]> = argv.iter().map(|argument| argument.as_bytes()).collect();
    argv_digest(&argv)
}

/// Replaces this process. Returns only if that failed; the process should then end.
pub(super) fn launch(
    permit: Permit,
    program: &SealedProgram,
    argv: &[OsString],
    environment: &[(OsString, OsString)],
    now_ms: u64,
) -> LaunchFault {
    // The executor trusts the permit, not its caller.
    if permit.workload() != program.digest() {
        return LaunchFault::Workload;
    }
    if *permit.arguments() != arguments_digest(argv) {
        return LaunchFault::Arguments;
    }
    if now_ms >= permit.expires_ms() {
        return LaunchFault::Expired;
    }
    match replace_process(program, argv, environment) {
        Ok(never) => match never {},
        Err(fault) => fault,
    }
}

fn replace_process(
    program: &SealedProgram,
    argv: &[OsString],
    environment: &[(OsString, OsString)],
) -> Result<Infallible, LaunchFault> {
    let argv =
        argv.iter().map(|argument| CString::new(argument.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let environment = (environment.iter())
        .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<Vec<_>, _>>()?;
    let failed = |call| move |source| LaunchFault::Preparation { call, source };
    nix::sys::prctl::set_no_new_privs().map_err(failed("no_new_privs"))?;
    SigSet::empty().thread_set_mask().map_err(failed("signal mask"))?;
    close_inherited().map_err(LaunchFault::Descriptors)?;
    // execve(2) and nothing that wraps it: the execvp of libc, which std uses, gives what the kernel doesn't know to /bin/sh, and then a shell
    // would run bytes that were approved as a program. By descriptor, so that no path is looked up any more.
    execveat(program.memory(), c"", &argv, &environment, AtFlags::AT_EMPTY_PATH).map_err(LaunchFault::Exec)
}

/// Closes what this process inherited without close-on-exec. Its own descriptors all have the flag and end with it.
fn close_inherited() -> io::Result<()> {
    for descriptor in inherited()? {
        // Nothing in this process owns it, so nothing closes it twice.
        nix::unistd::close(descriptor)?;
    }
    Ok(())
}

fn inherited() -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo")? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let number = number.ok_or(io::ErrorKind::InvalidData)?;
        if number <= libc::STDERR_FILENO {
            continue;
        }
        let info = match std::fs::read_to_string(entry.path()) {
            Ok(info) => info,
            // Closed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // proc(5), /proc/pid/fdinfo: flags in octal, O_CLOEXEC among them.
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
        let flags =
            flags.and_then(|flags| i32::from_str_radix(flags, 8).ok()).ok_or(io::ErrorKind::InvalidData)?;
        if flags & libc::O_CLOEXEC == 0 {
            found.push(number);
        }
    }
    Ok(found)
}
