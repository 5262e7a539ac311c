//! Enrolment over the API: every way in, and every way in which it is refused (PROTOCOL §12).
#[cfg(test)]
mod support;

use countersign_client::ClientIdentity;
use countersign_core::api::B64;
use countersign_core::api::admin::{JoinTokenCall, RevocationCall, SubjectDocument};
use countersign_core::digest::sha256;
use countersign_core::leaf::host::{Admission, Enrolment};
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::tlog_proof::TlogProof;
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use support::{House, Machine, Manufacturer, code, with_house};
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// Flips bits of TPMA_OBJECT in a TPMT_PUBLIC (bytes 4 to 7).
#[cfg(test)]
fn with_attributes(public: &[u8], flip: u32) -> B64 {
    let mut bytes = public.to_vec();
    let attributes = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) ^ flip;
    bytes[4..8].copy_from_slice(&attributes.to_be_bytes());
    B64(bytes)
}

const FIXED_TPM: u32 = 1 << 1;
const RESTRICTED: u32 = 1 << 16;

#[cfg(test)]
async fn enrolment_of(house: &House, host: &support::Host) -> (Enrolment, u64) {
    let document = house.admin().host(&host.id).await.unwrap();
    let leaves = house.admin().leaves(document.enrolment, 1).await.unwrap();
    let leaf = Leaf::parse(&leaves.leaves[0].0).unwrap();
    assert_eq!(leaf.kind, Kind::Enrolment);
    (Enrolment::parse(&leaf.body).unwrap(), leaf.index)
}

#[test]
fn a_token_admits_once_and_the_same_keys_come_back_without_one() {
    with_house(
        "a_token_admits_once_and_the_same_keys_come_back_without_one",
        |_| (),
        async |house| {
            let token = house.token().await;
            let machine = house.machine();
            let offer = house.begin(&machine, Some(&token)).await.unwrap();
            let host = house.finish("host", machine, &offer).await.unwrap();
            let (first, index) = enrolment_of(&house, &host).await;
            assert_eq!((first.admission, first.version), (Admission::JoinToken, 1));
            assert_eq!(host.id, host.machine.id());
            host.client.challenge().await.unwrap();
            assert_eq!(code(house.begin(&house.machine(), Some(&token)).await), "join-token-invalid");
            assert_eq!(code(house.begin(&house.machine(), None).await), "join-token-invalid");
            assert_eq!(
                code(house.begin(&house.machine(), Some("no such token")).await),
                "join-token-invalid"
            );
            let offer = house.begin(&host.machine, None).await.unwrap();
            let again = house.finish("host", host.machine, &offer).await.unwrap();
            let (second, later) = enrolment_of(&house, &again).await;
            assert_eq!((second.admission, second.version), (Admission::Reenrolment, 1));
            assert!(later > index);
            again.client.challenge().await.unwrap();
            house.serving.stop().await;
        },
    );
}

#[test]
fn of_two_hosts_with_one_token_one_enrols() {
    with_house(
        "of_two_hosts_with_one_token_one_enrols",
        |_| (),
        async |house| {
            let token = house.token().await;
            let (one, two) = (house.machine(), house.machine());
            let first = house.begin(&one, Some(&token)).await.unwrap();
            let second = house.begin(&two, Some(&token)).await.unwrap();
            let (a, b) = tokio::join!(house.finish("a", one, &first), house.finish("b", two, &second));
            assert!(a.is_ok() != b.is_ok());
            assert_eq!(code(if a.is_ok() { b } else { a }), "join-token-invalid");
            assert_eq!(house.admin().hosts(None).await.unwrap().hosts.len(), 1);
            house.serving.stop().await;
        },
    );
}

