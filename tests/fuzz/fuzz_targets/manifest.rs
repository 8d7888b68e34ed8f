//! Fuzzes `decoders::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll_fuzz::decoders::manifest(bytes));
