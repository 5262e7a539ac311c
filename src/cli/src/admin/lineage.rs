//! `admin lineage`: families of artifacts, and artifacts by what they belong to. What is missing is printed with what is there.

use super::Context;
use crate::failure::Failure;
use crate::output;
use anyhow::Context as _;
use countersign_client::ClientError;
use countersign_core::api::admin::{LineageEntry, LineageGap, LineagePage};
use countersign_core::refusal::RefusalCode;
use std::collections::BTreeMap;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// What an artifact comes from.
    Ancestors(Member),
    /// What comes from an artifact.
    Descendants(Member),
    /// Artifacts by exactly one property.
    Artifacts(Box<Artifacts>),
}

#[derive(clap::Args)]
pub(super) struct Member {
    /// Index of the artifact's leaf.
    index: u64,
    /// Stop after this many artifacts.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
}

#[derive(clap::Args)]
pub(super) struct Artifacts {
    #[command(flatten)]
    property: Property,
    /// All that comes from these artifacts, too: how far a bad host, key or boot reaches.
    #[arg(long)]
    descendants: bool,
    /// Stop after this many artifacts.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Property {
    /// Host identifier.
    #[arg(long)]
    host: Option<String>,
    /// SHA-256 of the attestation key's TPMT_PUBLIC.
    #[arg(long)]
    ak: Option<String>,
    /// Thumbprint of the head key that signed the first signed head above the artifact.
    #[arg(long)]
    head_key: Option<String>,
    /// Digest of a policy document.
    #[arg(long)]
    policy: Option<String>,
    /// Digest of the references document in force.
    #[arg(long)]
    references: Option<String>,
    /// Name of the reference set that matched.
    #[arg(long)]
    reference_set: Option<String>,
    /// SHA-256 of the program.
    #[arg(long)]
    workload: Option<String>,
    /// A register's value in the quote: BANK:INDEX:HEX, such as sha256:7:e3b0..
    #[arg(long)]
    pcr: Option<String>,
}

impl Property {
    fn query(&self) -> Option<(&'static str, String)> {
        let set = self.reference_set.as_ref().map(|name| data_encoding::HEXLOWER.encode(name.as_bytes()));
        let known = [
            ("host", self.host.clone()),
            ("ak", self.ak.clone()),
            ("head_key", self.head_key.clone()),
            ("policy", self.policy.clone()),
            ("references", self.references.clone()),
            ("reference_set", set),
            ("workload", self.workload.clone()),
            ("pcr", self.pcr.clone()),
        ];
        known.into_iter().find_map(|(name, value)| value.map(|value| (name, value)))
    }
}

/// Pages put together.
#[derive(Default)]
struct Gathered {
    indexed: u64,
    size: u64,
    subject: Option<LineageEntry>,
    entries: BTreeMap<u64, LineageEntry>,
    gaps: Vec<LineageGap>,
    /// There was more than was wanted.
    cut: bool,
}