#[test]
fn a_begun_enrolment_dies_on_its_first_use() {
    with_house(
        "a_begun_enrolment_dies_on_its_first_use",
        |_| (),
        async |house| {
            let token = house.token().await;
            let machine = house.machine();
            let offer = house.begin(&machine, Some(&token)).await.unwrap();
            let anyone = house.service(ClientIdentity::Anonymous);
            let wrong = machine.finish_with(&offer, &[7; 32]);
            assert_eq!(code(anyone.finish_enrolment(&offer.enrolment, &wrong).await), "activation-failed");
            let right = machine.finish(&offer);
            assert_eq!(code(anyone.finish_enrolment(&offer.enrolment, &right).await), "enrolment-unknown");
            assert_eq!(code(anyone.finish_enrolment(&"00".repeat(16), &right).await), "enrolment-unknown");
            // The token wasn't spent by the attempt.
            let offer = house.begin(&machine, Some(&token)).await.unwrap();
            house.finish("host", machine, &offer).await.unwrap();
            house.serving.stop().await;
        },
    );
}

#[test]
fn keys_of_another_tpm_are_refused() {
    with_house(
        "keys_of_another_tpm_are_refused",
        |_| (),
        async |house| {
            let (machine, other) = (house.machine(), house.machine());
            let anyone = house.service(ClientIdentity::Anonymous);
            let token = house.token().await;
            // Another TPM's AK: the credential is for a name that this TPM doesn't have, so it can't be opened.
            let mut call = machine.begin(Some(&token));
            call.ak_public = B64(other.tpm.ak_public().bytes().to_vec());
            let offer = anyone.begin_enrolment(&call).await.unwrap();
            assert!(machine.tpm.activate_credential(&offer.id_object.0, &offer.encrypted_secret.0).is_err());
            assert!(other.tpm.activate_credential(&offer.id_object.0, &offer.encrypted_secret.0).is_err());
            // Another TPM's host key: this AK can't have certified it.
            let mut call = machine.begin(Some(&token));
            call.host_key_public = B64(other.tpm.host_public().bytes().to_vec());
            let offer = anyone.begin_enrolment(&call).await.unwrap();
            let finish = machine.finish(&offer);
            assert_eq!(
                code(anyone.finish_enrolment(&offer.enrolment, &finish).await),
                "certification-invalid"
            );
            // The certification of another enrolment.
            let offer = house.begin(&machine, Some(&token)).await.unwrap();
            let earlier = machine.finish(&offer);
            let offer = house.begin(&machine, Some(&token)).await.unwrap();
            let mut finish = machine.finish(&offer);
            finish.attest = earlier.attest;
            finish.signature = earlier.signature;
            assert_eq!(
                code(anyone.finish_enrolment(&offer.enrolment, &finish).await),
                "certification-invalid"
            );
            // Another TPM's EK certificate, and one of another manufacturer.
            let mut call = machine.begin(Some(&token));
            call.ek_certificate = Some(B64(other.ek_certificate.clone()));
            assert_eq!(code(anyone.begin_enrolment(&call).await), "ek-key-mismatch");
            call.ek_certificate = Some(B64(Manufacturer::new().certify(&machine.tpm)));
            assert_eq!(code(anyone.begin_enrolment(&call).await), "ek-issuer-unknown");
            call.ek_certificate = Some(B64(b"no certificate".to_vec()));
            assert_eq!(code(anyone.begin_enrolment(&call).await), "ek-certificate-invalid");
            call.ek_certificate = None;
            assert_eq!(code(anyone.begin_enrolment(&call).await), "ek-not-allowed");
            house.serving.stop().await;
        },
    );
}

