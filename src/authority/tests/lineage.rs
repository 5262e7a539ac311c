//! The lineage API against the truth: a scripted run of fifty artifacts over three gateways, and what is taken out of it shows as a gap.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

#[cfg(test)]
mod support;

use countersign_client::{Client, ClientError};
use countersign_core::api::admin::{LineageEntry, LineagePage};
use countersign_core::api::{ArtifactsCall, B64, OutcomeDocument, OutcomesCall, SignedRequestDocument};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::JsonKey;
use countersign_core::leaf::leaf_hash;
use countersign_core::request::{delegation_preimage, holder_preimage};
use countersign_core::tlog_proof::TlogProof;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use support::{Host, House, TRUST_DOMAIN, code, sign, verifying, with_house};

const PATIENCE: Duration = Duration::from_secs(60);
const GATEWAYS: [&str; 3] = ["gateway-1", "gateway-2", "gateway-3"];
const NODES: usize = 50;
const FAMILIES: usize = 4;
/// What a node of each generation may pass on; one of the last passes on nothing.
const BUDGETS: [Option<u64>; 5] = [Some(60_000), Some(3_000), Some(150), Some(7), None];

/// A node of the truth.
#[derive(Clone, Debug)]
struct Node {
    index: u64,
    leaf: Sha256Digest,
    generation: usize,
    parents: Vec<usize>,
    outcomes: usize,
}

/// A request that the host's holder makes, with the consents of the parents' holders.
fn asked(host: &Host, id: &str, gateway: &str, node: (usize, &[&Node])) -> (Vec<u8>, SignedRequestDocument) {
    let (generation, parents) = node;
    let mut request = serde_json::json!({
        "v": 1,
        "id": id,
        "host": host.id.to_hex(),
        "runtime": format!("spiffe://{TRUST_DOMAIN}/host/{}/test", host.id),
        "holder": JsonKey::from(verifying(&host.holder)),
        "workload": sha256(id.as_bytes()).to_hex(),
        "action": "exec",
        "args": sha256(b"arguments").to_hex(),
        "aud": gateway,
        "ttl_secs": 60,
    });
    if let Some(budget) = BUDGETS[generation] {
        let depth = BUDGETS.len() - 1 - generation;
        request["delegation"] = serde_json::json!({ "actions": ["exec"], "audiences": GATEWAYS, "depth": depth, "budget": budget });
    }
    if !parents.is_empty() {
        let parents =
            parents.iter().map(|node| serde_json::json!({ "index": node.index, "leaf": node.leaf.to_hex() }));
        request["parents"] = parents.collect();
    }
    let bytes = serde_json::to_vec(&request).unwrap();
    let consent = B64(sign(&host.holder, &delegation_preimage(&bytes)));
    let signed = SignedRequestDocument {
        signature: B64(sign(&host.holder, &holder_preimage(&bytes))),
        consents: vec![consent; parents.len()],
        request: B64(bytes.clone()),
    };
    (bytes, signed)
}

async fn issue(
    host: &Host,
    id: &str,
    gateway: &str,
    generation: usize,
    parents: &[&Node],
) -> (u64, Sha256Digest) {
    let offer = host.client.challenge().await.unwrap();
    let (bytes, signed) = asked(host, id, gateway, (generation, parents));
    let call = ArtifactsCall {
        evidence: host.evidence(&offer, &[&bytes]),
        challenge: offer.challenge,
        requests: vec![signed],
    };
    let answer = host.client.artifacts(&call).await.unwrap();
    assert_eq!(answer.decisions[0].verdict, "allow", "{id}");
    let receipt = TlogProof::parse(&answer.decisions[0].receipt).unwrap();
    (receipt.index, leaf_hash(&receipt.extra))
}

/// Fifty artifacts: families of up to five generations, every third node with two parents, told of at three gateways, one in four not at all.
async fn run(house: &House, host: &Host) -> Vec<Node> {
    let mut gateways = Vec::new();
    for name in GATEWAYS {
        gateways.push(house.service(house.gateway(name).await.0));
    }
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..NODES {
        let family: Vec<usize> = (0..number).filter(|other| other % FAMILIES == number % FAMILIES).collect();
        let open: Vec<usize> = family.iter().copied().filter(|other| nodes[*other].generation < 4).collect();
        let mut parents: Vec<usize> = Vec::new();
        if !open.is_empty() {
            parents.push(open[(number * 7) % open.len()]);
            if number % 3 == 0 {
                parents.push(open[(number * 5 + 1) % open.len()]);
            }
            parents.dedup();
        }
        let generation = parents.iter().map(|parent| nodes[*parent].generation + 1).max().unwrap_or(0);
        let above: Vec<&Node> = parents.iter().map(|parent| &nodes[*parent]).collect();
        let gateway = number % GATEWAYS.len();
        let (index, leaf) = issue(host, &format!("n{number}"), GATEWAYS[gateway], generation, &above).await;
        let told = number % 4 != 3;
        if told {
            let time_ms = house.serving.authority().now_ms();
            let outcome = OutcomeDocument { index, leaf: leaf.to_hex(), refused: None, time_ms };
            gateways[gateway].outcomes(&OutcomesCall { outcomes: vec![outcome] }).await.unwrap();
        }
        nodes.push(Node { index, leaf, generation, parents, outcomes: usize::from(told) });
    }
    nodes
}

