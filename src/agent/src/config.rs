//! The agent's configuration file.
//!
//! Comes in: TOML. Goes out: a [`Config`] whose every member was checked. Refused: unknown keys, rules that would match every process, names out
//! of form, sizes out of range. There are no fallbacks: what is absent and has no stated default is an error.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use countersign_core::digest::Sha256Digest;
use countersign_core::name::{Action, Audience, HostId, RuntimeId, TrustDomain};
use countersign_core::request::MAX_TTL_SECS;
use serde::Deserialize;

/// Largest configuration file.
const MAX_CONFIG_LEN: usize = 1024 * 1024;
/// Most runtime rules; each is compared with every caller.
pub const MAX_RULES: usize = 256;
/// Bounds of the attestation interval, seconds.
const INTERVAL_SECS: std::ops::RangeInclusive<u64> = 1..=86_400;
/// Longest path of a Unix socket (`sun_path`, unix(7)), less the suffix under which it is made.
const MAX_SOCKET_PATH: usize = 100;

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("configuration {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Larger than a mebibyte.
    #[error("the configuration is larger than {MAX_CONFIG_LEN} bytes")]
    TooLarge,
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("configuration: {0}")]
    Toml(#[from] toml::de::Error),
    /// A member out of its domain.
    #[error("configuration: {member}: {reason}")]
    Member {
        /// Which.
        member: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A runtime rule that can't be used.
    #[error("configuration: runtime rule {number}: {reason}")]
    Rule {
        /// Its place in the file, from 1.
        number: usize,
        /// Why.
        reason: &'static str,
    },
}

/// Which endorsement key of the TPM names the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EkProfile {
    /// RSA-2048, TCG EK Credential Profile template L-1. Named as the authority names it, and as agents did at first.
    #[serde(rename = "rsa-2048", alias = "rsa2048")]
    Rsa2048,
    /// ECC P-384, template H-3.
    P384,
    /// ECC P-256, template L-2.
    P256,
}

/// Where the certificate of a key is that the TPM keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptCertificate {
    /// A file, DER or PEM; certificates behind the first are those above it.
    File(PathBuf),
    /// An NV index of the TPM. The TCG keeps 0x01c90000 and what follows for such certificates.
    NvIndex(u32),
}

/// An initial attestation key, made and certified by whoever made or provisioned the machine (TCG, TPM 2.0 Keys for Device Identity and
/// Attestation).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iak {
    /// The persistent handle at which the TPM keeps it.
    pub handle: u32,
    /// Its certificate.
    pub certificate: KeptCertificate,
}

/// The machine's own key, made and certified by whoever made it (IDevID; IEEE 802.1AR).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idevid {
    /// The persistent handle at which the TPM keeps it.
    pub handle: u32,
    /// Its certificate.
    pub certificate: KeptCertificate,
    /// Files with certificates above it, DER or PEM.
    pub intermediates: Vec<PathBuf>,
}

/// Which key of the TPM names the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamingKey {
    /// The endorsement key; the agent makes an attestation key beside it.
    Ek(EkProfile),
    /// The attestation key itself, by its certificate.
    Iak(Iak),
}

/// Which program a rule is for. Both members given means both must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// The file that the process executes, compared by device and inode in the agent's own file system, never by name.
    pub path: Option<PathBuf>,
    /// SHA-256 of the executed file.
    pub sha256: Option<Sha256Digest>,
}

