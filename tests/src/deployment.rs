//! A whole system on loopback, from nothing to a host that gets artifacts.

use crate::balance::Balance;
use crate::{Ran, countersign, tool};
use countersign_fixture::{ManagedChild, Postgres, SoftHsm, SwTpm, free_port, wait_until};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// How long anything may take to come up: generous, since tests run beside each other on small machines.
const PATIENCE: Duration = Duration::from_secs(60);
const PIN: &str = "1234-end-to-end";

/// Where the authority's keys live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignerKind {
    /// SoftHSM.
    Pkcs11,
    /// A second swtpm.
    Tpm,
}

/// The running parts. Dropping it ends every process.
pub struct Deployment {
    /// The agent's process, when it runs.
    pub agent: Option<ManagedChild>,
    /// The authority's process, when it runs.
    pub authority: Option<ManagedChild>,
    /// The host's TPM.
    pub tpm: SwTpm,
    /// The authority's TPM with [`SignerKind::Tpm`].
    pub signer_tpm: Option<SwTpm>,
    /// Tokens.
    pub hsm: SoftHsm,
    /// The database's server with [`StoreKind::Postgres`].
    pub postgres: Option<Postgres>,
    /// What stands before the authorities of [`Deployment::replicated`].
    pub balance: Option<Balance>,
    folder: TempDir,
    /// Where clients connect.
    service_port: u16,
    /// Where each authority listens.
    listen_ports: Vec<u16>,
}

/// Where the authority keeps its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// In a file.
    Sqlite,
    /// In a PostgreSQL server of the test's own.
    Postgres,
}

impl Deployment {
    /// An initialised authority that serves, without hosts or policy.
    #[must_use]
    pub fn bare(kind: SignerKind) -> Self {
        let mut this = Self::unmade(kind, StoreKind::Sqlite);
        this.make();
        this
    }

    /// The parts, before anything is initialised.
    fn unmade(kind: SignerKind, store: StoreKind) -> Self {
        let tpm = SwTpm::start_own();
        let signer_tpm = (kind == SignerKind::Tpm).then(SwTpm::start_own);
        let hsm = SoftHsm::new();
        hsm.init_token("recovery", PIN, PIN);
        hsm.init_token("authority", PIN, PIN);
        let folder = TempDir::new().unwrap_or_else(|error| panic!("temporary directory: {error}"));
        let postgres = (store == StoreKind::Postgres).then(Postgres::new);
        let service_port = free_port();
        let listen_ports = vec![service_port];
        let this = Self {
            agent: None,
            authority: None,
            tpm,
            signer_tpm,
            hsm,
            postgres,
            balance: None,
            folder,
            service_port,
            listen_ports,
        };
        this.write("pin", PIN);
        let roots = this.tpm.ca_root_pem();
        std::fs::write(this.path("ek-roots.pem"), roots).unwrap_or_else(|error| panic!("ek roots: {error}"));
        std::fs::write(this.path("ek-issuer.pem"), this.tpm.ca_issuer_pem())
            .unwrap_or_else(|error| panic!("ek issuer: {error}"));
        boot(&this.tpm, &this.path("boot.log"), &["1"]);
        this
    }

    fn make(&mut self) {
        self.init().expect("authority init");
        self.write_agent_config();
        self.start_authority();
    }

    /// A host is enrolled and attested, references captured, the demo policy active, a gateway named `gate-1` known, an agent running.
    #[must_use]
    pub fn ready(kind: SignerKind) -> Self {
        Self::ready_on(kind, StoreKind::Sqlite)
    }

    /// The same with the store of one's choice.
    #[must_use]
    pub fn ready_on(kind: SignerKind, store: StoreKind) -> Self {
        let mut this = Self::unmade(kind, store);
        this.make();
        this.get_ready();
        this
    }

