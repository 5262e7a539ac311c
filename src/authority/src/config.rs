//! What an operator writes down: `authority.toml`, typed.
//!
//! Comes in: a file. Goes out: a [`Config`] whose every value has been checked on its own and whose paths are absolute (a relative path is
//! taken from the file's directory). Refused: keys that this version doesn't know, missing ones, values out of their domain; the error
//! names file, line and key. No secret stands in the file: PINs are in files of their own.
//!
//! `docs/CONFIG.md` is written from the comments in this file.

#[cfg(feature = "tpm")]
mod counter;
mod names;
mod retention;
mod signer;
mod store;
mod values;
mod witnesses;

#[cfg(feature = "tpm")]
pub use counter::RollbackCounter;
pub use retention::Retention;
pub use signer::Signer;
pub use store::Postgres;
pub use values::firmware_version;
pub use witnesses::Witnesses;

use countersign_core::name::{Origin, TrustDomain};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use values::{digests, origin, text, trust_domain, versions};

/// Largest file that is read.
const MAX_CONFIG_BYTES: u64 = 256 * 1024;

/// Why a configuration isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line isn't what it has to be.
    #[error("{path}:{line}: {key}: {reason}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Key or section on that line.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Values that don't fit together.
    #[error("{path}: {reason}")]
    Whole {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Top level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the log and issuer of every artifact: a schema-less URL. Never changes.
    #[serde(deserialize_with = "origin", serialize_with = "text")]
    pub origin: Origin,
    /// SPIFFE trust domain of the runtimes' identifiers. Never changes.
    #[serde(deserialize_with = "trust_domain", serialize_with = "text")]
    pub trust_domain: TrustDomain,
    /// Directory of the authority's own files: trust bundle, TLS key, the signer's memory. Best not on a disk whose snapshots hold the store
    /// too: who rolls both back takes the memory along, and only the copy in the token, gateways and witnesses still know.
    pub state_dir: PathBuf,
    /// Names and addresses in the server's certificate, which the authority issues to itself. The admin listener's address, `localhost` and the
    /// loopback addresses are in it anyway.
    #[serde(deserialize_with = "names::server_names")]
    pub server_names: Vec<String>,
    /// The listener for hosts and gateways.
    #[serde(default)]
    pub service: Service,
    /// The listener for operators.
    #[serde(default)]
    pub admin: Admin,
    /// Where the log is kept.
    pub store: Store,
    /// Where the signing keys live.
    pub signer: Signer,
    /// A counter in this machine's TPM that tells a log that was rolled back together with everything on its disk.
    #[cfg(feature = "tpm")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_counter: Option<RollbackCounter>,
    /// Which hosts may enrol.
    #[serde(default)]
    pub enrolment: Enrolment,
    /// Audiences for which each gateway stands, by its name: `[gateways]` with lines like `"gateway-1" = ["prod/exec"]`. What a gateway says that
    /// it did with an artifact for others isn't taken. With no line at all the audiences of outcomes aren't compared; with one, a gateway that
    /// isn't named stands for none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gateways: BTreeMap<String, BTreeSet<String>>,
    /// Who cosigns heads.
    #[serde(default)]
    pub witnesses: Witnesses,
    /// How long what decisions were made from is kept.
    #[serde(default)]
    pub retention: Retention,
    /// Bounds. All have defaults, and all but `workers` and `drain_secs` must be above zero.
    #[serde(default)]
    pub limits: Limits,
}

/// `[service]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// Address and port.
    pub listen: SocketAddr,
}

impl Default for Service {
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8443) }
    }
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address and port; loopback unless operators come from elsewhere.
    pub listen: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8444) }
    }
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum Store {
    /// `kind = "sqlite"`: embedded, one authority.
    Sqlite {
        /// Database file, on a local disk.
        path: PathBuf,
    },
    /// `kind = "postgres"`: a PostgreSQL database that any number of authorities share.
    Postgres(Postgres),
}

/// Which kind of endorsement key hosts may present without being allow-listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EkProfile {
    /// RSA-2048, template L-1: every TPM has it.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// ECC P-256, template L-2.
    P256,
    /// ECC P-384, template H-3.
    P384,
}

