use std::process::Command;

/// A relay that sleeps comes out slow, one that computes comes out dear; both run as processes, as peers do.
#[test]
fn the_bench_of_the_router_tells_a_bad_proxy_from_a_good_one() {
    let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = xtask.args(["bench", "router", "--self-test"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("bad relay") && said.contains("MISSED"), "{said}");
}
