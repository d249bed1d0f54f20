//! A tenant's log is the orchestrator's, as text.

use crate::harness::{FakeOrchestrator, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_streamed_from_the_orchestrator() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let id = server.row("acme").await.id;
    let path = "/api/admin/tenants/acme/logs";
    let log = owner.get(path).await;
    assert_eq!(log.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(log.text(), format!("[edge] log of {id}, tail=100\n"));
    let asked =
        owner.get(&format!("{path}?tail=5&follow=1&timestamps=1&since=2026-01-02T03:04:05Z")).await;
    let since = "2026%2D01%2D02T03%3A04%3A05%2E000Z";
    assert_eq!(
        asked.text(),
        format!("[edge] log of {id}, tail=5&since={since}&follow=1&timestamps=1\n")
    );
    for bad in ["tail=-1", "tail=50001", "since=yesterday", "follow=maybe", "timestamps=2", "x=1"] {
        assert_eq!(
            owner.get(&format!("{path}?{bad}")).await.problem(),
            "400 invalid_query",
            "{bad}"
        );
    }
}
