//! Certificates of TPM manufacturers that are part of this crate: `tpm/roots/`.
//!
//! Comes in: nothing. Goes out: every certificate with its vendor, kind, source and licence, as the manifest beside them says. Refused: a bundle
//! that isn't what the manifest pins, certificate by certificate. Nothing of it is trusted until an operator names the vendor.

use sha2::{Digest, Sha256};
use std::sync::OnceLock;
use thiserror::Error;

const MANIFEST: &str = include_str!("../../roots/manifest.tsv");
const CERTIFICATES: &str = include_str!("../../roots/certificates.pem");

/// The bundle isn't what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BundleError {
    /// A line of the manifest isn't of its form.
    #[error("manifest line {0}")]
    Line(usize),
    /// A certificate isn't PEM.
    #[error("certificate {0} of the bundle")]
    Pem(usize),
    /// A certificate isn't the one pinned.
    #[error("certificate {0} of the bundle isn't the one in the manifest")]
    Digest(usize),
    /// Manifest and certificates don't have the same number of entries.
    #[error("the manifest has {manifest} entries, the bundle {bundle}")]
    Count {
        /// Lines.
        manifest: usize,
        /// Certificates.
        bundle: usize,
    },
}

/// How a bundled certificate serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BundledKind {
    /// Self-signed, trusted.
    Root,
    /// Trusted although another issued it, since that other isn't published.
    Anchor,
    /// Known, trusted only under a root.
    Intermediate,
}

impl BundledKind {
    /// As in the manifest.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Anchor => "anchor",
            Self::Intermediate => "intermediate",
        }
    }

    /// Paths may end in it.
    #[must_use]
    pub const fn is_trusted(self) -> bool {
        matches!(self, Self::Root | Self::Anchor)
    }
}

/// A bundled certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundledCertificate {
    /// SHA-256 of [`BundledCertificate::der`].
    pub sha256: [u8; 32],
    /// How it serves.
    pub kind: BundledKind,
    /// Who makes the TPMs.
    pub vendor: &'static str,
    /// SPDX identifier of the licence of the place that it was taken from.
    pub licence: &'static str,
    /// That place: repository, commit, path.
    pub repository: &'static str,
    /// Commit of the repository.
    pub commit: &'static str,
    /// Path in the repository, and after `#` the place in the file, from 0.
    pub path: &'static str,
    /// The certificate.
    pub der: Vec<u8>,
}

/// All bundled certificates, in the order of the manifest: by vendor, roots first.
///
/// # Errors
/// [`BundleError`] if the bundle in this build isn't what its manifest says.
pub fn bundled() -> Result<&'static [BundledCertificate], BundleError> {
    static BUNDLE: OnceLock<Result<Vec<BundledCertificate>, BundleError>> = OnceLock::new();
    match BUNDLE.get_or_init(|| read(MANIFEST, CERTIFICATES)) {
        Ok(bundle) => Ok(bundle),
        Err(error) => Err(error.clone()),
    }
}

fn read(manifest: &'static str, certificates: &str) -> Result<Vec<BundledCertificate>, BundleError> {
    let lines: Vec<_> = manifest.lines().enumerate().filter(|(_, line)| !line.starts_with('#')).collect();
    let blocks: Vec<_> = certificates.split_inclusive("-----END CERTIFICATE-----\n").collect();
    if lines.len() != blocks.len() {
        return Err(BundleError::Count { manifest: lines.len(), bundle: blocks.len() });
    }
    let both = lines.iter().zip(blocks).enumerate();
    both.map(|(index, ((number, line), block))| entry(index, number + 1, line, block)).collect()
}

