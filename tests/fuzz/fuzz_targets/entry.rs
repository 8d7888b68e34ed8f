//! Fuzzes `decoders::entry`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll_fuzz::decoders::entry(bytes));
