//! `cargo xtask fuzz chunks`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::chunks(bytes));

#[cfg(not(fuzzing))]
fn main() {}
