//! Which members of the context a set of policies can look at.
//!
//! Comes in: policies. Goes out: whether one of them may read a member. A set of a hundred digests costs more to build than the evaluation
//! of the policies that never look at it, so what nobody reads isn't built. The answer errs on the side of building: a use of the context
//! as a whole, or a form that isn't known here, counts as reading everything.

use cedar_policy::Policy;
use serde_json::Value;

/// Whether a policy may read this member of the context.
pub(super) fn reads<'a>(policies: impl IntoIterator<Item = &'a Policy>, member: &str) -> bool {
    policies.into_iter().any(|policy| policy.to_json().map_or(true, |json| mentions(&json, member)))
}

/// Walks Cedar's JSON form, in which `context.m` is `{".": {"left": {"Var": "context"}, "attr": "m"}}` and `context has m` the same under
/// `has`.
fn mentions(value: &Value, member: &str) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(key, value)| match key.as_str() {
            "." | "has" if is_context(value.get("left")) => {
                value.get("attr").and_then(Value::as_str).is_none_or(|read| read == member)
            }
            "Var" => value == "context",
            _ => mentions(value, member),
        }),
        Value::Array(items) => items.iter().any(|item| mentions(item, member)),
        _ => false,
    }
}

fn is_context(value: Option<&Value>) -> bool {
    value.and_then(|left| left.get("Var")).is_some_and(|name| name == "context")
}
