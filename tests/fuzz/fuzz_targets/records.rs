//! Fuzzes `decoders::records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll_fuzz::decoders::records(bytes));