/// `[enrolment]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Enrolment {
    /// PEM files with the roots of TPM manufacturers. With none, and no `ek_vendors`, only allow-listed endorsement keys enrol.
    pub ek_roots: Vec<PathBuf>,
    /// Manufacturers whose bundled certificates are trusted, as `countersign admin ek-roots` names them, or `all`.
    pub ek_vendors: Vec<String>,
    /// Directory with what is known besides: `.pem`, `.crt`, `.cer` and `.der` files are intermediates, `.crl` files revocation lists. It is read at
    /// start and every ten minutes; nothing is ever fetched.
    pub ek_cache: Option<PathBuf>,
    /// Refuse a certificate without a current revocation list of its issuer in `ek_cache`. A certificate that a list names is refused anyway.
    pub ek_crl_required: bool,
    /// Certificate policies (dotted), of which an EK certificate and its intermediates must assert one. Any when empty.
    pub ek_policies: Vec<String>,
    /// PEM files with the roots of issuers of attestation key certificates (IAK). With none, no such certificate is taken.
    pub iak_roots: Vec<PathBuf>,
    /// Certificate policies (dotted), of which an attestation key's certificate and its intermediates must assert one. Any when empty.
    pub iak_policies: Vec<String>,
    /// PEM files with the roots of makers of machines, who certify keys of devices (IDevID). With none, no such certificate is taken.
    pub idevid_roots: Vec<PathBuf>,
    /// Certificate policies (dotted), of which such a certificate and its intermediates must assert one. Any when empty: then whatever client
    /// certificate with a serial number the roots lead to names a machine, so they should lead to makers' alone.
    pub idevid_policies: Vec<String>,
    /// Enrol RSA keys with the fingerprint of CVE-2017-15361 all the same; policy sees `context.endorsement.weak_key`.
    pub danger_weak_keys: bool,
    /// Lowest firmware version that enrols, by manufacturer as in its certificates (`IFX`, `STM`), `*` for all others: the two halves of
    /// TPMS_ATTEST.firmwareVersion in hexadecimal with a colon between, as in `"00070055:0011cb00"`.
    #[serde(deserialize_with = "versions")]
    pub firmware_floor: BTreeMap<String, String>,
    /// Endorsement keys that enrol without a certificate and without a join token: SHA-256 of the SubjectPublicKeyInfo, hex, which is the
    /// host identifier without its first two digits.
    #[serde(deserialize_with = "digests")]
    pub ek_allow: Vec<String>,
    /// The one kind of endorsement key that is accepted, so that a TPM is one host: `rsa-2048`, `p256` or `p384`.
    pub ek_profile: EkProfile,
}