#[test]
fn keys_without_the_attributes_of_their_role_are_refused() {
    with_house(
        "keys_without_the_attributes_of_their_role_are_refused",
        |_| (),
        async |house| {
            let machine = house.machine();
            let anyone = house.service(ClientIdentity::Anonymous);
            let token = house.token().await;
            let good = machine.begin(Some(&token));
            let check = async |change: &dyn Fn(&mut countersign_core::api::EnrolmentBegin),
                               expected: &str| {
                let mut call = good.clone();
                change(&mut call);
                assert_eq!(code(anyone.begin_enrolment(&call).await), expected);
            };
            for flip in [FIXED_TPM, RESTRICTED] {
                check(
                    &|call| call.ek_public = Some(with_attributes(&good.ek_public.as_ref().unwrap().0, flip)),
                    "ek-attributes-invalid",
                )
                .await;
                check(
                    &|call| call.ak_public = with_attributes(&good.ak_public.0, flip),
                    "ak-attributes-invalid",
                )
                .await;
                let unfit = "host-key-attributes-invalid";
                check(&|call| call.host_key_public = with_attributes(&good.host_key_public.0, flip), unfit)
                    .await;
            }
            check(&|call| call.ak_public = call.host_key_public.clone(), "ak-attributes-invalid").await;
            check(&|call| call.host_key_public = call.ak_public.clone(), "host-key-attributes-invalid").await;
            check(&|call| call.ak_public.0.truncate(20), "malformed").await;
            check(&|call| call.ek_public.as_mut().unwrap().0.push(0), "malformed").await;
            check(&|call| call.token = Some("x".repeat(10_000)), "join-token-invalid").await;
            house.serving.stop().await;
        },
    );
}

#[test]
fn a_known_ek_with_new_keys_needs_a_token_and_a_host_key_has_one_owner() {
    let name = "a_known_ek_with_new_keys_needs_a_token_and_a_host_key_has_one_owner";
    with_house(
        name,
        |_| (),
        async |house| {
            house.permit_all().await;
            let host = house.host("host").await;
            host.artifacts(&["r1"]).await.unwrap();
            // Two TPMs that share an EK but not the other keys stand for one TPM that made new ones.
            let seed = |byte: u8| {
                let mut fills = 0_u8;
                move |buffer: &mut [u8]| {
                    fills += 1;
                    buffer.fill(if fills == 1 { 9 } else { byte + fills });
                }
            };
            let machine = |byte: u8| {
                let mut machine = house.machine();
                let mut tpm = SimulatedTpm::new(&mut seed(byte)).unwrap();
                tpm.boot(&machine.boot).unwrap();
                machine.ek_certificate = house.maker.certify(&tpm);
                machine.tpm = tpm;
                machine
            };
            let token = house.token().await;
            let offer = house.begin(&machine(20), Some(&token)).await.unwrap();
            let before = house.finish("before", machine(20), &offer).await.unwrap();
            assert_eq!(code(house.begin(&machine(40), None).await), "keys-changed");
            let token = house.token().await;
            let offer = house.begin(&machine(40), Some(&token)).await.unwrap();
            let after = house.finish("after", machine(40), &offer).await.unwrap();
            assert_eq!(after.id, before.id);
            assert_eq!(enrolment_of(&house, &after).await.0.version, 2);
            after.client.challenge().await.unwrap();
            assert_eq!(
                code(before.client.challenge().await),
                "unauthenticated",
                "the old host key is nobody's"
            );
            // A host key that belongs to another host.
            let thief = house.machine();
            let mut call = thief.begin(Some(&house.token().await));
            call.host_key_public = B64(host.machine.tpm.host_public().bytes().to_vec());
            let stolen = house.service(ClientIdentity::Anonymous).begin_enrolment(&call).await;
            assert_eq!(code(stolen), "identity-conflict");
            house.serving.stop().await;
        },
    );
}

#[test]
fn a_revoked_host_does_not_come_back_by_itself_and_an_expired_token_admits_nobody() {
    let name = "a_revoked_host_does_not_come_back_by_itself_and_an_expired_token_admits_nobody";
    with_house(
        name,
        |_| (),
        async |house| {
            let host = house.host("host").await;
            let call = |revoke| RevocationCall {
                subject: SubjectDocument::Host { host: host.id.to_hex() },
                revoke,
                reason: "test".to_owned(),
            };
            house.admin().revoke(&call(true)).await.unwrap();
            assert_eq!(code(house.begin(&host.machine, None).await), "host-revoked");
            house.admin().revoke(&call(false)).await.unwrap();
            house.begin(&host.machine, None).await.unwrap();
            let short = house.admin().make_join_token(&JoinTokenCall { ttl_secs: 1 }).await.unwrap();
            let expired = || house.serving.authority().now_ms() > short.expires_ms;
            assert!(countersign_fixture::wait_until(countersign_fixture::PATIENCE, expired));
            assert_eq!(code(house.begin(&house.machine(), Some(&short.token)).await), "join-token-invalid");
            house.serving.stop().await;
        },
    );
}

