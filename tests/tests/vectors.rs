//! `make test` says aloud where the real-world vectors are absent, and CI doesn't go without.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn told(vectors: &Path, ci: bool) -> Output {
    let mut command = Command::new(root().join("tests/vectors/told.sh"));
    command.env_remove("CI").env("VECTORS", vectors);
    if ci {
        command.env("CI", "true");
    }
    command.output().unwrap()
}

#[test]
fn absent_vectors_are_told_before_and_after_the_tests_and_end_a_run_in_ci() {
    let there = tempfile::tempdir().unwrap();
    let absent = there.path().join("absent");
    for ci in [false, true] {
        let silent = told(there.path(), ci);
        assert!(silent.status.success() && silent.stderr.is_empty() && silent.stdout.is_empty());
        let loud = told(&absent, ci);
        assert_eq!(loud.status.success(), !ci);
        let said = String::from_utf8(loud.stderr).unwrap();
        assert!(
            said.contains("VECTORS ARE ABSENT") && said.contains("absent") && said.lines().count() > 5,
            "{said}"
        );
    }
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let recipe: Vec<&str> = makefile
        .lines()
        .skip_while(|line| !line.starts_with("test:"))
        .skip(1)
        .take_while(|line| line.starts_with('\t'))
        .collect();
    let (first, last) = (recipe.first().unwrap(), recipe.last().unwrap());
    assert_eq!(*first, "\t@tests/vectors/told.sh");
    // Also after tests that fail, whose status stands.
    assert!(last.contains("$(CARGO) test"), "{last}");
    assert!(last.contains("status=$$?; tests/vectors/told.sh; exit $$status"), "{last}");
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.contains("export CI=true") && ci.contains("[ -d \"$VECTORS\" ] ||"), "{ci}");
}
