//! An error names the next step of the caller; an internal error reveals only its request id.

use crate::harness::{FakeOrchestrator, Server};

#[tokio::test(flavor = "multi_thread")]
async fn an_internal_error_hides_its_cause() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    server.database.sql("ALTER TABLE tenants RENAME COLUMN policy TO secret_column").await;
    let response = owner.get("/api/admin/tenants").await;
    assert_eq!(response.problem(), "500 internal");
    assert!(!response.text().contains("column"), "{}", response.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_get_problems_as_pages() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let page = owner.visit("/admin/tenants/none").await;
    assert_eq!(page.status, 404);
    assert!(page.header("content-type").starts_with("text/html"));
    for fact in ["404", "tenant_not_found", page.header("x-request-id"), "There is no tenant"] {
        assert!(page.text().contains(fact), "{fact}: {}", page.text());
    }
    let data = owner.get("/admin/tenants/none").await;
    assert_eq!(data.problem(), "404 tenant_not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_request_id_is_kept() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    let get = || "GET".parse::<axum::http::Method>().unwrap();
    let id = "0123456789abcdef";
    let kept = server.visitor.send(get(), "/nothing", &[("x-request-id", id)], "").await;
    assert_eq!(kept.json()["request_id"], id);
    let odd = server.visitor.send(get(), "/nothing", &[("x-request-id", "<script>")], "").await;
    assert_eq!(odd.header("x-request-id").len(), 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn error_pages_keep_the_navigation_of_a_signed_in_owner() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    for path in ["/admin/tenants/none", "/admin/nothing", "/nothing"] {
        let page = owner.visit(path).await;
        assert_eq!(page.status, 404);
        assert!(page.text().contains(crate::harness::EMAIL), "{path}: {}", page.text());
        assert!(page.text().contains("Sign out") && page.text().contains("<nav"), "{path}");
    }
    server.database.sql("ALTER TABLE tenants RENAME COLUMN policy TO secret_column").await;
    let page = owner.visit("/admin").await;
    assert_eq!(page.status, 500);
    assert!(page.text().contains("Sign out"), "{}", page.text());
    let visitor = server.visitor.visit("/nothing").await;
    assert!(!visitor.text().contains("Sign out"), "{}", visitor.text());
}
