//! The API keeps to its own description under generated requests. schemathesis (a Python program) generates them, from
//! the description that the server serves: `cargo xtask test api`.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{FakeOrchestrator, Setup, acme};

/// Ends the generation of requests; a shrinking failure takes longer.
const MAX_SECONDS: &str = "150";

/// Rules that a schema does not say, such as a free slug or a public address, make it call valid what is refused.
const UNDESCRIBED: &str = "positive_data_acceptance";
/// The program takes ids from responses, also that of its own key, and a key may sign itself out.
const ENDS_THE_KEY: &str = r"/auth/(keys/\{id\}|sign-out)$";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs schemathesis, and takes minutes: cargo xtask test api"]
async fn the_api_matches_its_description() {
    let program = testkit::installation::required("CIAL_SCHEMATHESIS").unwrap();
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    setup.max_changes = u32::MAX;
    let server = setup.start().await;
    let owner = server.sign_up().await;
    owner.post("/v1/tenants", acme()).await;
    owner.post("/v1/webhooks", json!({ "url": "https://example.com/hook" })).await;
    let key = server.admin_key().await;
    let folder = tempfile::tempdir().unwrap();
    // The program must know which credential is which: it also calls without them, and with wrong ones.
    let config = format!("[auth.openapi.key]\nbearer = \"{key}\"\n");
    std::fs::write(folder.path().join("schemathesis.toml"), config).unwrap();
    let mut generate = Command::new(program);
    generate
        .current_dir(folder.path())
        .arg("run")
        .arg(format!("http://{}/api/openapi.json", server.visitor.address()))
        .args(["--checks", "all", "--exclude-checks", UNDESCRIBED])
        .args(["--exclude-path-regex", ENDS_THE_KEY])
        // One worker: two threads that compile Python at once end CPython before 3.11.8 with "AST constructor recursion depth
        // mismatch".
        .args(["--seed", "1", "--max-examples", "12", "--workers", "1"])
        .args(["--max-time", MAX_SECONDS, "--request-timeout", "30", "--no-color"])
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || generate.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    server.stop().await;
}