impl Gathered {
    /// Takes pages until there are no more, or enough.
    async fn take(
        &mut self,
        limit: usize,
        ask: impl AsyncFn(Option<String>) -> Result<LineagePage, ClientError>,
    ) -> Result<(), Failure> {
        let mut after = None;
        loop {
            let page = ask(after).await?;
            (self.indexed, self.size) = (page.indexed, page.size);
            self.subject = page.subject.or(self.subject.take());
            self.entries.extend(page.entries.into_iter().map(|entry| (entry.index, entry)));
            for gap in page.gaps {
                if !self.gaps.contains(&gap) {
                    self.gaps.push(gap);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
            if self.entries.len() >= limit {
                self.cut = true;
                return Ok(());
            }
        }
    }
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let client = &context.admin.client;
    let mut found = Gathered::default();
    let member = match &command {
        Command::Ancestors(Member { index, .. }) | Command::Descendants(Member { index, .. }) => Some(*index),
        Command::Artifacts(_) => None,
    };
    match command {
        Command::Ancestors(Member { index, limit }) => {
            found
                .take(limit, async |after| client.lineage_ancestors(index, after.as_deref(), None).await)
                .await?;
        }
        Command::Descendants(Member { index, limit }) => {
            let ask =
                async |after: Option<String>| client.lineage_descendants(index, after.as_deref(), None).await;
            found.take(limit, ask).await?;
        }
        Command::Artifacts(args) => {
            let (name, value) = args.property.query().context("a property is needed")?;
            let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b':');
            if !plain {
                return Err(anyhow::anyhow!("{name}: digits, letters and colons only").into());
            }
            let ask = async |after: Option<String>| {
                client.lineage_artifacts(name, &value, after.as_deref(), None).await
            };
            found.take(args.limit, ask).await?;
            if args.descendants {
                reach(context, &mut found, args.limit).await?;
            }
        }
    }
    print(context, &found)?;
    if let (Some(index), None) = (member, &found.subject) {
        let detail = format!("leaf {index} isn't an artifact that the index knows");
        return Err(Failure::refused(RefusalCode::NotFound, detail));
    }
    Ok(())
}

/// Adds the descendants of everything that was found.
async fn reach(context: &Context, found: &mut Gathered, limit: usize) -> Result<(), Failure> {
    let client = &context.admin.client;
    let seeds: Vec<u64> =
        found.entries.values().filter(|entry| entry.delegates).map(|entry| entry.index).collect();
    for index in seeds {
        if found.entries.len() >= limit {
            found.cut = true;
            break;
        }
        let ask =
            async |after: Option<String>| client.lineage_descendants(index, after.as_deref(), None).await;
        found.take(limit, ask).await?;
    }
    found.subject = None;
    Ok(())
}

fn print(context: &Context, found: &Gathered) -> Result<(), Failure> {
    if context.json {
        return output::json(&serde_json::json!({
            "indexed": found.indexed,
            "size": found.size,
            "subject": found.subject,
            "entries": found.entries.values().collect::<Vec<_>>(),
            "gaps": found.gaps,
            "cut": found.cut,
        }));
    }
    let subject = found.subject.iter().map(|entry| row("*", entry));
    let rows: Vec<_> = subject.chain(found.entries.values().map(|entry| row("", entry))).collect();
    if !rows.is_empty() {
        output::table(
            &["", "LEAF", "TIME", "HOST", "AUDIENCE", "ACTION", "PARENTS", "OUTCOMES", "STATE"],
            rows,
        );
    }
    for gap in &found.gaps {
        let place = gap.index.map_or_else(String::new, |index| format!(" leaf {index}"));
        let digest = gap.digest.as_ref().map_or_else(String::new, |digest| format!(" {digest}"));
        anstream::println!("gap: {}{place}{digest}", gap.what);
    }
    if found.indexed < found.size {
        anstream::println!(
            "the index has read {} of {} leaves: later artifacts may be missing",
            found.indexed,
            found.size
        );
    }
    if found.cut {
        anstream::println!("there are more: raise --limit");
    }
    let counted = |count: usize, what: &str| {
        if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
    };
    anstream::println!("{}, {}", counted(found.entries.len(), "artifact"), counted(found.gaps.len(), "gap"));
    Ok(())
}

fn row(mark: &str, entry: &LineageEntry) -> Vec<String> {
    let list = |numbers: Vec<u64>| {
        let texts: Vec<String> = numbers.iter().map(u64::to_string).collect();
        if texts.is_empty() { "-".to_owned() } else { texts.join(" ") }
    };
    vec![
        mark.to_owned(),
        entry.index.to_string(),
        output::time(entry.time_ms),
        entry.host.chars().take(14).collect(),
        entry.audience.clone(),
        entry.action.clone(),
        list(entry.parents.iter().map(|parent| parent.index).collect()),
        list(entry.outcomes.clone()),
        if entry.revoked { "revoked" } else { "-" }.to_owned(),
    ]
}
