//! Machines' own keys (IDevID) in real software TPMs: made by the TCG's template, certified by a maker, shown by the AK; and another machine's key.
#[cfg(test)]
mod support;
#[cfg(test)]
#[path = "support/swtpm.rs"]
mod swtpm;

use countersign_authority::init::InitOptions;
use countersign_client::ClientIdentity;
use countersign_core::api::{
    B64, EnrolmentBegin, EnrolmentFinish, EnrolmentOffer, IdevidBegin, IdevidFinish,
};
use countersign_core::request::{device_certification_data, device_possession};
use countersign_fixture::{SwTpm, SwTpmCa};
use countersign_tpm::device::KeyId;
use support::{EkPoint, House, Manufacturer, ORIGIN, code, with_house};
use swtpm::{Keyed, ek, enrolment_id};

/// A host's TPM with the machine's own key, all of P-256.
#[cfg(test)]
struct Device {
    host: Keyed,
    idevid: KeyId,
}

/// Name algorithm, key, attributes and policy of template H-2. TPM 2.0 Keys for Device Identity and Attestation, 7.3.4.
#[cfg(test)]
fn provision(swtpm: &SwTpm, attributes: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let policy = data_encoding::HEXLOWER
        .decode(b"ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea")
        .unwrap();
    std::fs::write(at("policy"), policy).unwrap();
    let (context, policy) = (at("context"), at("policy"));
    let key = [
        "-C",
        "e",
        "-g",
        "sha256",
        "-G",
        "ecc256:ecdsa-sha256:null",
        "-a",
        attributes,
        "-L",
        &policy,
        "-c",
        &context,
    ];
    swtpm.tpm2("tpm2_createprimary", &key);
    swtpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", &context, "0x81020000"]);
    swtpm.tpm2("tpm2_flushcontext", &["-t"]);
}

#[cfg(test)]
const ATTRIBUTES: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|sign";

#[cfg(test)]
impl Device {
    fn new(ca: &SwTpmCa, attributes: &str) -> Self {
        let swtpm = SwTpm::start(ca);
        provision(&swtpm, attributes);
        let mut host = Keyed::with(swtpm);
        let idevid = host.tpm.persistent(0x8102_0000).unwrap();
        Self { host, idevid }
    }

    fn begin(&self, house: &House, token: &str, idevid: IdevidBegin) -> EnrolmentBegin {
        let mut call = self.host.begin(token, house.maker.certify_key(&self.host.ek, ek));
        call.idevid = Some(idevid);
        call
    }

    fn named_by(&self, maker: &Manufacturer) -> IdevidBegin {
        let public = self.host.tpm.public(self.idevid).unwrap();
        let certificate = maker.name_device(&EkPoint::of(public), Some("SN-0001"), |_| ());
        IdevidBegin {
            certificate: B64(certificate),
            intermediates: Vec::new(),
            public: B64(public.bytes().to_vec()),
        }
    }

    fn opened(&mut self, offer: &EnrolmentOffer) -> [u8; 32] {
        self.host.opened(offer).unwrap()
    }

    fn finish(&mut self, offer: &EnrolmentOffer, secret: &[u8; 32], idevid: IdevidFinish) -> EnrolmentFinish {
        EnrolmentFinish { idevid: Some(idevid), ..self.host.finish(offer, secret) }
    }

    /// This TPM's AK certifies this TPM's key, which signs.
    fn show(&mut self, offer: &EnrolmentOffer, secret: &[u8; 32]) -> IdevidFinish {
        let nonce = device_certification_data(ORIGIN, &enrolment_id(offer), secret);
        let certified =
            self.host.tpm.certify_device_key(self.idevid, self.host.ak, nonce.as_bytes()).unwrap();
        let message = device_possession(ORIGIN, &enrolment_id(offer), secret);
        let possession = self.host.tpm.sign_with_device_key(self.idevid, &message).unwrap();
        IdevidFinish {
            attest: B64(certified.attest),
            signature: B64(certified.signature),
            possession: B64(possession),
        }
    }
}

#[cfg(test)]
async fn nobody(house: &House) {
    assert!(house.admin().hosts(None).await.unwrap().hosts.is_empty());
}

#[test]
fn a_real_machine_is_named_and_another_machines_name_is_not_taken() {
    let name = "a_real_machine_is_named_and_another_machines_name_is_not_taken";
    let (maker, folder) = (Manufacturer::new(), tempfile::tempdir().unwrap());
    let root = folder.path().join("machines.pem");
    std::fs::write(&root, &maker.root_pem).unwrap();
    let tweak = |options: &mut InitOptions| options.enrolment.idevid_roots.push(root);
    with_house(name, tweak, async |house| {
        let ca = SwTpmCa::new();
        let (mut mine, mut other) = (Device::new(&ca, ATTRIBUTES), Device::new(&ca, ATTRIBUTES));
        let anyone = house.service(ClientIdentity::Anonymous);
        // Whoever has root on both machines: the other's TPM says everything that it can, over my enrolment.
        let call = mine.begin(&house, &house.token().await, other.named_by(&maker));
        for borrowed_ak in [true, false] {
            let offer = anyone.begin_enrolment(&call).await.unwrap();
            let secret = mine.opened(&offer);
            let mut shown = other.show(&offer, &secret);
            if !borrowed_ak {
                // My AK can name only what is in my TPM.
                let own = mine.show(&offer, &secret);
                (shown.attest, shown.signature) = (own.attest, own.signature);
            }
            let finish = mine.finish(&offer, &secret, shown);
            let answer = anyone.finish_enrolment(&offer.enrolment, &finish).await;
            assert_eq!(code(answer), "idevid-certification-invalid");
            nobody(&house).await;
        }
        // A key that its password alone administers, which the TCG's table doesn't have.
        let plain = Device::new(&ca, &ATTRIBUTES.replace("|adminwithpolicy", ""));
        let call = plain.begin(&house, &house.token().await, plain.named_by(&maker));
        assert_eq!(code(anyone.begin_enrolment(&call).await), "idevid-attributes-invalid");
        nobody(&house).await;
        let call = mine.begin(&house, &house.token().await, mine.named_by(&maker));
        let offer = anyone.begin_enrolment(&call).await.unwrap();
        let secret = mine.opened(&offer);
        let shown = mine.show(&offer, &secret);
        let finish = mine.finish(&offer, &secret, shown);
        anyone.finish_enrolment(&offer.enrolment, &finish).await.unwrap();
        let hosts = house.admin().hosts(None).await.unwrap().hosts;
        assert_eq!(hosts[0].device.as_ref().unwrap().serial.as_deref(), Some("SN-0001"));
        house.serving.stop().await;
    });
}
