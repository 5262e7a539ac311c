//! A maker of machines: a root, and a plant below it that certifies keys of TPMs. For the tests of hosts that their makers' certificates name.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SignatureAlgorithm,
};

/// Root and plant.
pub struct Maker {
    /// What an operator trusts.
    pub root_pem: String,
    /// The plant's certificate, which lies beside those that it issues.
    pub plant_der: Vec<u8>,
    plant: Issuer<'static, KeyPair>,
}

/// A P-256 point, as the TPM says it.
struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl Maker {
    /// With fresh keys.
    ///
    /// # Panics
    /// When there is no randomness.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            (params, KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap())
        };
        let (root, root_key) = authority("maker of machines");
        let root_pem = root.self_signed(&root_key).unwrap().pem();
        let root = Issuer::new(root, root_key);
        let (params, key) = authority("plant");
        let plant_der = params.signed_by(&key, &root).unwrap().der().to_vec();
        Self { root_pem, plant_der, plant: Issuer::new(params, key) }
    }

    /// The plant's certificate of the key with this uncompressed point, for signatures and not for certificates; what else it says is of the `shape`.
    ///
    /// # Panics
    /// When it isn't a point, or the shape is of no certificate.
    #[must_use]
    pub fn certify(&self, point: &[u8], shape: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        shape(&mut params);
        params.signed_by(&Point(point.to_vec()), &self.plant).unwrap().der().to_vec()
    }
}
