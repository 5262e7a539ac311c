//! COSE receipts of a running authority: for generic verifiers, of signed heads, seldom signed.
#[cfg(test)]
mod support;

use countersign_client::ClientIdentity;
use countersign_core::cose_receipt::{MEDIA_TYPE, verify};
use countersign_core::tlog_proof::TlogProof;
use support::raw::Raw;
use support::{ORIGIN, with_house};

#[test]
fn a_receipt_shows_its_leaf_under_a_signed_root_and_one_signature_serves_many() {
    let name = "a_receipt_shows_its_leaf_under_a_signed_root_and_one_signature_serves_many";
    let seldom = |options: &mut countersign_authority::init::InitOptions| {
        options.limits.cose_signature_secs = 3_600;
        options.limits.lease_secs = 3_600;
    };
    with_house(name, seldom, async |house| {
        house.permit_all().await;
        let host = house.host("host").await;
        let answer = host.artifacts(&["r1", "r2"]).await.unwrap();
        let proofs: Vec<TlogProof> =
            answer.decisions.iter().map(|decision| TlogProof::parse(&decision.receipt).unwrap()).collect();
        let keys = house.bundle().head_keys().to_vec();
        let mut anyone = Raw::connect(&house, house.serving.service_addr(), &ClientIdentity::Anonymous).await;
        let mut roots = Vec::new();
        for proof in &proofs {
            let fetched = anyone.fetch(&format!("/v1/log/receipts/{}", proof.index)).await;
            assert_eq!((fetched.status, fetched.kind.as_str()), (200, MEDIA_TYPE));
            assert_eq!(fetched.caching, "no-store");
            let found = verify(&fetched.body, &proof.extra, ORIGIN, &keys).unwrap();
            assert_eq!(found.index(), proof.index);
            roots.push(*found.root());
            // It is for that leaf and no other.
            let other = proofs.iter().find(|other| other.index != proof.index).unwrap();
            assert!(verify(&fetched.body, &other.extra, ORIGIN, &keys).is_err());
        }
        assert_eq!(roots[0], roots[1], "one signature for both");
        let heads = house.admin().heads(1, 1_024).await.unwrap().heads;
        let root = data_encoding::BASE64.encode(roots[0].as_bytes());
        assert!(heads.iter().any(|head| head.lines().nth(2) == Some(&root)), "the root of a signed head");

        // Older leaves are under it too; a newer one waits for the next signature, and nothing else is signed meanwhile.
        let first = house.admin().leaves(0, 1).await.unwrap().leaves.remove(0);
        let fetched = anyone.fetch("/v1/log/receipts/0").await;
        verify(&fetched.body, &first.0, ORIGIN, &keys).unwrap();
        host.artifacts(&["r3"]).await.unwrap();
        let newest = house.service(ClientIdentity::Anonymous).readyz().await.unwrap().size - 1;
        for _ in 0..3 {
            let refused = anyone.send("GET", &format!("/v1/log/receipts/{newest}"), b"").await;
            assert_eq!((refused.status, refused.code.as_deref()), (429, Some("rate-limited")));
            assert!(refused.retry_after.is_some());
        }
        for path in
            ["/v1/log/receipts/99999", "/v1/log/receipts/00", "/v1/log/receipts/-1", "/v1/log/receipts/%30"]
        {
            let refused = anyone.send("GET", path, b"").await;
            assert_eq!((refused.status, refused.code.as_deref()), (404, Some("not-found")), "{path}");
        }
        house.serving.stop().await;
    });
}
