//! Quotes: a good one is taken, and each way to be wrong has its own refusal.

use std::time::Instant;

use super::*;
use crate::algorithm::id;
use crate::attest::{ST_ATTEST_QUOTE, TPM_GENERATED};
use crate::key::PublicKey;
use crate::public::Attributes;
use crate::simulated::{Attestation, SimulatedTpm};
use crate::testing::{NONCE, boot_pcrs, booted, each_bit_flip, json, random, unhex, variant, vectors};
use crate::wire::Writer;

struct Case {
    ak: Public,
    quote: Attestation,
    required: PcrSelectionSpec,
    values: Vec<(u32, Vec<u8>)>,
    nonce: [u8; 32],
}

impl Case {
    fn good() -> Self {
        Self::of(&booted(1).0)
    }

    fn of(tpm: &SimulatedTpm) -> Self {
        let required = boot_pcrs();
        Self {
            ak: tpm.ak_public().clone(),
            quote: tpm.quote(&NONCE, &required).unwrap(),
            values: tpm.pcr_values(&required).unwrap(),
            required,
            nonce: NONCE,
        }
    }

    fn judge(&self) -> Result<VerifiedQuote, QuoteRefusal> {
        verify_quote(QuoteInput {
            ak: &self.ak,
            attest: &self.quote.attest,
            signature: &self.quote.signature,
            expected_extra_data: &self.nonce,
            required: &self.required,
            pcr_values: &self.values,
        })
    }

    #[track_caller]
    fn refused(&self, name: &str) {
        assert_eq!(variant(&self.judge().unwrap_err()), name);
    }
}

/// A quote over these selection bytes, really signed by the TPM's key.
fn signed_quote(tpm: &SimulatedTpm, selections: &[u8], digest: &[u8]) -> Attestation {
    let writer = Writer::new().u32(TPM_GENERATED).u16(ST_ATTEST_QUOTE).u16(0).tpm2b(&NONCE).unwrap();
    let writer = writer.u64(1).u32(2).u32(3).u8(1).u64(4).raw(selections).tpm2b(digest).unwrap();
    tpm.attestation(writer.into_bytes()).unwrap()
}

#[test]
fn a_good_quote_shows_the_values_the_bank_and_the_clock() {
    let (tpm, _) = booted(1);
    let case = Case::of(&tpm);
    let verified = case.judge().unwrap();
    assert_eq!(verified.bank(), HashAlg::Sha256);
    assert_eq!(verified.clock(), tpm.clock());
    assert!(verified.pcrs().eq(case.values.iter().map(|(pcr, value)| (*pcr, value.as_slice()))));
    assert_eq!(verified.pcr(7), Some(case.values[7].1.as_slice()));
    assert_eq!(verified.pcr(8), None);
}

#[test]
fn bytes_that_no_tpm_made_and_other_attestations_are_not_quotes() {
    let (tpm, _) = booted(1);
    let mut case = Case::of(&tpm);
    case.quote = tpm.certify_host_key(&NONCE).unwrap();
    case.refused("NotAQuote");
    let mut bytes = Case::good().quote.attest;
    bytes[0] = 0;
    case.quote = tpm.attestation(bytes).unwrap();
    case.refused("NotAQuote");
}

#[test]
fn a_cut_quote_is_malformed() {
    let mut case = Case::good();
    case.quote.attest.pop();
    case.refused("Malformed");
}

#[test]
fn a_key_that_signs_anything_is_unfit() {
    let (tpm, _) = booted(1);
    let mut case = Case::of(&tpm);
    case.ak = tpm.host_public().clone();
    case.refused("KeyUnfit");
}

#[test]
fn another_tpm_cannot_answer() {
    let mut case = Case::good();
    case.ak = booted(2).0.ak_public().clone();
    case.refused("SignatureInvalid");
}

