//! The fuzzer's way into the property `answers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| presswork_fuzz::answers::holds(bytes));