/// A mapping from local processes to one runtime identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeRule {
    /// Effective user of the process.
    pub uid: Option<u32>,
    /// Effective group of the process.
    pub gid: Option<u32>,
    /// Its program.
    pub executable: Option<Executable>,
    /// Path of the runtime identifier below the host.
    pub name: String,
    /// Actions that it may ask for.
    pub actions: BTreeSet<Action>,
    /// Audiences that it may ask for.
    pub audiences: BTreeSet<Audience>,
    /// Longest lifetime that it may ask for, seconds.
    pub max_ttl_secs: u64,
    /// Whether its requests may carry a delegation.
    pub may_delegate: bool,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Base URL of the authority's service listener, `https://..`.
    pub authority: String,
    /// The pinned trust bundle.
    pub trust_bundle: PathBuf,
    /// Key blobs and certificates; mode 0700.
    pub state_dir: PathBuf,
    /// How the TPM software stack reaches the TPM.
    pub tcti: String,
    /// Which key names the host.
    pub naming: NamingKey,
    /// Certificates between the endorsing one and a root, for TPMs that don't have them in NV: files, DER or PEM.
    pub intermediates: Vec<PathBuf>,
    /// The machine's own key besides.
    pub idevid: Option<Idevid>,
    /// The firmware's event log.
    pub boot_log: PathBuf,
    /// The kernel's IMA list, binary; read only if the authority wants entries of it.
    pub ima_list: PathBuf,
    /// Socket for local runtimes.
    pub socket: PathBuf,
    /// Its mode.
    pub socket_mode: u32,
    /// Seconds between attestations; absent means a third of what the host's trust lasts.
    pub attest_interval_secs: Option<u64>,
    /// A join token for the first start.
    pub token_file: Option<PathBuf>,
    /// Rules in order; the first that matches counts.
    pub rules: Vec<RuntimeRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    /// URL of the authority's service listener, `https://host:port`.
    authority: String,
    /// The pinned trust bundle, as the authority's operator gave it out.
    trust_bundle: PathBuf,
    /// Directory for key blobs and certificates, the agent's user's alone.
    #[serde(default = "default_state_dir")]
    state_dir: PathBuf,
    /// How the TPM software stack reaches the TPM; the kernel's resource manager lets others use it beside.
    #[serde(default = "default_tcti")]
    tcti: String,
    /// Which endorsement key names the host: `rsa-2048` (or `rsa2048`), `p256` or `p384`, the kind that the authority accepts. Either
    /// this or `[iak]`.
    ek_profile: Option<EkProfile>,
    /// Files, DER or PEM, with certificates between the endorsement key's and a root, for TPMs that don't have them in NV memory.
    #[serde(default)]
    ek_intermediates: Vec<PathBuf>,
    /// An attestation key that the machine's maker provisioned, in the place of an endorsement key.
    iak: Option<IakFile>,
    /// The machine's own key and certificate (IDevID), by which the authority learns which machine this is. Beside either of the two.
    idevid: Option<IdevidFile>,
    /// The firmware's event log.
    #[serde(default = "default_boot_log")]
    boot_log: PathBuf,
    /// The kernel's IMA list, binary. Read only if the authority has an IMA policy in force.
    #[serde(default = "default_ima_list")]
    ima_list: PathBuf,
    /// Unix socket for local runtimes, an absolute path of at most 100 bytes.
    #[serde(default = "default_socket")]
    socket: PathBuf,
    /// Its mode, octal, from `0600` to `0666`. Who may connect still gets nothing but what a rule below gives.
    #[serde(default = "default_socket_mode")]
    socket_mode: String,
    /// Time between attestations, seconds, 1 to 86400. When absent, a third of what the host's trust lasts.
    attest_interval_secs: Option<u64>,
    /// File with a join token, for a first start without `countersign agent enrol`. One that isn't there any more is passed over.
    token_file: Option<PathBuf>,
    /// Which local processes are which runtime, `[[runtime]]`: rules in order, of which the first that matches counts, at most 256. Who
    /// matches none gets nothing.
    #[serde(default)]
    runtime: Vec<RuleFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IakFile {
    /// Persistent handle at which the TPM keeps the key, 0x81000000 to 0x81ffffff.
    handle: u32,
    /// File with its certificate, DER or PEM. Either this or `certificate_nv_index`.
    certificate: Option<PathBuf>,
    /// NV index with its certificate, 0x01000000 to 0x01ffffff.
    certificate_nv_index: Option<u32>,
    /// Files with certificates above it, if they don't lie behind it in the index or file.
    #[serde(default)]
    intermediates: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdevidFile {
    /// Persistent handle at which the TPM keeps the key, 0x81000000 to 0x81ffffff. Makers use 0x81020000.
    handle: u32,
    /// File with its certificate, DER or PEM. Either this or `certificate_nv_index`.
    certificate: Option<PathBuf>,
    /// NV index with its certificate, 0x01000000 to 0x01ffffff. Makers use 0x01c90000 and what follows.
    certificate_nv_index: Option<u32>,
    /// Files with certificates above it, if they don't lie behind it in the index or file.
    #[serde(default)]
    intermediates: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    /// Effective user of the process, a number. At least one of `uid`, `gid` and `executable` is needed; what is given must all hold.
    uid: Option<u32>,
    /// Effective group of the process, a number.
    gid: Option<u32>,
    /// Its program: `{ path = "..", sha256 = ".." }`, of which one is enough. The path is compared by device and inode, never by name.
    executable: Option<ExecutableFile>,
    /// Path of the runtime's identifier below the host, one to four segments such as `payments/worker`.
    name: String,
    /// Actions that it may ask for. `countersign exec` takes `exec`.
    actions: Vec<String>,
    /// Gateways and domains that it may ask artifacts for.
    audiences: Vec<String>,
    /// Longest lifetime that it may ask for, seconds, 1 to 86400.
    max_ttl_secs: u64,
    /// Whether its artifacts may have children.
    #[serde(default)]
    may_delegate: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecutableFile {
    path: Option<PathBuf>,
    sha256: Option<String>,
}

fn default_state_dir() -> PathBuf {
    "/var/lib/countersign-agent".into()
}

fn default_tcti() -> String {
    "device:/dev/tpmrm0".to_owned()
}

fn default_boot_log() -> PathBuf {
    "/sys/kernel/security/tpm0/binary_bios_measurements".into()
}

fn default_ima_list() -> PathBuf {
    "/sys/kernel/security/ima/binary_runtime_measurements".into()
}

fn default_socket() -> PathBuf {
    "/run/countersign/agent.sock".into()
}

fn default_socket_mode() -> String {
    "0660".to_owned()
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming what is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming what is wrong.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.len() > MAX_CONFIG_LEN {
            return Err(ConfigError::TooLarge);
        }
        let file: ConfigFile = toml::from_str(text)?;
        let member = |member, reason| Err(ConfigError::Member { member, reason });
        if file.authority.strip_prefix("https://").is_none_or(str::is_empty) {
            return member("authority", "must be an https:// URL");
        }
        if file.attest_interval_secs.is_some_and(|secs| !INTERVAL_SECS.contains(&secs)) {
            return member("attest_interval_secs", "must be 1 to 86400");
        }
        if file.tcti.is_empty() {
            return member("tcti", "must not be empty");
        }
        if !file.socket.is_absolute() || file.socket.as_os_str().len() > MAX_SOCKET_PATH {
            return member("socket", "must be an absolute path of at most 100 bytes");
        }
        let Some(socket_mode) = parse_mode(&file.socket_mode) else {
            return member("socket_mode", "must be an octal mode such as \"0660\", readable and writable");
        };
        if file.runtime.len() > MAX_RULES {
            return member("runtime", "at most 256 rules");
        }
        let (naming, intermediates) = naming_key(file.ek_profile, file.ek_intermediates, file.iak)?;
        let idevid = file.idevid.map(idevid).transpose()?;
        let rules = (1_usize..).zip(file.runtime).map(|(number, rule)| check_rule(number, rule));
        Ok(Self {
            authority: file.authority,
            trust_bundle: file.trust_bundle,
            state_dir: file.state_dir,
            tcti: file.tcti,
            naming,
            intermediates,
            idevid,
            boot_log: file.boot_log,
            ima_list: file.ima_list,
            socket: file.socket,
            socket_mode,
            attest_interval_secs: file.attest_interval_secs,
            token_file: file.token_file,
            rules: rules.collect::<Result<_, _>>()?,
        })
    }
}

/// Persistent handles and NV indexes. TPM 2.0 Part 2, 7.2.
const PERSISTENT_HANDLES: std::ops::RangeInclusive<u32> = 0x8100_0000..=0x81ff_ffff;
const NV_INDEXES: std::ops::RangeInclusive<u32> = 0x0100_0000..=0x01ff_ffff;

/// Exactly one key names the host: which, is never guessed.
fn naming_key(
    profile: Option<EkProfile>,
    ek_intermediates: Vec<PathBuf>,
    iak: Option<IakFile>,
) -> Result<(NamingKey, Vec<PathBuf>), ConfigError> {
    let member = |member, reason| Err(ConfigError::Member { member, reason });
    match (profile, iak) {
        (Some(profile), None) => Ok((NamingKey::Ek(profile), ek_intermediates)),
        (None, Some(_)) if !ek_intermediates.is_empty() => {
            member("ek_intermediates", "no endorsement key is used beside [iak]")
        }
        (None, Some(iak)) => {
            let names = ["iak", "iak.handle", "iak.certificate_nv_index"];
            let certificate = kept(names, iak.handle, iak.certificate, iak.certificate_nv_index)?;
            Ok((NamingKey::Iak(Iak { handle: iak.handle, certificate }), iak.intermediates))
        }
        _ => member("ek_profile", "needs either ek_profile or [iak]"),
    }
}

fn idevid(file: IdevidFile) -> Result<Idevid, ConfigError> {
    let names = ["idevid", "idevid.handle", "idevid.certificate_nv_index"];
    let certificate = kept(names, file.handle, file.certificate, file.certificate_nv_index)?;
    Ok(Idevid { handle: file.handle, certificate, intermediates: file.intermediates })
}

/// A key at a persistent handle, and where its certificate is.
fn kept(
    names: [&'static str; 3],
    handle: u32,
    file: Option<PathBuf>,
    index: Option<u32>,
) -> Result<KeptCertificate, ConfigError> {
    let member = |member, reason| Err(ConfigError::Member { member, reason });
    let [section, handle_name, index_name] = names;
    if !PERSISTENT_HANDLES.contains(&handle) {
        return member(handle_name, "must be a persistent handle, 0x81000000 to 0x81ffffff");
    }
    match (file, index) {
        (Some(file), None) => Ok(KeptCertificate::File(file)),
        (None, Some(index)) if NV_INDEXES.contains(&index) => Ok(KeptCertificate::NvIndex(index)),
        (None, Some(_)) => member(index_name, "must be 0x01000000 to 0x01ffffff"),
        _ => member(section, "needs either certificate or certificate_nv_index"),
    }
}

/// Octal, at least `0600`, no bits beyond read and write.
fn parse_mode(text: &str) -> Option<u32> {
    let mode = u32::from_str_radix(text, 8).ok()?;
    (mode & !0o666 == 0 && mode & 0o600 == 0o600).then_some(mode)
}

fn check_rule(number: usize, rule: RuleFile) -> Result<RuntimeRule, ConfigError> {
    let bad = |reason| ConfigError::Rule { number, reason };
    let executable = rule.executable.map(|executable| check_executable(number, executable)).transpose()?;
    if rule.uid.is_none() && rule.gid.is_none() && executable.is_none() {
        return Err(bad("needs at least one of uid, gid and executable"));
    }
    check_name(&rule.name).ok_or_else(|| bad("name isn't a runtime path of 1 to 4 segments"))?;
    let actions: BTreeSet<Action> = (rule.actions.iter().map(|text| Action::parse(text)))
        .collect::<Result<_, _>>()
        .map_err(|_| bad("an action isn't of the form of PROTOCOL section 2"))?;
    let audiences: BTreeSet<Audience> = (rule.audiences.iter().map(|text| Audience::parse(text)))
        .collect::<Result<_, _>>()
        .map_err(|_| bad("an audience isn't of the form of PROTOCOL section 2"))?;
    if actions.is_empty() || audiences.is_empty() {
        return Err(bad("needs at least one action and one audience"));
    }
    if !(1..=MAX_TTL_SECS).contains(&rule.max_ttl_secs) {
        return Err(bad("max_ttl_secs must be 1 to 86400"));
    }
    Ok(RuntimeRule {
        uid: rule.uid,
        gid: rule.gid,
        executable,
        name: rule.name,
        actions,
        audiences,
        max_ttl_secs: rule.max_ttl_secs,
        may_delegate: rule.may_delegate,
    })
}

fn check_executable(number: usize, file: ExecutableFile) -> Result<Executable, ConfigError> {
    let bad = |reason| ConfigError::Rule { number, reason };
    if file.path.is_none() && file.sha256.is_none() {
        return Err(bad("executable needs a path or a sha256"));
    }
    if file.path.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(bad("the executable's path must be absolute"));
    }
    let sha256 = file.sha256.as_deref().map(Sha256Digest::from_hex).transpose();
    let sha256 = sha256.map_err(|_| bad("sha256 must be 64 lower-case hexadecimal digits"))?;
    Ok(Executable { path: file.path, sha256 })
}

/// The path of a runtime identifier has the form of any host's.
fn check_name(name: &str) -> Option<()> {
    let domain = TrustDomain::parse("d").ok()?;
    let mut host = [0; 33];
    *host.first_mut()? = 1;
    RuntimeId::new(&domain, &HostId::from_slice(&host).ok()?, name).ok().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "authority = \"https://a.example:8443\"\ntrust_bundle = \"/etc/b.json\"\nek_profile = \"rsa2048\"\n";
    const RULE: &str = "[[runtime]]\nuid = 7\nname = \"web/one\"\nactions = [\"exec\"]\naudiences = [\"g\"]\nmax_ttl_secs = 60\n";

    fn refused(text: &str) -> String {
        Config::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_small_file_gets_the_stated_defaults() {
        let config = Config::parse(&format!("{HEAD}{RULE}")).unwrap();
        assert_eq!(config.tcti, "device:/dev/tpmrm0");
        assert_eq!(config.boot_log, Path::new("/sys/kernel/security/tpm0/binary_bios_measurements"));
        assert_eq!((config.socket_mode, config.attest_interval_secs), (0o660, None));
        assert_eq!(config.rules.len(), 1);
        assert!(!config.rules[0].may_delegate);
    }

    #[test]
    fn an_rsa_key_is_named_as_the_authority_names_it_and_as_before() {
        let named = |name: &str| Config::parse(&HEAD.replace("rsa2048", name)).unwrap().naming;
        assert_eq!(named("rsa-2048"), NamingKey::Ek(EkProfile::Rsa2048));
        assert_eq!(named("rsa2048"), named("rsa-2048"));
    }

    #[test]
    fn unknown_keys_are_refused_at_every_level() {
        for text in [
            format!("colour = 1\n{HEAD}"),
            format!("{HEAD}{RULE}colour = 1\n"),
            format!("{HEAD}{RULE}executable = {{ path = \"/x\", colour = 1 }}\n"),
        ] {
            assert!(refused(&text).contains("colour"), "{text}");
        }
    }

    #[test]
    fn a_rule_that_would_match_everybody_or_allow_nothing_is_refused() {
        let without = |line: &str| format!("{HEAD}{}", RULE.replace(line, ""));
        assert!(refused(&without("uid = 7\n")).contains("at least one of uid"));
        let emptied = format!("{HEAD}{}", RULE.replace("[\"exec\"]", "[]"));
        assert!(refused(&emptied).contains("at least one action"));
        let emptied = format!("{HEAD}{RULE}executable = {{}}\n");
        assert!(refused(&emptied).contains("path or a sha256"));
    }

    #[test]
    fn members_out_of_their_domain_are_refused() {
        for (from, to, says) in [
            ("web/one", "../one", "name"),
            ("web/one", "a/b/c/d/e", "name"),
            ("\"exec\"", "\"Exec\"", "action"),
            ("= 60", "= 0", "max_ttl_secs"),
            ("= 60", "= 86401", "max_ttl_secs"),
            ("https://", "http://", "https"),
            ("rsa2048", "rsa1024", "rsa1024"),
        ] {
            let text = format!("{HEAD}{RULE}").replace(from, to);
            assert!(refused(&text).contains(says), "{to}: {}", refused(&text));
        }
        for mode in ["0777", "0060", "rw", "0o660"] {
            assert!(refused(&format!("socket_mode = \"{mode}\"\n{HEAD}")).contains("socket_mode"), "{mode}");
        }
        assert!(refused(&format!("socket = \"agent.sock\"\n{HEAD}")).contains("socket"));
    }

    #[test]
    fn exactly_one_key_names_the_host() {
        let iak = "[iak]\nhandle = 0x81020001\ncertificate = \"/etc/iak.pem\"\n";
        let without = HEAD.replace("ek_profile = \"rsa2048\"\n", "");
        let config = Config::parse(&format!("{without}{iak}")).unwrap();
        let expected = Iak { handle: 0x8102_0001, certificate: KeptCertificate::File("/etc/iak.pem".into()) };
        assert_eq!(config.naming, NamingKey::Iak(expected));
        let (file, index) = ("certificate = \"/etc/iak.pem\"", "certificate_nv_index = 0x01c90019");
        let config = Config::parse(&format!("{without}{}", iak.replace(file, index))).unwrap();
        assert!(
            matches!(config.naming, NamingKey::Iak(iak) if iak.certificate == KeptCertificate::NvIndex(0x01c9_0019))
        );
        for (text, says) in [
            (without.clone(), "ek_profile"),
            (format!("{HEAD}{iak}"), "ek_profile"),
            (format!("{without}ek_intermediates = [\"/x\"]\n{iak}"), "ek_intermediates"),
            (format!("{without}{}", iak.replace(file, "")), "either certificate"),
            (format!("{without}{iak}{index}\n"), "either certificate"),
            (format!("{without}{}", iak.replace("0x81020001", "0x80000001")), "iak.handle"),
            (format!("{without}{}", iak.replace(file, "certificate_nv_index = 0x02000000")), "nv_index"),
            (format!("{without}{iak}colour = 1\n"), "colour"),
        ] {
            assert!(refused(&text).contains(says), "{text}: {}", refused(&text));
        }
    }

    #[test]
    fn a_machines_own_key_stands_beside_either_of_the_two() {
        let idevid =
            "[idevid]\nhandle = 0x81020000\ncertificate_nv_index = 0x01c90000\nintermediates = [\"/ca\"]\n";
        let without = HEAD.replace("ek_profile = \"rsa2048\"\n", "");
        let iak = "[iak]\nhandle = 0x81020001\ncertificate = \"/etc/iak.pem\"\n";
        let expected = Idevid {
            handle: 0x8102_0000,
            certificate: KeptCertificate::NvIndex(0x01c9_0000),
            intermediates: vec!["/ca".into()],
        };
        for text in [format!("{HEAD}{idevid}"), format!("{without}{iak}{idevid}")] {
            assert_eq!(Config::parse(&text).unwrap().idevid.as_ref(), Some(&expected), "{text}");
        }
        let text = format!("{HEAD}{idevid}");
        assert!(refused(&format!("{without}{idevid}")).contains("ek_profile"));
        assert!(refused(&text.replace("0x81020000", "0x01020000")).contains("idevid.handle"));
        assert!(refused(&text.replace("0x01c90000", "0x02c90000")).contains("idevid.certificate_nv_index"));
        assert!(
            refused(&text.replace("certificate_nv_index = 0x01c90000", "")).contains("either certificate")
        );
        assert!(refused(&format!("{text}colour = 1\n")).contains("colour"));
    }
}
