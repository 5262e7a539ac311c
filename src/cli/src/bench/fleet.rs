//! A fleet of simulated hosts: everything about them follows from one seed.
//!
//! Comes in: the directory with the seed. Goes out: simulated TPMs that have booted, their EK certificates, and the root that signed those.
//! The root's key follows from the seed too, so the directory is a secret of whoever configured an authority to trust it.

use anyhow::{Context, ensure};
use countersign_core::digest::Sha256Digest;
use countersign_core::tuple;
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::EncodePublicKey;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder};
use x509_cert::certificate::{Certificate, TbsCertificate};
use x509_cert::der::asn1::UtcTime;
use x509_cert::der::{Decode, Encode, EncodePem, pem::LineEnding};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{ObjectIdentifier, SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

/// Holds the seed, 64 hexadecimal digits.
const SEED_FILE: &str = "seed";
/// What the authority has to trust.
const ROOT_FILE: &str = "ek-root.pem";
const ROOT_NAME: &str = "CN=Simulated TPMs for measurements,O=Not a manufacturer";
/// tcg-kp-EKCertificate. TCG EK Credential Profile 2.5, 3.2.16.
const TCG_EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");
/// 2020-01-01 and 2049-12-31: fixed, so that a seed always gives the same certificates; UTCTime ends there (RFC 5280 §4.1.2.5).
const NOT_BEFORE_SECS: u64 = 1_577_836_800;
const NOT_AFTER_SECS: u64 = 2_524_521_600;

/// A seed and the root that follows from it.
pub(crate) struct Fleet {
    seed: [u8; 32],
    root: SigningKey,
}

/// One host, switched on and booted.
pub(crate) struct FleetHost {
    pub(crate) tpm: SimulatedTpm,
    pub(crate) ek_certificate: Vec<u8>,
    pub(crate) boot_log: Vec<u8>,
}

impl Fleet {
    /// The fleet of a seed.
    pub(crate) fn from_seed(seed: [u8; 32]) -> anyhow::Result<Self> {
        let mut stream = Stream::new(&seed, b"ek root", 0);
        let mut secret = [0; 32];
        stream.fill(&mut secret);
        let root = SigningKey::from_slice(&secret).context("this seed gives no root key")?;
        Ok(Self { seed, root })
    }

    /// The fleet of a directory that [`prepare`] wrote.
    pub(crate) fn load(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(SEED_FILE);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let seed = Sha256Digest::from_hex(text.trim()).with_context(|| path.display().to_string())?;
        Self::from_seed(*seed.as_bytes())
    }

    /// Certificate of the root.
    pub(crate) fn root_certificate(&self) -> anyhow::Result<Certificate> {
        let spki = self.root.verifying_key().to_public_key_der()?;
        self.certificate(
            EkProfile { subject: Name::from_str(ROOT_NAME)?, authority: true },
            1,
            spki.as_bytes(),
        )
    }

    /// Host number `number`: its keys, its EK certificate and its boot. All hosts boot the same programs with command lines of their own, as
    /// a fleet of one image does, so that every boot log is another.
    pub(crate) fn host(&self, number: u32, boot_log_bytes: usize) -> anyhow::Result<FleetHost> {
        let mut stream = Stream::new(&self.seed, b"tpm", number);
        let mut tpm = SimulatedTpm::new(&mut |buffer: &mut [u8]| stream.fill(buffer))?;
        let boot = SimulatedBoot::new(&BootOptions {
            kernel_command_line: format!("/vmlinuz root=LABEL=host-{number} ro quiet"),
            pad_to_bytes: boot_log_bytes,
            ..BootOptions::default()
        });
        tpm.boot(&boot)?;
        let profile = EkProfile { subject: Name::from_str("CN=simulated TPM")?, authority: false };
        let serial = u64::from(number) + 2;
        let certificate = self.certificate(profile, serial, &tpm.ek_public().spki_der())?;
        Ok(FleetHost { ek_certificate: certificate.to_der()?, boot_log: boot.log().to_vec(), tpm })
    }

    fn certificate(&self, profile: EkProfile, serial: u64, spki: &[u8]) -> anyhow::Result<Certificate> {
        let at = |secs| UtcTime::from_unix_duration(Duration::from_secs(secs)).map(Time::UtcTime);
        let validity = Validity::new(at(NOT_BEFORE_SECS)?, at(NOT_AFTER_SECS)?);
        let spki = SubjectPublicKeyInfoOwned::from_der(spki)?;
        let builder = CertificateBuilder::new(profile, SerialNumber::from(serial), validity, spki)?;
        Ok(builder.build::<_, DerSignature>(&self.root)?)
    }
}

/// Makes a fleet directory: a fresh seed that only its owner can read, and the root's certificate.
pub(crate) fn prepare(directory: &Path) -> anyhow::Result<ExitCode> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the system gives no randomness")?;
    let root = Fleet::from_seed(seed)?.root_certificate()?.to_pem(LineEnding::LF)?;
    let shown = || directory.display().to_string();
    ensure!(!directory.exists(), "{} exists", shown());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(shown)?;
    let mut file = std::fs::OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o600).open(directory.join(SEED_FILE))?;
    writeln!(file, "{}", Sha256Digest::new(seed))?;
    std::fs::write(directory.join(ROOT_FILE), root)?;
    anstream::println!("{}", directory.join(ROOT_FILE).display());
    Ok(ExitCode::SUCCESS)
}

