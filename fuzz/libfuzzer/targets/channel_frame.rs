#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| caracal_fuzz::run("channel_frame", bytes));
