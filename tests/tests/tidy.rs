//! Rules of the house that a compiler doesn't check: file and function lengths, headers, words that mark unfinished work, links, licences.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;
/// As small as the lock file can be kept; a ratchet. A dozen of them are PostgreSQL's client asking other operating systems for a user's name;
/// they are in the lock file and never built. Sixteen are Criterion's, which only the benches use.
const MAX_PACKAGES: usize = 480;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if !name.starts_with("target") && name != ".git" {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

fn is_test(path: &Path) -> bool {
    let text = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    text.starts_with("tests/")
        || text.contains("/tests/")
        || text.contains("/benches/")
        || text.ends_with("tests.rs")
}

fn fail(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut problems = Vec::new();
    for path in files(&[".rs"]) {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if lines > MAX_FILE_LINES {
            problems.push(format!("{}: {lines} lines", path.display()));
        }
        // The cases of a compile-fail test say nothing but what must not compile.
        let case = path.parent().is_some_and(|folder| folder.ends_with("tests/permit"));
        if !case && !text.starts_with("//!") {
            problems.push(format!("{}: doesn't open with //!", path.display()));
        }
    }
    fail(&problems);
}

/// A function runs from the line that declares it to the line that closes it at the same indentation; the code is formatted, so that holds.
#[test]
fn functions_are_short() {
    let mut problems = Vec::new();
    for path in files(&[".rs"]) {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut open: Option<(usize, usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let code = line.trim_start();
            if let Some((start, at, name)) = &open {
                if indent == *at && code.starts_with('}') {
                    let length = number - start + 1;
                    if length > MAX_FUNCTION_LINES {
                        problems.push(format!("{}:{}: {name} has {length} lines", path.display(), start + 1));
                    }
                    open = None;
                }
                continue;
            }
            let words: Vec<&str> = code.split_whitespace().collect();
            let declares = words.iter().position(|word| *word == "fn");
            let qualifiers = ["pub", "pub(crate)", "pub(super)", "async", "const"];
            if let Some(at) = declares
                && words.iter().take(at).all(|word| qualifiers.contains(word))
                && !code.ends_with(';')
                && !code.ends_with('}')
            {
                open = Some((number, indent, words.get(at + 1).unwrap_or(&"?").to_string()));
            }
        }
    }
    fail(&problems);
}

#[test]
fn nothing_is_left_for_later() {
    let marks = ["todo!", "unimplemented!", "FIXME", "XXX", "#[ignore", "#[allow("];
    let mut problems = Vec::new();
    for path in files(&[".rs"]) {
        if path.ends_with("tidy.rs") {
            continue;
        }
        for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            for mark in marks.iter().filter(|mark| line.contains(**mark)) {
                problems.push(format!("{}:{}: {mark}", path.display(), number + 1));
            }
            let sleeps = line.contains("thread::sleep");
            // A stand-in for a slow device takes its time; a test doesn't.
            let device = path.to_str().unwrap().contains("fixture") || line.contains("delay_ms");
            if sleeps && is_test(&path) && !device {
                problems.push(format!(
                    "{}:{}: tests wait for conditions, not for time",
                    path.display(),
                    number + 1
                ));
            }
        }
    }
    fail(&problems);
}

#[test]
fn links_between_documents_resolve() {
    let mut problems = Vec::new();
    for path in files(&[".md"]) {
        let text = std::fs::read_to_string(&path).unwrap();
        for piece in text.split("](").skip(1) {
            let target = piece.split([')', '#', ' ']).next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !path.parent().unwrap().join(target).exists() {
                problems.push(format!("{}: {target}", path.display()));
            }
        }
    }
    fail(&problems);
}

#[test]
fn requirements_point_at_tests_that_exist() {
    let page = std::fs::read_to_string(root().join("docs/requirements.md")).unwrap();
    let mut problems = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, number, _, state, proof, _] = cells.as_slice() else {
            problems.push(format!("not five cells: {row}"));
            continue;
        };
        if !["built", "partly", "not built"].contains(state) {
            problems.push(format!("row {number}: state {state:?}"));
        }
        // A proof is named as `file.rs::function`, in backquotes.
        let named: Vec<&str> =
            proof.split('`').skip(1).step_by(2).filter(|name| name.contains(".rs::")).collect();
        if *state == "built" && named.is_empty() {
            problems.push(format!("row {number}: built, but no test is named"));
        }
        for name in named {
            let (file, function) = name.split_once("::").unwrap();
            let found = std::fs::read_to_string(root().join(file))
                .is_ok_and(|text| text.contains(&format!("fn {function}(")));
            if !found {
                problems.push(format!("row {number}: {name} doesn't exist"));
            }
        }
    }
    fail(&problems);
}

#[test]
fn dependencies_are_few_permissive_and_from_the_registry() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--all-features"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let permissive: BTreeSet<&str> = [
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CDLA-Permissive-2.0",
        "ISC",
        "MIT",
        "MIT-0",
        "OpenSSL",
        "Unicode-3.0",
        "Unlicense",
        "Zlib",
    ]
    .into();
    let mut problems = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("none");
        // SPDX: every part joined by AND must be satisfiable by one alternative.
        let fits = licence.replace(['(', ')'], "").split(" AND ").all(|part| {
            part.split(" OR ").flat_map(|one| one.split('/')).any(|one| permissive.contains(one.trim()))
        });
        if !fits {
            problems.push(format!("{name}: {licence}"));
        }
        let source = package["source"].as_str();
        if source.is_some_and(|source| !source.starts_with("registry+")) {
            problems.push(format!("{name}: {}", source.unwrap()));
        }
    }
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let locked = lock.lines().filter(|line| *line == "[[package]]").count();
    if locked > MAX_PACKAGES {
        problems.push(format!("{locked} packages in Cargo.lock, at most {MAX_PACKAGES}"));
    }
    fail(&problems);
}
