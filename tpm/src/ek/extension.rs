//! Extensions of a certificate, as far as endorsement needs them.
//!
//! Comes in: the Extensions SEQUENCE. Goes out: [`Extensions`]. Refused: an extension twice, a critical one that isn't among those read here,
//! values that aren't what RFC 5280 and the TCG EK Credential Profile say.
//!
//! Understood, and so allowed to be critical: keyUsage, subjectAltName, basicConstraints, certificatePolicies, extKeyUsage. Name constraints,
//! policy constraints and policy mappings aren't understood: where they are critical the certificate is refused.

use super::EkRefusal;
use super::name::{Name, text};
use super::tlv::{BIT_STRING, Elements, OCTET_STRING, SEQUENCE, SET, context};
use der::asn1::ObjectIdentifier;

const SUBJECT_DIRECTORY_ATTRIBUTES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.9");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const CERTIFICATE_POLICIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.32");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");

/// tcg-at-tpmManufacturer, -tpmModel, -tpmVersion. TCG EK Credential Profile 2.5, 3.2.9.
const TPM_MANUFACTURER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.1");
const TPM_MODEL: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.2");
const TPM_VERSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.3");
/// tcg-at-tpmSpecification. 3.2.10.
const TPM_SPECIFICATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.16");

/// Most extensions of a certificate. Manufacturers use up to ten.
const MAX_EXTENSIONS: usize = 32;
/// Most members of a list inside an extension.
const MAX_MEMBERS: usize = 32;
/// Longest text of a TPM attribute. 3.2.9: a model has some 20 characters.
const MAX_ATTRIBUTE_CHARS: usize = 64;

/// KeyUsage. RFC 5280 §4.2.1.3: bit 0 is the highest of the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyUsage(u8);

impl KeyUsage {
    pub(super) const DIGITAL_SIGNATURE: u8 = 0x80;
    pub(super) const KEY_ENCIPHERMENT: u8 = 0x20;
    pub(super) const KEY_AGREEMENT: u8 = 0x08;
    pub(super) const KEY_CERT_SIGN: u8 = 0x04;
    pub(super) const CRL_SIGN: u8 = 0x02;

    pub(super) const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// BasicConstraints. RFC 5280 §4.2.1.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Constraints {
    pub(super) authority: bool,
    pub(super) path_length: Option<u32>,
}

/// What an EK certificate says of its TPM. TCG EK Credential Profile 2.5, 3.2.9.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmIdentity {
    /// The manufacturer's name in the TCG vendor registry such as `STM`, or its eight hexadecimal digits where they are no text.
    pub manufacturer: String,
    /// Model.
    pub model: String,
    /// Firmware version at the time of issue, as written there without the leading `id:`.
    pub version: String,
}

/// tcg-at-tpmSpecification. TCG EK Credential Profile 2.5, 3.2.10.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Specification {
    pub(super) family: String,
    pub(super) level: u32,
    pub(super) revision: u32,
}

/// What is known of a certificate from its extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct Extensions {
    pub(super) constraints: Option<Constraints>,
    pub(super) usage: Option<KeyUsage>,
    pub(super) purposes: Option<Vec<ObjectIdentifier>>,
    pub(super) policies: Option<Vec<ObjectIdentifier>>,
    /// A critical subjectAltName is there.
    pub(super) critical_alt_name: bool,
    /// The subjectAltName as it stands.
    pub(super) alt_names: Option<Vec<u8>>,
    pub(super) tpm: Option<TpmIdentity>,
    pub(super) specification: Option<Specification>,
}

impl Extensions {
    /// Reads the content of the Extensions SEQUENCE. RFC 5280 §4.2: none twice, no critical one that isn't processed.
    pub(super) fn read(content: &[u8]) -> Result<Self, EkRefusal> {
        let mut read = Self::default();
        let mut seen = Vec::new();
        let mut list = Elements::of(content, "extensions");
        while !list.is_empty() {
            let mut extension = list.inside(SEQUENCE)?;
            let number = extension.oid()?;
            let critical = extension.flag()?;
            let value = extension.expect(OCTET_STRING)?;
            extension.finish()?;
            if seen.contains(&number) {
                return Err(EkRefusal::RepeatedExtension(number.to_string()));
            }
            if seen.len() >= MAX_EXTENSIONS {
                return Err(list.malformed());
            }
            seen.push(number);
            read.take(number, critical, value)?;
        }
        Ok(read)
    }

    fn take(&mut self, number: ObjectIdentifier, critical: bool, value: &[u8]) -> Result<(), EkRefusal> {
        match number {
            KEY_USAGE => self.usage = Some(key_usage(value)?),
            BASIC_CONSTRAINTS => self.constraints = Some(constraints(value)?),
            EXTENDED_KEY_USAGE => self.purposes = Some(purposes(value)?),
            CERTIFICATE_POLICIES => self.policies = Some(policies(value)?),
            SUBJECT_ALT_NAME => {
                self.critical_alt_name = critical;
                self.tpm = tpm_identity(value)?;
                self.alt_names = Some(value.to_vec());
            }
            _ if critical => return Err(EkRefusal::CriticalExtension(number.to_string())),
            SUBJECT_DIRECTORY_ATTRIBUTES => self.specification = specification(value)?,
            _ => {}
        }
        Ok(())
    }
}

