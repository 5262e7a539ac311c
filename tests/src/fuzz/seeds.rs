//! Seeds: bytes that mean something to one parser or another.
//!
//! Comes in: the repository's own vectors, a simulated boot and, where they are present, the real-world vectors. Goes out: distinct byte
//! strings, the shorter ones first.

use super::evidence::{CERTIFY_EXTRA, LISTED, QUOTE_EXTRA, machine, signer};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::credential::make_credential;
use countersign_tpm::eventlog::event_type;
use countersign_tpm::ima::list::Entries;
use countersign_tpm::ima::signature::KeyId;
use countersign_tpm::ima::template::Template;
use countersign_tpm::quote::PcrSelectionSpec;
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use countersign_tpm::simulated::ima::{SimulatedIma, ended, fields, named};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Longest file taken as a seed whole.
const MAX_SEED: usize = 128 * 1024;
/// How much is taken of a longer one: IMA lists to the end of an entry, texts to the end of a line.
const MAX_CUT: usize = 32 * 1024;

/// All seeds.
///
/// # Panics
/// When the repository's own vectors can't be read.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut found: BTreeSet<Vec<u8>> = BTreeSet::new();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    for path in files(&own) {
        let Ok(text) = std::fs::read(&path) else { continue };
        if let Ok(value) = serde_json::from_slice(&text) {
            strings(&value, &mut found);
        }
    }
    assert!(!found.is_empty(), "no vectors under {}", own.display());
    found.extend(simulated());
    found.extend(texts());
    found.extend(super::idevid::seeds());
    found.extend(countersign_tpm::ek::bundled().into_iter().flatten().map(|one| one.der.clone()));
    if let Some(real) = real_vectors() {
        for folder in ["eventlog", "quote", "ek-certs", "ek-roots", "ima"] {
            let of_folder = files(&real.join(folder));
            found.extend(of_folder.iter().filter_map(|path| decoded(path)));
        }
    }
    let mut seeds: Vec<Vec<u8>> = found.into_iter().map(cut).collect();
    seeds.sort_by_key(Vec::len);
    seeds
}

/// A long seed's beginning.
fn cut(mut seed: Vec<u8>) -> Vec<u8> {
    if seed.len() <= MAX_SEED {
        return seed;
    }
    let mut ends = 0;
    if let Ok(mut entries) = Entries::new(&seed, HashAlg::Sha1) {
        while entries.next().is_some_and(|entry| entry.is_ok()) && entries.position() <= MAX_CUT {
            ends = entries.position();
        }
    }
    let line = || seed.iter().take(MAX_CUT).rposition(|byte| *byte == b'\n').map(|at| at + 1);
    let len = if ends > 0 { ends } else { line().unwrap_or(MAX_CUT) };
    seed.truncate(len);
    seed
}

