//! Certificates for the host key: every wrong kind is refused.

use std::time::Duration;

use super::*;
use crate::device::{Endorsed, OpenDevice as _};
use crate::testing::{SimulatedHost, SimulatedOpener, TestAuthority, TestCa};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

fn identity() -> HostIdentity {
    let device = SimulatedOpener(SimulatedHost::new()).open().unwrap();
    HostIdentity::of(device.keys().clone()).unwrap()
}

#[test]
fn only_a_client_certificate_of_the_bundle_for_this_key_is_taken() {
    let (authority, ours, other) = (TestAuthority::new(), identity(), identity());
    let bundle = authority.bundle();
    let client = TestCa::params(ClientAuth);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let check = |certificates| Credential::check(certificates, &ours, &bundle, now);

    let good = authority.ca.issue(&ours.host_key, &client);
    let credential = check(vec![good.clone(), authority.ca.certificate.clone()]).unwrap();
    assert!(credential.not_before_ms < 1_800_000_000_000 && credential.not_after_ms > 1_800_000_000_000);

    let key = authority.ca.issue(&other.host_key, &client);
    assert!(matches!(check(vec![key]), Err(IdentityError::OtherKey)));
    let ca = TestCa::new().issue(&ours.host_key, &client);
    assert!(matches!(check(vec![ca]), Err(IdentityError::Untrusted(_))));
    let usage = authority.ca.issue(&ours.host_key, &TestCa::params(ServerAuth));
    assert!(matches!(check(vec![usage]), Err(IdentityError::Untrusted(_))));
    let mut over = TestCa::params(ClientAuth);
    over.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let over = authority.ca.issue(&ours.host_key, &over);
    assert!(matches!(check(vec![over]), Err(IdentityError::Untrusted(_))));
    assert!(matches!(check(Vec::new()), Err(IdentityError::ChainLength)));
    assert!(matches!(check(vec![good.clone(); MAX_CHAIN + 1]), Err(IdentityError::ChainLength)));
    for end in [0, 10, good.len() - 1] {
        assert!(check(vec![good[..end].to_vec()]).is_err());
    }
}

#[test]
fn keys_in_each_others_place_are_no_identity() {
    let device = SimulatedOpener(SimulatedHost::new()).open().unwrap();
    let good = device.keys().clone();
    let swapped = DeviceKeys {
        ak_public: good.host_key_public.clone(),
        host_key_public: good.ak_public.clone(),
        ..good.clone()
    };
    assert!(matches!(HostIdentity::of(swapped), Err(IdentityError::Key("attestation key"))));
    let restricted = DeviceKeys { host_key_public: good.ak_public.clone(), ..good.clone() };
    assert!(matches!(HostIdentity::of(restricted), Err(IdentityError::Key("host key"))));
    let damaged = DeviceKeys { endorsed: Endorsed::ByEk { public: vec![0; 9], certificate: None }, ..good };
    assert!(matches!(HostIdentity::of(damaged), Err(IdentityError::Key("endorsement key"))));
}

#[test]
fn renewal_is_due_before_half_of_the_lifetime() {
    let credential = Credential { certificates: Vec::new(), not_before_ms: 1_000, not_after_ms: 11_000 };
    assert_eq!(credential.renew_at_ms(0.0), 6_000);
    assert_eq!(credential.renew_at_ms(1.0), 5_000);
    assert_eq!(credential.renew_at_ms(f64::INFINITY), 5_000);
}
