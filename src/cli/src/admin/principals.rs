//! `admin gateway`, `admin operator`, `admin principals`: keys are made here and stay here; the authority gets the public half and a proof.
//!
//! Comes in: a name, a folder, a key or none. Goes out: key and certificate, for an operator a profile too. Refused: names that the authority
//! wouldn't take, before any file is touched; files that are there and are something else.

use super::Context;
use crate::failure::Failure;
use crate::output;
use crate::profile::Profile;
use anyhow::{Context as _, ensure};
use countersign_client::ClientError;
use countersign_core::api::admin::{GatewayCall, OperatorCall};
use countersign_core::api::{B64, CertificateIssued, NamedKey};
use countersign_core::key::{Algorithm, JsonKey};
use countersign_core::leaf::control::{Role, officer_addition};
use countersign_core::name::is_principal_name;
use countersign_core::refusal::Blame;
use countersign_core::tuple;
use countersign_gateway::holder::key::HolderKey;
use std::path::{Path, PathBuf};

/// Whose certificate, and where its files go.
#[derive(clap::Args)]
struct Wanted {
    /// Name: 1 to 64 letters, digits, dots, hyphens and underscores. The holder proofs of a gateway carry it.
    #[arg(long, value_parser = principal_name)]
    name: String,
    /// Folder for what is made: `<name>.key.pem`, `<name>.cert.pem` and, for an operator, the profile `<name>.toml`.
    #[arg(long)]
    out: PathBuf,
    /// Private key, PEM, that is there already: the certificate is renewed, or made for a key from elsewhere. A key is made when absent.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(super) struct GatewayArgs {
    #[command(flatten)]
    wanted: Wanted,
}

#[derive(clap::Args)]
pub(super) struct OperatorArgs {
    #[command(flatten)]
    wanted: Wanted,
    /// What the operator may do.
    #[arg(long, value_enum)]
    role: RoleArg,
}

/// Refused here, since the name is part of file names.
fn principal_name(text: &str) -> Result<String, String> {
    if is_principal_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 64 characters of [A-Za-z0-9._-]".to_owned())
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum RoleArg {
    Viewer,
    Operator,
    SecurityOfficer,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Operator => Self::Operator,
            RoleArg::SecurityOfficer => Self::SecurityOfficer,
        }
    }
}

/// A key that is to be certified.
struct Subject {
    key: HolderKey,
    path: PathBuf,
    /// This very run wrote its file.
    made: bool,
}

impl Wanted {
    fn file(&self, ending: &str) -> PathBuf {
        self.out.join(format!("{}.{ending}", self.name))
    }

    /// The key that is named, one that an earlier run left without a certificate, or a new one. On the disk before anybody is told of it: a name
    /// belongs to one key for ever.
    fn subject(&self) -> anyhow::Result<Subject> {
        let load = |path: PathBuf, made| {
            let key = HolderKey::load(&path).with_context(|| path.display().to_string())?;
            Ok(Subject { key, path, made })
        };
        if let Some(path) = &self.key {
            return load(path.clone(), false);
        }
        let path = self.file("key.pem");
        if path.exists() {
            ensure!(
                !self.file("cert.pem").exists(),
                "{0} has a certificate already; to renew it give --key {0}",
                path.display()
            );
            return load(path, false);
        }
        let key = HolderKey::generate(Algorithm::Es256).context("key")?;
        key.write_new(&path).context("key")?;
        Ok(Subject { key, path, made: true })
    }
}

impl Subject {
    fn named(&self, context: &Context, name: &str) -> NamedKey {
        let public = self.key.public();
        let preimage = tuple::preimage(
            "countersign-v1:principal-possession",
            &[context.admin.bundle.origin().as_str().as_bytes(), name.as_bytes(), &public.cose_key()],
        );
        let possession = B64(self.key.sign(&preimage).to_vec());
        NamedKey { name: name.to_owned(), key: JsonKey::from(public.clone()), possession }
    }

    /// After an answer: a new key that was refused is of no use. After a fault it stays, since the authority may know it; the next run takes it.
    fn judge(&self, answer: Result<CertificateIssued, ClientError>) -> Result<CertificateIssued, Failure> {
        answer.map_err(|error| {
            if self.made && error.code().is_some_and(|code| code.blame() != Blame::Fault) {
                // The refusal is what is told; a file that stays is taken by the next run.
                let _ = std::fs::remove_file(&self.path);
            }
            error.into()
        })
    }
}

