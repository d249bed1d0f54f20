//! The pages work as plain links and forms; an invalid form is shown again with its values.

use protocol::State;
use protocol::orchestrator::Phase;
use serde_json::json;

use crate::harness::{
    Call, EMAIL, FakeOrchestrator, PASSWORD, Reply, Server, TestResponse, acme, crashed,
};

fn leads(response: &TestResponse) -> (u16, &str) {
    (response.status.as_u16(), response.header("location"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_visit_leads_to_sign_up_and_the_empty_list() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    let mut visitor = server.visitor.clone();
    assert_eq!(leads(&visitor.visit("/").await), (303, "/admin"));
    let gate = visitor.visit("/admin").await;
    assert_eq!(leads(&gate), (303, "/admin/login?next=/admin"));
    assert_eq!(leads(&visitor.visit("/admin/login?next=%2Fadmin").await), (303, "/admin/signup"));
    let page = visitor.visit("/admin/signup").await;
    assert_eq!(page.status, 200);
    assert!(
        page.text().contains("<h1>Create the owner&#39;s account</h1>")
            || page.text().contains("<h1>Create the owner's account</h1>")
    );
    let form = [("name", "Ada"), ("email", EMAIL), ("password", PASSWORD)];
    let made = visitor.submit("/admin/signup", &form).await;
    assert_eq!(leads(&made), (303, "/admin"));
    visitor.store_cookie(&made);
    let list = visitor.visit("/admin").await;
    assert_eq!(list.status, 200);
    assert!(list.text().contains("No tenants yet"));
    assert!(list.text().contains(EMAIL));
    assert_eq!(leads(&visitor.visit("/admin/signup").await), (303, "/admin"));
    let out = visitor.submit("/admin/logout", &[]).await;
    assert_eq!(leads(&out), (303, "/admin/login"));
    visitor.store_cookie(&out);
    assert_eq!(leads(&visitor.visit("/admin/signup").await), (303, "/admin/login"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_form_is_shown_again_with_its_errors() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    let form = [("name", "A\"da<b>"), ("email", "nonsense"), ("password", "short")];
    let page = server.visitor.submit("/admin/signup", &form).await;
    assert_eq!(page.status, 422);
    let text = page.text();
    assert!(text.contains(r#"value="nonsense""#), "{text}");
    assert!(text.contains("A&#34;da&#60;b&#62;"), "{text}");
    assert!(text.contains(r#"aria-describedby="email-fault""#), "{text}");
    assert!(text.contains(r#"id="email-fault""#), "{text}");
    assert!(text.contains("Use at least 8 characters."), "{text}");
    assert!(!text.contains("short"), "a password is never sent back");
    let owner = server.sign_up().await;
    let page = owner.submit("/admin/tenants/new", &[("slug", "Acme!"), ("name", "Acme Ltd")]).await;
    assert_eq!(page.status, 422);
    assert!(page.text().contains(r#"value="Acme!""#));
    assert!(page.text().contains(r#"value="Acme Ltd""#));
    assert!(page.text().contains(r#"id="slug-fault""#));
    owner.post("/api/admin/tenants", acme()).await;
    let taken = owner.submit("/admin/tenants/new", &[("slug", "acme"), ("name", "B")]).await;
    assert_eq!(taken.status, 409);
    assert!(taken.text().contains("exists already"));
    let login =
        server.visitor.submit("/admin/login", &[("email", EMAIL), ("password", "wrong one")]).await;
    assert_eq!(login.status, 401);
    assert!(login.text().contains(&format!("value=\"{EMAIL}\"")));
    assert!(login.text().contains(r#"role="alert""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_redirects_to_the_requested_page_of_this_site() {
    let (server, _owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    for (next, leads_to) in [
        ("/admin/tenants/acme", "/admin/tenants/acme"),
        ("//evil.example", "/admin"),
        ("https://evil.example/", "/admin"),
    ] {
        let page = server.visitor.visit(&format!("/admin/login?next={next}")).await;
        assert!(page.text().contains(&format!("value=\"{leads_to}\"")), "{}", page.text());
        let form = [("email", EMAIL), ("password", PASSWORD), ("next", next)];
        assert_eq!(leads(&server.visitor.submit("/admin/login", &form).await), (303, leads_to));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_managed_by_forms_alone() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    let made = owner.submit("/admin/tenants/new", &[("slug", "acme"), ("name", "Acme Ltd")]).await;
    assert_eq!(leads(&made), (303, "/admin/tenants/acme"));
    server.until_state("acme", State::Running).await;
    let page = owner.visit("/admin/tenants/acme").await.text();
    for part in [
        r#"action="/api/admin/tenants/acme/open""#,
        r#"data-state="running""#,
        "http://acme.localhost:8080",
        "41234",
        "[edge] log of",
        "4 GiB",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("http-equiv"), "what rests is not looked at again");
    let list = owner.visit("/admin").await.text();
    assert!(list.contains(r#"data-state="running""#) && list.contains("41234"), "{list}");
    let opened = owner.submit("/api/admin/tenants/acme/open", &[]).await;
    assert_eq!(opened.header("location"), "http://acme.localhost:8080/.cial/sign-in");
    for (verb, state) in [("stop", State::Stopped), ("start", State::Running)] {
        let asked = owner.submit(&format!("/admin/tenants/acme/{verb}"), &[]).await;
        assert_eq!(leads(&asked), (303, "/admin/tenants/acme"));
        server.until_state("acme", state).await;
    }
    let wrong = owner.submit("/admin/tenants/acme/delete", &[("confirm", "acm")]).await;
    assert_eq!(wrong.status, 422);
    assert!(wrong.text().contains("Type acme to confirm."), "{}", wrong.text());
    let gone = owner.submit("/admin/tenants/acme/delete", &[("confirm", "acme")]).await;
    assert_eq!(leads(&gone), (303, "/admin"));
    server.until("acme", |tenant| tenant.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_pages_reload_and_every_page_is_accessible() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    owner.post("/api/admin/tenants", json!({ "slug": "acme", "name": "<i>&\"" })).await;
    let refresh = r#"<meta http-equiv="refresh" content="2">"#;
    for path in [
        "/admin",
        "/admin?q=x",
        "/admin/tenants/acme",
        "/admin/tenants/new",
        "/admin/tenants/acme/edit",
        "/admin/tenants/acme/delete",
        "/admin/tenants/none",
        "/admin/account",
        "/admin/audit",
    ] {
        let page = owner.visit(path).await.text();
        let moves = matches!(path, "/admin" | "/admin/tenants/acme");
        assert_eq!(page.contains(refresh), moves, "{path}");
        assert_eq!(page.matches("<h1").count(), 1, "{path}");
        assert_eq!(page.matches("<main").count(), 1, "{path}");
        assert!(page.contains(r##"href="#main""##) && page.contains(r#"lang="en""#), "{path}");
        let inputs = page.matches("<input").count() - page.matches(r#"type="hidden""#).count();
        assert_eq!(
            inputs + page.matches("<select").count(),
            page.matches("<label").count(),
            "{path}"
        );
        assert!(!page.contains("<i>") && !page.contains("style="), "{path}");
        // The only script is the one for passkeys, from a file: the policy for content forbids others.
        let scripts = usize::from(path == "/admin/account");
        assert_eq!(page.matches("<script").count(), scripts, "{path}");
        assert_eq!(
            page.matches(r#"<script src="/assets/passkey.js?v="#).count(),
            scripts,
            "{path}"
        );
        assert!(page.len() < 100_000);
    }
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_tenant_is_stopping_since_the_request() {
    let script = [(Call::Run, Reply::Observed(Phase::Ready))];
    let (server, owner) = Server::with_owner(FakeOrchestrator::scripted(&script)).await;
    owner.post("/api/admin/tenants", acme()).await;
    server.until_state("acme", State::Running).await;
    server.advance_clock(std::time::Duration::from_secs(240));
    server.orchestrator.set_reachable(false);
    owner.submit("/admin/tenants/acme/stop", &[]).await;
    let page = owner.visit("/admin/tenants/acme").await.text();
    assert!(page.contains(r#"data-state="stopping""#), "{page}");
    assert!(page.contains("just now") && !page.contains("4 min ago</time></span>"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_failed_tenant_shows_the_reason_at_its_log() {
    let script = [
        (Call::Run, Reply::Observed(Phase::Starting)),
        (Call::Stop, Reply::Observed(Phase::Stopped)),
    ];
    let (server, owner) = Server::with_owner(FakeOrchestrator::scripted(&script)).await;
    owner.post("/api/admin/tenants", acme()).await;
    server.until_state("acme", State::Starting).await;
    let id = server.row("acme").await.tenant_id();
    (1..=5).for_each(|n| server.orchestrator.publish(crashed(id, n)));
    server.until_state("acme", State::Error).await;
    let page = owner.visit("/admin/tenants/acme").await.text();
    let (_, log) = page.split_once(r#"<h2 id="log">"#).unwrap();
    let reason = log.find("exit code 3").unwrap();
    assert!(reason < log.find("[edge] log of").unwrap(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_code_has_a_page_for_everybody() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    for code in protocol::problem::Code::ALL {
        let page = server.visitor.visit(&code.page_path()).await;
        let text = page.text();
        assert_eq!(page.status, 200, "{code}");
        assert!(text.contains(code.title()) && text.contains(&format!("<code>{code}</code>")));
        assert!(!text.contains("](") && !text.contains('`'), "{text}");
        assert_eq!(text.contains("What to do"), code.plain_remedy().is_some(), "{text}");
    }
    let text = server.visitor.visit("/problems/backups_off").await.text();
    assert!(text.contains("<dd>409 Conflict</dd>"), "{text}");
    assert!(text.contains("<dd>set CIAL_BACKUP_URL; see backups</dd>"), "{text}");
    let missing = server.visitor.visit("/problems/nothing").await;
    assert_eq!(missing.status, 404);
    assert!(missing.text().contains(r#"<a href="/problems/not_found">"#), "{}", missing.text());
    for path in ["/problems/%00", "/problems/%ff"] {
        assert_eq!(server.visitor.get(path).await.problem(), "404 not_found", "{path}");
    }
}
