//! `admin keys compromise`: run where the recovery token is. The recovery key signs here; the authority only records what it said.

use super::super::Context;
use crate::failure::Failure;
use crate::output;
use anyhow::{Context as _, bail, ensure};
use countersign_authority::config::Signer;
use countersign_authority::custody::KeyStore;
use countersign_core::api::B64;
use countersign_core::api::admin::{CompromiseCall, Keys};
use countersign_core::bundle::{
    BundleDocument, Compromise, Says, Statement, StatementDocument, TrustBundle, statement_preimage,
};
use countersign_core::checkpoint::HeadBody;
use countersign_core::key::VerifyingKey;
use countersign_core::note::SignedNote;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(clap::Args)]
pub(in crate::admin) struct Args {
    /// Thumbprint of the head key, as `keys list` prints it.
    #[arg(long)]
    key: String,
    /// Size of the last head that counts: the newest from before the key was in other hands.
    #[arg(long)]
    last_good: u64,
    /// PKCS#11 module of the recovery token.
    #[arg(long)]
    pkcs11_module: PathBuf,
    /// Label of the recovery key's token.
    #[arg(long)]
    recovery_token: String,
    /// File with its PIN.
    #[arg(long)]
    recovery_pin_file: PathBuf,
    /// Label of the recovery key.
    #[arg(long, default_value = "countersign-recovery")]
    recovery_label: String,
    /// Where to write the trust bundle with the new statement, for those who pin it.
    #[arg(long)]
    bundle_out: PathBuf,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<Keys, Failure> {
    let client = &context.admin.client;
    let keys = client.keys().await?;
    let statement = statement(context, args, &keys).await?;
    let place = Signer::Pkcs11 {
        module: args.pkcs11_module.clone(),
        token: args.recovery_token.clone(),
        pin_file: args.recovery_pin_file.clone(),
        head_key: args.recovery_label.clone(),
        ca_key: args.recovery_label.clone(),
        jwt_key: args.recovery_label.clone(),
    };
    let (store, _) = KeyStore::new(&place);
    let mut recovery = store.signer(&args.recovery_label).context("recovery key")?;
    if recovery.public_key() != context.admin.bundle.recovery_key() {
        return Err(anyhow::anyhow!("the key in the token isn't the recovery key of the trust bundle").into());
    }
    let bytes = statement.encode();
    let signature = recovery.sign(&statement_preimage(&bytes)).context("recovery key")?.as_bytes().to_vec();
    // Written first: with it, gateways refuse the key even while nobody reaches the authority.
    let bundle = extended(&context.admin.bundle_path, &statement, &signature)?;
    output::write_file(&args.bundle_out, &bundle, false)?;
    anstream::eprintln!("trust bundle with statement {} in {}", statement.number, args.bundle_out.display());
    Ok(client.compromise_key(&CompromiseCall { statement: B64(bytes), signature: B64(signature) }).await?)
}

async fn statement(context: &Context, args: &Args, keys: &Keys) -> anyhow::Result<Statement> {
    let mut compromised = None;
    let mut active = Vec::new();
    for document in &keys.head {
        let key = VerifyingKey::try_from(document.key.clone())?;
        if document.thumbprint == args.key {
            compromised = Some(key);
        } else if document.state == "active" {
            active.push(key);
        }
    }
    let key = compromised.with_context(|| format!("no head key {}", args.key))?;
    let heads = context.admin.client.heads(args.last_good, 1).await?;
    let text = heads.heads.first().context("the log has no such head")?;
    let body = SignedNote::parse(text).map_or_else(|_| text.clone(), |note| note.text().to_owned());
    let last_good = HeadBody::parse(&body).context("head")?;
    if last_good.size != args.last_good {
        bail!("no head has the size {}; the next one has {}", args.last_good, last_good.size);
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Statement {
        number: keys.statements + 1,
        origin: context.admin.bundle.origin().clone(),
        time_ms: u64::try_from(since.as_millis())?,
        says: Says::Compromise(Compromise { key, last_good, head_keys: active }),
    })
}

/// The pinned bundle with one more statement; whoever pins it knows of the compromise before any log says so.
fn extended(pinned: &Path, statement: &Statement, signature: &[u8]) -> anyhow::Result<Vec<u8>> {
    let name = || pinned.display().to_string();
    let mut document: BundleDocument =
        serde_json::from_slice(&std::fs::read(pinned).with_context(name)?).with_context(name)?;
    let held = u64::try_from(document.statements.len())?;
    ensure!(
        statement.number == held + 1,
        "{}: the log has statements that this bundle lacks; use the newest bundle",
        pinned.display()
    );
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    document
        .statements
        .push(StatementDocument { statement: encode(&statement.encode()), signature: encode(signature) });
    let mut bytes = serde_json::to_vec_pretty(&document)?;
    bytes.push(b'\n');
    TrustBundle::verify(&bytes)?;
    Ok(bytes)
}