impl Default for Enrolment {
    fn default() -> Self {
        Self {
            ek_roots: Vec::new(),
            ek_vendors: Vec::new(),
            ek_cache: None,
            ek_crl_required: false,
            ek_policies: Vec::new(),
            iak_roots: Vec::new(),
            iak_policies: Vec::new(),
            idevid_roots: Vec::new(),
            idevid_policies: Vec::new(),
            danger_weak_keys: false,
            firmware_floor: BTreeMap::new(),
            ek_allow: Vec::new(),
            ek_profile: EkProfile::Rsa2048,
        }
    }
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Threads that verify and decide; 0 means one for each core.
    pub workers: usize,
    /// Calls that may wait for a worker; one more is answered `overloaded`. At 0.2 ms a call this is a wait of under a second.
    pub queue: usize,
    /// Open connections on the service listener, and again on the admin listener.
    pub connections: usize,
    /// Largest request body, bytes, 64 KiB to 64 MiB: 256 requests of 8 KiB and little else; a larger boot log goes alone.
    pub body_bytes: usize,
    /// Time for a TLS handshake, seconds. A slow TPM signs it in 0.6 s.
    pub handshake_secs: u64,
    /// Of these, connections that one source (an IPv4 address, an IPv6 /64 network) may hold; cut to three quarters of all.
    pub connections_per_source: usize,
    /// Time that a connection may wait for its next request, the head of that request included, seconds.
    pub idle_secs: u64,
    /// Time for a request's body to arrive, seconds.
    pub body_secs: u64,
    /// Time for the other side to take an answer, seconds.
    pub write_secs: u64,
    /// Age at which a connection takes no further request, seconds. Clients come back on a new one.
    pub connection_secs: u64,
    /// Time from the headers of a request to its answer, seconds.
    pub request_timeout_secs: u64,
    /// Time for calls in flight to end when the process is asked to stop, seconds.
    pub drain_secs: u64,
    /// Calls a second of one host, in the long run. A fast TPM quotes a few hundred times a second, and a call carries up to 256 requests.
    pub host_calls_per_sec: u32,
    /// Calls that one host may make at once before the rate holds.
    pub host_burst: u32,
    /// Requests a second of one host, in however many calls, in the long run.
    pub host_requests_per_sec: u32,
    /// Requests that one host may make at once before the rate holds: 32 calls of 256.
    pub host_requests_burst: u32,
    /// KiB a second of evidence that isn't known yet (boot logs) that are kept for one host, in the long run. A host has a new one after a boot.
    pub host_evidence_kib_per_sec: u32,
    /// KiB of such evidence that are kept for one host at once: four of the largest bodies.
    pub host_evidence_kib_burst: u32,
    /// Denials an hour that one revoked host gets into the log; what it asks beyond is refused and counted.
    pub revoked_denials_per_hour: u32,
    /// Outcomes a second that one gateway may report, in the long run.
    pub gateway_outcomes_per_sec: u32,
    /// Outcomes that one gateway may report at once: a full spool.
    pub gateway_outcomes_burst: u32,
    /// Enrolments that may be begun each second, by all hosts together.
    pub enrolments_per_sec: u32,
    /// Enrolments that one source (an IPv4 address, an IPv6 /64 network) may begin each second in the long run, and as many that it may finish.
    pub source_enrolments_per_sec: u32,
    /// Enrolments that one source may begin, or finish, at once before the rate holds: a rack behind one address.
    pub source_enrolments_burst: u32,
    /// Tiles and entry bundles a second, of all readers together. One costs what a proof costs.
    pub tiles_per_sec: u32,
    /// Of these, by one source in the long run.
    pub source_tiles_per_sec: u32,
    /// Tiles and entry bundles that one source may read at once before the rate holds: half a million leaves.
    pub source_tiles_burst: u32,
    /// How often the head key may sign a root for COSE receipts at most, seconds. One signature serves every leaf under its head.
    pub cose_signature_secs: u64,
    /// Attestation results that may be signed as JWTs each second, for all callers together. Keep it well below what the token signs: heads come first.
    pub jwt_signatures_per_sec: u32,
    /// Of these, how many may be signed one after the other before the rate holds.
    pub jwt_signatures_burst: u32,
    /// Attestation results that may be signed an hour for one caller, who gets an unchanged one without a signature.
    pub caller_jwt_signatures_per_hour: u32,
    /// Enrolments that may be begun and not finished.
    pub pending_enrolments: usize,
    /// How long a begun enrolment can be finished, seconds. A slow TPM needs about two.
    pub enrolment_secs: u64,
    /// Lifetime of a challenge, seconds; at most 60.
    pub challenge_secs: u64,
    /// How long a challenge key seals, seconds.
    pub challenge_key_secs: u64,
    /// The gateways' lease, seconds, 3 to 3600. Heads are kept younger than a third of it, and a new head key waits for it.
    pub lease_secs: u64,
    /// A newest head older than this means not ready, seconds.
    pub ready_head_secs: u64,
    /// Lifetime of host certificates, days. Agents renew before half of it is over, by the same call as enrolment.
    pub host_certificate_days: u32,
    /// Lifetime of gateway and operator certificates, days. They are renewed by adding the same key again.
    pub certificate_days: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            workers: 0,
            queue: 4_096,
            connections: 4_096,
            body_bytes: 2 * 1024 * 1024,
            handshake_secs: 10,
            connections_per_source: 1_024,
            idle_secs: 60,
            body_secs: 20,
            write_secs: 30,
            connection_secs: 3_600,
            request_timeout_secs: 30,
            drain_secs: 20,
            host_calls_per_sec: 200,
            host_burst: 400,
            host_requests_per_sec: 2_000,
            host_requests_burst: 8_192,
            host_evidence_kib_per_sec: 256,
            host_evidence_kib_burst: 8_192,
            revoked_denials_per_hour: 60,
            gateway_outcomes_per_sec: 500,
            gateway_outcomes_burst: 2_000,
            enrolments_per_sec: 50,
            source_enrolments_per_sec: 20,
            source_enrolments_burst: 60,
            tiles_per_sec: 2_000,
            source_tiles_per_sec: 500,
            source_tiles_burst: 2_000,
            cose_signature_secs: 5,
            jwt_signatures_per_sec: 2,
            jwt_signatures_burst: 8,
            caller_jwt_signatures_per_hour: 720,
            pending_enrolments: 1_024,
            enrolment_secs: 60,
            challenge_secs: 60,
            challenge_key_secs: 3_600,
            lease_secs: 30,
            ready_head_secs: 30,
            host_certificate_days: 7,
            certificate_days: 365,
        }
    }
}

