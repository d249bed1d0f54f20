//! `cargo xtask fuzz settings`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::settings(bytes));

#[cfg(not(fuzzing))]
fn main() {}