#[test]
fn an_ek_on_the_list_enrols_without_certificate_and_token() {
    // The keys of the TPM are known before the authority is made, since its configuration lists them.
    let machine = || {
        let mut fills = 0_u8;
        let mut random = move |buffer: &mut [u8]| {
            fills += 1;
            buffer.fill(60 + fills);
        };
        let mut machine = Machine::new(&Manufacturer::new());
        let mut tpm = SimulatedTpm::new(&mut random).unwrap();
        tpm.boot(&machine.boot).unwrap();
        machine.tpm = tpm;
        machine
    };
    let listed = machine().id().to_hex().split_off(2);
    let list = move |options: &mut countersign_authority::init::InitOptions| {
        options.enrolment.ek_allow = vec![listed];
    };
    with_house("an_ek_on_the_list_enrols_without_certificate_and_token", list, async |house| {
        let anyone = house.service(ClientIdentity::Anonymous);
        let machine = machine();
        let mut call = machine.begin(None);
        call.ek_certificate = None;
        // An agent that has them for all TPMs sends them also for one without a certificate.
        call.ek_intermediates = vec![B64(b"an issuer".to_vec())];
        let offer = anyone.begin_enrolment(&call).await.unwrap();
        let enrolled = anyone.finish_enrolment(&offer.enrolment, &machine.finish(&offer)).await.unwrap();
        let leaf = Leaf::parse(&TlogProof::parse(&enrolled.receipt).unwrap().extra).unwrap();
        let record = Enrolment::parse(&leaf.body).unwrap();
        assert_eq!(record.admission, Admission::Preregistered);
        assert_eq!(record.ek_certificate, None);
        house.serving.stop().await;
    });
}

#[test]
fn of_one_key_and_token_the_newest_enrolment_counts() {
    let one = |options: &mut countersign_authority::init::InitOptions| options.limits.pending_enrolments = 1;
    with_house("of_one_key_and_token_the_newest_enrolment_counts", one, async |house| {
        let (token, machine) = (house.token().await, house.machine());
        let first = house.begin(&machine, Some(&token)).await.unwrap();
        assert_eq!(code(house.begin(&house.machine(), Some(&token)).await), "overloaded");
        let second = house.begin(&machine, Some(&token)).await.unwrap();
        let anyone = house.service(ClientIdentity::Anonymous);
        let late = anyone.finish_enrolment(&first.enrolment, &machine.finish(&first)).await;
        assert_eq!(code(late), "enrolment-unknown");
        house.finish("host", machine, &second).await.unwrap();
        // Its place is free again.
        let (token, machine) = (house.token().await, house.machine());
        house.begin(&machine, Some(&token)).await.unwrap();
        house.serving.stop().await;
    });
}

#[test]
fn one_source_neither_begins_nor_finishes_without_end() {
    let slow = |options: &mut countersign_authority::init::InitOptions| {
        options.limits.source_enrolments_per_sec = 1;
        options.limits.source_enrolments_burst = 3;
    };
    with_house("one_source_neither_begins_nor_finishes_without_end", slow, async |house| {
        let (token, machine) = (house.token().await, house.machine());
        let offer = house.begin(&machine, Some(&token)).await.unwrap();
        let finish = machine.finish(&offer);
        let anyone = house.service(ClientIdentity::Anonymous);
        let mut codes = Vec::new();
        for _ in 0..10 {
            codes.push(code(anyone.finish_enrolment(&"00".repeat(16), &finish).await));
        }
        assert_eq!(codes[..3], ["enrolment-unknown"; 3]);
        assert!(codes.iter().filter(|code| *code == "rate-limited").count() >= 4, "{codes:?}");
        let mut codes = Vec::new();
        for _ in 0..10 {
            codes.extend(house.begin(&machine, Some(&token)).await.err().map(|error| code::<()>(Err(error))));
        }
        assert!(codes.len() >= 5 && codes.iter().all(|code| code == "rate-limited"), "{codes:?}");
        house.serving.stop().await;
    });
}

