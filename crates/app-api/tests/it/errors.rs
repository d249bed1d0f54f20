//! An error tells its caller what to do, and a fault of ours tells nothing but where to find it.

use crate::world::{Fake, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_ours_says_nothing_of_its_cause() {
    let (server, owner) = Server::owned(Fake::silent()).await;
    server.database.sql("ALTER TABLE tenants RENAME COLUMN policy TO secret_column").await;
    let answer = owner.get("/api/admin/tenants").await;
    assert_eq!(answer.problem(), "500 internal");
    assert!(!answer.text().contains("column"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_get_the_same_facts_as_a_page() {
    let (server, owner) = Server::owned(Fake::silent()).await;
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
async fn a_request_id_is_kept_if_it_is_plausible() {
    let server = Server::with(Fake::silent()).await;
    let get = || "GET".parse::<axum::http::Method>().unwrap();
    let id = "0123456789abcdef";
    let kept = server.visitor.send(get(), "/nothing", &[("x-request-id", id)], "").await;
    assert_eq!(kept.json()["request_id"], id);
    let odd = server.visitor.send(get(), "/nothing", &[("x-request-id", "<script>")], "").await;
    assert_eq!(odd.header("x-request-id").len(), 32);
}