/// Bytes that follow from a seed: SHA-256 in counter mode. For keys that protect nothing.
struct Stream {
    seed: [u8; 32],
    purpose: &'static [u8],
    number: u32,
    block: u64,
}

impl Stream {
    fn new(seed: &[u8; 32], purpose: &'static [u8], number: u32) -> Self {
        Self { seed: *seed, purpose, number, block: 0 }
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(32) {
            let (number, block) = (self.number.to_be_bytes(), self.block.to_be_bytes());
            self.block += 1;
            let digest = tuple::tuple_digest(
                "countersign-v1:bench-fleet",
                &[&self.seed, self.purpose, &number, &block],
            );
            chunk.iter_mut().zip(digest.as_bytes()).for_each(|(to, from)| *to = *from);
        }
    }
}

/// The root, or an EK certificate under it.
struct EkProfile {
    subject: Name,
    authority: bool,
}

impl BuilderProfile for EkProfile {
    fn get_issuer(&self, subject: &Name) -> Name {
        if self.authority { subject.clone() } else { Name::from_str(ROOT_NAME).unwrap_or_default() }
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _subject_key: SubjectPublicKeyInfoRef<'_>,
        _issuer_key: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        let constraints = BasicConstraints { ca: self.authority, path_len_constraint: None };
        let usage = if self.authority { KeyUsages::KeyCertSign } else { KeyUsages::KeyAgreement };
        let mut extensions = vec![constraints.to_extension(tbs.subject(), &[])?];
        extensions.push(KeyUsage(usage.into()).to_extension(tbs.subject(), &extensions)?);
        if !self.authority {
            let purpose = ExtendedKeyUsage(vec![TCG_EK_CERTIFICATE]);
            extensions.push(purpose.to_extension(tbs.subject(), &extensions)?);
        }
        Ok(extensions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_tpm::ek::{check_issuer, require_same_key, verify_ek_chain};

    /// 2026-01-01.
    const NOW_SECS: u64 = 1_767_225_600;

    #[test]
    fn the_verifier_takes_the_certificates_under_the_fleets_own_root_only() {
        let fleet = Fleet::from_seed([1; 32]).unwrap();
        let root = fleet.root_certificate().unwrap().to_der().unwrap();
        check_issuer(&root).unwrap();
        let host = fleet.host(7, 0).unwrap();
        let verified =
            verify_ek_chain(&host.ek_certificate, &[], std::slice::from_ref(&root), NOW_SECS).unwrap();
        require_same_key(&verified, host.tpm.ek_public()).unwrap();
        let other = Fleet::from_seed([2; 32]).unwrap().root_certificate().unwrap().to_der().unwrap();
        assert!(verify_ek_chain(&host.ek_certificate, &[], &[other], NOW_SECS).is_err());
    }

    #[test]
    fn a_seed_gives_the_same_hosts_again_and_every_host_is_another() {
        let fleet = || Fleet::from_seed([3; 32]).unwrap();
        let (one, again, other) =
            (fleet().host(0, 0).unwrap(), fleet().host(0, 0).unwrap(), fleet().host(1, 0).unwrap());
        assert_eq!(one.ek_certificate, again.ek_certificate);
        assert_eq!(one.boot_log, again.boot_log);
        assert_ne!(one.tpm.ek_public_tpmt(), other.tpm.ek_public_tpmt());
        assert_ne!(one.boot_log, other.boot_log);
        assert_eq!(fleet().root_certificate().unwrap(), fleet().root_certificate().unwrap());
    }

    #[test]
    fn boot_logs_have_the_length_asked_for() {
        let host = Fleet::from_seed([3; 32]).unwrap().host(0, 30_720).unwrap();
        assert!((30_720..31_720).contains(&host.boot_log.len()), "{}", host.boot_log.len());
    }

    #[test]
    fn a_prepared_directory_loads_and_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("fleet");
        prepare(&directory).unwrap();
        let fleet = Fleet::load(&directory).unwrap();
        let pem = std::fs::read_to_string(directory.join(ROOT_FILE)).unwrap();
        assert_eq!(fleet.root_certificate().unwrap().to_pem(LineEnding::LF).unwrap(), pem);
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(directory.join(SEED_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(prepare(&directory).is_err());
        std::fs::write(directory.join(SEED_FILE), "short").unwrap();
        assert!(Fleet::load(&directory).is_err());
    }
}
