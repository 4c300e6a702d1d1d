#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tobj::fuzz::message(bytes));