#[test]
fn a_signature_that_cannot_be_read_or_uses_another_scheme_is_refused() {
    let mut case = Case::good();
    case.quote.signature.push(0);
    case.refused("SignatureMalformed");
    let mut case = Case::good();
    // RSASSA in the place of ECDSA, then SHA-384 and SHA-1 in the place of SHA-256.
    case.quote.signature[1] = 0x1a;
    case.refused("SignatureScheme");
    for hash in [id::SHA384, id::SHA1] {
        let mut case = Case::good();
        case.quote.signature[2..4].copy_from_slice(&hash.to_be_bytes());
        case.refused("SignatureScheme");
    }
}

#[test]
fn another_challenge_is_refused() {
    let mut case = Case::good();
    case.nonce[31] ^= 1;
    case.refused("NonceMismatch");
}

#[test]
fn a_quote_without_a_nonce_is_refused() {
    let (tpm, _) = booted(1);
    let mut case = Case::of(&tpm);
    case.quote = tpm.quote(&[], &case.required).unwrap();
    case.refused("NonceMismatch");
}

#[test]
fn fewer_more_empty_reordered_and_relabelled_selections_are_refused() {
    let (tpm, _) = booted(1);
    let mut case = Case::of(&tpm);
    let digest = HashAlg::Sha256.digest(b"");
    let selections: [&[u8]; 8] = [
        &[0, 0, 0, 1, 0, 0x0b, 3, 0x7f, 0, 0],
        &[0, 0, 0, 1, 0, 0x0b, 3, 0xff, 1, 0],
        &[0, 0, 0, 0],
        &[0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0],
        &[0, 0, 0, 1, 0, 0x04, 3, 0xff, 0, 0],
        &[0, 0, 0, 1, 0, 0x0c, 3, 0xff, 0, 0],
        &[0, 0, 0, 2, 0, 0x0b, 3, 0xff, 0, 0, 0, 0x0c, 3, 0xff, 0, 0],
        &[0, 0, 0, 2, 0, 0x0c, 3, 0xff, 0, 0, 0, 0x0b, 3, 0xff, 0, 0],
    ];
    for selection in selections {
        case.quote = signed_quote(&tpm, selection, &digest);
        case.refused("SelectionMismatch");
    }
}

#[test]
fn values_that_are_missing_extra_or_out_of_order_are_refused() {
    let mut case = Case::good();
    case.values.pop();
    case.refused("ValuesMismatch");
    let mut case = Case::good();
    case.values.push((8, vec![0; 32]));
    case.refused("ValuesMismatch");
    let mut case = Case::good();
    case.values.swap(0, 1);
    case.refused("ValuesMismatch");
}

#[test]
fn bytes_cannot_move_from_one_value_to_the_next() {
    let mut case = Case::good();
    let byte = case.values[0].1.pop().unwrap();
    case.values[1].1.insert(0, byte);
    case.refused("ValueLength");
}

#[test]
fn other_values_than_the_quoted_are_refused() {
    let mut case = Case::good();
    case.values[3].1[0] ^= 1;
    case.refused("DigestMismatch");
    // The same values in other registers.
    let mut case = Case::good();
    let first = std::mem::take(&mut case.values[0].1);
    case.values[0].1 = std::mem::replace(&mut case.values[1].1, first);
    case.refused("DigestMismatch");
}

#[test]
fn a_tpm_that_no_firmware_booted_is_refused() {
    let tpm = SimulatedTpm::new(&mut random(3)).unwrap();
    Case::of(&tpm).refused("BootPcrZero");
    let (mut tpm, _) = booted(1);
    tpm.reset();
    tpm.extend(HashAlg::Sha256, 0, &[1; 32]).unwrap();
    assert_eq!(Case::of(&tpm).judge(), Err(QuoteRefusal::BootPcrZero { pcr: 1 }));
}

