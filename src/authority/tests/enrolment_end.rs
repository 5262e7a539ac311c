//! The end of an enrolment judges anew (PROTOCOL §12): what was revoked, has expired or isn't trusted any more since it began enrols nobody, and what is
//! recorded is what vouches for the host then. Each refusal has the code that the beginning has for it.
#[cfg(test)]
mod support;

use std::path::Path;

use countersign_authority::config::Enrolment as Rules;
use countersign_authority::init::InitOptions;
use countersign_authority::serve::Serving;
use countersign_client::{Client, ClientIdentity};
use countersign_core::api::{
    B64, EnrolmentBegin, EnrolmentFinish, EnrolmentOffer, IdevidBegin, IdevidFinish,
};
use countersign_core::cbor::encode_map;
use countersign_core::digest::sha256;
use countersign_core::leaf::Leaf;
use countersign_core::leaf::host::{Admission, EndorsementKind, Enrolment};
use countersign_core::name::HostId;
use countersign_core::request::{device_certification_data, device_possession};
use countersign_core::tlog_proof::TlogProof;
use countersign_tpm::ek::ueid;
use countersign_tpm::simulated::device_key::SimulatedDeviceKey;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose, SerialNumber};
use support::{EkPoint, House, Machine, Manufacturer, ORIGIN, code, with_house};

/// What vouches for a host, or says which it is.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
enum By {
    Ek,
    Iak,
    Idevid,
}

#[cfg(test)]
const ALL: [By; 3] = [By::Ek, By::Iak, By::Idevid];

/// Who certifies each.
#[cfg(test)]
struct Makers {
    ek: Manufacturer,
    iak: Manufacturer,
    idevid: Manufacturer,
}

#[cfg(test)]
impl Makers {
    fn new() -> Self {
        Self { ek: Manufacturer::new(), iak: Manufacturer::new(), idevid: Manufacturer::new() }
    }

    const fn of(&self, by: By) -> &Manufacturer {
        match by {
            By::Ek => &self.ek,
            By::Iak => &self.iak,
            By::Idevid => &self.idevid,
        }
    }

    /// Trusts each for its own; lists are in the folder `cache`.
    fn trust(&self, folder: &Path, options: &mut InitOptions) {
        let path = |by: By| {
            let path = roots(folder, by);
            std::fs::write(&path, &self.of(by).root_pem).unwrap();
            path
        };
        options.enrolment.ek_roots.push(path(By::Ek));
        options.enrolment.iak_roots.push(path(By::Iak));
        options.enrolment.idevid_roots.push(path(By::Idevid));
        std::fs::create_dir(folder.join("cache")).unwrap();
        options.enrolment.ek_cache = Some(folder.join("cache"));
    }
}

#[cfg(test)]
fn roots(folder: &Path, by: By) -> std::path::PathBuf {
    folder.join(format!("{by:?}.pem"))
}

/// A machine with its own key, and what it sends.
#[cfg(test)]
struct Sender {
    machine: Machine,
    key: SimulatedDeviceKey,
    call: EnrolmentBegin,
}