impl Limits {
    /// How often something must make heads younger: a third of the lease (DESIGN, "Head, artifact, log").
    #[must_use]
    pub const fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.lease_secs.saturating_mul(1_000) / 3)
    }

    /// Number of worker threads.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        if self.workers > 0 {
            return self.workers;
        }
        std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file and, where there is one, line and key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(read)?.len();
        if size > MAX_CONFIG_BYTES {
            return Err(ConfigError::Whole { path: path.to_owned(), reason: "larger than 256 KiB" });
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(read)?)
    }

    /// Checks what is in the file at `path`, or is to be in it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let mut config: Self = toml::from_str(text).map_err(|error| line_error(path, text, &error))?;
        let absolute = std::path::absolute(path).map_err(read)?;
        config.make_absolute(absolute.parent().unwrap_or(Path::new("/")));
        match config.misfit() {
            Some(reason) => Err(ConfigError::Whole { path: path.to_owned(), reason }),
            None => Ok(config),
        }
    }

    fn make_absolute(&mut self, base: &Path) {
        let absolute = |path: &mut PathBuf| *path = base.join(&*path);
        absolute(&mut self.state_dir);
        self.enrolment.ek_roots.iter_mut().for_each(absolute);
        self.enrolment.iak_roots.iter_mut().for_each(absolute);
        self.enrolment.idevid_roots.iter_mut().for_each(absolute);
        self.enrolment.ek_cache.iter_mut().for_each(absolute);
        [&mut self.witnesses.quorum_file, &mut self.witnesses.ca_file]
            .into_iter()
            .flatten()
            .for_each(absolute);
        match &mut self.store {
            Store::Sqlite { path } => absolute(path),
            Store::Postgres(postgres) => {
                let files = [
                    &mut postgres.password_file,
                    &mut postgres.ca_file,
                    &mut postgres.client_certificate_file,
                    &mut postgres.client_key_file,
                ];
                files.into_iter().flatten().for_each(absolute);
            }
        }
        match &mut self.signer {
            Signer::Pkcs11 { module, pin_file, .. } => {
                absolute(module);
                absolute(pin_file);
            }
            #[cfg(feature = "tpm")]
            Signer::Tpm { keys_dir, .. } => absolute(keys_dir),
            #[cfg(feature = "danger-software-key")]
            Signer::DangerSoftware { keys_dir, .. } => absolute(keys_dir),
        }
    }

    /// Bounds that no number may break: nothing unbounded, nothing that can never succeed.
    fn misfit(&self) -> Option<&'static str> {
        let limits = &self.limits;
        let positive = [
            limits.queue,
            limits.connections.min(limits.connections_per_source),
            limits.pending_enrolments,
            usize::try_from(limits.host_calls_per_sec.min(limits.host_burst)).unwrap_or(0),
            usize::try_from(limits.host_requests_per_sec.min(limits.host_requests_burst)).unwrap_or(0),
            usize::try_from(limits.host_evidence_kib_per_sec.min(limits.host_evidence_kib_burst))
                .unwrap_or(0),
            usize::try_from(limits.revoked_denials_per_hour).unwrap_or(0),
            usize::try_from(limits.gateway_outcomes_per_sec.min(limits.gateway_outcomes_burst)).unwrap_or(0),
            usize::try_from(limits.source_enrolments_per_sec.min(limits.source_enrolments_burst))
                .unwrap_or(0),
            usize::try_from(limits.enrolments_per_sec.min(limits.certificate_days)).unwrap_or(0),
            usize::try_from(limits.host_certificate_days.min(limits.tiles_per_sec)).unwrap_or(0),
            usize::try_from(limits.source_tiles_per_sec.min(limits.source_tiles_burst)).unwrap_or(0),
            usize::try_from(limits.jwt_signatures_per_sec.min(limits.jwt_signatures_burst)).unwrap_or(0),
            usize::try_from(limits.caller_jwt_signatures_per_hour).unwrap_or(0),
        ];
        let times = [
            limits.handshake_secs,
            limits.idle_secs,
            limits.body_secs.min(limits.write_secs).min(limits.connection_secs),
            limits.request_timeout_secs,
            limits.enrolment_secs,
            limits.challenge_secs,
            limits.challenge_key_secs,
            limits.ready_head_secs,
        ];
        if positive.contains(&0) || times.contains(&0) {
            return Some("limits: every limit but `workers` and `drain_secs` must be above zero");
        }
        if limits.body_bytes < 64 * 1024 || limits.body_bytes > 64 * 1024 * 1024 {
            return Some("limits.body_bytes must be between 64 KiB and 64 MiB");
        }
        if limits.lease_secs < 3 || limits.lease_secs > 3_600 {
            return Some("limits.lease_secs must be between 3 and 3600");
        }
        if limits.challenge_secs.saturating_mul(1_000) > crate::challenge::CHALLENGE_LIFETIME_MS {
            return Some("limits.challenge_secs must be at most 60");
        }
        if self.witnesses.request_secs == 0 || self.witnesses.retry_secs == 0 {
            return Some("witnesses.request_secs and witnesses.retry_secs must be above zero");
        }
        if let Store::Postgres(postgres) = &self.store
            && let Some(reason) = postgres.misfit()
        {
            return Some(reason);
        }
        #[cfg(feature = "tpm")]
        if let Some(reason) = self.rollback_counter.as_ref().and_then(RollbackCounter::misfit) {
            return Some(reason);
        }
        if self.server_names.is_empty() {
            return Some("server_names must name at least one host or address");
        }
        (self.service.listen.port() != 0 && self.service.listen == self.admin.listen)
            .then_some("service.listen and admin.listen must differ")
    }

    /// Audiences of the gateway of this name; `None` if the configuration says nothing of gateways.
    #[must_use]
    pub fn gateway_audiences(&self, name: &str) -> Option<&BTreeSet<String>> {
        static NONE: BTreeSet<String> = BTreeSet::new();
        (!self.gateways.is_empty()).then(|| self.gateways.get(name).unwrap_or(&NONE))
    }

    /// The trust bundle that `init` wrote.
    #[must_use]
    pub fn bundle_path(&self) -> PathBuf {
        self.state_dir.join("trust-bundle.json")
    }

    /// The server's TLS key.
    #[must_use]
    pub fn server_key_path(&self) -> PathBuf {
        self.state_dir.join("server.key")
    }

    /// The server's certificate, followed by the CA's.
    #[must_use]
    pub fn server_certificate_path(&self) -> PathBuf {
        self.state_dir.join("server.pem")
    }

    /// What the head signer remembers outside the store.
    #[must_use]
    pub fn signer_memory_path(&self) -> PathBuf {
        self.state_dir.join("signer-memory")
    }

    /// Where the leaf is that tells of the rollback counter.
    #[cfg(feature = "tpm")]
    #[must_use]
    pub fn rollback_counter_path(&self) -> PathBuf {
        self.state_dir.join("rollback-counter")
    }

    /// The index of families and properties; it can be deleted at any time and is made again from the log.
    #[must_use]
    pub fn lineage_path(&self) -> PathBuf {
        self.state_dir.join("lineage.sqlite")
    }
}

fn line_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let reason = error.message().trim().to_owned();
    let at = error.span().map_or(0, |span| span.start);
    let before = text.get(..at).unwrap_or_default();
    let mut line = before.matches('\n').count() + 1;
    let key_of = |line: &str| line.trim().split(['=', ' ']).next().unwrap_or_default().to_owned();
    let mut key = key_of(text.lines().nth(line - 1).unwrap_or_default());
    // What depends on a section's `kind` is told of the section as a whole; the key that is meant stands below.
    if let Some(meant) = meant_key(&reason).filter(|_| key.starts_with('[')) {
        let below = text.lines().enumerate().skip(line - 1).find(|(_, content)| key_of(content) == meant);
        if let Some((found, content)) = below {
            (line, key) = (found + 1, key_of(content));
        }
    }
    ConfigError::Line { path: path.to_owned(), line, key, reason }
}

/// The key that an error of serde is about, as far as its words tell.
fn meant_key(reason: &str) -> Option<&str> {
    if reason.starts_with("unknown variant") {
        return Some("kind");
    }
    reason.strip_prefix("unknown field `")?.split('`').next()
}

#[cfg(test)]
mod tests;
