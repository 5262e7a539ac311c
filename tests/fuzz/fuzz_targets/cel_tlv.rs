//! The body `cel_tlv` of tests/src/fuzz for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| countersign_tests::fuzz::body("cel_tlv", bytes));
