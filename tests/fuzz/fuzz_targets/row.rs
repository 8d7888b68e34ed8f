//! Fuzzes `decoders::row`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll_fuzz::decoders::row(bytes));
