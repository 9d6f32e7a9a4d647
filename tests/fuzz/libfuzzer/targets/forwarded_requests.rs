#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| counter_fuzz::run("forwarded_requests", bytes));
