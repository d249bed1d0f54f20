//! `cargo xtask fuzz tenant-archive`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::tenant_archive(bytes));

#[cfg(not(fuzzing))]
fn main() {}
