//! The environment that a program gets: a fixed list of harmless names, and what the operator adds by name (PROTOCOL §3.4).
//!
//! An artifact says nothing of the environment, so nothing in it may change which code runs: names that redirect loading, or that make an
//! interpreter or a library run or load something, are never passed, and can't be added either. PATH is a fixed value.

use std::ffi::{OsStr, OsString};

/// Where a program finds others. Never the caller's.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Passed if their value is a mere name, without path: language, time zone, terminal.
const NAMED: [&str; 15] = [
    "LANG",
    "LANGUAGE",
    "LC_ADDRESS",
    "LC_ALL",
    "LC_COLLATE",
    "LC_CTYPE",
    "LC_MEASUREMENT",
    "LC_MESSAGES",
    "LC_MONETARY",
    "LC_NAME",
    "LC_NUMERIC",
    "LC_PAPER",
    "LC_TIME",
    "TERM",
    "TZ",
];

/// glibc's list of variables that setuid programs don't see (sysdeps/generic/unsecvars.h), and what interpreters run or load at start.
const HARMFUL: [&str; 31] = [
    "BASHOPTS",
    "CDPATH",
    "EDITOR",
    "HOME",
    "LESSCLOSE",
    "LESSOPEN",
    "LOGNAME",
    "PAGER",
    "USER",
    "VISUAL",
    "ZDOTDIR",
    "CLASSPATH",
    "ENV",
    "GLOBIGNORE",
    "HOSTALIASES",
    "IFS",
    "LOCALDOMAIN",
    "LOCPATH",
    "NIS_PATH",
    "NLSPATH",
    "PATH",
    "PROMPT_COMMAND",
    "PS4",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    "SHELLOPTS",
    "SSLKEYLOGFILE",
    "TERMCAP",
    "TERMINFO",
    "TMPDIR",
    "TZDIR",
];
/// Families of the same.
const HARMFUL_PREFIXES: [&str; 35] = [
    "ASAN_", "BASH_", "COMPlus_", "CORECLR_", "DOTNET_", "DYLD_", "GCONV_", "GETCONF_", "GIO_", "GIT_",
    "GLIBC_", "GTK_", "JAVA", "JDK_", "LD_", "LSAN_", "LUA", "MALLOC_", "MSAN_", "NODE_", "OPENSSL_", "PERL",
    "PHP", "PYTHON", "QT_", "RUBY", "R_", "TSAN_", "UBSAN_", "_JAVA", "BUNDLE_", "CARGO_", "GEM_", "RUSTC",
    "XDG_",
];

/// Why a name can't be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentRefused {
    /// Not `[A-Za-z_][A-Za-z0-9_]*`.
    #[error("{0:?} isn't the name of an environment variable")]
    Name(String),
    /// Could change which code runs.
    #[error("{0} can change which code runs and is never passed on")]
    Harmful(String),
}

/// The name of a variable that an operator lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentName(String);

impl EnvironmentName {
    /// Checks form and harm.
    pub fn parse(name: &str) -> Result<Self, EnvironmentRefused> {
        let form = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
        if !form || name.len() > 255 {
            return Err(EnvironmentRefused::Name(name.to_owned()));
        }
        if HARMFUL.contains(&name) || HARMFUL_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(EnvironmentRefused::Harmful(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who runs the program and where at home, from the user database: an interpreter loads code from HOME, so it is never the caller's word.
#[must_use]
pub fn owner() -> Vec<(OsString, OsString)> {
    let Ok(Some(user)) = nix::unistd::User::from_uid(nix::unistd::geteuid()) else { return Vec::new() };
    let name = OsString::from(&user.name);
    vec![
        (OsString::from("HOME"), user.dir.into_os_string()),
        (OsString::from("LOGNAME"), name.clone()),
        (OsString::from("USER"), name),
    ]
}

/// What of `variables` is passed on.
pub fn scrub(
    variables: impl Iterator<Item = (OsString, OsString)>,
    added: &[EnvironmentName],
) -> Vec<(OsString, OsString)> {
    let mut kept: Vec<(OsString, OsString)> =
        variables.filter(|(name, value)| passes(name, value, added)).collect();
    kept.push((OsString::from("PATH"), OsString::from(PATH)));
    kept
}

fn passes(name: &OsStr, value: &OsStr, added: &[EnvironmentName]) -> bool {
    let Some(name) = name.to_str() else { return false };
    (NAMED.contains(&name) && is_name(value)) || added.iter().any(|added| added.as_str() == name)
}

/// No path, relative or absolute, and nothing but the characters of locales, zones and terminals.
fn is_name(value: &OsStr) -> bool {
    let Some(value) = value.to_str() else { return false };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@+-/:,".contains(&byte);
    value.len() <= 255
        && value.bytes().all(plain)
        && !value.starts_with(['/', ':', '.'])
        && !value.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubbed(variables: &[(&str, &str)], added: &[&str]) -> Vec<(String, String)> {
        let added: Vec<_> = added.iter().map(|name| EnvironmentName::parse(name).unwrap()).collect();
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        scrub(variables, &added)
            .into_iter()
            .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
            .collect()
    }

    #[test]
    fn only_listed_names_pass_and_path_is_ours() {
        let kept = scrubbed(
            &[
                ("HOME", "/root"),
                ("LD_PRELOAD", "/x.so"),
                ("PATH", "/evil"),
                ("SECRET", "1"),
                ("TZ", "Europe/Vienna"),
            ],
            &[],
        );
        let expected = [("TZ", "Europe/Vienna"), ("PATH", PATH)];
        assert_eq!(kept, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn values_that_are_paths_dont_pass_where_a_name_belongs() {
        for value in ["/etc/shadow", ":/etc/shadow", "../x", "a/../../x", "x y", "$(id)", ".hidden"] {
            assert_eq!(scrubbed(&[("TZ", value), ("LANG", value)], &[]).len(), 1, "{value}");
        }
    }

    #[test]
    fn an_operator_adds_by_name_but_nothing_that_runs_code() {
        assert_eq!(scrubbed(&[("APP_MODE", "x"), ("OTHER", "y")], &["APP_MODE"])[0].0, "APP_MODE");
        for name in [
            "LD_PRELOAD",
            "LD_AUDIT",
            "GLIBC_TUNABLES",
            "PYTHONPATH",
            "BASH_ENV",
            "ENV",
            "PATH",
            "NODE_OPTIONS",
        ] {
            assert_eq!(EnvironmentName::parse(name), Err(EnvironmentRefused::Harmful(name.to_owned())));
        }
        for name in ["", "1A", "A=B", "A B", "é"] {
            assert!(matches!(EnvironmentName::parse(name), Err(EnvironmentRefused::Name(_))), "{name}");
        }
    }
}
