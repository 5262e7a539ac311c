//! `countersign witness`: vouch for somebody's log (C2SP tlog-witness), and the keys as text that this takes.

use crate::failure::Outcome;
use crate::{output, profile, telemetry};
use anyhow::{Context, bail};
use clap::Subcommand;
use countersign_core::key::{Algorithm, SIGNATURE_LEN, VerifyingKey};
use countersign_core::note::NoteKey;
use countersign_core::witness::WitnessKey;
use countersign_core::witness::vkey::log_key_text;
use countersign_gateway::holder::key::HolderKey;
use countersign_hsm::Signer;
use countersign_hsm::pkcs11::{Pkcs11Config, Pkcs11Token};
use countersign_witness::config::{Config, KeyPlace};
use countersign_witness::server::Server;
use countersign_witness::state::StateDir;
use countersign_witness::{Cosign, CosignFault};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a witness: an Ed25519 key in a file, a configuration without logs, an empty memory.
    Init {
        /// Directory for all of it; must not hold a witness.
        #[arg(long)]
        dir: PathBuf,
        /// Name of the witness, a schema-less URL.
        #[arg(long)]
        name: String,
        /// Address to listen on.
        #[arg(long, default_value = "127.0.0.1:8455")]
        listen: std::net::SocketAddr,
    },
    /// Begin with a log of the configuration that this witness never cosigned.
    Begin {
        /// Configuration.
        #[arg(long, default_value = "/var/lib/countersign-witness/witness.toml")]
        config: PathBuf,
        /// The log's origin.
        origin: String,
    },
    /// Serve.
    Serve {
        /// Configuration.
        #[arg(long, default_value = "/var/lib/countersign-witness/witness.toml")]
        config: PathBuf,
    },
    /// Print this witness's verifier key, for quorum files.
    Key {
        /// Configuration.
        #[arg(long, default_value = "/var/lib/countersign-witness/witness.toml")]
        config: PathBuf,
    },
    /// Print the verifier keys of a trust bundle's log, for witnesses' configurations.
    LogKeys {
        /// Pinned trust bundle.
        #[arg(long)]
        trust_bundle: PathBuf,
    },
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Init { dir, name, listen } => init(&dir, &name, &listen),
        Command::Begin { config, origin } => begin(&config, &origin),
        Command::Serve { config } => serve(&config),
        Command::Key { config } => {
            let config = load(&config)?;
            let key = WitnessKey::new(&config.name, signer(&config.key)?.public_key().clone());
            anstream::println!("{}", key.map_err(anyhow::Error::new)?.vkey());
            Ok(ExitCode::SUCCESS)
        }
        Command::LogKeys { trust_bundle } => {
            let bundle = profile::bundle(&trust_bundle)?;
            for key in bundle.head_keys() {
                let key = NoteKey::new(bundle.origin().as_str(), key.clone()).map_err(anyhow::Error::new)?;
                anstream::println!("{}", log_key_text(&key));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(path)?)
}

fn init(dir: &Path, name: &str, listen: &std::net::SocketAddr) -> Outcome {
    let key = HolderKey::generate(Algorithm::EdDsa).context("key")?;
    // Judges the name before anything is written.
    let vkey = WitnessKey::new(name, key.public().clone()).map_err(anyhow::Error::new)?.vkey();
    let state = dir.join("state");
    StateDir::open(&state).map_err(anyhow::Error::new)?;
    key.write_new(&dir.join("witness.key")).context("witness.key")?;
    let text = format!(
        "name = {}\nlisten = \"{listen}\"\nstate_dir = \"state\"\n\n[key]\nkind = \"file\"\npath = \"witness.key\"\n\n\
         # [[log]]\n# origin = \"log.example\"\n# keys = [\"log.example+..\"]\n",
        toml::Value::from(name)
    );
    output::write_file(&dir.join("witness.toml"), text.as_bytes(), true)?;
    anstream::println!("{vkey}");
    Ok(ExitCode::SUCCESS)
}

fn begin(config: &Path, origin: &str) -> Outcome {
    let config = load(config)?;
    if !config.logs.iter().any(|log| log.origin == origin) {
        return Err(anyhow::anyhow!("the configuration has no log {origin}").into());
    }
    let state = StateDir::open(&config.state_dir).map_err(anyhow::Error::new)?;
    state.begin(origin).map_err(anyhow::Error::new)?;
    anstream::println!("begun with {origin}");
    Ok(ExitCode::SUCCESS)
}

fn serve(config: &Path) -> Outcome {
    let config = load(config)?;
    telemetry::start();
    let signer = signer(&config.key)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let server = Server::bind(&config, signer).await?;
        tracing::info!(address = %server.local_addr()?, key = server.vkey(), logs = config.logs.len(), "witnessing");
        server
            .serve(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await?;
        tracing::info!("stopped");
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn signer(place: &KeyPlace) -> anyhow::Result<Box<dyn Cosign>> {
    match place {
        KeyPlace::File { path } => Ok(Box::new(InFile(HolderKey::load(path)?))),
        KeyPlace::Pkcs11 { module, token, pin_file, label } => {
            let signer = Pkcs11Token::open(&Pkcs11Config::new(module, token, pin_file))?.signer(label)?;
            if signer.public_key().algorithm() != Algorithm::EdDsa {
                bail!("key {label:?} isn't Ed25519, which cosignatures are made with");
            }
            Ok(Box::new(InToken(Box::new(signer))))
        }
    }
}

struct InFile(HolderKey);

impl Cosign for InFile {
    fn public_key(&self) -> &VerifyingKey {
        self.0.public()
    }

    fn sign(&mut self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], CosignFault> {
        Ok(self.0.sign(message))
    }
}

struct InToken(Box<dyn Signer>);

impl Cosign for InToken {
    fn public_key(&self) -> &VerifyingKey {
        self.0.public_key()
    }

    fn sign(&mut self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], CosignFault> {
        let signed = self.0.sign(message);
        signed.map(|signature| *signature.as_bytes()).map_err(|fault| CosignFault(fault.to_string()))
    }
}
