//! The configuration's tests: what is filled in, what is read back, what is refused and how the error names it.

use super::*;

const GOOD: &str = r#"origin = "demo.example/log"
trust_domain = "demo.example"
state_dir = "."
server_names = ["localhost", "127.0.0.1"]

[store]
kind = "sqlite"
path = "log.sqlite"

[signer]
kind = "pkcs11"
module = "/usr/lib/softhsm/libsofthsm2.so"
token = "authority"
pin_file = "pin"
"#;

fn load(text: &str) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("authority.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path)
}

#[test]
fn defaults_fill_what_is_not_written_and_paths_become_absolute() {
    let config = load(GOOD).unwrap();
    assert_eq!(config.limits, Limits::default());
    assert!(config.admin.listen.ip().is_loopback());
    assert!(
        matches!(&config.store, Store::Sqlite { path } if path.is_absolute() && path.ends_with("log.sqlite"))
    );
}

#[test]
fn what_is_written_is_read_back() {
    let config = load(GOOD).unwrap();
    assert_eq!(load(&toml::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn errors_name_file_line_and_key() {
    let check = |from: &str, to: &str, line: usize, key: &str, reason: &str| {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD);
        let error = load(&text).unwrap_err();
        let ConfigError::Line { path, line: found, key: name, reason: why } = &error else {
            panic!("{error}")
        };
        assert!(path.ends_with("authority.toml"));
        assert_eq!((*found, name.as_str()), (line, key), "{error}");
        assert!(why.contains(reason), "{error}");
    };
    check("[store]", "typo = 1\n[store]", 6, "typo", "unknown field");
    check("token = ", "tokn = ", 13, "tokn", "unknown field");
    check("demo.example/log", "two words", 1, "origin", "not a valid origin");
    check("\"sqlite\"", "\"flatfile\"", 7, "kind", "unknown variant");
    check("[store]", "[limits]\nqueue = -1\n[store]", 7, "queue", "invalid value");
    check("[store]", "[limits]\nque = 1\n[store]", 7, "que", "unknown field");
    check("[store]", "[enrolment]\nek_allow = [\"00\"]\n[store]", 7, "ek_allow", "a digest of 32 bytes");
    let floor = "[enrolment]\nfirmware_floor = { IFX = \"7.85\" }\n[store]";
    check("[store]", floor, 7, "firmware_floor", "two halves");
    check("[store]", "[enrolment]\nek_profile = \"dsa\"\n[store]", 7, "ek_profile", "unknown variant");
    check("trust_domain = ", "trust_domain ", 2, "trust_domain", "expected `=`");
}

#[test]
fn a_missing_key_and_an_impossible_limit_are_refused() {
    let missing = load(&GOOD.replace("trust_domain = \"demo.example\"\n", "")).unwrap_err();
    assert!(missing.to_string().contains("missing field `trust_domain`"), "{missing}");
    for bad in [
        "queue = 0",
        "host_certificate_days = 0",
        "body_bytes = 1",
        "lease_secs = 1",
        "challenge_secs = 7200",
        "revoked_denials_per_hour = 0",
    ] {
        let text = GOOD.replace("[store]", &format!("[limits]\n{bad}\n[store]"));
        assert!(matches!(load(&text), Err(ConfigError::Whole { .. })), "{bad}");
    }
}

#[test]
fn a_database_on_the_network_needs_a_ca_or_a_word_of_danger() {
    let check = |rest: &str, good: bool| {
        let store = format!("kind = \"postgres\"\ndatabase = \"log\"\nuser = \"countersign\"\n{rest}");
        let text = GOOD.replace("kind = \"sqlite\"\npath = \"log.sqlite\"\n", &store);
        assert_ne!(text, GOOD);
        assert_eq!(load(&text).is_ok(), good, "{rest}: {:?}", load(&text).err());
    };
    check("host = \"/run/postgresql\"", true);
    check("host = \"db.example\"\nca_file = \"ca.pem\"", true);
    check("host = \"db.example\"\ndanger_plaintext = true", true);
    check("host = \"db.example\"", false);
    check("host = \"/run/postgresql\"\ndanger_plaintext = true", false);
    check("host = \"db.example\"\nca_file = \"ca.pem\"\ndanger_plaintext = true", false);
    check("host = \"db.example\"\nca_file = \"ca.pem\"\nclient_key_file = \"k\"", false);
    check("host = \"/run/postgresql\"\nreaders = 0", false);
    check("host = \"/run/postgresql\"\nsslmode = \"prefer\"", false);
}

#[cfg(not(feature = "danger-software-key"))]
#[test]
fn software_keys_are_unknown_to_an_ordinary_build() {
    let error = load(&GOOD.replace("pkcs11", "danger-software")).unwrap_err();
    assert!(error.to_string().contains("unknown variant"), "{error}");
}
