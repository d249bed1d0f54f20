//! `cargo xtask fuzz watch`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::watch(bytes));

#[cfg(not(fuzzing))]
fn main() {}
