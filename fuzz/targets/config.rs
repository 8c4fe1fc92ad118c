//! The fuzzer's way into the property `config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| presswork_fuzz::config::holds(bytes));
