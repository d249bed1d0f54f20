//! `cargo xtask fuzz package`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::package(bytes));

#[cfg(not(fuzzing))]
fn main() {}
