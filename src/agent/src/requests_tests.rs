//! Requests are made and passed on only as the rule says.

use countersign_core::key::JsonKey;
use countersign_core::request::{DelegationDocument, ParentDocument, delegation_preimage};
use ed25519_dalek::Signer as _;
use std::os::unix::net::UnixStream;

use super::*;
use crate::testing::{signing_key, verifying};

const RULE: &str = "authority = \"https://a\"\ntrust_bundle = \"b\"\nek_profile = \"p256\"\n[[runtime]]\nuid = 0\nname = \"web\"\nactions = [\"exec\"]\naudiences = [\"g\"]\nmax_ttl_secs = 60\n";

struct Bench {
    domain: TrustDomain,
    host: HostId,
    rule: RuntimeRule,
    peer: Peer,
    holder: ed25519_dalek::SigningKey,
}

impl Bench {
    fn new() -> Self {
        let (socket, _other) = UnixStream::pair().unwrap();
        Self {
            domain: TrustDomain::parse("td.example").unwrap(),
            host: HostId::from_slice(&[&[1], [5; 32].as_slice()].concat()).unwrap(),
            rule: crate::config::Config::parse(RULE).unwrap().rules.remove(0),
            peer: Peer::of(&socket).unwrap(),
            holder: signing_key(),
        }
    }

    fn asking(&self) -> Asking<'_> {
        Asking { trust_domain: &self.domain, host: &self.host, rule: &self.rule }
    }

    fn call(&self) -> PrepareCall {
        PrepareCall {
            id: None,
            holder: JsonKey::from(verifying(&self.holder)),
            workload: Workload::Sha256("11".repeat(32)),
            action: "exec".to_owned(),
            args: Arguments::Argv(vec!["prog".to_owned(), "-v".to_owned()]),
            aud: "g".to_owned(),
            ttl_secs: 30,
            parents: Vec::new(),
            delegation: None,
        }
    }

    fn prepare(&self, call: &PrepareCall) -> Result<Prepared, RefusalCode> {
        self.asking().prepare(&self.peer, call).map_err(|error| Refused::from(error).code)
    }

    fn submit(&self, request: &[u8]) -> Result<SignedRequest, RefusalCode> {
        let signature = self.holder.sign(&holder_preimage(request)).to_bytes().to_vec();
        let call = SignedRequestDocument {
            request: B64(request.to_vec()),
            signature: B64(signature),
            consents: Vec::new(),
        };
        self.asking().submit(call).map_err(|error| Refused::from(error).code)
    }
}

fn delegation() -> Option<DelegationDocument> {
    let lists = || vec!["exec".to_owned()];
    Some(DelegationDocument { actions: lists(), audiences: lists(), depth: 1, budget: 1 })
}

#[test]
fn host_and_runtime_follow_from_the_rule_alone() {
    let bench = Bench::new();
    let prepared = bench.prepare(&bench.call()).unwrap();
    let request = Request::parse(&prepared.request.0).unwrap();
    assert_eq!(request.host, bench.host);
    assert_eq!(request.runtime.as_str(), format!("spiffe://td.example/host/{}/web", bench.host));
    assert_eq!(request.arguments, argv_digest(&["prog", "-v"]));
    assert_eq!(prepared.to_sign.0, holder_preimage(&prepared.request.0));
    assert_eq!(bench.submit(&prepared.request.0).unwrap().bytes(), prepared.request.0);
    // Identifiers that nobody chose differ.
    assert_ne!(bench.prepare(&bench.call()).unwrap().request, prepared.request);
}