    /// Two authorities over one database and one token, behind a port that takes connections to whichever of them answers. The first one
    /// serves, a host is enrolled and all is ready; the second is joined and waits for [`Deployment::spawn_replica`].
    #[must_use]
    pub fn replicated() -> Self {
        let mut this = Self::unmade(SignerKind::Pkcs11, StoreKind::Postgres);
        this.listen_ports = vec![free_port(), free_port()];
        this.balance = Some(Balance::start(this.service_port, &this.listen_ports));
        this.make();
        this.get_ready();
        this.folder("replica");
        let first = std::fs::read_to_string(this.path("authority/authority.toml"))
            .unwrap_or_else(|error| panic!("configuration: {error}"));
        let listens = |line: &str| line.starts_with("listen = ");
        let mut ports = [this.listen_ports[1], free_port()].into_iter();
        let lines = first.lines().map(|line| match listens(line).then(|| ports.next()).flatten() {
            Some(port) => format!("listen = \"127.0.0.1:{port}\""),
            None => line.to_owned(),
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        this.write("replica/authority.toml", &text);
        let config = this.text("replica/authority.toml");
        let bundle = this.text("authority/trust-bundle.json");
        let join = ["authority", "join", "--config", &config, "--trust-bundle", &bundle];
        Ran::of(this.countersign().args(join)).expect("authority join");
        this
    }

    fn get_ready(&mut self) {
        let this = self;
        this.enrol().expect("enrol");
        this.start_agent();
        let host = this.host();
        this.admin(&["references", "capture", &host, "--set", "fleet", "--activate"]).expect("references");
        let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/policy/demo");
        this.admin(&["policy", "activate", &policy.display().to_string()]).expect("policy");
        this.add_gateway(30);
        this.wait_ready();
    }

    /// Runs `authority init` with this deployment's parts.
    pub fn init(&self) -> Ran {
        let mut command = self.countersign();
        command
            .args(["authority", "init", "--dir", &self.text("authority")])
            .args(["--origin", "test.example/log", "--trust-domain", "test.example"])
            .args(["--listen", &format!("127.0.0.1:{}", self.listen_ports[0])])
            .args(["--admin-listen", &format!("127.0.0.1:{}", free_port())])
            // Operators come in by the admin listener's address, whatever hosts call the authority.
            .args(["--server-name", "authority.test"])
            .args(["--ek-root", &self.text("ek-roots.pem")])
            .args(["--pkcs11-module", &SoftHsm::module().display().to_string()])
            .args(["--recovery-token", "recovery", "--recovery-pin-file", &self.text("pin")]);
        if let Some(postgres) = &self.postgres {
            command.args(["--postgres", &postgres.socket_directory().display().to_string()]);
            command.args(["--postgres-database", &postgres.database(), "--postgres-user", "postgres"]);
        }
        match &self.signer_tpm {
            Some(tpm) => command.args(["--signer", "tpm", "--tcti", &tpm.tcti()]),
            None => {
                command.args(["--signer", "pkcs11", "--token", "authority", "--pin-file", &self.text("pin")])
            }
        };
        Ran::of(&mut command)
    }

    /// Starts the authority and waits until it answers.
    pub fn start_authority(&mut self) {
        self.authority = Some(self.spawn_authority());
    }

    /// The same for a test that keeps the process itself.
    #[must_use]
    pub fn spawn_authority(&self) -> ManagedChild {
        self.spawn_replica(0)
    }

    /// The first authority, or the second of [`Deployment::replicated`].
    #[must_use]
    pub fn spawn_replica(&self, which: usize) -> ManagedChild {
        let folder = ["authority", "replica"][which];
        let mut command = self.countersign();
        command.args(["authority", "serve", "--config", &self.text(&format!("{folder}/authority.toml"))]);
        let mut child = ManagedChild::spawn(folder, command);
        child.wait_until(PATIENCE, || self.get_from(self.listen_ports[which], "/livez").is_some());
        child
    }

    /// Ends the authority in the way that systemd would.
    pub fn stop_authority(&mut self) {
        if let Some(mut child) = self.authority.take() {
            child.stop(PATIENCE);
        }
    }

    /// Enrols the host with a fresh token.
    pub fn enrol(&self) -> Ran {
        let token = self.admin(&["join-token"]).expect("join token");
        self.enrol_with(token.trim())
    }

    /// Enrols the host with this token.
    pub fn enrol_with(&self, token: &str) -> Ran {
        Ran::of(self.countersign().args([
            "agent",
            "enrol",
            "--config",
            &self.text("agent.toml"),
            "--token",
            token,
        ]))
    }

    /// Starts the agent and waits until the host's evidence is in.
    pub fn start_agent(&mut self) {
        let mut command = self.countersign();
        command.args(["agent", "run", "--config", &self.text("agent.toml")]);
        let mut child = ManagedChild::spawn("agent", command);
        child.wait_until(PATIENCE, || {
            let hosts = self.admin(&["hosts", "--json"]);
            hosts.status == Some(0) && hosts.out.contains("\"evidence\"") && self.path("agent.sock").exists()
        });
        self.agent = Some(child);
    }

    /// Ends the agent.
    pub fn stop_agent(&mut self) {
        if let Some(mut child) = self.agent.take() {
            child.stop(PATIENCE);
        }
    }

    /// Reboots the host's TPM into a boot made from `seed`, with the log that belongs to it.
    pub fn reboot_host(&self, seed: u64) {
        self.reboot_host_into(&[&seed.to_string()]);
    }

    /// Reboots the host's TPM into the boot that the simulator makes of these arguments, with the log that belongs to it.
    pub fn reboot_host_into(&self, args: &[&str]) {
        self.tpm.reboot();
        boot(&self.tpm, &self.path("boot.log"), args);
    }

    /// The only host's identifier.
    #[must_use]
    pub fn host(&self) -> String {
        let out = self.admin(&["hosts", "--json"]).expect("hosts");
        let hosts: serde_json::Value =
            serde_json::from_str(&out).unwrap_or_else(|error| panic!("hosts: {error}"));
        hosts[0]["host"].as_str().unwrap_or_else(|| panic!("no host in {out}")).to_owned()
    }

    /// Registers a gateway named `gate-1` and writes its configuration.
    pub fn add_gateway(&self, lease_secs: u64) {
        self.admin(&["gateway", "--name", "gate-1", "--out", &self.text("")]).expect("gateway");
        self.folder("gate");
        self.write(
            "gate.toml",
            &format!(
                "name = \"gate-1\"\naudiences = [\"gate-1\"]\nlease_secs = {lease_secs}\nstate_dir = {:?}\ntrust_bundle = {:?}\n\n\
                 [authority]\nurl = \"https://127.0.0.1:{}\"\nclient_certificate = {:?}\nclient_key = {:?}\n",
                self.text("gate"),
                self.text("authority/trust-bundle.json"),
                self.service_port,
                self.text("gate-1.cert.pem"),
                self.text("gate-1.key.pem"),
            ),
        );
    }

    /// Makes a holder key if it isn't there and returns its path.
    #[must_use]
    pub fn holder(&self, name: &str) -> String {
        let path = self.text(&format!("{name}.pem"));
        if !Path::new(&path).exists() {
            Ran::of(self.countersign().args(["holder", "keygen", &path])).expect("holder key");
        }
        path
    }

    /// Asks the agent for an artifact into the file `out`: `options`, then the command line.
    pub fn ask(&self, out: &str, options: &[&str], argv: &[&str]) -> Ran {
        let mut command = self.countersign();
        command
            .args(["artifact", "request", "--agent", &self.text("agent.sock"), "--audience", "gate-1"])
            .args(["--holder-key", &self.holder("holder"), "--out", &self.text(out)])
            .args(options)
            .arg("--")
            .args(argv);
        Ran::of(&mut command)
    }

    /// Runs a command line through the gateway with the artifact in the file `artifact`.
    pub fn exec(&self, artifact: &str, argv: &[&str]) -> Ran {
        self.exec_as(artifact, "holder", argv)
    }

    /// The same with a holder key of another name.
    pub fn exec_as(&self, artifact: &str, holder: &str, argv: &[&str]) -> Ran {
        let mut command = self.countersign();
        command
            .args(["exec", "--config", &self.text("gate.toml"), "--artifact", &self.text(artifact)])
            .args(["--holder-key", &self.holder(holder), "--"])
            .args(argv);
        Ran::of(&mut command)
    }

    /// Runs `countersign admin` with the first operator's profile.
    pub fn admin(&self, args: &[&str]) -> Ran {
        Ran::of(
            self.countersign().args(["admin", "--profile", &self.text("authority/admin.toml")]).args(args),
        )
    }

    /// Runs `countersign audit VERB` on the authority's store.
    pub fn audit(&self, verb: &str) -> Ran {
        let bundle = self.text("authority/trust-bundle.json");
        let store = match &self.postgres {
            None => ["--store".to_owned(), self.text("authority/log.sqlite")],
            Some(_) => ["--config".to_owned(), self.text("authority/authority.toml")],
        };
        Ran::of(self.countersign().args(["audit", verb, "--trust-bundle", &bundle]).args(store))
    }

    /// Every leaf of the log, as `countersign audit leaves` prints them: one a line, base64.
    #[must_use]
    pub fn audit_leaves(&self) -> Vec<Vec<u8>> {
        let out = self.audit("leaves").expect("audit leaves");
        let decode = |line: &str| data_encoding::BASE64.decode(line.as_bytes());
        out.lines().map(|line| decode(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
    }

    /// The address of the service listener.
    #[must_use]
    pub fn service_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.service_port)
    }

    /// The body of a successful `GET` on the service listener, by a client that knows the CA only.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<String> {
        self.get_from(self.service_port, path)
    }

    /// The same at the first authority, or at the second of [`Deployment::replicated`], past what stands before them.
    #[must_use]
    pub fn get_at(&self, which: usize, path: &str) -> Option<String> {
        self.get_from(self.listen_ports[which], path)
    }

    fn get_from(&self, port: u16, path: &str) -> Option<String> {
        let url = format!("https://127.0.0.1:{port}{path}");
        let mut curl = Command::new("curl");
        curl.args(["-sf", "--max-time", "10", "--cacert", &self.text("authority/ca.pem"), &url]);
        let ran = Ran::of(&mut curl);
        (ran.status == Some(0)).then_some(ran.out)
    }

    /// Whether the authority says that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_some()
    }