#[test]
fn registers_above_the_boot_registers_may_be_zero() {
    let (tpm, _) = booted(1);
    let mut case = Case::of(&tpm);
    case.required = PcrSelectionSpec::new(HashAlg::Sha256, &[0, 16, 23]).unwrap();
    case.values = tpm.pcr_values(&case.required).unwrap();
    case.quote = tpm.quote(&NONCE, &case.required).unwrap();
    assert_eq!(case.judge().unwrap().pcr(23), Some([0u8; 32].as_slice()));
}

#[test]
fn the_sha384_bank_is_quoted_with_a_sha256_digest() {
    let (tpm, _) = booted(1);
    let mut case = Case::of(&tpm);
    case.required = PcrSelectionSpec::new(HashAlg::Sha384, &[0, 7]).unwrap();
    case.values = tpm.pcr_values(&case.required).unwrap();
    case.quote = tpm.quote(&NONCE, &case.required).unwrap();
    assert_eq!(case.judge().unwrap().bank(), HashAlg::Sha384);
}

#[test]
fn no_bit_of_quote_or_signature_may_change() {
    let good = Case::good();
    let mut case = Case::good();
    each_bit_flip(&good.quote.attest, |flipped| {
        case.quote.attest = flipped.to_vec();
        assert!(case.judge().is_err());
    });
    let mut case = Case::good();
    each_bit_flip(&good.quote.signature, |flipped| {
        case.quote.signature = flipped.to_vec();
        assert!(case.judge().is_err());
    });
}

#[test]
fn demands_that_make_no_sense_are_misuse() {
    let new = PcrSelectionSpec::new;
    assert_eq!(new(HashAlg::Sha256, &[]), Err(SelectionMisuse::Empty));
    assert_eq!(new(HashAlg::Sha256, &[1, 1]), Err(SelectionMisuse::Order));
    assert_eq!(new(HashAlg::Sha256, &[2, 1]), Err(SelectionMisuse::Order));
    assert_eq!(new(HashAlg::Sha256, &[24]), Err(SelectionMisuse::OutOfRange(24)));
    assert_eq!(new(HashAlg::Sha1, &[0]), Err(SelectionMisuse::Sha1Bank));
}

/// The cloud quotes of the vectors publish the AK as numbers: the public area around them is ours.
fn cloud_ak(folder: &std::path::Path) -> Public {
    let report = std::fs::read(folder.join("hcl-report.bin")).unwrap();
    let start = report.windows(7).position(|window| window == b"{\"keys\"").unwrap();
    let end = report.iter().rposition(|byte| *byte == b'}').unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&report[start..=end]).unwrap();
    let keys = claims["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["kid"] == "HCLAkPub").unwrap();
    let n = data_encoding::BASE64URL_NOPAD.decode(key["n"].as_str().unwrap().as_bytes()).unwrap();
    let attributes = Attributes::FIXED_TPM
        | Attributes::FIXED_PARENT
        | Attributes::SENSITIVE_DATA_ORIGIN
        | Attributes::RESTRICTED
        | Attributes::SIGN;
    let writer = Writer::new().u16(id::RSA).u16(id::SHA256).u32(attributes).u16(0).u16(id::NULL);
    let writer = writer.u16(id::RSASSA).u16(id::SHA256).u16(2048).u32(0).tpm2b(&n).unwrap();
    let public = Public::parse(&writer.into_bytes()).unwrap();
    assert!(matches!(public.key(), PublicKey::Rsa { e: 65_537, .. }));
    public
}

fn rsassa(signature: &[u8]) -> Vec<u8> {
    Writer::new().u16(id::RSASSA).u16(id::SHA256).tpm2b(signature).unwrap().into_bytes()
}