#[test]
fn what_the_rule_does_not_give_is_not_prepared() {
    let bench = Bench::new();
    let refused = |change: fn(&mut PrepareCall)| {
        let mut call = bench.call();
        change(&mut call);
        bench.prepare(&call).unwrap_err()
    };
    assert_eq!(refused(|call| call.action = "deploy".to_owned()), RefusalCode::ActionNotMapped);
    assert_eq!(refused(|call| call.aud = "h".to_owned()), RefusalCode::AudienceMismatch);
    assert_eq!(refused(|call| call.delegation = delegation()), RefusalCode::Forbidden);
    assert_eq!(refused(|call| call.ttl_secs = 0), RefusalCode::RequestMalformed);
    assert_eq!(refused(|call| call.id = Some("a b".to_owned())), RefusalCode::RequestMalformed);
    assert_eq!(refused(|call| call.holder.alg = "RS256".to_owned()), RefusalCode::RequestMalformed);
    let relative = |call: &mut PrepareCall| call.workload = Workload::Path("sh".to_owned());
    assert_eq!(refused(relative), RefusalCode::ProgramUnreadable);
    // A file is looked at only for a request that is otherwise in order.
    let both = |call: &mut PrepareCall| {
        call.workload = Workload::Path("/no/such/file".to_owned());
        call.action = "deploy".to_owned();
    };
    assert_eq!(refused(both), RefusalCode::ActionNotMapped);
    let mut long = bench.call();
    long.ttl_secs = 86_400;
    assert_eq!(Request::parse(&bench.prepare(&long).unwrap().request.0).unwrap().ttl_secs, 60);
}

#[test]
fn a_program_named_by_its_path_is_measured() {
    let bench = Bench::new();
    let mut call = bench.call();
    call.workload = Workload::Path("/bin/sh".to_owned());
    let request = Request::parse(&bench.prepare(&call).unwrap().request.0).unwrap();
    assert_eq!(request.workload, countersign_core::digest::sha256(&std::fs::read("/bin/sh").unwrap()));
}

#[test]
fn signed_bytes_from_elsewhere_are_held_to_the_same_rule() {
    let bench = Bench::new();
    let prepared = bench.prepare(&bench.call()).unwrap().request.0;
    let text = String::from_utf8(prepared).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        bench.submit(text.replace(from, to).as_bytes()).unwrap_err()
    };
    assert_eq!(changed("\"exec\"", "\"deploy\""), RefusalCode::ActionNotMapped);
    assert_eq!(changed("\"aud\":\"g\"", "\"aud\":\"h\""), RefusalCode::AudienceMismatch);
    assert_eq!(changed("\"ttl_secs\":30", "\"ttl_secs\":61"), RefusalCode::Forbidden);
    assert_eq!(changed("/web\"", "/root\""), RefusalCode::PeerUnknown);
    assert_eq!(changed("td.example", "other.example"), RefusalCode::PeerUnknown);
    let (ours, other) = (format!("\"host\":\"{}", bench.host), format!("\"host\":\"01{}", "06".repeat(32)));
    assert_eq!(changed(&ours, &other), RefusalCode::RequestHostMismatch);
    assert_eq!(changed("\"v\":1", "\"v\":1,\"x\":1"), RefusalCode::RequestMalformed);
    let unsigned = SignedRequestDocument {
        request: B64(text.into_bytes()),
        signature: B64(vec![0; 64]),
        consents: Vec::new(),
    };
    let refused = bench.asking().submit(unsigned).map_err(|error| Refused::from(error).code);
    assert_eq!(refused.unwrap_err(), RefusalCode::HolderSignatureInvalid);
}

#[test]
fn a_child_whose_parents_holder_did_not_sign_is_not_passed_on() {
    let bench = Bench::new();
    let mut call = bench.call();
    call.parents = vec![ParentDocument { index: 3, leaf: "22".repeat(32) }];
    let request = bench.prepare(&call).unwrap().request.0;
    assert_eq!(bench.submit(&request).unwrap_err(), RefusalCode::ConsentMissing);
    let mut document = SignedRequestDocument {
        signature: B64(bench.holder.sign(&holder_preimage(&request)).to_bytes().to_vec()),
        consents: vec![B64(bench.holder.sign(&delegation_preimage(&request)).to_bytes().to_vec())],
        request: B64(request),
    };
    let passed = bench.asking().submit(document.clone()).unwrap();
    assert_eq!(passed.consents(), [document.consents[0].0.clone()]);
    document.consents.push(B64(vec![0; 64]));
    let refused = bench.asking().submit(document).map_err(|error| Refused::from(error).code);
    assert_eq!(refused.unwrap_err(), RefusalCode::RequestMalformed, "more consents than parents");
}
