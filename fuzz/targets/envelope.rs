//! The fuzzer's way into the property `envelope`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| presswork_fuzz::envelope::holds(bytes));