fn key_usage(value: &[u8]) -> Result<KeyUsage, EkRefusal> {
    let mut outer = Elements::of(value, "keyUsage");
    let content = outer.expect(BIT_STRING)?;
    outer.finish()?;
    match content {
        // Unused bits, then at most nine bits; the ninth, decipherOnly, bears on nothing here.
        [0..=7, first] | [0..=7, first, _] => Ok(KeyUsage(*first)),
        _ => Err(outer.malformed()),
    }
}

fn constraints(value: &[u8]) -> Result<Constraints, EkRefusal> {
    let mut outer = Elements::of(value, "basicConstraints");
    let mut inner = outer.inside(SEQUENCE)?;
    outer.finish()?;
    let authority = inner.flag()?;
    let path_length = if inner.is_empty() { None } else { Some(inner.small()?) };
    inner.finish()?;
    Ok(Constraints { authority, path_length })
}

fn purposes(value: &[u8]) -> Result<Vec<ObjectIdentifier>, EkRefusal> {
    let mut outer = Elements::of(value, "extKeyUsage");
    let mut list = outer.inside(SEQUENCE)?;
    outer.finish()?;
    let mut purposes = Vec::new();
    while !list.is_empty() {
        purposes.push(list.oid()?);
        if purposes.len() > MAX_MEMBERS {
            return Err(list.malformed());
        }
    }
    Ok(purposes)
}

/// Policy identifiers; qualifiers tell people something and are passed over. RFC 5280 §4.2.1.4.
fn policies(value: &[u8]) -> Result<Vec<ObjectIdentifier>, EkRefusal> {
    let mut outer = Elements::of(value, "certificatePolicies");
    let mut list = outer.inside(SEQUENCE)?;
    outer.finish()?;
    let mut policies = Vec::new();
    while !list.is_empty() {
        policies.push(list.inside(SEQUENCE)?.oid()?);
        if policies.len() > MAX_MEMBERS {
            return Err(list.malformed());
        }
    }
    Ok(policies)
}

/// The TPM attributes of the directory names in a subjectAltName; other names are passed over. `None` unless all three are there.
fn tpm_identity(value: &[u8]) -> Result<Option<TpmIdentity>, EkRefusal> {
    let mut outer = Elements::of(value, "subjectAltName");
    let mut names = outer.inside(SEQUENCE)?;
    outer.finish()?;
    let mut count = 0;
    let mut found = None;
    while !names.is_empty() {
        count += 1;
        if count > MAX_MEMBERS {
            return Err(names.malformed());
        }
        let name = names.next()?;
        // GeneralName, directoryName [4], explicit since Name is a CHOICE. RFC 5280 §4.2.1.6.
        if name.tag != context(4) {
            continue;
        }
        let mut inner = Elements::of(name.content, "subjectAltName");
        let name = Name::read(inner.expect(SEQUENCE)?)?;
        inner.finish()?;
        let texts = (name.text_of(&TPM_MANUFACTURER), name.text_of(&TPM_MODEL), name.text_of(&TPM_VERSION));
        if let (Some(manufacturer), Some(model), Some(version)) = texts {
            for text in [manufacturer, model, version] {
                if text.chars().count() > MAX_ATTRIBUTE_CHARS || text.chars().any(char::is_control) {
                    return Err(names.malformed());
                }
            }
            found = Some(TpmIdentity {
                manufacturer: vendor(manufacturer),
                model: model.to_owned(),
                version: version.strip_prefix("id:").unwrap_or(version).to_owned(),
            });
        }
    }
    Ok(found)
}

/// `id:` and eight digits, which are four characters of the TCG vendor registry, padded with zeros or spaces.
fn vendor(written: &str) -> String {
    let digits = written.strip_prefix("id:").unwrap_or(written);
    let bytes = data_encoding::HEXUPPER_PERMISSIVE.decode(digits.as_bytes()).unwrap_or_default();
    let text: Option<String> = bytes
        .iter()
        .filter(|byte| **byte != 0)
        .map(|byte| (byte.is_ascii_graphic() || *byte == b' ').then(|| char::from(*byte)))
        .collect();
    match text.as_deref().map(str::trim_end) {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => digits.to_owned(),
    }
}

fn specification(value: &[u8]) -> Result<Option<Specification>, EkRefusal> {
    let mut outer = Elements::of(value, "subjectDirectoryAttributes");
    let mut attributes = outer.inside(SEQUENCE)?;
    outer.finish()?;
    let mut found = None;
    while !attributes.is_empty() {
        let mut attribute = attributes.inside(SEQUENCE)?;
        let kind = attribute.oid()?;
        let mut values = attribute.inside(SET)?;
        attribute.finish()?;
        if kind == TPM_SPECIFICATION {
            let mut inner = values.inside(SEQUENCE)?;
            let family = inner.next()?;
            let family = text(family.tag, family.content)?.ok_or(inner.malformed())?;
            let (level, revision) = (inner.small()?, inner.small()?);
            inner.finish()?;
            found = Some(Specification { family, level, revision });
        }
    }
    Ok(found)
}
