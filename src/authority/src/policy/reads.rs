//! What a set of policies can look at.
//!
//! Comes in: policies. Goes out: which members of the context one of them may read, and whether one may look into the principal. To put a
//! fact costs more than to evaluate the policies that never look at it, so what nobody reads isn't put. The answer errs on the side of
//! putting: a use of the context as a whole, or a form that isn't known here, counts as reading everything.

use cedar_policy::Policy;
use serde_json::Value;
use std::collections::BTreeSet;

/// What a set of policies may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reads {
    members: BTreeSet<String>,
    /// The context is used as a whole.
    everything: bool,
    principal: bool,
}

impl Reads {
    /// Of all these policies together.
    pub(super) fn of<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut reads = Self::default();
        for policy in policies {
            match policy.to_json() {
                Ok(json) => reads.policy(&json),
                Err(_) => (reads.everything, reads.principal) = (true, true),
            }
        }
        reads
    }

    /// Of policies that read everything.
    #[cfg(test)]
    pub(super) fn all() -> Self {
        Self { everything: true, principal: true, ..Self::default() }
    }

    /// Whether one of them may read this member of the context.
    pub(super) fn member(&self, name: &str) -> bool {
        self.everything || self.members.contains(name)
    }

    /// Whether one of them may look at what the principal has or is in, beyond what it is called.
    pub(super) const fn principal(&self) -> bool {
        self.principal
    }

    /// A policy's JSON form: a scope of `principal`, `action` and `resource`, then `conditions`.
    fn policy(&mut self, json: &Value) {
        // `==` and `is` without `in` compare names and types alone.
        let scope = json.get("principal");
        let named = scope.and_then(|scope| scope.get("op")).and_then(Value::as_str);
        let alone = matches!(named, Some("All" | "==" | "is"))
            && scope.is_some_and(|scope| scope.get("in").is_none());
        self.principal |= !alone;
        match json.get("conditions") {
            Some(conditions) => self.walk(conditions),
            None => (self.everything, self.principal) = (true, true),
        }
    }

    /// `context.m` is `{".": {"left": {"Var": "context"}, "attr": "m"}}`, and `context has m` the same under `has`.
    fn walk(&mut self, value: &Value) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    match key.as_str() {
                        "." | "has" if is_context(value.get("left")) => {
                            match value.get("attr").and_then(Value::as_str) {
                                Some(member) => {
                                    self.members.insert(member.to_owned());
                                }
                                None => self.everything = true,
                            }
                        }
                        "Var" => {
                            self.everything |= value == "context";
                            self.principal |= value == "principal";
                        }
                        _ => self.walk(value),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            _ => {}
        }
    }
}

fn is_context(value: Option<&Value>) -> bool {
    value.and_then(|left| left.get("Var")).is_some_and(|name| name == "context")
}
