//! The body `ima_policy` of tests/src/fuzz for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| countersign_tests::fuzz::body("ima_policy", bytes));