    /// Waits until it does.
    #[track_caller]
    pub fn wait_ready(&self) {
        assert!(wait_until(PATIENCE, || self.is_ready()), "not ready: {}", self.authority_log());
    }

    /// Waits until it doesn't.
    #[track_caller]
    pub fn wait_not_ready(&self) {
        assert!(wait_until(PATIENCE, || !self.is_ready()), "still ready: {}", self.authority_log());
    }

    /// What the authority has written to its log.
    #[must_use]
    pub fn authority_log(&self) -> String {
        self.authority.as_ref().map(ManagedChild::log).unwrap_or_default()
    }

    /// The binary with this deployment's token environment.
    #[must_use]
    pub fn countersign(&self) -> Command {
        let mut command = countersign();
        let (name, value) = self.hsm.env();
        command.env(name, value);
        command
    }

    /// A file of this deployment.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// For the owner alone: PIN files that others can read are refused.
    fn write(&self, name: &str, text: &str) {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.path(name));
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// A directory for the owner alone.
    fn folder(&self, name: &str) {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.path(name));
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    fn write_agent_config(&self) {
        self.folder("agent");
        self.write(
            "agent.toml",
            &format!(
                "authority = \"https://127.0.0.1:{}\"\ntrust_bundle = {:?}\nstate_dir = {:?}\ntcti = {:?}\nek_profile = \"rsa2048\"\n\
                 ek_intermediates = [{:?}]\nboot_log = {:?}\nima_list = {:?}\nsocket = {:?}\n\n[[runtime]]\nuid = {}\nname = \"test/worker\"\n\
                 actions = [\"exec\", \"call\"]\naudiences = [\"gate-1\"]\nmax_ttl_secs = 120\nmay_delegate = true\n",
                self.service_port,
                self.text("authority/trust-bundle.json"),
                self.text("agent"),
                self.tpm.tcti(),
                self.text("ek-issuer.pem"),
                self.text("boot.log"),
                self.text("ima.list"),
                self.text("agent.sock"),
                nix::unistd::getuid(),
            ),
        );
    }
}

/// Extends what firmware would have measured and writes its log.
fn boot(tpm: &SwTpm, log: &Path, args: &[&str]) {
    let printed = Ran::of(Command::new(tool("boot-simulator")).arg(log).args(args)).expect("boot simulator");
    let specs: Vec<&str> = printed.lines().collect();
    // tpm2_pcrextend takes several registers a call, but not any number of them.
    for some in specs.chunks(8) {
        tpm.tpm2("tpm2_pcrextend", some);
    }
}
