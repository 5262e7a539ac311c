//! Every route of the table: who gets in, what malformed bodies get, what an overload gets.
#[cfg(test)]
mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};

use countersign_authority::api::routes::{Method, Needs, ROUTES, Side};
use countersign_client::ClientIdentity;
use countersign_core::api::admin::{GatewayCall, RevocationCall, SubjectDocument};
use countersign_core::leaf::control::Role;
use support::raw::Raw;
use support::{House, code, fresh_key, named_key, with_house};

fn method(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Post => "POST",
    }
}

/// The path with something in its variable part.
fn concrete(path: &str) -> String {
    path.replace("{id}", &"00".repeat(16))
        .replace("{digest}", &"00".repeat(32))
        .replace("{*tile}", "0/000")
        .replace("{index}", "0")
}

fn same(identity: &ClientIdentity) -> ClientIdentity {
    match identity {
        ClientIdentity::Pem { certificates, key } => {
            ClientIdentity::Pem { certificates: certificates.clone(), key: key.clone() }
        }
        _ => ClientIdentity::Anonymous,
    }
}

/// Whom a route must admit.
fn admits(needs: Needs, who: &str) -> bool {
    match needs {
        Needs::Anyone => true,
        Needs::Host => who == "host",
        Needs::Gateway => who == "gateway",
        Needs::GatewayOrHost => who == "gateway" || who == "host",
        Needs::Operator(Role::Viewer) => ["viewer", "operator", "officer"].contains(&who),
        Needs::Operator(Role::Operator) => ["operator", "officer"].contains(&who),
        Needs::Operator(Role::SecurityOfficer) => who == "officer",
    }
}

async fn callers(house: &House) -> Vec<(&'static str, ClientIdentity)> {
    house.host("host").await;
    let host = ClientIdentity::Pem {
        certificates: house.scratch.join("host.pem"),
        key: house.scratch.join("host.key"),
    };
    vec![
        ("nobody", ClientIdentity::Anonymous),
        ("host", host),
        ("gateway", house.gateway("gateway-1").await.0),
        ("viewer", house.operator("viewer-1", Role::Viewer).await),
        ("operator", house.operator("operator-1", Role::Operator).await),
        ("officer", house.admin_identity()),
    ]
}

#[test]
fn every_route_admits_exactly_whom_the_table_says() {
    with_house(
        "every_route_admits_exactly_whom_the_table_says",
        |_| (),
        async |house| {
            let sides =
                [(Side::Service, house.serving.service_addr()), (Side::Admin, house.serving.admin_addr())];
            let mut refusals = 0;
            for (who, identity) in callers(&house).await {
                for (side, address) in sides {
                    let mut raw = Raw::connect(&house, address, &identity).await;
                    for route in ROUTES {
                        let path = concrete(route.path);
                        // Malformed on purpose where it gets in: nobody's rights may depend on the body.
                        let answer = raw.send(method(route.method), &path, b"").await;
                        let here = ROUTES.iter().any(|other| {
                            other.side == side && other.path == route.path && other.method == route.method
                        });
                        let context = format!("{who} {side:?} {} {path}: {answer:?}", method(route.method));
                        if route.side != side {
                            if !here {
                                assert!([404, 405].contains(&answer.status), "{context}");
                            }
                            continue;
                        }
                        let code = answer.code.as_deref();
                        match (admits(route.needs, who), who) {
                            (true, _) => {
                                assert!(!matches!(code, Some("unauthenticated" | "forbidden")), "{context}");
                            }
                            (false, "nobody") => assert_eq!(code, Some("unauthenticated"), "{context}"),
                            (false, _) => assert_eq!(code, Some("forbidden"), "{context}"),
                        }
                        refusals += usize::from(!admits(route.needs, who));
                    }
                }
            }
            assert!(refusals > 100, "{refusals}");
            house.serving.stop().await;
        },
    );
}

