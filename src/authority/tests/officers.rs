//! Acts of several officers at once: what one has drafted against doesn't move unseen (PROTOCOL §8.6).
#[cfg(test)]
mod support;

use countersign_core::api::B64;
use countersign_core::api::admin::{CaptureCall, PolicyCall, PolicyValidateCall, ReferencesCall};
use countersign_core::leaf::control::Role;
use support::{code, policy, with_house};

#[cfg(test)]
fn document(text: &str) -> B64 {
    B64(policy(text).encode())
}

#[test]
fn a_change_drafted_against_another_epoch_is_refused() {
    with_house(
        "a_change_drafted_against_another_epoch_is_refused",
        |_| (),
        async |house| {
            let one = house.admin();
            let two = house.admin_side(house.operator("officer-2", Role::SecurityOfficer).await);
            let strict = document("permit(principal, action, resource) when { context.ttl_secs < 60 };");
            let loose = document(support::PERMIT);
            // Both look at the same state; one is faster.
            let seen =
                one.validate_policy(&PolicyValidateCall { document: strict.clone() }).await.unwrap().epoch;
            assert_eq!(seen, two.policy().await.unwrap().epoch);
            let call =
                |document: &B64, expected_epoch| PolicyCall { document: document.clone(), expected_epoch };
            one.activate_policy(&call(&strict, seen)).await.unwrap();
            assert_eq!(code(two.activate_policy(&call(&loose, seen)).await), "epoch-moved");
            assert_eq!(
                code(two.activate_policy(&call(&loose, seen + 2)).await),
                "epoch-moved",
                "not yet in force"
            );
            assert_eq!(two.policy().await.unwrap().document, Some(strict));
            two.activate_policy(&call(&loose, seen + 1)).await.unwrap();
            // Policy and references share the counter: references drafted beside another policy are looked at again.
            let host = house.host("host").await;
            host.client.attest(&host.attestation().await).await.unwrap();
            let capture =
                CaptureCall { host: host.id.to_hex(), set: "fleet".to_owned(), pcrs: None, append: true };
            let captured = one.capture_references(&capture).await.unwrap();
            assert_eq!(captured.epoch, seen + 2);
            let call =
                |expected_epoch| ReferencesCall { document: captured.document.clone(), expected_epoch };
            assert_eq!(code(one.activate_references(&call(seen)).await), "epoch-moved");
            one.activate_references(&call(captured.epoch)).await.unwrap();
            assert_eq!(code(one.activate_references(&call(captured.epoch)).await), "epoch-moved");
            house.serving.stop().await;
        },
    );
}

#[test]
fn of_two_changes_at_once_against_one_epoch_one_is_appended() {
    with_house(
        "of_two_changes_at_once_against_one_epoch_one_is_appended",
        |_| (),
        async |house| {
            let (one, two) = (house.admin(), house.admin());
            let drafts = [10, 20].map(|secs| {
                let text =
                    format!("permit(principal, action, resource) when {{ context.ttl_secs < {secs} }};");
                PolicyCall { document: document(&text), expected_epoch: 0 }
            });
            let (first, second) =
                tokio::join!(one.activate_policy(&drafts[0]), two.activate_policy(&drafts[1]));
            let refused = if first.is_ok() { second } else { first };
            assert_eq!(code(refused), "epoch-moved");
            assert_eq!(one.policy().await.unwrap().epoch, 1);
            house.serving.stop().await;
        },
    );
}
