//! Policy and references documents on disk: a folder of Cedar files with settings, a JSON file of PCR values.

use anyhow::{Context, bail, ensure};
use countersign_core::digest::Sha256Digest;
use countersign_core::document::{Generation, Lifetime, PolicyDocument, ReferencesDocument, Settings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    bank: Bank,
    pcrs: Vec<u32>,
    max_ttl_secs: u64,
    host_trust_secs: u64,
}

/// PCR banks by name (TCG Algorithm Registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Bank {
    Sha256,
    Sha384,
    Sha512,
}

impl Bank {
    pub(super) const fn id(self) -> u16 {
        match self {
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    fn of(id: u16) -> anyhow::Result<Self> {
        [Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|bank| bank.id() == id)
            .with_context(|| format!("bank {id:#06x} has no name here"))
    }
}

/// Reads a policy folder: every `*.cedar` file is a source named by its stem; `settings.toml` holds the settings, all of them.
pub(super) fn read_policy(folder: &Path) -> anyhow::Result<PolicyDocument> {
    let mut policies = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cedar") {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).context("file names are UTF-8")?;
            let source = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            policies.insert(stem.to_owned(), source);
        }
    }
    ensure!(!policies.is_empty(), "{} holds no .cedar file", folder.display());
    let path = folder.join("settings.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let settings: SettingsFile = toml::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(PolicyDocument {
        policies,
        schema: countersign_authority::policy::SCHEMA.to_owned(),
        settings: Settings {
            bank: settings.bank.id(),
            pcrs: settings.pcrs,
            max_ttl_secs: settings.max_ttl_secs,
            host_trust_secs: settings.host_trust_secs,
        },
    })
}

/// One accepted state in a references file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GenerationFile {
    bank: Bank,
    /// Value in hexadecimal by PCR index.
    pcrs: BTreeMap<u32, String>,
    /// From when it counts, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    /// Until when it counts, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
    /// SHA-256 of the evidence record that it was captured from, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evidence: Option<String>,
}

/// A time as the documents have it.
pub(super) fn to_ms(time: jiff::Timestamp) -> anyhow::Result<u64> {
    u64::try_from(time.as_millisecond()).context("a time before 1970")
}

fn parse_ms(text: &str) -> anyhow::Result<u64> {
    to_ms(text.parse().with_context(|| format!("{text:?} isn't a time of RFC 3339"))?)
}

fn text_of(ms: u64) -> anyhow::Result<String> {
    Ok(jiff::Timestamp::from_millisecond(i64::try_from(ms)?)?.to_string())
}

/// Reads a references file: JSON, set name to generations.
pub(super) fn read_references(path: &Path) -> anyhow::Result<ReferencesDocument> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file: BTreeMap<String, Vec<GenerationFile>> =
        serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let mut sets = BTreeMap::new();
    for (name, generations) in file {
        let generations = generations.into_iter().map(generation).collect::<anyhow::Result<Vec<_>>>()?;
        if generations.is_empty() {
            bail!("set {name:?} has no generation");
        }
        sets.insert(name, generations);
    }
    Ok(ReferencesDocument { ima: None, sets })
}

fn generation(file: GenerationFile) -> anyhow::Result<Generation> {
    let pcrs = file
        .pcrs
        .into_iter()
        .map(|(index, value)| {
            let value = data_encoding::HEXLOWER
                .decode(value.as_bytes())
                .with_context(|| format!("PCR {index} isn't lower-case hexadecimal"))?;
            Ok((index, value))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let lifetime = Lifetime {
        not_before_ms: file.not_before.as_deref().map(parse_ms).transpose()?,
        not_after_ms: file.not_after.as_deref().map(parse_ms).transpose()?,
    };
    let evidence = file.evidence.as_deref().map(Sha256Digest::from_hex).transpose();
    let evidence = evidence.context("evidence isn't a SHA-256 digest")?;
    Ok(Generation { bank: file.bank.id(), pcrs, lifetime, evidence })
}

/// The same document as JSON for people.
pub(super) fn references_json(document: &ReferencesDocument) -> anyhow::Result<String> {
    let mut file = BTreeMap::new();
    for (name, generations) in &document.sets {
        let generations = generations
            .iter()
            .map(|generation| {
                let pcrs = generation
                    .pcrs
                    .iter()
                    .map(|(index, value)| (*index, data_encoding::HEXLOWER.encode(value)))
                    .collect();
                Ok(GenerationFile {
                    bank: Bank::of(generation.bank)?,
                    pcrs,
                    not_before: generation.lifetime.not_before_ms.map(text_of).transpose()?,
                    not_after: generation.lifetime.not_after_ms.map(text_of).transpose()?,
                    evidence: generation.evidence.map(|digest| digest.to_hex()),
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        file.insert(name.clone(), generations);
    }
    Ok(serde_json::to_string_pretty(&file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_references_file_is_the_document_with_everything_in_it() {
        let generation = |evidence| Generation {
            bank: 0x000b,
            pcrs: vec![(0, vec![1; 32]), (4, vec![2; 32])],
            lifetime: Lifetime { not_before_ms: Some(1_000), not_after_ms: None },
            evidence,
        };
        let named = generation(Some(Sha256Digest::new([7; 32])));
        let sets = BTreeMap::from([("fleet".to_owned(), vec![named, generation(None)])]);
        let document = ReferencesDocument { ima: None, sets };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("references.json");
        let json = references_json(&document).unwrap();
        assert_eq!(json.matches("evidence").count(), 1, "{json}");
        std::fs::write(&file, &json).unwrap();
        assert_eq!(read_references(&file).unwrap(), document);
        std::fs::write(&file, json.replace("0707", "07")).unwrap();
        assert!(read_references(&file).unwrap_err().to_string().contains("evidence isn't a SHA-256 digest"));
    }
}