#[test]
fn the_cloud_quotes_of_the_vectors_verify_but_for_their_nonce() {
    let Some(folder) = vectors("quote") else { return };
    for machine in ["trustee/az-snp-vtpm", "trustee/az-tdx-vtpm"] {
        let folder = folder.join(machine);
        let file = json(&folder.join("tpm-quote-v1.json"));
        let attest = unhex(file["message"].as_str().unwrap());
        let signature = rsassa(&unhex(file["signature"].as_str().unwrap()));
        let listed = file["pcrs"].as_array().unwrap();
        let values: Vec<_> =
            (0u32..).zip(listed.iter().map(|value| unhex(value.as_str().unwrap()))).collect();
        let ak = cloud_ak(&folder);
        let required = PcrSelectionSpec::new(HashAlg::Sha256, &(0..24).collect::<Vec<_>>()).unwrap();
        let input = QuoteInput {
            ak: &ak,
            attest: &attest,
            signature: &signature,
            expected_extra_data: &NONCE,
            required: &required,
            pcr_values: &values,
        };
        let verified = verify_with_extra_data(&input, b"challenge").unwrap();
        assert_eq!(verified.pcr(23), Some([0u8; 32].as_slice()));
        assert_eq!(verify_quote(input), Err(QuoteRefusal::NonceMismatch));
        let mut swapped = values.clone();
        swapped.swap(0, 1);
        swapped[0].0 = 0;
        swapped[1].0 = 1;
        let refusal = verify_with_extra_data(&QuoteInput { pcr_values: &swapped, ..input }, b"challenge");
        assert_eq!(refusal, Err(QuoteRefusal::DigestMismatch));
    }
}

/// Register values as tpm2_quote writes them: TPML_PCR_SELECTION, a count, TPML_DIGEST of eight each, as they lie in memory.
fn serialized(values: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut selection = [0; 4 + 16 * 8];
    selection[..8].copy_from_slice(&[1, 0, 0, 0, 0x0b, 0, 3, 0xff]);
    selection[8..10].copy_from_slice(&[0xff, 0xff]);
    let lists = values.chunks(8).map(|chunk| {
        let mut list = vec![0; 4 + 8 * 66];
        list[0] = u8::try_from(chunk.len()).unwrap();
        for ((_, value), slot) in chunk.iter().zip(list[4..].chunks_mut(66)) {
            slot[0] = 32;
            slot[2..34].copy_from_slice(value);
        }
        list
    });
    let lists: Vec<Vec<u8>> = lists.collect();
    [&selection[..], &u32::try_from(lists.len()).unwrap().to_le_bytes(), &lists.concat()].concat()
}

/// A quote, its signature, the values and the nonce.
type Sent<'a> = (&'a [u8], &'a [u8], &'a [(u32, Vec<u8>)], &'a [u8]);

