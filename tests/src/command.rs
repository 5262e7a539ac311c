//! Running the binaries under test and reading what they said.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Runs to the end, without standard input.
    pub fn of(command: &mut Command) -> Self {
        let output =
            command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self::from(output)
    }

    /// Its standard output; the test ends if it failed.
    #[track_caller]
    pub fn expect(self, what: &str) -> String {
        assert_eq!(self.status, Some(0), "{what}: {self:#?}");
        self.out
    }

    /// The stable code of its refusal, if it was refused.
    pub fn refusal(&self) -> Option<&str> {
        let line = self.err.lines().find_map(|line| line.strip_prefix("refused: "))?;
        line.split(": ").next()
    }

    /// The test ends unless it was refused with this code and a status other than 0.
    #[track_caller]
    pub fn refused(&self, code: &str) {
        assert_eq!(self.refusal(), Some(code), "{self:#?}");
        assert!(self.status.is_some_and(|status| status != 0), "{self:#?}");
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The directory into which cargo puts this build's binaries: above the `deps` of the running test.
fn binaries() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("current executable: {error}"));
    let deps = test.parent().unwrap_or_else(|| panic!("{} has no folder", test.display()));
    let folder = if deps.ends_with("deps") { deps.parent() } else { Some(deps) };
    folder.unwrap_or_else(|| panic!("{} has no folder", deps.display())).to_path_buf()
}

/// A binary of this workspace. `cargo test --workspace` has built it; a test without it is a defect, so it isn't skipped.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let path = binaries().join(name);
    assert!(
        path.is_file(),
        "{} isn't built; run `cargo build --workspace --all-features` first",
        path.display()
    );
    path
}

/// The `countersign` binary, with libraries kept quiet.
#[must_use]
pub fn countersign() -> Command {
    let mut command = Command::new(tool("countersign"));
    command.env("TSS2_LOG", "all+none").env_remove("COUNTERSIGN_PROFILE");
    command
}
