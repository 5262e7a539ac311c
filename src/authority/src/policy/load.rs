//! Loading a policy document: parse, rename, validate strictly, slice by action.

use super::reads::Reads;
use super::{CompiledPolicy, EARLIER_SCHEMAS, EntityTypes, FAMILIES, SCHEMA, Slice};
use cedar_policy::{
    ActionConstraint, Authorizer, EntityId, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet, Schema,
    ValidationMode, Validator,
};
use countersign_core::digest::sha256;
use countersign_core::document::{PolicyDocument, Settings};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::quote::PcrSelectionSpec;
use miette::Diagnostic;
use std::str::FromStr;

/// Most policies of a document, all sources together: their identifiers have to fit into a leaf.
const MAX_POLICIES: usize = 256;
/// Longest policy identifier, bytes.
const MAX_POLICY_ID_LEN: usize = 128;
/// Most source text of a document, bytes.
const MAX_SOURCE_LEN: usize = 1024 * 1024;

/// Where in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePosition {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

/// Why a policy document can't become active.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", at(.policy.as_deref(), *.position))]
pub struct PolicyInvalid {
    /// Identifier of the source or policy at fault; `None` when it is the document.
    pub policy: Option<String>,
    /// Where in that source, when it is known.
    pub position: Option<SourcePosition>,
    /// What is wrong.
    pub message: String,
}

fn at(policy: Option<&str>, position: Option<SourcePosition>) -> String {
    match (policy, position) {
        (Some(policy), Some(SourcePosition { line, column })) => format!("{policy}:{line}:{column}: "),
        (Some(policy), None) => format!("{policy}: "),
        _ => String::new(),
    }
}

impl PolicyInvalid {
    fn document(message: impl Into<String>) -> Self {
        Self { policy: None, position: None, message: message.into() }
    }

    fn source(policy: &str, message: impl Into<String>) -> Self {
        Self { policy: Some(policy.to_owned()), position: None, message: message.into() }
    }

    fn diagnostic(policy: &str, source: &str, error: &dyn Diagnostic) -> Self {
        let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
        Self {
            policy: Some(policy.to_owned()),
            position: offset.and_then(|offset| position(source, offset)),
            message: error.to_string(),
        }
    }
}

fn position(source: &str, offset: usize) -> Option<SourcePosition> {
    let before = source.get(..offset)?;
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(line_start..)?.chars().count() + 1;
    Some(SourcePosition { line, column })
}

impl CompiledPolicy {
    /// Parses and validates strictly; what loads can be evaluated without a look at its form again.
    pub fn load(document: &PolicyDocument) -> Result<Self, PolicyInvalid> {
        let earlier = || EARLIER_SCHEMAS.contains(&sha256(document.schema.as_bytes()).to_hex().as_str());
        if document.schema != SCHEMA && !earlier() {
            return Err(PolicyInvalid::document("the schema isn't the one of this engine version"));
        }
        check_settings(&document.settings)?;
        let length: usize = document.policies.iter().map(|(id, source)| id.len() + source.len()).sum();
        if length > MAX_SOURCE_LEN {
            return Err(PolicyInvalid::document(format!("more than {MAX_SOURCE_LEN} bytes of policy text")));
        }
        let mut policies = Vec::new();
        for (id, source) in &document.policies {
            policies.extend(parse_source(id, source)?.into_iter().map(|policy| (policy, source.as_str())));
            if policies.len() > MAX_POLICIES {
                return Err(PolicyInvalid::document(format!("more than {MAX_POLICIES} policies")));
            }
        }
        let warnings = validate(&policies)?;
        let types = EntityTypes {
            host: entity_type("Host")?,
            runtime: entity_type("Runtime")?,
            workload: entity_type("Workload")?,
        };
        let [exec, call, request] = FAMILIES;
        Ok(Self {
            digest: document.digest(),
            settings: document.settings.clone(),
            slices: [slice(exec, &policies)?, slice(call, &policies)?, slice(request, &policies)?],
            types,
            authorizer: Authorizer::new(),
            warnings,
        })
    }
}

