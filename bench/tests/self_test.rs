//! Tests the harness itself: a proxy that sleeps is reported as slow, and one that computes as
//! expensive.

use std::process::Command;

#[test]
fn the_router_bench_distinguishes_a_bad_proxy_from_a_good_one() {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    let output = bench.args(["router", "--self-test"]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("bad relay") && stdout.contains("MISSED"), "{stdout}");
}
