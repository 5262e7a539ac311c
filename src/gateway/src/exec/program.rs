//! The program: opened once, copied into memory that nobody can change any more, and hashed there. What was hashed is what runs.
//!
//! Comes in: a path. Goes out: a [`SealedProgram`], the digest of exactly the bytes that it would execute. A path that is swapped afterwards
//! changes nothing. Refused: what isn't a regular, executable file of at most [`MAX_PROGRAM_BYTES`]; setuid and setgid programs; scripts and
//! everything else that isn't an ELF program for this very machine, since the kernel would then run an interpreter that nobody hashed.
//!
//! Symbolic links are followed: the bytes are judged, not their name.

use countersign_core::digest::Sha256Digest;
use countersign_core::refusal::RefusalCode;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Largest program. It is held in memory once while it runs, so this bounds what one execution can take; the largest programs in common use
/// have some hundreds of megabytes.
pub const MAX_PROGRAM_BYTES: u64 = countersign_core::request::MAX_PROGRAM_LEN;

/// Bytes of an ELF header up to and with `e_machine` (System V gABI, ELF header).
const ELF_HEADER: usize = 20;

/// Why a file isn't executed.
#[derive(Debug, thiserror::Error)]
pub enum ProgramRefused {
    /// Can't be opened or read.
    #[error("the program can't be read: {0}")]
    Io(#[from] io::Error),
    /// A directory, device, pipe or socket.
    #[error("the program isn't a regular file")]
    NotAFile,
    /// No execute permission for anyone.
    #[error("the program isn't executable")]
    NotExecutable,
    /// Larger than [`MAX_PROGRAM_BYTES`].
    #[error("the program has more than {MAX_PROGRAM_BYTES} bytes")]
    TooLarge,
    /// Setuid or setgid.
    #[error("setuid and setgid programs aren't executed: they would run as somebody else")]
    Privileged,
    /// Begins with `#!`.
    #[error(
        "the program is a script: the kernel would run its interpreter, which nobody approved; ask for an artifact for the interpreter and name the script in the arguments"
    )]
    Script,
    /// Not an ELF program of this machine.
    #[error("the program isn't an ELF executable for this machine")]
    Format,
    /// The kernel can't hold a sealed copy.
    #[error("no sealed memory: {0}")]
    Seal(Errno),
}

impl ProgramRefused {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Io(_) | Self::NotAFile | Self::NotExecutable | Self::TooLarge => {
                RefusalCode::ProgramUnreadable
            }
            Self::Privileged | Self::Script | Self::Format => RefusalCode::ProgramUnsupported,
            Self::Seal(_) => RefusalCode::Internal,
        }
    }
}

/// A program in sealed memory.
#[derive(Debug)]
pub struct SealedProgram {
    memory: File,
    digest: Sha256Digest,
}

impl SealedProgram {
    /// Opens, copies, seals, hashes; in this order, so that the digest is of bytes that can't change.
    pub fn open(path: &Path) -> Result<Self, ProgramRefused> {
        // Non-blocking, so that a pipe at this path can't hold the gate up. Close-on-exec by std.
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ProgramRefused::NotAFile);
        }
        if metadata.mode() & 0o6000 != 0 {
            return Err(ProgramRefused::Privileged);
        }
        if metadata.mode() & 0o111 == 0 {
            return Err(ProgramRefused::NotExecutable);
        }
        if metadata.len() > MAX_PROGRAM_BYTES {
            return Err(ProgramRefused::TooLarge);
        }
        let mut memory = File::from(sealable().map_err(ProgramRefused::Seal)?);
        // The file may grow while it is read.
        let copied = io::copy(&mut file.take(MAX_PROGRAM_BYTES + 1), &mut memory)?;
        if copied > MAX_PROGRAM_BYTES {
            return Err(ProgramRefused::TooLarge);
        }
        let seals =
            SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).map_err(ProgramRefused::Seal)?;
        memory.rewind()?;
        check_format(&header(&mut memory)?)?;
        memory.rewind()?;
        let digest = digest(&mut memory)?;
        Ok(Self { memory, digest })
    }

    /// SHA-256 of the sealed bytes.
    #[must_use]
    pub const fn digest(&self) -> &Sha256Digest {
        &self.digest
    }

    /// The sealed memory.
    pub(super) const fn memory(&self) -> &File {
        &self.memory
    }
}

