//! `cargo xtask fuzz head`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::head(bytes));

#[cfg(not(fuzzing))]
fn main() {}