#[cfg(test)]
impl Sender {
    /// The certificate in question is made by `maker`, with serial number 8.
    fn new(house: &House, maker: &Manufacturer, by: By, shape: impl FnOnce(&mut CertificateParams)) -> Self {
        let machine = house.machine();
        let fill = &mut |buffer: &mut [u8]| getrandom::fill(buffer).unwrap();
        let key = SimulatedDeviceKey::new(SimulatedDeviceKey::ATTRIBUTES, fill).unwrap();
        let mut call = machine.begin(None);
        let purpose = |last: u64| vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, last])];
        let shape = |params: &mut CertificateParams| {
            params.serial_number = Some(SerialNumber::from(8_u64));
            shape(params);
        };
        match by {
            By::Ek => {
                let der = maker.certify_key(machine.tpm.ek_public(), |params| {
                    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
                    params.extended_key_usages = purpose(1);
                    shape(params);
                });
                call.ek_certificate = Some(B64(der));
            }
            By::Iak => {
                let der = maker.certify_key(machine.tpm.ak_public(), |params| {
                    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                    params.extended_key_usages = purpose(3);
                    shape(params);
                });
                (call.ek_public, call.ek_certificate) = (None, None);
                call.ak_certificate = Some(B64(der));
            }
            By::Idevid => {
                let certificate = B64(maker.name_device(&EkPoint::of(key.public()), Some("SN-0001"), shape));
                let public = B64(key.public().bytes().to_vec());
                call.idevid = Some(IdevidBegin { certificate, intermediates: Vec::new(), public });
            }
        }
        Self { machine, key, call }
    }

    /// Sends this along.
    fn beside(&mut self, by: By, intermediate: Vec<u8>) {
        let list = match by {
            By::Ek => &mut self.call.ek_intermediates,
            By::Iak => &mut self.call.ak_intermediates,
            By::Idevid => &mut self.call.idevid.as_mut().unwrap().intermediates,
        };
        list.push(B64(intermediate));
    }

    fn id(&self) -> HostId {
        let tpm = &self.machine.tpm;
        let naming = if self.call.ek_public.is_some() { tpm.ek_public() } else { tpm.ak_public() };
        HostId::from_slice(&ueid(naming)).unwrap()
    }

    fn finish(&self, offer: &EnrolmentOffer) -> EnrolmentFinish {
        let mut finish = self.machine.finish(offer);
        if self.call.idevid.is_some() {
            let id = data_encoding::HEXLOWER.decode(offer.enrolment.as_bytes()).unwrap().try_into().unwrap();
            let secret = finish.secret.0.as_slice().try_into().unwrap();
            let nonce = device_certification_data(ORIGIN, &id, &secret);
            let shown = self.machine.tpm.certify(self.key.public(), nonce.as_bytes()).unwrap();
            finish.idevid = Some(IdevidFinish {
                attest: B64(shown.attest),
                signature: B64(shown.signature),
                possession: B64(self.key.sign(&device_possession(ORIGIN, &id, &secret)).unwrap()),
            });
        }
        finish
    }

    async fn begin(&mut self, house: &House) -> EnrolmentOffer {
        self.call.token = Some(house.token().await);
        anyone(house).begin_enrolment(&self.call).await.unwrap()
    }

    /// The end of what was begun is refused, and so is the same begun anew; this host isn't there.
    async fn refused(&self, house: &House, offer: &EnrolmentOffer, expected: &str) {
        let anyone = anyone(house);
        let finish = self.finish(offer);
        assert_eq!(code(anyone.finish_enrolment(&offer.enrolment, &finish).await), expected);
        assert_eq!(code(anyone.finish_enrolment(&offer.enrolment, &finish).await), "enrolment-unknown");
        assert_eq!(code(anyone.begin_enrolment(&self.call).await), expected);
        assert!(house.admin().host(&self.id()).await.is_err(), "{expected}");
    }

    /// The leaf that the end appends.
    async fn enrolled(&self, house: &House, offer: &EnrolmentOffer) -> Enrolment {
        let enrolled = anyone(house).finish_enrolment(&offer.enrolment, &self.finish(offer)).await.unwrap();
        assert_eq!(enrolled.host, self.id().to_hex());
        let leaf = Leaf::parse(&TlogProof::parse(&enrolled.receipt).unwrap().extra).unwrap();
        Enrolment::parse(&leaf.body).unwrap()
    }
}

#[cfg(test)]
fn anyone(house: &House) -> Client {
    house.service(ClientIdentity::Anonymous)
}

#[cfg(test)]
const fn revoked(by: By) -> &'static str {
    match by {
        By::Ek => "ek-certificate-revoked",
        By::Iak => "iak-certificate-invalid",
        By::Idevid => "idevid-certificate-revoked",
    }
}