fn entry(
    index: usize,
    number: usize,
    line: &'static str,
    block: &str,
) -> Result<BundledCertificate, BundleError> {
    let fields: Vec<&'static str> = line.split('\t').collect();
    let [sha256, kind, vendor, licence, repository, commit, path] = fields.as_slice() else {
        return Err(BundleError::Line(number));
    };
    let kind = match *kind {
        "root" => BundledKind::Root,
        "anchor" => BundledKind::Anchor,
        "intermediate" => BundledKind::Intermediate,
        _ => return Err(BundleError::Line(number)),
    };
    let (label, der) = der::pem::decode_vec(block.as_bytes()).map_err(|_| BundleError::Pem(index))?;
    let digest: [u8; 32] = Sha256::digest(&der).into();
    if label != "CERTIFICATE" || data_encoding::HEXLOWER.encode(&digest) != *sha256 {
        return Err(BundleError::Digest(index));
    }
    Ok(BundledCertificate { sha256: digest, kind, vendor, licence, repository, commit, path, der })
}

#[cfg(test)]
mod tests {
    use super::super::{EkRefusal, TrustStore, describe_issuer};
    use super::*;
    use std::collections::BTreeSet;

    fn digest(text: &str) -> String {
        data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes()))
    }

    #[test]
    fn the_bundle_is_the_pinned_one() {
        // A change of the bundle is a change of these two lines too, so that it can't pass by unseen.
        assert_eq!(digest(MANIFEST), "36bc3e59edd0736fc2bd112964dd9702aa4022f0a7fd2f107902d26403a0d5b9");
        assert_eq!(digest(CERTIFICATES), "c3019ac9917d2a0da9d5bde5d0446ecafcd76e617764c94cdeed87bdd8c7fb44");
        let bundle = bundled().unwrap();
        assert_eq!(bundle.len(), 182);
        let distinct: BTreeSet<_> = bundle.iter().map(|one| one.sha256).collect();
        assert_eq!(distinct.len(), bundle.len());
        for one in bundle {
            assert!(["Apache-2.0", "BSD-3-Clause"].contains(&one.licence), "{}", one.licence);
            assert_eq!(one.commit.len(), 40);
        }
    }

    #[test]
    fn every_bundled_certificate_parses_and_is_consistent_with_the_others() {
        let bundle = bundled().unwrap();
        let issuers: Vec<_> = bundle.iter().map(|one| describe_issuer(&one.der).unwrap()).collect();
        let mut trusted = TrustStore::new();
        for (one, issuer) in bundle.iter().zip(&issuers) {
            let name = &issuer.subject;
            assert_eq!(issuer.sha256, one.sha256, "{name}");
            match one.kind {
                BundledKind::Root => assert!(issuer.self_signed, "{name}"),
                BundledKind::Anchor => assert!(!issuer.self_issued, "{name}"),
                BundledKind::Intermediate => assert!(!issuer.self_signed, "{name}"),
            }
            if one.kind.is_trusted() {
                trusted.add_root(&one.der).unwrap();
            } else {
                trusted.add_intermediate(&one.der).unwrap();
            }
        }
        assert_eq!(trusted.counts(), (29, 153, 0));
        // Every intermediate has a path to a root of the bundle, at a moment inside its own validity.
        for (one, issuer) in bundle.iter().zip(&issuers).filter(|(one, _)| !one.kind.is_trusted()) {
            let moment = issuer.not_before.max(1_767_225_600).min(issuer.not_after);
            assert_eq!(
                trusted.find_issuers(&one.der, moment).map(|path| path.is_empty()),
                Ok(false),
                "{}",
                issuer.subject
            );
        }
    }

    #[test]
    fn a_bundle_that_is_not_the_manifests_is_refused() {
        let line = MANIFEST.lines().nth(1).unwrap();
        let block = CERTIFICATES.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
        assert_eq!(read(line, block).unwrap().len(), 1);
        assert_eq!(read(line, ""), Err(BundleError::Count { manifest: 1, bundle: 0 }));
        assert_eq!(read("one\ttwo", block), Err(BundleError::Line(1)));
        assert_eq!(read(line, "-----BEGIN CERTIFICATE-----\n!\n"), Err(BundleError::Pem(0)));
        let other = CERTIFICATES.split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap();
        assert_eq!(read(line, other), Err(BundleError::Digest(0)));
        assert_eq!(
            TrustStore::new().find_issuers(&bundled().unwrap()[2].der, 1_767_225_600),
            Err(EkRefusal::IssuerUnknown)
        );
    }
}
