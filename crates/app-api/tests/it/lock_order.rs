//! Changes that meet lock their rows in one order: they wait for each other, and none fails.

use axum::http::Method;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use serde_json::json;
use testkit::eventually;

use crate::harness::{FakeOrchestrator, Server, TEST_TIMEOUT, TestResponse};
use crate::second_factor::{AuthenticatorApp, FACTOR, password, proof};

async fn execute(conn: &mut AsyncPgConnection, text: &str) {
    diesel::sql_query(text).execute(conn).await.unwrap();
}

/// Runs `change` while a transaction that ends the sessions of mia is between their locks and those of their grants.
async fn change_during_the_end_of_sessions(change: &'static str) {
    let (server, _) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    server.sign_in_as("mia", "viewer", &[("acme", "member")]).await;
    let database = server.database.clone();
    database
        .sql(
            "INSERT INTO sso_grants (session_id, tenant_id, user_id, expires_at) \
             SELECT sessions.id, tenants.id, user_id, now() + interval '1 hour' FROM tenants, sessions \
             JOIN users ON users.id = user_id WHERE users.name = 'mia'",
        )
        .await;
    let mut ending = database.conn().await;
    execute(&mut ending, "BEGIN").await;
    let of_mia = "user_id = (SELECT id FROM users WHERE name = 'mia')";
    execute(&mut ending, &format!("SELECT FROM sessions WHERE {of_mia} FOR UPDATE")).await;
    let changing = tokio::spawn({
        let database = database.clone();
        async move { database.sql(change).await }
    });
    database.until_blocked().await;
    execute(&mut ending, &format!("UPDATE sso_grants SET revoked = true WHERE {of_mia}")).await;
    execute(&mut ending, "COMMIT").await;
    assert_eq!(changing.await.unwrap(), 1, "{change}");
    assert_eq!(database.count("sso_grants WHERE NOT revoked").await, 0, "{change}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_rights_waits_for_the_end_of_a_session() {
    for change in [
        "UPDATE memberships SET role = 'viewer'",
        "DELETE FROM memberships",
        "UPDATE users SET role = 'admin' WHERE name = 'mia'",
        "UPDATE users SET password_hash = 'x' WHERE name = 'mia'",
    ] {
        change_during_the_end_of_sessions(change).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_tenant_does_not_wait_for_its_members() {
    let (server, _) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    server.sign_in_as("mia", "none", &[("acme", "member")]).await;
    let mut ending = server.database.conn().await;
    execute(&mut ending, "BEGIN").await;
    execute(&mut ending, "SELECT FROM sessions FOR UPDATE").await;
    assert_eq!(server.database.sql("DELETE FROM tenants").await, 1);
    execute(&mut ending, "COMMIT").await;
}

/// A rollout that ends locks its row, and then the end of the audit log.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_app_waits_for_the_end_of_its_rollout() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    owner.post("/v1/apps", json!({ "slug": "notes", "name": "Notes" })).await;
    owner.post("/v1/apps/notes/releases", json!({ "image": "notes:1" })).await;
    let started = owner.post("/v1/apps/notes/rollouts", json!({ "release": "v1" })).await;
    assert_eq!(started.status, 202);
    let ended = eventually("the rollout", TEST_TIMEOUT, async || {
        Ok(server.database.count("rollouts WHERE state = 'done'").await == 1)
    });
    ended.await.unwrap();
    let mut ending = server.database.conn().await;
    execute(&mut ending, "BEGIN").await;
    execute(&mut ending, "SELECT FROM rollouts FOR UPDATE").await;
    let deleting =
        tokio::spawn(
            async move { owner.send(Method::DELETE, "/v1/apps/notes", &[], "").await.status },
        );
    server.database.until_blocked().await;
    execute(&mut ending, "SELECT FROM audit_head FOR UPDATE").await;
    execute(&mut ending, "COMMIT").await;
    assert_eq!(deleting.await.unwrap(), 204);
}

/// Runs a request that ends sessions of mia while a transaction locks them by id, the lowest first. `left`: how many
/// sessions stay.
async fn end_sessions_against_the_order_of_ids(request: impl AsyncFnOnce(&Server), left: i64) {
    let server = Server::with_owner(FakeOrchestrator::unreachable()).await.0;
    server.sign_in_as("mia", "viewer", &[]).await;
    server.new_session_of("mia@example.com").await;
    let of_mia = "user_id = (SELECT id FROM users WHERE name = 'mia')";
    // The row of the lowest id moves behind the others, where a scan of the table finds it last.
    let lowest = format!("(SELECT id FROM sessions WHERE {of_mia} ORDER BY id LIMIT 1)");
    server.database.sql(&format!("UPDATE sessions SET address = 'x' WHERE id = {lowest}")).await;
    let mut locking = server.database.conn().await;
    execute(&mut locking, "BEGIN").await;
    execute(&mut locking, &format!("SELECT FROM sessions WHERE id = {lowest} FOR UPDATE")).await;
    let next = async {
        server.database.until_blocked().await;
        let all = format!("SELECT FROM sessions WHERE {of_mia} ORDER BY id FOR UPDATE");
        execute(&mut locking, &all).await;
        execute(&mut locking, "COMMIT").await;
    };
    tokio::join!(request(&server), next);
    assert_eq!(server.database.count(&format!("sessions WHERE {of_mia}")).await, left);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_all_sessions_of_a_person_lock_them_by_id() {
    let others = async |server: &Server| {
        // From a third session: both that the other transaction locks end.
        let current = server.new_session_of("mia@example.com").await;
        let ended = current.send(axum::http::Method::DELETE, "/v1/sessions", &[], "").await;
        assert_eq!(ended.status, 204, "{}", ended.text());
    };
    end_sessions_against_the_order_of_ids(others, 1).await;
    let reset = async |server: &Server| {
        let mut conn = server.database.conn().await;
        let (actor, now) = (app_api::audit::Actor::command("test"), server.now());
        let token = app_api::accounts::reset_token(&mut conn, actor, "mia@example.com", now);
        let token = token.await.unwrap().unwrap();
        let fields = [("token", token.reveal()), ("password", "another good one")];
        let reset = server.visitor.submit("/admin/reset", &fields).await;
        assert_eq!(reset.status, 303, "{}", reset.text());
    };
    end_sessions_against_the_order_of_ids(reset, 0).await;
}

/// Makes a request about the second factor of mia while a transaction locks the account and then the factor, as a deletion
/// of the account does.
async fn change_a_second_factor_during_a_deletion(
    server: &Server,
    request: impl Future<Output = TestResponse>,
) -> TestResponse {
    let mia = "(SELECT id FROM users WHERE name = 'mia')";
    let mut deleting = server.database.conn().await;
    execute(&mut deleting, "BEGIN").await;
    execute(&mut deleting, &format!("SELECT FROM users WHERE id = {mia} FOR UPDATE")).await;
    let next = async {
        server.database.until_blocked().await;
        let factor = format!("SELECT FROM second_factors WHERE user_id = {mia} FOR UPDATE");
        execute(&mut deleting, &factor).await;
        execute(&mut deleting, "COMMIT").await;
    };
    tokio::join!(request, next).0
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_second_factor_lock_the_account_first() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let mia = server.sign_in_as("mia", "viewer", &[]).await;
    assert_eq!(mia.post(FACTOR, password()).await.status, 201);
    let begin = mia.post(FACTOR, password());
    let begun = change_a_second_factor_during_a_deletion(&server, begin).await;
    assert_eq!(begun.status, 201, "{}", begun.text());
    let app = AuthenticatorApp::scan(begun.json()["url"].as_str().unwrap());
    let path = format!("{FACTOR}/confirm");
    let confirm = mia.post(&path, proof(&app.code(&server)));
    let confirmed = change_a_second_factor_during_a_deletion(&server, confirm).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text());
    let path = format!("/v1/users/{}/second-factor", server.user("mia@example.com").await.id);
    let reset = owner.send(Method::DELETE, &path, &[], "");
    let reset = change_a_second_factor_during_a_deletion(&server, reset).await;
    assert_eq!(reset.status, 204, "{}", reset.text());
}
