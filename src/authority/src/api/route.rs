//! What a route is: the shape of one line of the table in [`super::routes`], which the guard in front of every handler reads.

use super::Call;
use super::problem::Refused;
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::leaf::control::Role;
use std::pin::Pin;
use std::sync::Arc;

/// Which of the two listeners serves a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Hosts and gateways.
    Service,
    /// Operators.
    Admin,
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Whoever connects.
    Anyone,
    /// An enrolled host.
    Host,
    /// A gateway in force.
    Gateway,
    /// A gateway in force or an enrolled host.
    GatewayOrHost,
    /// An operator in force with at least this role.
    Operator(Role),
}

/// The two methods that this API has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Acts.
    Post,
}

/// What comes back, for the published description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A document of this name in `countersign_core::api`.
    Json(&'static str),
    /// Text of this media type.
    Text(&'static str),
    /// Bytes.
    Bytes,
    /// 204.
    Nothing,
}

/// What a handler does, boxed so that the table can hold all of them.
pub type Handled = Pin<Box<dyn Future<Output = Result<Response, Refused>> + Send>>;

/// One endpoint.
pub struct Route {
    /// Method.
    pub method: Method,
    /// Path; `{..}` is the one variable part that it may have, `{*..}` if it may have slashes.
    pub path: &'static str,
    /// Listener.
    pub side: Side,
    /// Who may call.
    pub needs: Needs,
    /// One line for people.
    pub summary: &'static str,
    /// Names of the query's numbers and values; required ones end with `!`.
    pub query: &'static [&'static str],
    /// Document that the body is, by its name in `countersign_core::api`.
    pub takes: Option<&'static str>,
    /// What is answered.
    pub gives: Answer,
    /// What answers it.
    pub handler: fn(Arc<Authority>, Call) -> Handled,
}