#[test]
fn what_was_revoked_since_the_beginning_enrols_nobody() {
    let (makers, folder) = (Makers::new(), tempfile::tempdir().unwrap());
    let tweak = |options: &mut InitOptions| makers.trust(folder.path(), options);
    with_house("what_was_revoked_since_the_beginning_enrols_nobody", tweak, async |house| {
        for by in ALL {
            let maker = makers.of(by);
            let mut sender = Sender::new(&house, maker, by, |_| ());
            // Its plant's certificate is what is revoked of this one, which sends that along.
            let (plant, certificate) = maker.plant(9);
            let mut below = Sender::new(&house, &plant, by, |_| ());
            below.beside(by, certificate.clone());
            let mut sound = Sender::new(&house, &plant, by, |_| ());
            sound.beside(by, certificate);
            let (first, second) = (sender.begin(&house).await, below.begin(&house).await);
            let path = folder.path().join("cache").join(format!("{by:?}.crl"));
            for (serial, sender, offer) in [(8, &sender, &first), (9, &below, &second)] {
                // Until the certificate is revoked, what was sent along leads to a root at the end, too.
                let control = sound.begin(&house).await;
                sound.enrolled(&house, &control).await;
                std::fs::write(&path, maker.revocation_list(&[serial], (2025, 2090))).unwrap();
                house.serving.authority().reload_endorsements();
                sender.refused(&house, offer, revoked(by)).await;
            }
        }
        house.serving.stop().await;
    });
}

#[test]
fn what_nobody_trusts_any_more_or_whose_lists_ended_enrols_nobody() {
    let name = "what_nobody_trusts_any_more_or_whose_lists_ended_enrols_nobody";
    let (makers, folder) = (Makers::new(), tempfile::tempdir().unwrap());
    let tweak = |options: &mut InitOptions| makers.trust(folder.path(), options);
    with_house(name, tweak, async |house| {
        let codes = [
            (By::Ek, "ek-revocation-unknown", "ek-issuer-unknown"),
            (By::Iak, "iak-certificate-invalid", "iak-certificate-invalid"),
            (By::Idevid, "idevid-revocation-unknown", "idevid-issuer-unknown"),
        ];
        for (by, stale, unknown) in codes {
            let mut sender = Sender::new(&house, makers.of(by), by, |_| ());
            let offer = sender.begin(&house).await;
            let list = folder.path().join("cache").join("ended.crl");
            std::fs::write(&list, makers.of(by).revocation_list(&[], (2024, 2025))).unwrap();
            house.serving.authority().reload_endorsements();
            sender.refused(&house, &offer, stale).await;
            std::fs::remove_file(list).unwrap();
            house.serving.authority().reload_endorsements();
            let offer = sender.begin(&house).await;
            std::fs::write(roots(folder.path(), by), Manufacturer::new().root_pem).unwrap();
            house.serving.authority().reload_endorsements();
            sender.refused(&house, &offer, unknown).await;
            std::fs::write(roots(folder.path(), by), &makers.of(by).root_pem).unwrap();
            house.serving.authority().reload_endorsements();
            let offer = sender.begin(&house).await;
            sender.enrolled(&house, &offer).await;
        }
        house.serving.stop().await;
    });
}

