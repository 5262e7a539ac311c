//! A new head key while the authority serves: no head that a gateway couldn't follow, no artifact refused (PROTOCOL §8.5, §13.1).
#[cfg(test)]
mod support;

use countersign_authority::init::InitOptions;
use countersign_authority::serve::Serving;
use countersign_client::Client;
use countersign_core::api::Acknowledgement;
use countersign_core::api::admin::Keys;
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlState;
use countersign_core::note::{NoteKey, SignedNote, verify};
use support::{House, ORIGIN, code, with_house};

#[cfg(test)]
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

fn states(keys: &Keys) -> Vec<&str> {
    keys.head.iter().map(|key| key.state.as_str()).collect()
}

#[cfg(test)]
async fn wait_for(admin: &Client, wanted: &[&str]) {
    let began = std::time::Instant::now();
    loop {
        let keys = admin.keys().await.unwrap();
        if states(&keys) == wanted {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{:?}", states(&keys));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
async fn acknowledge(gateway: &Client) {
    let feed = gateway.feed(0, 0).await.unwrap();
    let head = HeadBody::parse(SignedNote::parse(&feed.head).unwrap().text()).unwrap();
    gateway.acknowledge(&Acknowledgement { control: head.control_seq, size: head.size }).await.unwrap();
}

/// Follows the feed as a gateway does: each step vouched for by a key that was believed before.
#[cfg(test)]
async fn follow(house: &House, gateway: &Client) -> ControlState {
    let feed = gateway.feed(0, 0).await.unwrap();
    let mut control = ControlState::of_bundle(&house.bundle());
    let mut believed: Vec<_> = house.bundle().head_keys().to_vec();
    let mut leaves = feed.control.iter();
    for note in feed.rotations.iter().chain([&feed.head]) {
        let note = SignedNote::parse(note).unwrap();
        let head = HeadBody::parse(note.text()).unwrap();
        while control.number() < head.control_seq {
            control.apply(&leaves.next().unwrap().0).unwrap();
        }
        assert_eq!(head.control_digest, *control.digest());
        let after: Vec<_> = control.head_keys_at(head.control_seq).cloned().collect();
        for keys in [&believed, &after] {
            let keys: Vec<_> = keys.iter().map(|key| NoteKey::new(ORIGIN, key.clone()).unwrap()).collect();
            verify(&note, &keys).unwrap();
        }
        believed = after;
    }
    assert!(!feed.more && leaves.next().is_none());
    control
}

fn patient(options: &mut InitOptions) {
    options.limits.lease_secs = 3_600;
}

#[test]
fn a_new_key_waits_for_every_gateway_and_the_old_one_goes() {
    with_house("a_new_key_waits_for_every_gateway_and_the_old_one_goes", patient, async |house| {
        house.permit_all().await;
        let host = house.host("host").await;
        let one = house.service(house.gateway("gateway-1").await.0);
        let two = house.service(house.gateway("gateway-2").await.0);
        let admin = house.admin();
        let keys = house.rotate("head-2").await.unwrap();
        assert_eq!(states(&keys), ["active", "pre-activation"]);
        assert_eq!(code(house.rotate("head-3").await), "rotation-refused");
        acknowledge(&one).await;
        assert_eq!(host.artifacts(&["before"]).await.unwrap().decisions[0].verdict, "allow");
        assert_eq!(
            states(&admin.keys().await.unwrap()),
            ["active", "pre-activation"],
            "one gateway is missing"
        );
        acknowledge(&two).await;
        wait_for(&admin, &["deactivated", "active"]).await;
        assert_eq!(host.artifacts(&["after"]).await.unwrap().decisions[0].verdict, "allow");
        let control = follow(&house, &one).await;
        assert_eq!(control.head_keys().len(), 2);
        // A label that is taken is refused, and the rotation that it would have been leaves nothing behind.
        assert_eq!(code(house.rotate("head-1").await), "rotation-refused");
        assert_eq!(states(&admin.keys().await.unwrap()), ["deactivated", "active"]);
        // The key that signs now is found again through the log.
        let config = house.config.clone();
        house.serving.stop().await;
        Serving::start(config).await.unwrap().stop().await;
    });
}

#[test]
fn a_rotation_goes_on_after_a_restart() {
    with_house("a_rotation_goes_on_after_a_restart", patient, async |mut house| {
        let (gateway, _) = house.gateway("gateway-1").await;
        house.rotate("head-2").await.unwrap();
        let config = house.config.clone();
        house.serving.stop().await;
        house.serving = Serving::start(config).await.unwrap();
        let admin = house.admin();
        assert_eq!(states(&admin.keys().await.unwrap()), ["active", "pre-activation"]);
        let gateway = house.service(gateway);
        acknowledge(&gateway).await;
        wait_for(&admin, &["deactivated", "active"]).await;
        follow(&house, &gateway).await;
        house.serving.stop().await;
    });
}

#[test]
fn a_gateway_that_is_away_holds_a_new_key_up_no_longer_than_its_lease() {
    let short = |options: &mut InitOptions| options.limits.lease_secs = 3;
    with_house("a_gateway_that_is_away_holds_a_new_key_up_no_longer_than_its_lease", short, async |house| {
        let gateway = house.service(house.gateway("gateway-1").await.0);
        let began = std::time::Instant::now();
        house.rotate("head-2").await.unwrap();
        wait_for(&house.admin(), &["deactivated", "active"]).await;
        assert!(began.elapsed().as_secs() >= 4, "{:?}", began.elapsed());
        follow(&house, &gateway).await;
        // Meanwhile heartbeats kept the head younger than the lease.
        assert!(
            house.service(countersign_client::ClientIdentity::Anonymous).readyz().await.unwrap().head_young
        );
        house.serving.stop().await;
    });
}
