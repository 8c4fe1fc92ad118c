//! The fuzzer's way into the property `redactor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| presswork_fuzz::redactor::holds(bytes));
