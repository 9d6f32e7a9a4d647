#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| counter_fuzz::run("presence_messages", bytes));