/// A TPM whose endorsement key is the same for every `keys`, and whose AK and host key aren't.
#[cfg(test)]
fn machine_with(maker: &Manufacturer, keys: u8) -> Machine {
    let mut next = vec![keys + 1, keys, 9];
    let mut tpm = SimulatedTpm::new(&mut |buffer: &mut [u8]| buffer.fill(next.pop().unwrap())).unwrap();
    let boot = SimulatedBoot::new(&BootOptions::default());
    tpm.boot(&boot).unwrap();
    let ek_certificate = maker.certify(&tpm);
    Machine { tpm, boot, ek_certificate }
}

#[test]
fn an_allow_listed_tpm_enrols_and_renews_without_a_token_and_changes_keys_with_one_only() {
    let test = "an_allow_listed_tpm_enrols_and_renews_without_a_token_and_changes_keys_with_one_only";
    let list = |options: &mut countersign_authority::init::InitOptions| {
        let tpm = machine_with(&Manufacturer::new(), 20).tpm;
        options.enrolment.ek_allow = vec![sha256(&tpm.ek_public().spki_der()).to_hex()];
    };
    with_house(test, list, async |house| {
        let machine = machine_with(&house.maker, 20);
        let offer = house.begin(&machine, None).await.unwrap();
        let host = house.finish("host", machine, &offer).await.unwrap();
        assert_eq!(enrolment_of(&house, &host).await.0.admission, Admission::Preregistered);
        // The same keys renew.
        let offer = house.begin(&host.machine, None).await.unwrap();
        let host = house.finish("host", host.machine, &offer).await.unwrap();
        assert_eq!(enrolment_of(&house, &host).await.0.admission, Admission::Reenrolment);
        // Whoever can reach the TPM makes keys of his own, and doesn't become the host by it.
        let other = machine_with(&house.maker, 40);
        assert_eq!(other.id(), host.id);
        assert_eq!(code(house.begin(&other, None).await), "keys-changed");
        assert_eq!(code(house.begin(&other, Some("no such token")).await), "join-token-invalid");
        host.client.challenge().await.unwrap();
        let token = house.token().await;
        let offer = house.begin(&other, Some(&token)).await.unwrap();
        let changed = house.finish("changed", other, &offer).await.unwrap();
        let record = enrolment_of(&house, &changed).await.0;
        assert_eq!((record.admission, record.version), (Admission::JoinToken, 2));
        assert_eq!(code(host.client.challenge().await), "unauthenticated", "the old host key");
        house.serving.stop().await;
    });
}

#[test]
fn a_host_certificate_lasts_a_week_and_others_longer() {
    with_house(
        "a_host_certificate_lasts_a_week_and_others_longer",
        |_| (),
        async |house| {
            let days = |der: &[u8]| {
                let certificate = Certificate::from_der(der).unwrap();
                let validity = certificate.tbs_certificate().validity();
                let lasts = validity.not_after.to_unix_duration() - validity.not_before.to_unix_duration();
                lasts.as_secs() / 86_400
            };
            let machine = house.machine();
            let token = house.token().await;
            let offer = house.begin(&machine, Some(&token)).await.unwrap();
            let anyone = house.service(ClientIdentity::Anonymous);
            let enrolled = anyone.finish_enrolment(&offer.enrolment, &machine.finish(&offer)).await.unwrap();
            assert_eq!(days(&enrolled.certificates[0].0), 7);
            let (_, issued) = house.gateway("gateway-1").await;
            assert_eq!(days(&issued.certificates[0].0), 365);
            house.serving.stop().await;
        },
    );
}