#[test]
fn what_is_not_in_the_table_is_not_there() {
    with_house(
        "what_is_not_in_the_table_is_not_there",
        |_| (),
        async |house| {
            let mut raw =
                Raw::connect(&house, house.serving.service_addr(), &ClientIdentity::Anonymous).await;
            assert_eq!(raw.send("GET", "/v1/nothing", b"").await.code.as_deref(), Some("not-found"));
            assert_eq!(raw.send("DELETE", "/v1/head", b"").await.code.as_deref(), Some("method-not-allowed"));
            assert_eq!(raw.send("POST", "/livez", b"").await.code.as_deref(), Some("method-not-allowed"));
            assert_eq!(raw.send("GET", "/", b"").await.code.as_deref(), Some("not-found"));
            let paths: BTreeSet<_> = ROUTES
                .iter()
                .map(|route| (route.side == Side::Admin, route.path, method(route.method)))
                .collect();
            assert_eq!(paths.len(), ROUTES.len(), "a route stands twice");
            house.serving.stop().await;
        },
    );
}

#[test]
fn malformed_bodies_are_refused_with_a_code_and_leave_no_trace_in_the_log() {
    let name = "malformed_bodies_are_refused_with_a_code_and_leave_no_trace_in_the_log";
    let quiet = |options: &mut countersign_authority::init::InitOptions| options.limits.lease_secs = 3_600;
    with_house(name, quiet, async |house| {
        house.permit_all().await;
        let callers = callers(&house).await;
        let identity = |who: &str| same(&callers.iter().find(|(name, _)| *name == who).unwrap().1);
        let before = house.service(ClientIdentity::Anonymous).readyz().await.unwrap().size;
        let deep = "[".repeat(100_000);
        let big = vec![b'a'; house.config.limits.body_bytes + 1];
        let bodies: [&[u8]; 9] = [
            b"",
            b"{",
            b"[]",
            b"null",
            b"\"text\"",
            b"{\"nobody\":1}",
            &[0xff, 0xfe, 0x00],
            deep.as_bytes(),
            b"{\"challenge\":\"!\",\"requests\":[],\"evidence\":{}}",
        ];
        for route in ROUTES.iter().filter(|route| route.takes.is_some()) {
            let (who, address) = match route.side {
                Side::Service if route.needs == Needs::Gateway => ("gateway", house.serving.service_addr()),
                Side::Service => ("host", house.serving.service_addr()),
                Side::Admin => ("officer", house.serving.admin_addr()),
            };
            let mut raw = Raw::connect(&house, address, &identity(who)).await;
            for body in bodies {
                let answer = raw.send("POST", &concrete(route.path), body).await;
                assert!((400..500).contains(&answer.status), "{} {answer:?}", route.path);
                assert!(answer.code.is_some());
            }
            let mut raw = Raw::connect(&house, address, &identity(who)).await;
            let answer = raw.send("POST", &concrete(route.path), &big).await;
            assert_eq!(
                (answer.status, answer.code.as_deref()),
                (413, Some("body-too-large")),
                "{}",
                route.path
            );
        }
        let after = house.service(ClientIdentity::Anonymous).readyz().await.unwrap().size;
        assert_eq!(before, after);
        house.serving.stop().await;
    });
}

#[test]
fn a_full_queue_answers_overloaded_and_says_when_to_come_back() {
    let tight = |options: &mut countersign_authority::init::InitOptions| {
        options.limits.workers = 1;
        options.limits.queue = 1;
    };
    with_house("a_full_queue_answers_overloaded_and_says_when_to_come_back", tight, async |house| {
        // The one worker reads the custody of all keys back first.
        while house.serving.authority().run(|| Ok(())).await.is_err() {
            tokio::task::yield_now().await;
        }
        house.permit_all().await;
        let host = house.host("host").await;
        let call = serde_json::to_vec(&host.call(&["r1"]).await).unwrap();
        let authority = Arc::clone(house.serving.authority());
        let (held, release) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let busy = {
            let (authority, held, release) =
                (Arc::clone(&authority), Arc::clone(&held), Arc::clone(&release));
            tokio::spawn(async move {
                let work = move || {
                    held.wait();
                    release.wait();
                    Ok(())
                };
                authority.run(work).await.unwrap();
            })
        };
        tokio::task::spawn_blocking(move || held.wait()).await.unwrap();
        let queued = {
            let authority = Arc::clone(&authority);
            tokio::spawn(async move { authority.run(|| Ok(())).await.unwrap() })
        };
        let identity = ClientIdentity::Pem {
            certificates: house.scratch.join("host.pem"),
            key: house.scratch.join("host.key"),
        };
        let mut raw = Raw::connect(&house, house.serving.service_addr(), &identity).await;
        // The queue has one place; whether the other task has it yet or this call gets it first, the next one is refused.
        let mut other = Raw::connect(&house, house.serving.service_addr(), &identity).await;
        let (one, two) = tokio::join!(
            tokio::time::timeout(std::time::Duration::from_secs(5), raw.send("POST", "/v1/artifacts", &call)),
            tokio::time::timeout(
                std::time::Duration::from_secs(5),
                other.send("POST", "/v1/artifacts", &call)
            ),
        );
        let refused: Vec<_> = [one, two].into_iter().flatten().collect();
        assert!(!refused.is_empty());
        for answer in refused {
            assert_eq!((answer.status, answer.code.as_deref()), (503, Some("overloaded")));
            assert!(answer.retry_after.is_some_and(|secs| (1..=4).contains(&secs)));
        }
        tokio::task::spawn_blocking(move || release.wait()).await.unwrap();
        busy.await.unwrap();
        queued.await.ok();
        drop(authority);
        assert_eq!(host.artifacts(&["r2"]).await.unwrap().decisions[0].verdict, "allow");
        house.serving.stop().await;
    });
}