/// `VECTORS`, or `shared/vectors` beside the workspace.
fn real_vectors() -> Option<PathBuf> {
    std::env::var_os("VECTORS").map(PathBuf::from).filter(|path| path.is_dir()).or_else(|| {
        let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().skip(2).take(3);
        above.map(|folder| folder.join("shared/vectors")).find(|path| path.is_dir())
    })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// A file, out of base64 where its name says so, or out of PEM.
fn decoded(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let packed: Vec<u8> = match path.extension().and_then(|extension| extension.to_str()) {
        Some("b64") => bytes.clone(),
        Some("pem") => {
            let text = String::from_utf8_lossy(&bytes);
            text.lines().filter(|line| !line.starts_with('-')).collect::<String>().into_bytes()
        }
        _ => return Some(bytes),
    };
    let packed: Vec<u8> = packed.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
    Some(data_encoding::BASE64.decode(&packed).unwrap_or(bytes))
}

/// Every text in a JSON document: the bytes of hexadecimal text, and the text itself.
fn strings(value: &serde_json::Value, into: &mut BTreeSet<Vec<u8>>) {
    match value {
        serde_json::Value::String(text) => {
            into.extend(data_encoding::HEXLOWER.decode(text.as_bytes()).ok());
            into.insert(text.clone().into_bytes());
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| strings(item, into)),
        serde_json::Value::Object(members) => members.values().for_each(|member| strings(member, into)),
        _ => {}
    }
}

#[expect(clippy::unwrap_used, reason = "a simulated TPM quotes registers that exist")]
fn simulated() -> Vec<Vec<u8>> {
    let (tpm, boot) = machine();
    let selection = PcrSelectionSpec::new(HashAlg::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
    let quote = tpm.quote(&QUOTE_EXTRA, &selection).unwrap();
    let certify = tpm.certify_host_key(&CERTIFY_EXTRA).unwrap();
    let secret =
        make_credential(tpm.ek_public(), tpm.ak_public().name().as_bytes(), &[5; 32], &mut |buffer| {
            buffer.fill(0x17);
        })
        .unwrap();
    let unified = SimulatedBoot::new(&BootOptions { unified_kernel: true, ..BootOptions::default() });
    vec![
        list(&tpm),
        [secret.encrypted_secret, secret.id_object].concat(),
        tpm.host_public().bytes().to_vec(),
        boot.log().to_vec(),
        unified.log().to_vec(),
        [unified.log(), &separated()].concat(),
        quote.attest,
        quote.signature,
        certify.attest,
        tpm.ak_public().bytes().to_vec(),
        tpm.ek_public().bytes().to_vec(),
        tpm.ek_public().spki_der(),
    ]
}

/// The system's separators, as a log would end with them that has what systemd measures.
fn separated() -> Vec<u8> {
    let event = |(pcr, word): (u32, &str)| {
        let [short, long] = [HashAlg::Sha256, HashAlg::Sha384].map(|bank| bank.digest(word.as_bytes()));
        let head = [pcr, event_type::IPL, 2].map(u32::to_le_bytes).concat();
        let length = u32::try_from(word.len()).unwrap_or_default().to_le_bytes();
        [&head, &[0x0b, 0][..], &short, &[0x0c, 0], &long, &length, word.as_bytes()].concat()
    };
    let [os, nvpcr] = ["os-separator", "nvpcr-separator"];
    [(0, os), (4, os), (7, os), (9, os), (9, nvpcr)].map(event).concat()
}

/// A list with an entry of most kinds: files listed, signed by a known key and by an unknown one, a program without a file, a buffer, a
/// violation.
fn list(tpm: &SimulatedTpm) -> Vec<u8> {
    let boot: Vec<Vec<u8>> = (0..10).map(|_| vec![1; 32]).collect();
    let mut ima = SimulatedIma::after_boot(HashAlg::Sha256, &boot);
    let digest = HashAlg::Sha256.digest(LISTED);
    ima.measure(HashAlg::Sha256, LISTED, &digest);
    let (_, KeyId(id)) = signer(tpm);
    // ECDSA-Sig-Value of two small numbers: a signature in form.
    let value = [0x30, 6, 2, 1, 1, 2, 1, 1];
    for id in [id, [9; 4]] {
        let signature = [&[3, 2, 4][..], &id, &[0, 8], &value].concat();
        ima.measure_signed(HashAlg::Sha256, b"/usr/bin/signed", &digest, &signature);
    }
    let named = named(HashAlg::Sha256, &digest);
    for hex in APPENDED {
        let appended = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap_or_default();
        let data = fields(&[&named, &ended(b"/usr/lib/modules/a.ko"), b"", &named, &appended]);
        ima.entry(Template::ImaModsig, &data);
    }
    ima.measure(HashAlg::Sha256, b"/memfd:payload", &digest);
    ima.measure_buffer(HashAlg::Sha256, b".ima", b"a key");
    ima.violate(b"/var/log/journal");
    ima.measure(HashAlg::Sha1, LISTED, &[7; 20]);
    ima.bytes().to_vec()
}

/// What no vector holds: a CoRIM with two triples, appended signatures, a quorum file, a tile's name.
fn texts() -> Vec<Vec<u8>> {
    const QUORUM: &str = "witness one one.example+b2a69ec9+BDfXnKLiyNNIkwzI5pc4FsW+d4SXDL5GhjZk3mS3WX0F https://one.example/\n\
        group all 1 one\nquorum all\n";
    let corim = data_encoding::HEXLOWER_PERMISSIVE.decode(CORIM.as_bytes()).unwrap_or_default();
    let [by_issuer, by_key] =
        APPENDED.map(|hex| data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap_or_default());
    vec![corim, by_issuer, by_key, QUORUM.into(), b"0/x001/x234/067".to_vec(), b"2/123.p/45".to_vec()]
}

/// `#6.501`: a PCR by measurement key, two by integrity registers, a validity.
const CORIM: &str = "d901f5a30065636f72696d0181d901fa590141a201a10062696404a1008282a100a2016441434d450262723781a2000401a102828201582011111111111111111111111111111111111111111111111111111111111111118207583012121212121212121212121212121212121212121212121212121212121212121212121212121212121212121212121282a100a2016441434d450262723781a101a10ea200828201582011111111111111111111111111111111111111111111111111111111111111118207583012121212121212121212121212121212121212121212121212121212121212121212121212121212121212121212121209828201582011111111111111111111111111111111111111111111111111111111111111118207583012121212121212121212121212121212121212121212121212121212121212121212121212121212121212121212121204a200c11903e801c11907d0";

/// `openssl cms -sign -binary -noattr -nocerts` by a key on P-256: named by issuer and serial number, and by its identifier.
const APPENDED: [&str; 2] = [
    "3081c706092a864886f70d010702a081b93081b6020101310d300b0609608648016503040201300b06092a864886f70d01070131819430819102010130293011310f300d06035504030c067369676e65720214049d421cb37124dbd251dad17344e46460d69143300b0609608648016503040201300a06082a8648ce3d04030204483046022100b8fbe2dd72a370dc7e20e4edb5e1623e63bea03ad7a40f6d79cc4b677b0bd5f9022100895db216b8336b77b9d65ccf076002655f5e734e42c7eb0d9dfb9252128b3f78",
    "3081b006092a864886f70d010702a081a230819f020103310d300b0609608648016503040201300b06092a864886f70d010701317e307c02010380149eec5c06be5a0461978d645f17891ee6daeae891300b0609608648016503040201300a06082a8648ce3d04030204483046022100ab67661fc78826c14126b8ce634d88da95fd488fd23faa860f422575c69cdd14022100e7c5382af3f5c298867bafb9002cdf9e6aa5facfa8fb8a96cdb140a4ff2dbc9f",
];
