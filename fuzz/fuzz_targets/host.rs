//! `cargo xtask fuzz host`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::host(bytes));

#[cfg(not(fuzzing))]
fn main() {}