fn keep(wanted: &Wanted, issued: &CertificateIssued) -> Result<(), Failure> {
    let chain: Vec<Vec<u8>> = issued.certificates.iter().map(|der| der.0.clone()).collect();
    output::write_file(&wanted.file("cert.pem"), output::pem(&chain).as_bytes(), false)
}

pub(super) async fn add_gateway(context: &Context, args: &GatewayArgs) -> Result<(), Failure> {
    let wanted = &args.wanted;
    let subject = wanted.subject()?;
    let call = GatewayCall { subject: subject.named(context, &wanted.name) };
    let issued = subject.judge(context.admin.client.add_gateway(&call).await)?;
    keep(wanted, &issued)?;
    if context.json {
        return output::json(&issued);
    }
    anstream::println!("{}: key {}, certificate in {}", wanted.name, issued.thumbprint, wanted.out.display());
    Ok(())
}

pub(super) async fn add_operator(context: &Context, args: &OperatorArgs) -> Result<(), Failure> {
    let wanted = &args.wanted;
    let role = args.role.into();
    let profile = profile(context, wanted)?;
    let subject = wanted.subject()?;
    let named = subject.named(context, &wanted.name);
    let act = officer_addition(
        context.admin.bundle.origin().as_str(),
        &named.name,
        &subject.key.public().thumbprint(),
    );
    let approval = (role == Role::SecurityOfficer).then(|| context.admin.approve(&act)).transpose()?;
    let call = OperatorCall { subject: named, role, approval };
    let issued = subject.judge(context.admin.client.add_operator(&call).await)?;
    for (path, bytes) in &profile {
        if !path.exists() {
            output::write_file(path, bytes, false)?;
        }
    }
    keep(wanted, &issued)?;
    if context.json {
        return output::json(&issued);
    }
    let profile = wanted.file("toml");
    anstream::println!("{}: key {}, profile {}", wanted.name, issued.thumbprint, profile.display());
    Ok(())
}

/// The operator's profile and the trust bundle that it names, by their paths. What is there already stays and has to be the same, but for the
/// profile of an operator whose certificate is renewed.
fn profile(context: &Context, wanted: &Wanted) -> anyhow::Result<Vec<(PathBuf, Vec<u8>)>> {
    let bundle = wanted.out.join("trust-bundle.json");
    let file = |path: &Path| PathBuf::from(path.file_name().unwrap_or(path.as_os_str()));
    let profile = Profile {
        url: context.admin.url.clone(),
        trust_bundle: file(&bundle),
        certificate: file(&wanted.file("cert.pem")),
        key: match &wanted.key {
            Some(path) => std::path::absolute(path).with_context(|| path.display().to_string())?,
            None => file(&wanted.file("key.pem")),
        },
    };
    let pinned = &context.admin.bundle_path;
    let pinned = std::fs::read(pinned).with_context(|| pinned.display().to_string())?;
    let text = toml::to_string(&profile).context("profile")?;
    let files = vec![(bundle, pinned), (wanted.file("toml"), text.into_bytes())];
    for (path, bytes) in &files {
        let same = || std::fs::read(path).is_ok_and(|found| found == *bytes);
        let renewed = wanted.key.is_some() && *path == wanted.file("toml");
        ensure!(
            renewed || !path.exists() || same(),
            "{} is there and is something else: take another name or folder",
            path.display()
        );
    }
    Ok(files)
}

pub(super) async fn list(context: &Context) -> Result<(), Failure> {
    let principals = context.admin.client.principals().await?;
    if context.json {
        return output::json(&principals);
    }
    let rows = principals
        .principals
        .into_iter()
        .map(|principal| {
            let role = principal.role.map_or("-", |role| match role {
                Role::Viewer => "viewer",
                Role::Operator => "operator",
                Role::SecurityOfficer => "security-officer",
            });
            let acknowledged =
                principal.acknowledged.map_or_else(|| "-".to_owned(), |number| number.to_string());
            let status = if principal.revoked { "revoked" } else { "active" };
            vec![
                principal.thumbprint,
                principal.name,
                principal.kind,
                role.to_owned(),
                status.to_owned(),
                acknowledged,
            ]
        })
        .collect();
    output::table(&["THUMBPRINT", "NAME", "KIND", "ROLE", "STATUS", "CONTROL"], rows);
    Ok(())
}
