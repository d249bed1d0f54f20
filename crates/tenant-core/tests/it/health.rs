//! Health answers once PID 1 has reported that all services are ready; an earlier request waits.

use hyper::StatusCode;

use crate::harness::{Core, code};

#[tokio::test]
async fn an_early_question_is_answered_when_all_are_ready() {
    let core = Core::start(&[]);
    let early = tokio::join!(core.get("/healthz"), async {
        // The response arrives while the other request waits: core-back itself is up.
        assert_eq!(core.get("/echo-path").await.status(), StatusCode::OK);
        core.reporter.report_ready();
    });
    assert_eq!(early.0.status(), StatusCode::OK);
    let version = env!("CARGO_PKG_VERSION");
    let want = format!(r#"{{"status":"ok","tenant":"acme","version":"{version}"}}"#);
    assert_eq!(*early.0.body(), want);
    assert_eq!(*core.get("/health").await.body(), want);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_never_gets_ready_says_so_in_the_end() {
    let core = Core::start(&[]);
    let answer = core.get("/healthz").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(code(&answer), "not_ready");
}