#[test]
fn what_has_expired_since_the_beginning_enrols_nobody() {
    let name = "what_has_expired_since_the_beginning_enrols_nobody";
    let (makers, folder) = (Makers::new(), tempfile::tempdir().unwrap());
    let tweak = |options: &mut InitOptions| makers.trust(folder.path(), options);
    with_house(name, tweak, async |house| {
        let now_secs = || house.serving.authority().now_ms() / 1_000;
        let codes = ["ek-certificate-expired", "iak-certificate-invalid", "idevid-certificate-expired"];
        let mut lasts = 2;
        let (ends, begun) = loop {
            // A machine that is slow today gets more time to begin.
            let ends = now_secs() + lasts;
            let after = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(ends);
            let mut begun = Vec::new();
            for by in ALL {
                let mut sender = Sender::new(&house, makers.of(by), by, |params| params.not_after = after);
                sender.call.token = Some(house.token().await);
                match anyone(&house).begin_enrolment(&sender.call).await {
                    Ok(offer) => begun.push((sender, offer)),
                    Err(refused) => {
                        let expired = codes.iter().any(|code| refused.to_string().contains(code));
                        assert!(expired, "{refused}");
                    }
                }
            }
            if begun.len() == ALL.len() {
                break (ends, begun);
            }
            lasts *= 3;
            assert!(lasts < 60, "a begun enrolment doesn't last longer");
        };
        assert!(countersign_fixture::wait_until(countersign_fixture::PATIENCE, || now_secs() > ends));
        for ((sender, offer), expected) in begun.iter().zip(codes) {
            sender.refused(&house, offer, expected).await;
        }
        house.serving.stop().await;
    });
}

#[test]
fn a_renewal_that_is_revoked_before_its_end_leaves_the_host_as_it_was() {
    let name = "a_renewal_that_is_revoked_before_its_end_leaves_the_host_as_it_was";
    let (makers, folder) = (Makers::new(), tempfile::tempdir().unwrap());
    let tweak = |options: &mut InitOptions| makers.trust(folder.path(), options);
    with_house(name, tweak, async |house| {
        let mut sender = Sender::new(&house, &makers.idevid, By::Idevid, |_| ());
        let offer = sender.begin(&house).await;
        sender.enrolled(&house, &offer).await;
        let before = house.admin().host(&sender.id()).await.unwrap();
        sender.call.token = None;
        let offer = anyone(&house).begin_enrolment(&sender.call).await.unwrap();
        let list = makers.idevid.revocation_list(&[8], (2025, 2090));
        std::fs::write(folder.path().join("cache/maker.crl"), list).unwrap();
        house.serving.authority().reload_endorsements();
        let answer = anyone(&house).finish_enrolment(&offer.enrolment, &sender.finish(&offer)).await;
        assert_eq!(code(answer), "idevid-certificate-revoked");
        let after = house.admin().host(&sender.id()).await.unwrap();
        assert_eq!((after.enrolment, after.device), (before.enrolment, before.device));
        house.serving.stop().await;
    });
}

/// The same authority after its operator changed these rules.
#[cfg(test)]
async fn restarted(mut house: House, change: impl FnOnce(&mut Rules)) -> House {
    let mut config = house.config.clone();
    change(&mut config.enrolment);
    house.serving.stop().await;
    house.serving = Serving::start(config.clone()).await.unwrap();
    house.config = config;
    house
}

