//! `admin gateway`, `admin operator`, `admin principals`: keys are made here and stay here; the authority gets the public half and a proof.

use super::Context;
use crate::failure::Failure;
use crate::output;
use anyhow::Context as _;
use countersign_core::api::admin::{GatewayCall, OperatorCall};
use countersign_core::api::{B64, CertificateIssued, NamedKey};
use countersign_core::key::{Algorithm, JsonKey, VerifyingKey};
use countersign_core::leaf::control::{Role, officer_addition};
use countersign_core::tuple;
use countersign_gateway::holder::key::HolderKey;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct GatewayArgs {
    /// Name of the gateway; holder proofs carry it.
    #[arg(long)]
    name: String,
    /// Folder for `<name>.key.pem` and `<name>.cert.pem`.
    #[arg(long)]
    out: PathBuf,
}

#[derive(clap::Args)]
pub(super) struct OperatorArgs {
    /// Name of the operator.
    #[arg(long)]
    name: String,
    /// What the operator may do.
    #[arg(long, value_enum)]
    role: RoleArg,
    /// Folder for `<name>.key.pem` and `<name>.cert.pem`.
    #[arg(long)]
    out: PathBuf,
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

fn named_key(context: &Context, name: &str, out: &Path) -> anyhow::Result<NamedKey> {
    let path = out.join(format!("{name}.key.pem"));
    let key = HolderKey::generate(Algorithm::Es256).context("key")?;
    key.write_new(&path).with_context(|| path.display().to_string())?;
    let public = key.public();
    let preimage = tuple::preimage(
        "countersign-v1:principal-possession",
        &[context.admin.bundle.origin().as_str().as_bytes(), name.as_bytes(), &public.cose_key()],
    );
    let possession = B64(key.sign(&preimage).to_vec());
    Ok(NamedKey { name: name.to_owned(), key: JsonKey::from(public.clone()), possession })
}

fn keep(context: &Context, name: &str, out: &Path, issued: &CertificateIssued) -> Result<(), Failure> {
    let chain: Vec<Vec<u8>> = issued.certificates.iter().map(|der| der.0.clone()).collect();
    let pem = output::pem(&chain);
    output::write_file(&out.join(format!("{name}.cert.pem")), pem.as_bytes(), false)?;
    if context.json {
        return output::json(issued);
    }
    anstream::println!("{name}: key {}, certificate in {}", issued.thumbprint, out.display());
    Ok(())
}

pub(super) async fn add_gateway(context: &Context, args: &GatewayArgs) -> Result<(), Failure> {
    let subject = named_key(context, &args.name, &args.out)?;
    let issued = context.admin.client.add_gateway(&GatewayCall { subject }).await?;
    keep(context, &args.name, &args.out, &issued)
}

pub(super) async fn add_operator(context: &Context, args: &OperatorArgs) -> Result<(), Failure> {
    let subject = named_key(context, &args.name, &args.out)?;
    let role = args.role.into();
    let key = VerifyingKey::try_from(subject.key.clone()).map_err(anyhow::Error::new)?;
    let origin = context.admin.bundle.origin().as_str();
    let act = officer_addition(origin, &subject.name, &key.thumbprint());
    let approval = (role == Role::SecurityOfficer).then(|| context.admin.approve(&act)).transpose()?;
    let issued = context.admin.client.add_operator(&OperatorCall { subject, role, approval }).await?;
    keep(context, &args.name, &args.out, &issued)
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
