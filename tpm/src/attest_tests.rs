//! Attestations: what is read, what is refused.

use super::*;
use crate::testing::{NONCE, boot_pcrs, booted, every_vectors, json, unhex, vectors};
use crate::wire::Writer;

/// A quote with these selections, otherwise empty.
fn quote(selections: &[u8]) -> Vec<u8> {
    let writer = Writer::new().u32(TPM_GENERATED).u16(ST_ATTEST_QUOTE).u16(0).u16(0);
    writer.u64(1).u32(2).u32(3).u8(1).u64(4).raw(selections).u16(0).into_bytes()
}

#[test]
fn reads_every_quote_of_the_vectors_as_expected() {
    let folders = every_vectors("quote");
    let seen: usize = folders.iter().map(|folder| read_as_expected(folder)).sum();
    assert_eq!(seen, if folders.len() > 1 { 5 } else { 1 });
}

fn read_as_expected(folder: &std::path::Path) -> usize {
    let expected = json(&folder.join("expected.json"));
    let mut seen = 0;
    for (path, item) in expected["items"].as_object().unwrap() {
        let Some(quote) = item.get("quote") else { continue };
        let bytes = match path.rsplit('.').next() {
            Some("msg") => std::fs::read(folder.join(path)).unwrap(),
            _ => quote_bytes(&json(&folder.join(path))),
        };
        let attest = Attest::parse(&bytes).unwrap();
        assert_eq!(attest.qualified_signer, unhex(quote["qualified_signer"].as_str().unwrap()), "{path}");
        assert_eq!(attest.extra_data, unhex(quote["extra_data"].as_str().unwrap()), "{path}");
        assert_eq!(attest.clock.clock_ms, quote["clock"].as_u64().unwrap(), "{path}");
        assert_eq!(u64::from(attest.clock.reset_count), quote["reset_count"].as_u64().unwrap(), "{path}");
        assert_eq!(u64::from(attest.clock.restart_count), quote["restart_count"].as_u64().unwrap(), "{path}");
        assert_eq!(
            format!("0x{:016x}", attest.firmware_version),
            quote["firmware_version"].as_str().unwrap()
        );
        let AttestBody::Quote { selections, pcr_digest } = attest.body else { panic!("{path} is a quote") };
        assert_eq!(pcr_digest, unhex(quote["pcr_digest"].as_str().unwrap()), "{path}");
        let listed = quote["pcr_select"].as_array().unwrap();
        assert_eq!(selections.len(), listed.len(), "{path}");
        for (selection, listed) in selections.iter().zip(listed) {
            assert_eq!(selection.bank.name(), listed["alg"].as_str().unwrap());
            let pcrs: Vec<u64> =
                listed["pcrs"].as_array().unwrap().iter().map(|p| p.as_u64().unwrap()).collect();
            assert!(selection.pcrs.iter().map(|pcr| u64::from(*pcr)).eq(pcrs), "{path}");
        }
        seen += 1;
    }
    seen
}

fn quote_bytes(file: &serde_json::Value) -> Vec<u8> {
    match file.get("message") {
        Some(hex) => unhex(hex.as_str().unwrap()),
        None => data_encoding::BASE64.decode(file["Quote"]["Quote"].as_str().unwrap().as_bytes()).unwrap(),
    }
}

#[test]
fn the_creation_attestation_of_the_vectors_is_refused_by_its_type() {
    let Some(folder) = vectors("quote") else { return };
    let file = json(&folder.join("go-attestation/windows_gcp_shielded_vm.json"));
    let text = file["AK"]["CreateAttestation"].as_str().unwrap();
    let bytes = data_encoding::BASE64.decode(text.as_bytes()).unwrap();
    assert_eq!(Attest::parse(&bytes), Err(AttestError::Type(0x801a)));
}

#[test]
fn reads_a_quote_and_a_certification() {
    let (tpm, _) = booted(1);
    let attest = Attest::parse(&tpm.quote(&NONCE, &boot_pcrs()).unwrap().attest).unwrap();
    assert_eq!(attest.extra_data, NONCE);
    assert_eq!(attest.clock, tpm.clock());
    assert!(matches!(attest.body, AttestBody::Quote { selections, .. }
        if selections == [PcrSelection { bank: HashAlg::Sha256, pcrs: (0..8).collect() }]));
    let attest = Attest::parse(&tpm.certify_host_key(&NONCE).unwrap().attest).unwrap();
    assert!(
        matches!(attest.body, AttestBody::Certify { name, .. } if name == tpm.host_public().name().as_bytes())
    );
}

#[test]
fn refuses_what_no_tpm_made_other_types_and_odd_booleans() {
    let (tpm, _) = booted(1);
    let good = tpm.quote(&NONCE, &boot_pcrs()).unwrap().attest;
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Attest::parse(&bytes)
    };
    assert_eq!(with(0, 0xfe), Err(AttestError::NotGenerated));
    // TPM_ST_ATTEST_TIME.
    assert_eq!(with(5, 0x19), Err(AttestError::Type(0x8019)));
    let safe_at = 4 + 2 + (2 + 34) + (2 + 32) + 8 + 4 + 4;
    assert_eq!(with(safe_at, 2), Err(AttestError::Boolean));
    assert!(matches!(Attest::parse(&[good.as_slice(), &[0]].concat()), Err(AttestError::Wire(_))));
    for len in 0..good.len() {
        assert!(Attest::parse(&good[..len]).is_err(), "cut at {len}");
    }
}

#[test]
fn refuses_selections_that_are_empty_repeated_unordered_or_of_odd_size() {
    let check = |selections: &[u8], expect| assert_eq!(Attest::parse(&quote(selections)).err(), expect);
    check(&[0, 0, 0, 1, 0, 0x0b, 3, 1, 0, 0], None);
    check(&[0, 0, 0, 0], Some(AttestError::SelectionEmpty));
    check(&[0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0], Some(AttestError::SelectionEmpty));
    check(&[0, 0, 0, 2, 0, 0x0b, 1, 1, 0, 0x0c, 1, 1], None);
    check(&[0, 0, 0, 2, 0, 0x0b, 1, 1, 0, 0x0b, 1, 2], Some(AttestError::SelectionOrder));
    check(&[0, 0, 0, 2, 0, 0x0c, 1, 1, 0, 0x0b, 1, 1], Some(AttestError::SelectionOrder));
    check(&[0, 0, 0, 1, 0, 0x0b, 0], Some(AttestError::SelectionSize(0)));
    check(&[0, 0, 0, 1, 0, 0x0b, 5, 1, 1, 1, 1, 1], Some(AttestError::SelectionSize(5)));
    check(&[0, 0, 0, 17], Some(AttestError::TooManySelections(17)));
    check(&[0, 0, 0, 1, 0, 0x12, 1, 1], Some(AttestError::Bank(UnknownAlgorithm { id: 0x12 })));
}

proptest::proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = Attest::parse(&bytes);
        let _ = Attest::parse(&quote(&bytes));
    }
}
