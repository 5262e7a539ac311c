//! The body `ima_appraise` of tests/src/fuzz for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| countersign_tests::fuzz::body("ima_appraise", bytes));