/// The quotes of two cloud machines, RSA, as they were made and damaged, here and by tpm2_checkquote.
#[test]
fn the_cloud_quotes_are_taken_and_refused_as_tpm2_checkquote_does() {
    let Some(folder) = vectors("quote") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let required = PcrSelectionSpec::new(HashAlg::Sha256, &(0..24).collect::<Vec<_>>()).unwrap();
    let mut compared = 0;
    for machine in ["trustee/az-snp-vtpm", "trustee/az-tdx-vtpm"] {
        let folder = folder.join(machine);
        let file = json(&folder.join("tpm-quote-v1.json"));
        let ak = cloud_ak(&folder);
        let pem = data_encoding::BASE64.encode(&ak.spki_der());
        let write = |name: &str, bytes: &[u8]| {
            let path = scratch.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let key = write(
            "ak.pem",
            format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n").as_bytes(),
        );
        let listed = file["pcrs"].as_array().unwrap();
        let values: Vec<(u32, Vec<u8>)> =
            (0..).zip(listed.iter().map(|value| unhex(value.as_str().unwrap()))).collect();
        let attest = unhex(file["message"].as_str().unwrap());
        let signature = rsassa(&unhex(file["signature"].as_str().unwrap()));
        let mut agree = |what: &str, expect: bool, case: Sent<'_>| {
            let (attest, signature, pcr_values, nonce) = case;
            let input = QuoteInput {
                ak: &ak,
                attest,
                signature,
                expected_extra_data: &NONCE,
                required: &required,
                pcr_values,
            };
            assert_eq!(verify_with_extra_data(&input, nonce).is_ok(), expect, "{machine}: {what}: ours");
            let (message, signature) = (write("message", attest), write("signature", signature));
            let values = write("values", &serialized(pcr_values));
            let nonce = data_encoding::HEXLOWER.encode(nonce);
            let given =
                ["-u", &key, "-m", &message, "-s", &signature, "-f", &values, "-q", &nonce, "-g", "sha256"];
            let output = std::process::Command::new("tpm2_checkquote").args(given).output();
            let output = output.unwrap_or_else(|error| panic!("tpm2_checkquote is needed: {error}"));
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), expect, "{machine}: {what}: tpm2_checkquote: {said}");
            compared += 1;
        };
        agree("as it was made", true, (&attest, &signature, &values, b"challenge"));
        agree("another nonce", false, (&attest, &signature, &values, b"challengf"));
        for at in 0..24 {
            let mut other = values.clone();
            other[at].1[31] ^= 1;
            agree("another value", false, (&attest, &signature, &other, b"challenge"));
        }
        for at in (0..attest.len()).step_by(9) {
            let mut other = attest.clone();
            other[at] ^= 0x20;
            agree("another quote", false, (&other, &signature, &values, b"challenge"));
        }
        for at in [6, 100, signature.len() - 1] {
            let mut other = signature.clone();
            other[at] ^= 1;
            agree("another signature", false, (&attest, &other, &values, b"challenge"));
        }
    }
    assert!(compared >= 80, "{compared}");
}

#[test]
fn the_quote_of_an_unpublished_key_is_refused() {
    let Some(folder) = vectors("quote") else { return };
    let folder = folder.join("trustee/az-snp-vtpm");
    let required = PcrSelectionSpec::new(HashAlg::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7, 14]).unwrap();
    let refusal = verify_quote(QuoteInput {
        ak: &cloud_ak(&folder),
        attest: &std::fs::read(folder.join("tpm-quote.msg")).unwrap(),
        signature: &rsassa(&std::fs::read(folder.join("tpm-quote.sig")).unwrap()),
        expected_extra_data: &NONCE,
        required: &required,
        pcr_values: &[],
    });
    assert_eq!(refusal, Err(QuoteRefusal::SignatureInvalid));
}

#[test]
fn the_sha1_quote_of_the_vectors_is_refused_for_its_key() {
    let Some(folder) = vectors("quote") else { return };
    let file = json(&folder.join("go-attestation/windows_gcp_shielded_vm.json"));
    let decode =
        |value: &serde_json::Value| data_encoding::BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap();
    let ak = Public::parse(&decode(&file["AK"]["Public"])).unwrap();
    let refusal = verify_quote(QuoteInput {
        ak: &ak,
        attest: &decode(&file["Quote"]["Quote"]),
        signature: &decode(&file["Quote"]["Signature"]),
        expected_extra_data: &NONCE,
        required: &boot_pcrs(),
        pcr_values: &[],
    });
    assert_eq!(refusal, Err(QuoteRefusal::KeyUnfit(AttributeRefusal::Scheme)));
}

/// A bound far above the budget of 60 us, so that it fails only for a wrong choice of algorithm.
#[test]
fn verification_is_fast() {
    let case = Case::good();
    let start = Instant::now();
    for _ in 0..200 {
        case.judge().unwrap();
    }
    let each = start.elapsed() / 200;
    eprintln!("quote verification: {each:?}");
    assert!(each.as_micros() < 5_000, "{each:?}");
}

proptest::proptest! {
    #[test]
    fn never_panics(attest in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
                    signature in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
        let mut case = Case::good();
        case.quote.attest = attest;
        proptest::prop_assert!(case.judge().is_err());
        let mut case = Case::good();
        case.quote.signature = signature;
        proptest::prop_assert!(case.judge().is_err());
    }
}