fn ancestors(nodes: &[Node], of: usize) -> BTreeSet<usize> {
    let mut known = BTreeSet::new();
    let mut waiting = nodes[of].parents.clone();
    while let Some(parent) = waiting.pop() {
        if known.insert(parent) {
            waiting.extend(&nodes[parent].parents);
        }
    }
    known
}

/// All pages of three, put together.
async fn paged(
    ask: impl AsyncFn(Option<String>) -> Result<LineagePage, ClientError>,
) -> (Vec<LineageEntry>, LineagePage) {
    let (mut entries, mut after) = (Vec::new(), None);
    loop {
        let page = ask(after).await.unwrap();
        entries.extend(page.entries.clone());
        match page.next.clone() {
            Some(next) => after = Some(next),
            None => return (entries, page),
        }
    }
}

async fn indexed(admin: &Client) {
    let began = Instant::now();
    loop {
        let page = admin.lineage_ancestors(0, None, None).await.unwrap();
        if page.indexed == page.size {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{page:?}");
        tokio::task::yield_now().await;
    }
}

fn indexes(entries: &[LineageEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.index).collect()
}

#[test]
fn a_run_of_fifty_artifacts_equals_the_truth() {
    let calm = |options: &mut countersign_authority::init::InitOptions| options.limits.lease_secs = 600;
    with_house("a_run_of_fifty_artifacts_equals_the_truth", calm, async |house| {
        house.permit_all().await;
        let (host, other) = (house.host("host").await, house.host("other").await);
        let nodes = run(&house, &host).await;
        let strange = issue(&other, "strange", GATEWAYS[0], 4, &[]).await;
        let admin = house.admin();
        indexed(&admin).await;
        for (number, node) in nodes.iter().enumerate() {
            let above: Vec<u64> = ancestors(&nodes, number).iter().map(|other| nodes[*other].index).collect();
            let (found, page) =
                paged(async |after| admin.lineage_ancestors(node.index, after.as_deref(), Some(3)).await)
                    .await;
            assert_eq!((indexes(&found), &page.gaps[..]), (above, &[][..]));
            let subject = page.subject.unwrap();
            assert_eq!((subject.index, subject.leaf), (node.index, node.leaf.to_hex()));
            assert_eq!(subject.outcomes.len(), node.outcomes);
            assert_eq!(subject.depth, node.generation as u64);
            let below = (0..NODES).filter(|other| ancestors(&nodes, *other).contains(&number));
            let below: Vec<u64> = below.map(|other| nodes[other].index).collect();
            let (found, page) =
                paged(async |after| admin.lineage_descendants(node.index, after.as_deref(), Some(3)).await)
                    .await;
            assert_eq!((indexes(&found), &page.gaps[..]), (below, &[][..]), "of {number}");
        }
        let all: Vec<u64> = nodes.iter().map(|node| node.index).collect();
        properties(&house, &host, &all).await;
        let by_other = admin.lineage_artifacts("host", &other.id.to_hex(), None, None).await.unwrap();
        assert_eq!(indexes(&by_other.entries), [strange.0]);
        gaps(&house, &host, &nodes).await;
        house.serving.stop().await;
    });
}

/// Every property that all nodes share leads to all of them; pages are bounded.
async fn properties(house: &House, host: &Host, all: &[u64]) {
    let admin = house.admin();
    let offer = host.client.challenge().await.unwrap();
    let quoted = &host.evidence(&offer, &[]).pcrs[7];
    let policy = admin.policy().await.unwrap().digest.unwrap();
    let ak = sha256(host.machine.tpm.ak_public().bytes()).to_hex();
    let register = format!("sha256:{}:{}", quoted.index, quoted.value);
    for (property, value) in [("host", host.id.to_hex()), ("ak", ak)] {
        let (found, _) =
            paged(async |after| admin.lineage_artifacts(property, &value, after.as_deref(), Some(7)).await)
                .await;
        assert_eq!(indexes(&found), all, "{property}");
    }
    let head = admin.keys().await.unwrap().head[0].thumbprint.clone();
    for (property, value) in [("policy", &policy), ("head_key", &head), ("pcr", &register)] {
        let (found, page) =
            paged(async |after| admin.lineage_artifacts(property, value, after.as_deref(), Some(7)).await)
                .await;
        assert_eq!(found.len(), all.len() + 1, "{property}: that of the other host, too");
        assert_eq!(page.gaps, []);
        let one = admin.lineage_artifacts(property, value, None, Some(7)).await.unwrap();
        assert_eq!((one.entries.len(), one.next.is_some()), (7, true));
    }
    let workload = sha256(b"n17").to_hex();
    assert_eq!(admin.lineage_artifacts("workload", &workload, None, None).await.unwrap().entries.len(), 1);
    let ask = async |property: &str, value: &str| admin.lineage_artifacts(property, value, None, None).await;
    assert_eq!(ask("host", &other_host()).await.unwrap().entries, []);
    for (property, value) in [
        ("nothing", "1"),
        ("host", "00"),
        ("host", &format!("{}&policy={policy}", host.id)),
        ("pcr", "sha256:24:00"),
        ("pcr", "sha256:7:00"),
        ("pcr", &register.to_uppercase()),
        ("policy", policy.get(1..).unwrap()),
        ("reference_set", "zz"),
        ("workload", &format!("{workload}&after=1")),
        ("workload", &format!("{workload}&count=x")),
    ] {
        assert_eq!(code(ask(property, value).await), "malformed", "{property}={value}");
    }
    assert_eq!(code(ask("head_key", &policy).await), "not-found");
}

fn other_host() -> String {
    format!("01{}", "00".repeat(32))
}

/// What is taken out of the store is missed, never passed over.
async fn gaps(house: &House, host: &Host, nodes: &[Node]) {
    let admin = house.admin();
    let what = |page: &LineagePage| -> Vec<(String, Option<u64>)> {
        page.gaps.iter().map(|gap| (gap.what.clone(), gap.index)).collect()
    };
    let first = admin.lineage_ancestors(0, None, None).await.unwrap();
    assert_eq!((what(&first), first.subject), (vec![("not-an-allow".to_owned(), Some(0))], None));
    let beyond = admin.lineage_descendants(1 << 40, None, None).await.unwrap();
    assert_eq!(what(&beyond), [("leaf-missing".to_owned(), Some(1 << 40))]);
    assert_eq!(code(admin.lineage_descendants(u64::MAX, Some("x"), None).await), "malformed");

    let store = rusqlite::Connection::open(house.config.state_dir.join("log.sqlite")).unwrap();
    store.busy_timeout(PATIENCE).unwrap();
    let by_index: BTreeMap<u64, LineageEntry> = {
        let (all, _) = paged(async |after| {
            admin.lineage_artifacts("host", &host.id.to_hex(), after.as_deref(), Some(7)).await
        })
        .await;
        all.into_iter().map(|entry| (entry.index, entry)).collect()
    };
    // The evidence of one is gone, and the leaf of another that has parents and children.
    let pruned = by_index[&nodes[NODES - 1].index].evidence.clone();
    let pruned = Sha256Digest::from_hex(&pruned).unwrap();
    assert_eq!(store.execute("DELETE FROM blob WHERE digest = ?1", [pruned.as_bytes()]).unwrap(), 1);
    let page = admin.lineage_ancestors(nodes[NODES - 1].index, None, None).await.unwrap();
    assert!(what(&page).contains(&("evidence-pruned".to_owned(), Some(nodes[NODES - 1].index))), "{page:?}");
    let (child, parent) = (0..NODES)
        .filter_map(|child| Some((child, *nodes[child].parents.first()?)))
        .find(|(_, parent)| !nodes[*parent].parents.is_empty())
        .unwrap();
    let removed = nodes[parent].index;
    assert_eq!(store.execute("DELETE FROM leaf WHERE idx = ?1", [removed.cast_signed()]).unwrap(), 1);
    let page = admin.lineage_ancestors(nodes[child].index, None, None).await.unwrap();
    let gap = page.gaps.iter().find(|gap| gap.what == "leaf-missing").unwrap();
    assert_eq!((gap.index, gap.leaf.clone()), (Some(removed), Some(nodes[parent].leaf.to_hex())));
    let above = nodes[parent].parents[0];
    let page = admin.lineage_descendants(nodes[above].index, None, None).await.unwrap();
    assert!(what(&page).contains(&("leaf-missing".to_owned(), Some(removed))), "{page:?}");
    let page = admin.lineage_artifacts("host", &host.id.to_hex(), None, None).await.unwrap();
    assert!(what(&page).contains(&("leaf-missing".to_owned(), Some(removed))), "{page:?}");
}

#[test]
fn an_index_that_is_gone_is_told_and_made_again() {
    with_house(
        "an_index_that_is_gone_is_told_and_made_again",
        |_| (),
        async |house| {
            house.permit_all().await;
            let host = house.host("host").await;
            host.artifacts(&["r1"]).await.unwrap();
            indexed(&house.admin()).await;
            let path = house.config.lineage_path();
            let House { serving, config, made, maker, scratch } = house;
            serving.stop().await;
            assert!(path.exists());
            std::fs::write(&path, b"scratched").unwrap();
            let serving = countersign_authority::serve::Serving::start(config.clone()).await.unwrap();
            let house = House { made, config, serving, maker, scratch };
            let admin = house.admin();
            let began = Instant::now();
            let found = loop {
                match admin.lineage_artifacts("host", &host.id.to_hex(), None, None).await {
                    Ok(page) if page.entries.len() == 1 => break page,
                    Ok(_) => {}
                    Err(ClientError::Problem { code, .. }) => assert_eq!(code, "lineage-unavailable"),
                    Err(other) => panic!("{other}"),
                }
                assert!(began.elapsed() < PATIENCE);
                tokio::task::yield_now().await;
            };
            assert_eq!(found.gaps, []);
            house.serving.stop().await;
        },
    );
}
