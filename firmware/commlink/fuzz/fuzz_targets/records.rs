#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| commlink::sealed::fuzz::records(bytes));
