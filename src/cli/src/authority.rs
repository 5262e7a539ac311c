//! `countersign authority`: make one, run it.

mod prune;

use crate::failure::{Failure, Outcome};
use crate::profile::Profile;
use crate::{output, telemetry};
use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use countersign_authority::config::{Config, EkProfile, Enrolment, Limits, Postgres, Signer, Store};
use countersign_authority::counter::RollbackCounter;
use countersign_authority::init::{InitOptions, Recovery, init, join};
use countersign_authority::serve;
use countersign_authority::sign::SignerMemory;
use countersign_authority::store::failpoint::FailpointSet;
use countersign_core::bundle::TrustBundle;
use countersign_core::digest::sha256;
use countersign_core::name::{Origin, TrustDomain};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make an authority: keys in their tokens, trust bundle, configuration, first operator.
    Init(Box<InitArgs>),
    /// Make one more authority for a log in PostgreSQL: writes the state directory that the configuration names.
    Join {
        /// Configuration, copied from an authority of this log and fitted to this machine.
        #[arg(long)]
        config: PathBuf,
        /// Pinned trust bundle of the log.
        #[arg(long)]
        trust_bundle: PathBuf,
    },
    /// Make the rollback counter that the configuration names, in this machine's TPM. The authority must not be running.
    Counter {
        /// Configuration.
        #[arg(long, default_value = "/var/lib/countersign/authority.toml")]
        config: PathBuf,
        /// Take away the counter that is there: after a restore that was decided on, or on a machine with another TPM.
        #[arg(long)]
        replace: bool,
    },
    /// Remove what old decisions were made from.
    Prune(prune::Args),
    /// Serve.
    Serve {
        /// Configuration.
        #[arg(long, default_value = "/var/lib/countersign/authority.toml")]
        config: PathBuf,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SignerKind {
    /// A PKCS#11 token; the log is signed with Ed25519.
    Pkcs11,
    /// This machine's TPM; the log is signed with ECDSA P-256.
    Tpm,
    /// A private key in a file. For measurements.
    #[cfg(feature = "bench")]
    DangerSoftware,
}

#[derive(Clone, Copy, ValueEnum)]
enum EkProfileArg {
    /// RSA-2048, template L-1.
    #[value(name = "rsa-2048")]
    Rsa2048,
    /// ECC P-256, template L-2.
    P256,
    /// ECC P-384, template H-3.
    P384,
}

impl From<EkProfileArg> for EkProfile {
    fn from(profile: EkProfileArg) -> Self {
        match profile {
            EkProfileArg::Rsa2048 => Self::Rsa2048,
            EkProfileArg::P256 => Self::P256,
            EkProfileArg::P384 => Self::P384,
        }
    }
}

#[derive(clap::Args)]
pub(crate) struct InitArgs {
    /// Directory for everything that is written.
    #[arg(long)]
    dir: PathBuf,
    /// Name of the log and issuer: a URL without `https://`, such as `attest.example/log`. Never changes.
    #[arg(long)]
    origin: String,
    /// SPIFFE trust domain of runtimes. Never changes.
    #[arg(long)]
    trust_domain: String,
    /// Address of the service listener.
    #[arg(long, default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Address of the admin listener.
    #[arg(long, default_value = "127.0.0.1:8444")]
    admin_listen: SocketAddr,
    /// Names and addresses under which clients reach the authority. The certificate is also for the admin listener's address and for this machine
    /// itself (`localhost` and the loopback addresses), which are all when absent.
    #[arg(long)]
    server_name: Vec<String>,
    /// PEM files with the roots of TPM manufacturers.
    #[arg(long)]
    ek_root: Vec<PathBuf>,
    /// Manufacturers whose bundled certificates are trusted, as `admin ek-roots` names them, or `all`.
    #[arg(long)]
    ek_vendor: Vec<String>,
    /// Endorsement keys that enrol without certificate and token: SHA-256 of the SubjectPublicKeyInfo, hex.
    #[arg(long)]
    ek_allow: Vec<String>,
    /// The one kind of endorsement key that is accepted.
    #[arg(long, value_enum, default_value = "rsa-2048")]
    ek_profile: EkProfileArg,
    #[command(flatten)]
    postgres: PostgresArgs,
    /// Where head and CA key are to live.
    #[arg(long, value_enum, default_value = "pkcs11")]
    signer: SignerKind,
    /// The PKCS#11 module of both tokens.
    #[arg(long)]
    pkcs11_module: Option<PathBuf>,
    /// Label of the token for head and CA key.
    #[arg(long, required_if_eq("signer", "pkcs11"))]
    token: Option<String>,
    /// File with its PIN.
    #[arg(long, required_if_eq("signer", "pkcs11"))]
    pin_file: Option<PathBuf>,
    /// Address of the TPM for head and CA key.
    #[arg(long, required_if_eq("signer", "tpm"))]
    tcti: Option<String>,
    /// How long each signature of a software key is made to take, ms.
    #[cfg(feature = "bench")]
    #[arg(long, default_value_t = 0)]
    danger_delay_ms: u64,
    /// Label of the recovery key's own token.
    #[arg(long)]
    recovery_token: String,
    /// File with its PIN.
    #[arg(long)]
    recovery_pin_file: PathBuf,
}

/// A PostgreSQL database to keep the log in.
#[derive(clap::Args)]
pub(crate) struct PostgresArgs {
    /// Keep the log in PostgreSQL: name or address of the server, or directory of its Unix socket.
    #[arg(long = "postgres", value_name = "HOST", requires = "database")]
    host: Option<String>,
    /// Its port.
    #[arg(long = "postgres-port", value_name = "PORT", default_value_t = 5432)]
    port: u16,
    /// Database, which exists and holds no log.
    #[arg(long = "postgres-database", value_name = "NAME")]
    database: Option<String>,
    /// Role.
    #[arg(long = "postgres-user", value_name = "NAME", default_value = "countersign")]
    user: String,
    /// File with the role's password.
    #[arg(long = "postgres-password-file", value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// PEM file with the CA of the server's certificate; needed for a server on the network.
    #[arg(long = "postgres-ca-file", value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl PostgresArgs {
    /// The section of the configuration; `None` where nothing was said of PostgreSQL.
    pub(crate) fn store(&self) -> anyhow::Result<Option<Store>> {
        let Some(host) = self.host.clone() else { return Ok(None) };
        let absolute = |path: &Option<PathBuf>| path.as_deref().map(std::path::absolute).transpose();
        Ok(Some(Store::Postgres(Postgres {
            host,
            port: self.port,
            database: self.database.clone().context("--postgres-database is needed")?,
            user: self.user.clone(),
            password_file: absolute(&self.password_file)?,
            ca_file: absolute(&self.ca_file)?,
            client_certificate_file: None,
            client_key_file: None,
            danger_plaintext: false,
            readers: Postgres::READERS,
            statement_secs: Postgres::STATEMENT_SECS,
        })))
    }
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Init(args) => make(&args),
        Command::Join { config, trust_bundle } => {
            let config = Config::load(&config).map_err(anyhow::Error::new)?;
            join(&config, &trust_bundle).map_err(anyhow::Error::new)?;
            anstream::println!("authority {} joined from {}", config.origin, config.state_dir.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Counter { config, replace } => make_counter(&config, replace),
        Command::Prune(args) => prune::run(&args),
        Command::Serve { config } => {
            let config = Config::load(&config).map_err(anyhow::Error::new)?;
            telemetry::start();
            // Verifying and deciding have a thread for each core; carrying bytes takes a fraction of that, and more threads for it only take
            // turns: on 2 cores the second one made every artifact 8 % dearer.
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(cores.div_ceil(2)).enable_all().build()?;
            runtime
                .block_on(async { serve::run(config, serve::signals()?).await })
                .map_err(anyhow::Error::new)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn make_counter(config: &Path, replace: bool) -> Outcome {
    let config = Config::load(config).map_err(anyhow::Error::new)?;
    let wanted = config.rollback_counter.as_ref();
    let wanted = wanted.context("the configuration has no [rollback_counter]")?;
    // Held so that no authority serves meanwhile.
    let memory = SignerMemory::open(&config.signer_memory_path(), FailpointSet::none());
    let _memory = memory.map_err(anyhow::Error::new)?;
    let mut auth = [0; 32];
    getrandom::fill(&mut auth).map_err(anyhow::Error::new)?;
    let note = config.rollback_counter_path();
    RollbackCounter::make(wanted, &note, auth, replace).map_err(anyhow::Error::new)?;
    anstream::println!("counter 0x{:08x} made", wanted.nv_index);
    Ok(ExitCode::SUCCESS)
}

fn make(args: &InitArgs) -> Outcome {
    let absolute = |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
    let dir = absolute(&args.dir)?;
    let mut server_names = args.server_name.clone();
    if server_names.is_empty() {
        server_names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    }
    let module = args.pkcs11_module.as_deref().map(absolute).transpose()?;
    let options = InitOptions {
        origin: origin(&args.origin)?,
        trust_domain: TrustDomain::parse(&args.trust_domain).map_err(anyhow::Error::new)?,
        server_names,
        service_listen: args.listen,
        admin_listen: args.admin_listen,
        store: args.postgres.store()?,
        signer: signer(args, &dir, module.clone())?,
        recovery: Recovery {
            place: pkcs11(module, &args.recovery_token, &absolute(&args.recovery_pin_file)?)?,
            label: "countersign-recovery".to_owned(),
        },
        enrolment: Enrolment {
            ek_roots: args.ek_root.iter().map(|path| absolute(path)).collect::<anyhow::Result<_>>()?,
            ek_allow: args.ek_allow.clone(),
            ek_profile: args.ek_profile.into(),
            ek_vendors: args.ek_vendor.clone(),
            ..Enrolment::default()
        },
        limits: Limits::default(),
        directory: dir.clone(),
    };
    let enrolment = &options.enrolment;
    if [&enrolment.ek_roots, &enrolment.iak_roots].iter().all(|files| files.is_empty())
        && enrolment.ek_vendors.is_empty()
        && enrolment.ek_allow.is_empty()
    {
        anstream::eprintln!(
            "warning: no host can enrol: neither --ek-root, --ek-vendor nor --ek-allow is given; [enrolment] in authority.toml takes them, too"
        );
    }
    let made = init(&options).map_err(anyhow::Error::new)?;
    let bytes = std::fs::read(&made.trust_bundle).with_context(|| made.trust_bundle.display().to_string())?;
    let bundle = TrustBundle::verify(&bytes).map_err(anyhow::Error::new)?;
    output::write_file(&dir.join("ca.pem"), output::pem(bundle.ca_certificates()).as_bytes(), false)?;
    write_profile(&dir, &args.admin_listen, &made.admin_certificate, &made.admin_key, &made.trust_bundle)?;
    anstream::println!("authority {} made in {}", bundle.origin(), dir.display());
    // What everybody who pins it compares.
    anstream::println!("trust bundle sha256:{}", sha256(&bytes));
    anstream::println!("next: countersign authority serve --config {}", made.config.display());
    anstream::println!("then: countersign admin --profile {} hosts", dir.join("admin.toml").display());
    Ok(ExitCode::SUCCESS)
}

fn origin(text: &str) -> anyhow::Result<Origin> {
    Origin::parse(text).map_err(|error| {
        let error = anyhow::Error::new(error);
        match text.strip_prefix("https://") {
            Some(rest) => error.context(format!("--origin: give it without https://, as in {rest}")),
            None => error.context(format!("--origin {text:?}")),
        }
    })
}

fn signer(args: &InitArgs, dir: &Path, module: Option<PathBuf>) -> anyhow::Result<Signer> {
    match args.signer {
        SignerKind::Pkcs11 => {
            let token = args.token.as_deref().context("--token is needed")?;
            let pin_file = args.pin_file.as_deref().context("--pin-file is needed")?;
            pkcs11(module, token, &std::path::absolute(pin_file)?)
        }
        SignerKind::Tpm => Ok(Signer::Tpm {
            tcti: args.tcti.clone().context("--tcti is needed")?,
            keys_dir: dir.join("keys"),
            head_key: "countersign-head".to_owned(),
            ca_key: "countersign-ca".to_owned(),
            jwt_key: "countersign-jwt".to_owned(),
        }),
        #[cfg(feature = "bench")]
        SignerKind::DangerSoftware => {
            Ok(Signer::DangerSoftware { keys_dir: dir.join("keys"), delay_ms: args.danger_delay_ms })
        }
    }
}

fn pkcs11(module: Option<PathBuf>, token: &str, pin_file: &Path) -> anyhow::Result<Signer> {
    Ok(Signer::Pkcs11 {
        module: module.context("--pkcs11-module is needed")?,
        token: token.to_owned(),
        pin_file: pin_file.to_owned(),
        head_key: "countersign-head".to_owned(),
        ca_key: "countersign-ca".to_owned(),
        jwt_key: "countersign-jwt".to_owned(),
    })
}

/// The first operator's profile; paths are relative to it, so that the files can be moved together.
fn write_profile(
    dir: &Path,
    listen: &SocketAddr,
    certificate: &Path,
    key: &Path,
    bundle: &Path,
) -> Result<(), Failure> {
    let name = |path: &Path| PathBuf::from(path.file_name().unwrap_or(path.as_os_str()));
    let mut reached = *listen;
    if reached.ip().is_unspecified() {
        // Every address of the machine: from the machine itself, its own.
        reached.set_ip(if listen.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    let profile = Profile {
        url: format!("https://{reached}"),
        trust_bundle: name(bundle),
        certificate: name(certificate),
        key: name(key),
    };
    let text = toml::to_string(&profile).context("admin profile")?;
    output::write_file(&dir.join("admin.toml"), text.as_bytes(), true)
}