#[test]
fn a_host_over_its_rate_is_told_so() {
    let slow = |options: &mut countersign_authority::init::InitOptions| {
        options.limits.host_calls_per_sec = 1;
        options.limits.host_burst = 3;
    };
    with_house("a_host_over_its_rate_is_told_so", slow, async |house| {
        let host = house.host("host").await;
        let mut codes = Vec::new();
        for _ in 0..10 {
            codes.extend(host.client.challenge().await.err().map(|error| error.code().unwrap().as_str()));
        }
        assert!(codes.len() >= 5 && codes.iter().all(|code| *code == "rate-limited"), "{codes:?}");
        house.serving.stop().await;
    });
}

#[test]
fn a_revocation_holds_for_connections_that_are_open() {
    with_house(
        "a_revocation_holds_for_connections_that_are_open",
        |_| (),
        async |house| {
            house.permit_all().await;
            let (identity, issued) = house.gateway("gateway-1").await;
            let gateway = house.service(identity);
            gateway.feed(0, 0).await.unwrap();
            let subject = SubjectDocument::Principal { thumbprint: issued.thumbprint };
            let reason = "test".to_owned();
            let call = RevocationCall { subject, revoke: true, reason: reason.clone() };
            house.admin().revoke(&call).await.unwrap();
            assert_eq!(code(gateway.feed(0, 0).await), "unauthenticated");
            assert_eq!(code(house.admin().revoke(&call).await), "conflicting-act");
            // What was said under a name isn't said by another key later.
            let again = GatewayCall { subject: named_key("gateway-1", &fresh_key()) };
            assert_eq!(code(house.admin().add_gateway(&again).await), "conflicting-act");
            // A revoked host is still heard, and what it asks for is denied in the log.
            let host = house.host("host").await;
            let subject = SubjectDocument::Host { host: host.id.to_hex() };
            house.admin().revoke(&RevocationCall { subject, revoke: true, reason }).await.unwrap();
            let decision = &host.artifacts(&["r1"]).await.unwrap().decisions[0];
            assert_eq!((decision.verdict.as_str(), decision.code.as_deref()), ("deny", Some("host-revoked")));
            house.serving.stop().await;
        },
    );
}

#[test]
fn operators_do_not_act_above_their_role() {
    with_house(
        "operators_do_not_act_above_their_role",
        |_| (),
        async |house| {
            let operator = house.admin_side(house.operator("operator-1", Role::Operator).await);
            let principals = house.admin().principals().await.unwrap().principals;
            let admin = principals.iter().find(|principal| principal.name == "admin").unwrap();
            let revoke = |thumbprint: &str, revoke: bool| RevocationCall {
                subject: SubjectDocument::Principal { thumbprint: thumbprint.to_owned() },
                revoke,
                reason: "test".to_owned(),
            };
            assert_eq!(code(operator.revoke(&revoke(&admin.thumbprint, true)).await), "forbidden");
            assert_eq!(code(operator.revoke(&revoke(&admin.thumbprint, false)).await), "forbidden");
            let last = house.admin().revoke(&revoke(&admin.thumbprint, true)).await;
            assert_eq!(code(last), "conflicting-act", "the last security officer stays");
            assert_eq!(code(house.admin().revoke(&revoke(&"00".repeat(32), true)).await), "not-found");
            house.serving.stop().await;
        },
    );
}
