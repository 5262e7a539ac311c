//! Witnesses as processes of their own, and a deployment that asks them.

use crate::{Deployment, Ran, countersign};
use countersign_fixture::{ManagedChild, free_port};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const LOG: &str = "test.example/log";

/// A witness of a deployment's log. Dropping it ends the process.
pub struct WitnessProcess {
    /// Its name in quorum files.
    pub name: String,
    /// Its verifier key.
    pub vkey: String,
    /// The process, when it runs.
    pub child: Option<ManagedChild>,
    folder: PathBuf,
    port: u16,
}

impl WitnessProcess {
    /// Makes a witness that follows the deployment's log from its beginning, and starts it.
    #[must_use]
    pub fn start(deployment: &Deployment, name: &str) -> Self {
        let mut this = Self::made(deployment, name);
        let mut begin = countersign();
        begin.args(["witness", "begin", "--config", &this.config(), LOG]);
        Ran::of(&mut begin).expect("witness begin");
        this.restart();
        this
    }

    /// The same without a memory of the log, not started.
    #[must_use]
    pub fn made(deployment: &Deployment, name: &str) -> Self {
        let (folder, port) = (deployment.path(name), free_port());
        let mut init = countersign();
        init.args(["witness", "init", "--dir", &folder.display().to_string()]).args([
            "--name",
            &format!("{name}.example/witness"),
            "--listen",
            &format!("127.0.0.1:{port}"),
        ]);
        let vkey = Ran::of(&mut init).expect("witness init").trim().to_owned();
        let mut keys = countersign();
        keys.args(["witness", "log-keys", "--trust-bundle", &deployment.text("authority/trust-bundle.json")]);
        let keys = Ran::of(&mut keys).expect("log keys");
        let keys: Vec<String> = keys.lines().map(|key| format!("{key:?}")).collect();
        let this = Self { name: name.to_owned(), vkey, child: None, folder, port };
        let mut config = std::fs::read_to_string(this.config()).unwrap_or_else(|error| panic!("{error}"));
        config.push_str(&format!("\n[[log]]\norigin = {LOG:?}\nkeys = [{}]\n", keys.join(", ")));
        std::fs::write(this.config(), config).unwrap_or_else(|error| panic!("{error}"));
        this
    }

    /// Starts it, or starts it again after it was stopped or killed.
    pub fn restart(&mut self) {
        let mut child = ManagedChild::spawn(&self.name, self.command());
        let port = self.port;
        child.wait_until(PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        self.child = Some(child);
    }

    /// The command that serves.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut serve = countersign();
        serve.args(["witness", "serve", "--config", &self.config()]);
        serve
    }

    /// Kills it where it stands.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill();
        }
    }

    /// Asks it to end.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let status = child.stop(PATIENCE);
            assert!(status.success(), "{status}: {}", child.log());
        }
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> String {
        self.folder.join("witness.toml").display().to_string()
    }

    /// A file of its memory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Its line in a quorum file.
    #[must_use]
    pub fn line(&self) -> String {
        format!("witness {} {} http://127.0.0.1:{}\n", self.name, self.vkey, self.port)
    }

    /// Sends bytes as a log would: status, content type, body.
    #[must_use]
    pub fn add_checkpoint(&self, body: &str) -> (u16, String, String) {
        let (body_file, answer) = (self.folder.join("request"), self.folder.join("answer"));
        std::fs::write(&body_file, body).unwrap_or_else(|error| panic!("{error}"));
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", "-H", "Expect:", "-w", "%{http_code} %{content_type}"])
            .args([
                "--data-binary",
                &format!("@{}", body_file.display()),
                "-o",
                &answer.display().to_string(),
            ])
            .arg(format!("http://127.0.0.1:{}/add-checkpoint", self.port));
        let said = Ran::of(&mut curl).expect("curl");
        let (status, kind) = said.split_once(' ').unwrap_or((&said, ""));
        let body = std::fs::read_to_string(answer).unwrap_or_default();
        (status.parse().unwrap_or(0), kind.to_owned(), body)
    }
}

impl Deployment {
    /// Has the authority ask these witnesses, all of which make the quorum, and starts it again. The quorum file is `quorum`.
    pub fn witnessed_by(&mut self, witnesses: &[&WitnessProcess]) {
        self.stop_authority();
        self.configure_witnesses(witnesses);
        self.start_authority();
    }

    /// The same for an authority that doesn't run.
    pub fn configure_witnesses(&self, witnesses: &[&WitnessProcess]) {
        let names: Vec<&str> = witnesses.iter().map(|witness| witness.name.as_str()).collect();
        let lines: String = witnesses.iter().map(|witness| witness.line()).collect();
        let rule = if names.is_empty() {
            "quorum none\n".to_owned()
        } else {
            format!("group everyone all {}\nquorum everyone\n", names.join(" "))
        };
        std::fs::write(self.path("quorum"), lines + &rule).unwrap_or_else(|error| panic!("{error}"));
        let path = self.path("authority/authority.toml");
        let config = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}"));
        let mut config: toml::Table = config.parse().unwrap_or_else(|error| panic!("{error}"));
        let mut section = toml::Table::new();
        section.insert("quorum_file".to_owned(), self.text("quorum").into());
        section.insert("retry_secs".to_owned(), 1.into());
        config.insert("witnesses".to_owned(), section.into());
        std::fs::write(&path, config.to_string()).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Has the gateway `gate-1` demand the quorum.
    pub fn gateway_demands_quorum(&self) {
        let path = self.path("gate.toml");
        let config = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}"));
        let config = format!("quorum_file = {:?}\n{config}", self.text("quorum"));
        std::fs::write(&path, config).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The newest checkpoint, and its size.
    #[must_use]
    pub fn checkpoint(&self) -> (String, u64) {
        let text = self.get("/v1/log/checkpoint").unwrap_or_else(|| panic!("no checkpoint"));
        let size = text.lines().nth(1).and_then(|size| size.parse().ok());
        let size = size.unwrap_or_else(|| panic!("no size in {text}"));
        (text, size)
    }
}