#[test]
fn the_operators_list_counts_as_it_is_at_the_end() {
    let (makers, folder) = (Makers::new(), tempfile::tempdir().unwrap());
    let tweak = |options: &mut InitOptions| makers.trust(folder.path(), options);
    with_house("the_operators_list_counts_as_it_is_at_the_end", tweak, async |house| {
        let mut sender = Sender::new(&house, &makers.ek, By::Ek, |_| ());
        let listed = vec![sha256(&sender.machine.tpm.ek_public().spki_der()).to_hex()];
        let house = restarted(house, |rules| rules.ek_allow = listed.clone()).await;
        // Begun because it was listed, without a certificate; a pending enrolment outlives the process.
        let certificate = sender.call.ek_certificate.take();
        let offer = anyone(&house).begin_enrolment(&sender.call).await.unwrap();
        let house = restarted(house, |rules| rules.ek_allow.clear()).await;
        sender.refused(&house, &offer, "ek-not-allowed").await;
        // Begun by its certificate with a token, and listed since: the list admits it, the certificate endorses it, the token stays.
        sender.call.ek_certificate = certificate;
        let offer = sender.begin(&house).await;
        let token = sender.call.token.take();
        let house = restarted(house, |rules| rules.ek_allow = listed).await;
        let record = sender.enrolled(&house, &offer).await;
        assert_eq!((record.admission, record.token), (Admission::Preregistered, None));
        assert_eq!(record.endorsement.kind, EndorsementKind::EkCertificate);
        let mut other = Sender::new(&house, &makers.ek, By::Ek, |params| params.serial_number = None);
        other.call.token = token;
        let begun = anyone(&house).begin_enrolment(&other.call).await.unwrap();
        other.enrolled(&house, &begun).await;
        // Renewed by certificate and list, and revoked meanwhile: the list alone endorses it, and no certificate is recorded.
        let offer = anyone(&house).begin_enrolment(&sender.call).await.unwrap();
        let list = makers.ek.revocation_list(&[8], (2025, 2090));
        std::fs::write(folder.path().join("cache/maker.crl"), list).unwrap();
        house.serving.authority().reload_endorsements();
        let record = sender.enrolled(&house, &offer).await;
        assert_eq!((record.endorsement.kind, record.ek_certificate), (EndorsementKind::EkAllowed, None));
        house.serving.stop().await;
    });
}

#[test]
fn firmware_and_manufacturers_count_as_they_are_at_the_end() {
    let (makers, folder) = (Makers::new(), tempfile::tempdir().unwrap());
    let tweak = |options: &mut InitOptions| makers.trust(folder.path(), options);
    with_house("firmware_and_manufacturers_count_as_they_are_at_the_end", tweak, async |house| {
        let mut sender = Sender::new(&house, &makers.ek, By::Ek, |_| ());
        let offer = sender.begin(&house).await;
        // The simulated TPM's firmware is 20260101:00010000.
        let floor = [("*".to_owned(), "20260101:00010001".to_owned())];
        let house = restarted(house, |rules| rules.firmware_floor = floor.into()).await;
        let answer = anyone(&house).finish_enrolment(&offer.enrolment, &sender.finish(&offer)).await;
        assert_eq!(code(answer), "firmware-too-old");
        let offer = sender.begin(&house).await;
        let house = restarted(house, |rules| {
            rules.firmware_floor.clear();
            rules.ek_policies = vec!["2.23.133.1".to_owned()];
        })
        .await;
        sender.refused(&house, &offer, "ek-certificate-invalid").await;
        house.serving.stop().await;
    });
}

#[test]
fn a_row_of_an_earlier_version_is_an_unknown_enrolment_and_the_host_begins_anew() {
    let name = "a_row_of_an_earlier_version_is_an_unknown_enrolment_and_the_host_begins_anew";
    let (makers, folder) = (Makers::new(), tempfile::tempdir().unwrap());
    let tweak = |options: &mut InitOptions| makers.trust(folder.path(), options);
    with_house(name, tweak, async |house| {
        let mut sender = Sender::new(&house, &makers.ek, By::Ek, |_| ());
        // Ten members without a number, as it was; and bytes that a disk made up.
        let earlier = encode_map(|map| (1..=10).for_each(|key| map.entry(key).bytes(&[0; 32])));
        for row in [earlier, vec![0xff; 200], Vec::new()] {
            let offer = sender.begin(&house).await;
            let store = rusqlite::Connection::open(house.config.state_dir.join("log.sqlite")).unwrap();
            let changed = store.execute("UPDATE pending_enrolment SET record = ?1", [&row]).unwrap();
            assert_eq!(changed, 1);
            drop(store);
            let finish = sender.finish(&offer);
            for _ in 0..2 {
                let answer = anyone(&house).finish_enrolment(&offer.enrolment, &finish).await;
                assert_eq!(code(answer), "enrolment-unknown");
            }
        }
        let offer = sender.begin(&house).await;
        sender.enrolled(&house, &offer).await;
        house.serving.stop().await;
    });
}