fn sealable() -> Result<std::os::fd::OwnedFd, Errno> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // MFD_EXEC is known from Linux 6.3 on, where leaving it out may make memory that can't be executed; before, it is an invalid argument.
    let executable = flags | MFdFlags::from_bits_retain(libc::MFD_EXEC);
    match memfd_create(c"countersign-exec", executable) {
        Err(Errno::EINVAL) => memfd_create(c"countersign-exec", flags),
        result => result,
    }
}

fn digest(memory: &mut File) -> io::Result<Sha256Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match memory.read(&mut buffer)? {
            0 => return Ok(Sha256Digest::new(hash.finalize().into())),
            count => hash.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

fn header(file: &mut File) -> io::Result<Vec<u8>> {
    let mut header = Vec::with_capacity(ELF_HEADER);
    let limit = u64::try_from(ELF_HEADER).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut header)?;
    Ok(header)
}

/// An executable or position-independent ELF file with the class, byte order and machine of this very program: anything else might be given
/// to an interpreter by the kernel (`#!`, binfmt_misc).
fn check_format(program: &[u8]) -> Result<(), ProgramRefused> {
    if program.starts_with(b"#!") {
        return Err(ProgramRefused::Script);
    }
    let own = header(&mut File::open("/proc/self/exe")?)?;
    // e_ident up to the version, then e_machine (System V gABI, ELF header).
    let same = |range: std::ops::Range<usize>| match (program.get(range.clone()), own.get(range)) {
        (Some(theirs), Some(ours)) => theirs == ours,
        _ => false,
    };
    // e_type in either byte order: ET_EXEC or ET_DYN.
    let kind = program.get(16..18).is_some_and(|kind| matches!(kind, [2 | 3, 0] | [0, 2 | 3]));
    if same(0..7) && same(18..20) && kind { Ok(()) } else { Err(ProgramRefused::Format) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::digest::sha256;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    fn refused(bytes: &[u8], mode: u32) -> RefusalCode {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        SealedProgram::open(&path).unwrap_err().code()
    }

    #[test]
    fn the_digest_is_of_the_sealed_bytes_and_these_cant_change() {
        let path = std::env::current_exe().unwrap();
        let program = SealedProgram::open(&path).unwrap();
        assert_eq!(*program.digest(), sha256(&std::fs::read(&path).unwrap()));
        let mut memory = program.memory();
        assert!(memory.write_all(b"x").is_err());
        assert!(memory.set_len(1).is_err());
        assert!(fcntl(memory, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err());
    }

    #[test]
    fn a_path_that_is_replaced_after_it_was_opened_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::copy("/bin/sh", &path).unwrap();
        let program = SealedProgram::open(&path).unwrap();
        let before = *program.digest();
        std::fs::write(&path, b"#!/bin/sh\n").unwrap();
        let mut memory = program.memory().try_clone().unwrap();
        memory.rewind().unwrap();
        assert_eq!(digest(&mut memory).unwrap(), before);
    }

    #[test]
    fn scripts_foreign_formats_and_privileged_programs_are_refused() {
        let shell = std::fs::read("/bin/sh").unwrap();
        assert_eq!(refused(b"#!/bin/sh\nexit 0\n", 0o755), RefusalCode::ProgramUnsupported);
        assert_eq!(refused(b"", 0o755), RefusalCode::ProgramUnsupported);
        assert_eq!(refused(b"\x7fELF", 0o755), RefusalCode::ProgramUnsupported);
        assert_eq!(refused(&shell, 0o4755), RefusalCode::ProgramUnsupported);
        assert_eq!(refused(&shell, 0o2755), RefusalCode::ProgramUnsupported);
        for (place, value) in [(4, 9), (5, 9), (16, 1), (18, 0xee)] {
            let mut foreign = shell.clone();
            foreign[place] = value;
            assert_eq!(refused(&foreign, 0o755), RefusalCode::ProgramUnsupported, "byte {place}");
        }
        assert_eq!(refused(&shell, 0o644), RefusalCode::ProgramUnreadable);
    }

    #[test]
    fn what_isnt_a_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [dir.path(), &pipe, Path::new("/dev/null"), Path::new("/nowhere/at/all")] {
            assert_eq!(SealedProgram::open(path).unwrap_err().code(), RefusalCode::ProgramUnreadable);
        }
    }

    #[test]
    fn a_file_beyond_the_bound_is_refused_before_it_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        // Sparse: nothing is written.
        let file = File::create(&path).unwrap();
        file.set_len(MAX_PROGRAM_BYTES + 1).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(SealedProgram::open(&path), Err(ProgramRefused::TooLarge)));
    }
}
