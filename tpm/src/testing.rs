//! What the tests of this crate share: vectors, deterministic randomness, a booted simulated TPM.

use std::path::PathBuf;

use crate::algorithm::HashAlg;
use crate::quote::PcrSelectionSpec;
use crate::simulated::SimulatedTpm;
use crate::simulated::boot::{BootOptions, SimulatedBoot};

/// The folders of vectors that a test walks: the project's own, made from a software TPM, and the real-world ones where they are.
pub(crate) fn every_vectors(folder: &str) -> Vec<PathBuf> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(folder);
    std::iter::once(own).chain(vectors(folder)).collect()
}

/// The folder of real-world vectors: `VECTORS`, or `shared/vectors` beside the workspace. Where there is none the
/// test says so and does with what is the project's own; `make test` says it aloud, and in CI it is a failure.
pub(crate) fn vectors(folder: &str) -> Option<PathBuf> {
    let root = std::env::var_os("VECTORS").map(PathBuf::from).or_else(|| {
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        manifest
            .ancestors()
            .skip(2)
            .take(3)
            .map(|above| above.join("shared/vectors"))
            .find(|path| path.is_dir())
    });
    let found = root.map(|root| root.join(folder)).filter(|path| path.is_dir());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "vectors/{folder} are absent and CI does not allow that");
        eprintln!("VECTORS ABSENT: {folder} is not tested against real-world data (set VECTORS)");
    }
    found
}

/// Reads a vector; `.b64` files are decoded.
pub(crate) fn vector_bytes(path: &std::path::Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    if path.extension().is_some_and(|extension| extension == "b64") {
        let text: Vec<u8> = bytes.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
        return data_encoding::BASE64.decode(&text).unwrap();
    }
    bytes
}

pub(crate) fn json(path: &std::path::Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// Deterministic bytes that look random.
pub(crate) fn random(seed: u64) -> impl FnMut(&mut [u8]) {
    let mut counter = 0u64;
    move |buffer: &mut [u8]| {
        for chunk in buffer.chunks_mut(32) {
            counter += 1;
            let block = HashAlg::Sha256.digest_parts(&[&seed.to_be_bytes(), &counter.to_be_bytes()]);
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

/// The name of a refusal's variant, by which tests tell refusals apart.
pub(crate) fn variant(refusal: &impl std::fmt::Debug) -> String {
    format!("{refusal:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

pub(crate) const NONCE: [u8; 32] = [0x5a; 32];

pub(crate) fn boot_pcrs() -> PcrSelectionSpec {
    PcrSelectionSpec::new(HashAlg::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap()
}

/// A TPM that went through a simulated boot, and the boot.
pub(crate) fn booted(seed: u64) -> (SimulatedTpm, SimulatedBoot) {
    let mut tpm = SimulatedTpm::new(&mut random(seed)).unwrap();
    let boot = SimulatedBoot::new(&BootOptions { seed, ..BootOptions::default() });
    tpm.boot(&boot).unwrap();
    (tpm, boot)
}

/// Runs `body` on every bit flip of `bytes`.
pub(crate) fn each_bit_flip(bytes: &[u8], mut body: impl FnMut(&[u8])) {
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        body(&flipped);
    }
}
