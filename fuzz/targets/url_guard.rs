//! The fuzzer's way into the property `url_guard`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| presswork_fuzz::url_guard::holds(bytes));
