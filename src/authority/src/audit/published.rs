//! For tests: the published logs that end with a leaf that is right, or wrong in one way (tests/vectors/formats).

use super::ExportLog;
use countersign_core::bundle::TrustBundle;
use serde::Deserialize;
use std::io::Write as _;
use std::path::Path;

#[derive(Deserialize)]
struct Vectors {
    trust_bundle: String,
    export: Vec<String>,
    logs: Vec<Published>,
}

/// What is said of one log.
#[derive(Deserialize)]
pub(super) struct Published {
    pub(super) name: String,
    /// Of attestations: whether it is right.
    pub(super) taken: Option<bool>,
    /// Of others: in what way it is wrong.
    pub(super) fault: Option<String>,
    /// Index of its last leaf.
    pub(super) leaf: u64,
    export: Vec<String>,
}

/// The logs of one file, and the bundle under which they are read.
pub(super) fn published(file: &str) -> (TrustBundle, Vec<(Published, ExportLog)>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/formats").join(file);
    let vectors: Vectors = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let bundle = TrustBundle::verify(vectors.trust_bundle.as_bytes()).unwrap();
    let opened = |vector: Published| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for page in vectors.export.iter().chain(&vector.export) {
            writeln!(file, "{page}").unwrap();
        }
        let log = ExportLog::open(file.path()).unwrap();
        (vector, log)
    };
    (bundle, vectors.logs.into_iter().map(opened).collect())
}