/// Settings that no quote could satisfy would deny everything with a misleading code.
fn check_settings(settings: &Settings) -> Result<(), PolicyInvalid> {
    let bank =
        HashAlg::from_id(settings.bank).map_err(|error| PolicyInvalid::document(format!("bank: {error}")))?;
    PcrSelectionSpec::new(bank, &settings.pcrs)
        .map_err(|error| PolicyInvalid::document(format!("PCR selection: {error}")))?;
    if crate::verify::explained_by_boot_log(&settings.pcrs).is_empty() {
        return Err(PolicyInvalid::document("PCR selection: no register that a boot log explains"));
    }
    Ok(())
}

/// A source with one policy gives it its own name; others are `source#n`, or `source#x` with the annotation `@id("x")`.
fn parse_source(id: &str, source: &str) -> Result<Vec<Policy>, PolicyInvalid> {
    if id.is_empty() || id.contains('#') || id.chars().any(char::is_control) {
        return Err(PolicyInvalid::source(
            id,
            "an identifier is not empty and has no '#' and no control characters",
        ));
    }
    let parsed =
        PolicySet::from_str(source).map_err(|error| PolicyInvalid::diagnostic(id, source, &error))?;
    if parsed.templates().next().is_some() {
        return Err(PolicyInvalid::source(id, "templates aren't taken: nothing would ever link them"));
    }
    // Cedar names them policy0, policy1 and so on in the order of the text.
    let ordinal = |policy: &Policy| {
        policy.id().to_string().strip_prefix("policy").and_then(|number| number.parse::<usize>().ok())
    };
    let mut policies: Vec<&Policy> = parsed.policies().collect();
    policies.sort_by_key(|policy| ordinal(policy));
    let alone = policies.len() == 1;
    let mut named = Vec::with_capacity(policies.len());
    for (number, policy) in (1_usize..).zip(policies) {
        let name = match policy.annotation("id") {
            _ if alone => id.to_owned(),
            Some(annotation) if !annotation.is_empty() => format!("{id}#{annotation}"),
            _ => format!("{id}#{number}"),
        };
        if name.len() > MAX_POLICY_ID_LEN {
            return Err(PolicyInvalid::source(
                id,
                format!("identifier longer than {MAX_POLICY_ID_LEN} bytes"),
            ));
        }
        named.push(policy.new_id(PolicyId::new(name)));
    }
    Ok(named)
}

fn validate(policies: &[(Policy, &str)]) -> Result<Vec<String>, PolicyInvalid> {
    let schema =
        Schema::from_str(SCHEMA).map_err(|error| PolicyInvalid::document(format!("schema: {error}")))?;
    let all = policy_set(policies.iter().map(|(policy, _)| policy))?;
    let result = Validator::new(schema).validate(&all, ValidationMode::Strict);
    // The validator's order isn't stated: take the first by identifier, so that one document has one answer.
    let mut errors: Vec<_> = result.validation_errors().collect();
    errors.sort_by_cached_key(|error| (error.policy_id().to_string(), error.to_string()));
    if let Some(error) = errors.first() {
        let id = error.policy_id().to_string();
        let source = policies
            .iter()
            .find(|(policy, _)| policy.id() == error.policy_id())
            .map_or("", |(_, source)| source);
        return Err(PolicyInvalid::diagnostic(&id, source, *error));
    }
    let mut warnings: Vec<String> = result.validation_warnings().map(ToString::to_string).collect();
    warnings.sort();
    Ok(warnings)
}

fn policy_set<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Result<PolicySet, PolicyInvalid> {
    PolicySet::from_policies(policies.into_iter().cloned())
        .map_err(|error| PolicyInvalid::document(error.to_string()))
}

/// The schema has no action groups, so a scope names its actions one by one.
fn slice(family: &str, policies: &[(Policy, &str)]) -> Result<Slice, PolicyInvalid> {
    let action = EntityUid::from_type_name_and_id(entity_type("Action")?, EntityId::new(family));
    let bears = |policy: &&Policy| match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::In(actions) => actions.contains(&action),
        ActionConstraint::Eq(only) => only == action,
    };
    let policies = policy_set(policies.iter().map(|(policy, _)| policy).filter(bears))?;
    let reads = Reads::of(policies.policies());
    Ok(Slice { action, policies, reads })
}

fn entity_type(name: &str) -> Result<EntityTypeName, PolicyInvalid> {
    EntityTypeName::from_str(name).map_err(|error| PolicyInvalid::document(error.to_string()))
}
