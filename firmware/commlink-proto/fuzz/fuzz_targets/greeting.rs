#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| commlink_proto::fuzz::greeting(bytes));
