//! Fuzzes `decoders::object`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| atoll_fuzz::decoders::object(bytes));
