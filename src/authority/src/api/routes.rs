//! The one table of everything that can be called, and the routers made from it.

use super::{
    acknowledgements, admin, artifacts, attestations, challenges, enrol, feed, guard, head, health, outcomes,
    problem::Refused, receipts, results, tiles,
};
use crate::serve::Authority;
use axum::Router;
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, on};
use countersign_core::leaf::control::Role;
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;

pub use super::route::{Answer, Handled, Method, Needs, Route, Side};

const VIEWER: Needs = Needs::Operator(Role::Viewer);
const OPERATOR: Needs = Needs::Operator(Role::Operator);
const OFFICER: Needs = Needs::Operator(Role::SecurityOfficer);

macro_rules! routes {
    ($($method:ident $path:literal, $side:ident, $needs:expr, [$($query:literal),*], $takes:expr => $gives:expr, $handler:path, $summary:literal;)+) => {
        /// Everything that can be called.
        pub const ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            path: $path,
            side: Side::$side,
            needs: $needs,
            summary: $summary,
            query: &[$($query),*],
            takes: $takes,
            gives: $gives,
            handler: |authority, call| Box::pin($handler(authority, call)),
        },)+];
    };
}

const NOTE: Answer = Answer::Text("text/plain; charset=utf-8");

routes! {
    Get "/livez", Service, Needs::Anyone, [], None => NOTE, health::livez, "The process answers.";
    Get "/readyz", Service, Needs::Anyone, [], None => Answer::Json("Readiness"), health::readyz, "Newest signed head is young, a policy is active, no witness disagrees and a configured rollback counter is raised; 503 with the same document otherwise.";
    Get "/v1/head", Service, Needs::Anyone, [], None => NOTE, head::newest, "Newest signed head.";
    Post "/v1/enrolments", Service, Needs::Anyone, [], Some("EnrolmentBegin") => Answer::Json("EnrolmentOffer"), enrol::begin, "Begin an enrolment or a renewal.";
    Post "/v1/enrolments/{id}", Service, Needs::Anyone, [], Some("EnrolmentFinish") => Answer::Json("Enrolled"), enrol::finish, "Finish it with the secret that the TPM decrypted.";
    Post "/v1/challenges", Service, Needs::Host, [], None => Answer::Json("ChallengeOffer"), challenges::mint, "A challenge, and what to quote.";
    Post "/v1/attestations", Service, Needs::Host, [], Some("AttestationCall") => Answer::Json("AttestationAnswer"), attestations::attest, "Evidence without requests.";
    Post "/v1/artifacts", Service, Needs::Host, [], Some("ArtifactsCall") => Answer::Json("ArtifactsAnswer"), artifacts::issue, "Evidence and 1 to 256 requests.";
    Post "/v1/attestation-results", Service, Needs::Host, [], Some("AttestationResultCall") => Answer::Json("AttestationResultAnswer"), results::own, "The calling host's newest attestation result as an EAR, a JWT.";
    Get "/.well-known/jwks.json", Service, Needs::Anyone, [], None => Answer::Json("JwkSet"), results::keys, "Keys that verify attestation results.";
    Get "/v1/feed", Service, Needs::GatewayOrHost, ["size!", "control!", "witnessed"], None => Answer::Json("Feed"), feed::feed, "What is new after a size and a control number.";
    Get "/v1/log/consistency", Service, Needs::GatewayOrHost, ["from!", "to!"], None => Answer::Json("ConsistencyProof"), feed::consistency, "Proof between two sizes.";
    Get "/v1/log/checkpoint", Service, Needs::Anyone, [], None => NOTE, tiles::checkpoint, "Newest signed head, as C2SP tlog-tiles names it.";
    Get "/v1/log/receipts/{index}", Service, Needs::Anyone, [], None => Answer::Bytes, receipts::cose, "Inclusion of a leaf as a COSE receipt (RFC 9942).";
    Get "/v1/log/tile/{*tile}", Service, Needs::Anyone, [], None => Answer::Bytes, tiles::tile, "A tile of hashes of the SHA-256 tree: <level>/<index>[.p/<width>].";
    Get "/v1/log/tile/entries/{*tile}", Service, VIEWER, [], None => Answer::Bytes, tiles::entries, "An entry bundle, exact leaves: <index>[.p/<width>].";
    Post "/v1/acknowledgements", Service, Needs::Gateway, [], Some("Acknowledgement") => Answer::Nothing, acknowledgements::acknowledge, "Control number that the gateway enforces.";
    Post "/v1/outcomes", Service, Needs::Gateway, [], Some("OutcomesCall") => Answer::Nothing, outcomes::record, "What was done with artifacts.";

    Get "/livez", Admin, Needs::Anyone, [], None => NOTE, health::livez, "The process answers.";
    Get "/readyz", Admin, Needs::Anyone, [], None => Answer::Json("Readiness"), health::readyz, "As on the service listener.";
    Get "/metrics", Admin, VIEWER, [], None => Answer::Text("application/openmetrics-text"), health::metrics, "Counters and gauges.";
    Get "/v1/admin/hosts", Admin, VIEWER, ["after"], None => Answer::Json("Hosts"), admin::hosts::list, "Hosts by identifier, page by page.";
    Get "/v1/admin/hosts/{id}", Admin, VIEWER, [], None => Answer::Json("HostDocument"), admin::hosts::one, "One host.";
    Post "/v1/admin/hosts/{id}/attestation-result", Admin, VIEWER, [], Some("AttestationResultCall") => Answer::Json("AttestationResultAnswer"), results::any, "A host's newest attestation result as an EAR, a JWT.";
    Get "/v1/admin/keys", Admin, VIEWER, [], None => Answer::Json("Keys"), admin::keys::list, "Head and JWT keys and their states.";
    Get "/v1/admin/policy", Admin, VIEWER, [], None => Answer::Json("ActiveDocument"), admin::policies::active, "The active policy.";
    Get "/v1/admin/references", Admin, VIEWER, [], None => Answer::Json("ActiveDocument"), admin::references::active, "The active references.";
    Get "/v1/admin/principals", Admin, VIEWER, [], None => Answer::Json("Principals"), admin::principals::list, "Operators and gateways.";
    Get "/v1/admin/witnesses", Admin, VIEWER, [], None => Answer::Json("Witnesses"), admin::witnesses::list, "Witnesses, what they cosigned, and an alarm.";
    Post "/v1/admin/witnesses", Admin, OFFICER, [], Some("WitnessCall") => Answer::Json("Witnesses"), admin::witnesses::decide, "Set a witness aside, which ends an alarm that it raised, or have it asked again.";
    Get "/v1/admin/log/leaves", Admin, VIEWER, ["from!", "count!"], None => Answer::Json("Leaves"), admin::log::leaves, "Exact leaves.";
    Get "/v1/admin/log/heads", Admin, VIEWER, ["from!", "count!"], None => Answer::Json("Heads"), admin::log::heads, "Heads of at least a size.";
    Get "/v1/admin/blobs/{digest}", Admin, VIEWER, [], None => Answer::Bytes, admin::log::blob, "A member of a decision by its SHA-256.";
    Get "/v1/admin/lineage/artifacts", Admin, VIEWER, ["host", "ak", "head_key", "policy", "references", "reference_set", "workload", "pcr", "after", "count"], None => Answer::Json("LineagePage"), admin::lineage::artifacts, "Artifacts by exactly one property.";
    Get "/v1/admin/lineage/ancestors/{index}", Admin, VIEWER, ["after", "count"], None => Answer::Json("LineagePage"), admin::lineage::ancestors, "What an artifact comes from.";
    Get "/v1/admin/lineage/descendants/{index}", Admin, VIEWER, ["after", "count"], None => Answer::Json("LineagePage"), admin::lineage::descendants, "What comes from an artifact.";
    Post "/v1/admin/join-tokens", Admin, OPERATOR, [], Some("JoinTokenCall") => Answer::Json("JoinTokenMade"), admin::tokens::make, "A single-use join token.";
    Post "/v1/admin/references/capture", Admin, OPERATOR, [], Some("CaptureCall") => Answer::Json("ReferencesCaptured"), admin::references::capture, "A references document from a host's last good evidence; not active.";
    Post "/v1/admin/references/check", Admin, OPERATOR, [], Some("ReferencesCheckCall") => Answer::Json("PolicyChecked"), admin::references::check, "The newest evidence of each host, judged again under references and an IMA policy that aren't active.";
    Post "/v1/admin/references", Admin, OFFICER, [], Some("ReferencesCall") => Answer::Json("Recorded"), admin::references::activate, "Activate a references document.";
    Post "/v1/admin/policies/validate", Admin, OPERATOR, [], Some("PolicyValidateCall") => Answer::Json("PolicyValidated"), admin::policies::validate, "Validate a policy document.";
    Post "/v1/admin/policies/check", Admin, OPERATOR, [], Some("PolicyCheckCall") => Answer::Json("PolicyChecked"), admin::policies::check, "The newest decision about each host, or else its newest attestation, judged again under a policy that isn't active.";
    Post "/v1/admin/policies", Admin, OFFICER, [], Some("PolicyCall") => Answer::Json("Recorded"), admin::policies::activate, "Validate and activate a policy document.";
    Post "/v1/admin/revocations", Admin, OPERATOR, [], Some("RevocationCall") => Answer::Json("Recorded"), admin::revocations::revoke, "Revoke; reinstating needs a security officer.";
    Post "/v1/admin/gateways", Admin, OFFICER, [], Some("GatewayCall") => Answer::Json("CertificateIssued"), admin::principals::add_gateway, "Certificate for a gateway's key.";
    Post "/v1/admin/operators", Admin, OFFICER, [], Some("OperatorCall") => Answer::Json("CertificateIssued"), admin::principals::add_operator, "Certificate for an operator's key.";
    Post "/v1/admin/keys/prepare", Admin, OFFICER, [], Some("PrepareKeyCall") => Answer::Json("KeyPrepared"), admin::keys::prepare, "Make a new head or JWT key in its token, for an officer to approve.";
    Post "/v1/admin/keys/rotate", Admin, OFFICER, [], Some("RotateCall") => Answer::Json("Keys"), admin::keys::rotate, "Introduce the approved key; activation follows by itself.";
    Post "/v1/admin/keys/withdraw", Admin, OFFICER, [], Some("WithdrawKeyCall") => Answer::Json("Keys"), admin::keys::withdraw, "End a JWT key at once, without a successor.";
    Post "/v1/admin/keys/compromise", Admin, OFFICER, [], Some("CompromiseCall") => Answer::Json("Keys"), admin::keys::compromise, "Record the recovery key's word that a head key is compromised.";
}

/// The router of one listener.
pub fn router(side: Side, authority: &Arc<Authority>) -> Router {
    let mut router = Router::new();
    for route in ROUTES.iter().filter(|route| route.side == side) {
        let authority = Arc::clone(authority);
        let filter = match route.method {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
        };
        router = router.route(
            route.path,
            on(filter, move |request: axum::extract::Request| guard::answer(authority, route, request)),
        );
    }
    router
        .method_not_allowed_fallback(async || Refused::from(RefusalCode::MethodNotAllowed).into_response())
        .fallback(async || Refused::from(RefusalCode::NotFound).into_response())
}
