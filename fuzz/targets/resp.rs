//! The fuzzer's way into the property `resp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| presswork_fuzz::resp::holds(bytes));
