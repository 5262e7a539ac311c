//! The program behind the gateway, and its canary: a file that grows by a line whenever the program runs.

use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A small real executable with a canary of its own.
pub struct Program {
    folder: TempDir,
    path: PathBuf,
}

impl Program {
    /// A copy of the canary program under a name of its own.
    ///
    /// # Panics
    /// When files can't be written.
    #[must_use]
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("temporary directory: {error}"));
        let path = folder.path().join("program");
        copy(&crate::tool("canary"), &path);
        Self { folder, path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap_or_else(|| panic!("temporary paths are UTF-8"))
    }

    /// The canary's path: the program's first argument.
    #[must_use]
    pub fn canary(&self) -> String {
        self.folder.path().join("canary").display().to_string()
    }

    /// How often it has run.
    #[must_use]
    pub fn runs(&self) -> usize {
        std::fs::read_to_string(self.canary()).map_or(0, |text| text.lines().count())
    }

    /// Makes it another program under the same path: same behaviour, other bytes.
    ///
    /// # Panics
    /// When the file can't be written.
    pub fn change(&self) {
        let mut bytes = std::fs::read(&self.path).unwrap_or_else(|error| panic!("program: {error}"));
        bytes.push(0);
        let neighbour = self.folder.path().join("program.new");
        std::fs::write(&neighbour, bytes).unwrap_or_else(|error| panic!("program: {error}"));
        make_executable(&neighbour);
        std::fs::rename(&neighbour, &self.path).unwrap_or_else(|error| panic!("program: {error}"));
    }
}

impl Default for Program {
    fn default() -> Self {
        Self::new()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    make_executable(to);
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
