//! Appended signatures as openssl makes them, with the options of the kernel's own signer (scripts/sign-file.c): RSA and ECDSA, each hash, each way to
//! name the signer; and what openssl makes with other options, which Linux doesn't take.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use countersign_fixture::SwTpm;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::device::HostTpm;
use countersign_tpm::ima::appraise::{Submission, appraise};
use countersign_tpm::ima::modsig::AppendedSignature;
use countersign_tpm::ima::policy::{PolicyDraft, RuntimePolicy, SignedBy};
use countersign_tpm::ima::signature::{KeyFloor, KeyId, Keyring, Verdict};
use countersign_tpm::ima::template::{Appended, FileAlg, FileDigest, Template};
use countersign_tpm::quote::{PcrSelectionSpec, QuoteInput, verify_quote};
use countersign_tpm::simulated::ima::{PCR, SimulatedIma, ended, fields, named};
use std::path::{Path, PathBuf};
use std::process::Command;

const MODULE: &[u8] = b"\x7fELF: a module without its signature\n";

fn openssl(arguments: &[&str]) {
    let ran = Command::new("openssl").args(arguments).output().unwrap();
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// A key and its certificate in files.
struct Signer {
    key: PathBuf,
    certificate: PathBuf,
    der: Vec<u8>,
    spki: Vec<u8>,
}

impl Signer {
    fn new(folder: &Path, name: &str, kind: &[&str]) -> Self {
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        let (key, certificate) = (file("key"), file("pem"));
        let subject = format!("/O=Tests/CN={name}");
        let ends = ["-keyout", text(&key), "-out", text(&certificate)];
        let how = ["req", "-x509", "-nodes", "-days", "9", "-subj", &subject];
        openssl(&[&how[..], kind, &ends].concat());
        openssl(&["x509", "-in", text(&certificate), "-outform", "DER", "-out", text(&file("der"))]);
        openssl(&["pkey", "-in", text(&key), "-pubout", "-outform", "DER", "-out", text(&file("spki"))]);
        let read = |ending: &str| std::fs::read(file(ending)).unwrap();
        let (der, spki) = (read("der"), read("spki"));
        Self { key, certificate, der, spki }
    }

    /// What `openssl cms` makes over the module.
    fn sign(&self, folder: &Path, hash: &str, options: &[&str]) -> Vec<u8> {
        let (module, out) = (folder.join("module"), folder.join("signature"));
        std::fs::write(&module, MODULE).unwrap();
        let who = ["-signer", text(&self.certificate), "-inkey", text(&self.key), "-md", hash];
        let files = ["-in", text(&module), "-outform", "DER", "-out", text(&out)];
        openssl(&[&["cms", "-sign", "-binary", "-nosmimecap"], &who[..], options, &files].concat());
        std::fs::read(out).unwrap()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn judged(key: &[u8], algorithm: FileAlg, digest: &[u8], signature: &[u8]) -> (KeyId, Verdict) {
    let mut ring = Keyring::new(KeyFloor::Sound);
    let id = ring.add(key).unwrap();
    let appended = Appended { digest: FileDigest { algorithm, bytes: digest }, signature };
    (id, ring.verify_appended(&appended, &mut 9).unwrap())
}

/// As the kernel's signer does it: without signed attributes and without certificates.
const AS_THE_KERNEL: &[&str] = &["-noattr", "-nocerts"];

fn kinds(folder: &Path) -> Vec<Signer> {
    let curve = |name: &'static str| ["-newkey", "ec", "-pkeyopt", name];
    vec![
        Signer::new(folder, "rsa", &["-newkey", "rsa:2048"]),
        Signer::new(folder, "p256", &curve("ec_paramgen_curve:P-256")),
        Signer::new(folder, "p384", &curve("ec_paramgen_curve:P-384")),
    ]
}

#[test]
fn what_openssl_signs_as_the_kernel_does_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let signers = kinds(folder);
    for (at, signer) in signers.iter().enumerate() {
        let stranger = &signers[(at + 1) % signers.len()];
        for (name, hash, algorithm) in [
            ("sha256", HashAlg::Sha256, FileAlg::Sha256),
            ("sha384", HashAlg::Sha384, FileAlg::Sha384),
            ("sha512", HashAlg::Sha512, FileAlg::Sha512),
        ] {
            let digest = hash.digest(MODULE);
            for options in [AS_THE_KERNEL, &["-noattr", "-nocerts", "-keyid"], &["-noattr"]] {
                let signature = signer.sign(folder, name, options);
                for key in [&signer.der, &signer.spki] {
                    let (id, verdict) = judged(key, algorithm, &digest, &signature);
                    assert_eq!(verdict, Verdict::Valid(id), "{at} {name} {options:?}");
                }
                let (id, verdict) = judged(&signer.der, algorithm, &hash.digest(b"other"), &signature);
                assert_eq!(verdict, Verdict::Invalid(id), "{at} {name} {options:?}");
                let (_, verdict) = judged(&stranger.der, algorithm, &digest, &signature);
                assert!(matches!(verdict, Verdict::UnknownSigner | Verdict::UnknownKey(_)), "{verdict:?}");
            }
        }
    }
}

#[test]
fn what_linux_does_not_take_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for signer in kinds(folder) {
        // Signed attributes, a message with its content, a hash that is too short.
        let rows: [(&str, &[&str]); 4] = [
            ("sha256", &["-nocerts"]),
            ("sha256", &["-noattr", "-nocerts", "-nodetach"]),
            ("sha1", AS_THE_KERNEL),
            ("sha224", AS_THE_KERNEL),
        ];
        for (hash, options) in rows {
            let signature = signer.sign(folder, hash, options);
            assert_eq!(AppendedSignature::parse(&signature), None, "{hash} {options:?}");
            let (_, verdict) =
                judged(&signer.der, FileAlg::Sha256, &HashAlg::Sha256.digest(MODULE), &signature);
            assert_eq!(verdict, Verdict::Unsupported);
        }
    }
    // Two signers, both known: Linux measures no such module.
    let [rsa, p256, _] = kinds(folder).try_into().unwrap_or_else(|_| panic!("three kinds"));
    let second = ["-signer", text(&p256.certificate), "-inkey", text(&p256.key)];
    let both = rsa.sign(folder, "sha256", &[AS_THE_KERNEL, &second].concat());
    assert_eq!(AppendedSignature::parse(&both), None);
    // RSA with another padding.
    let pss = rsa.sign(folder, "sha256", &[AS_THE_KERNEL, &["-keyopt", "rsa_padding_mode:pss"]].concat());
    assert_eq!(AppendedSignature::parse(&pss), None);
}

/// A kernel on a real TPM measures one module with this appended signature, and the policy knows one key.
fn measured(signature: &[u8], key: &[u8]) -> Result<u64, &'static str> {
    let swtpm = SwTpm::start_own();
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let blob = host.create_attestation_key().unwrap();
    let ak = host.load(&blob).unwrap();
    for pcr in 0..8 {
        host.extend(pcr, &[(HashAlg::Sha256, &[7; 32])]).unwrap();
    }
    let boot = PcrSelectionSpec::new(HashAlg::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
    let values: Vec<Vec<u8>> = host.pcr_values(&boot).unwrap().into_iter().map(|(_, value)| value).collect();
    let mut ima = SimulatedIma::after_boot(HashAlg::Sha256, &values);
    let whole = [MODULE, signature, b"~Module signature appended~\n"].concat();
    let digests = [&whole[..], MODULE].map(|bytes| named(HashAlg::Sha256, &HashAlg::Sha256.digest(bytes)));
    let path = ended(b"/usr/lib/modules/6.1/a.ko");
    ima.entry(Template::ImaModsig, &fields(&[&digests[0], &path, b"", &digests[1], signature]));
    for digest in ima.extensions(HashAlg::Sha256, 0) {
        host.extend(PCR, &[(HashAlg::Sha256, &digest)]).unwrap();
    }
    let required = PcrSelectionSpec::new(HashAlg::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7, PCR]).unwrap();
    let nonce = [0x3c; 32];
    let made = host.quote_with_values(ak, &nonce, &required).unwrap();
    let quote = verify_quote(QuoteInput {
        ak: host.public(ak).unwrap(),
        attest: &made.attest,
        signature: &made.signature,
        expected_extra_data: &nonce,
        required: &required,
        pcr_values: &made.pcr_values,
    })
    .unwrap();
    let mut draft = PolicyDraft::default();
    let id = Keyring::new(KeyFloor::Sound).add(key).unwrap();
    draft.keys.push(key.to_vec());
    draft.signed_by.push(SignedBy { prefix: b"/usr/lib/modules/".to_vec(), keys: vec![id] });
    let policy = RuntimePolicy::parse(&draft.encode()).unwrap();
    let submission = Submission { from: 0, column: HashAlg::Sha1, list: ima.bytes() };
    let judged = appraise(&quote, None, &submission, &policy);
    judged.map(|good| good.state().counts.signed).map_err(|refusal| refusal.code())
}

#[test]
fn a_tpm_that_measured_a_signed_module_is_appraised_by_the_signature() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let [rsa, p256, _] = kinds(folder).try_into().unwrap_or_else(|_| panic!("three kinds"));
    let good = rsa.sign(folder, "sha256", AS_THE_KERNEL);
    assert_eq!(measured(&good, &rsa.der), Ok(1));
    assert_eq!(measured(&good, &p256.der), Err("ima-file-unknown"));
    let mut bad = good;
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(measured(&bad, &rsa.der), Err("ima-file-signature"));
}
