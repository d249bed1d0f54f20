//! Operators and members are invited by a link that works once; each sees only what is theirs; rights end at once.

use std::time::Duration;

use axum::http::Method;
use protocol::State;
use serde_json::{Value, json};

use crate::harness::callers::TestKey;
use crate::harness::{EMAIL, FakeOrchestrator, PASSWORD, Server, TestClient, TestResponse};

/// A browser that began a sign-in at the tenant `acme`, on its way through the admin.
const SIGN_IN: &str =
    "/admin/tenants/acme/sign-in?nonce=LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";

async fn with_tenants() -> (Server, TestClient) {
    let (server, owner) = Server::with_acme(FakeOrchestrator::obedient()).await;
    owner.post("/v1/tenants", json!({ "slug": "globex", "name": "Globex" })).await;
    for slug in ["acme", "globex"] {
        server.until_state(slug, State::Running).await;
    }
    (server, owner)
}

/// Invites and returns the path of the link.
async fn invite(caller: &TestClient, path: &str, email: &str, role: &str) -> String {
    let created = caller.post(path, json!({ "email": email, "role": role })).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let url = created.json()["url"].as_str().unwrap().to_owned();
    url.strip_prefix("http://localhost:3100").unwrap().to_owned()
}

async fn sign_up(server: &Server, link: &str) -> (TestClient, TestResponse) {
    let mut client = server.visitor.new_client();
    let made = client.submit(link, &[("name", "Grace"), ("password", PASSWORD)]).await;
    client.store_cookie(&made);
    (client, made)
}

async fn me(client: &TestClient) -> Value {
    client.get("/v1/users/me").await.json()
}

async fn delete(client: &TestClient, path: &str) -> TestResponse {
    client.send(Method::DELETE, path, &[], "").await
}

async fn patch(client: &TestClient, path: &str, role: &str) -> TestResponse {
    client.json(Method::PATCH, path, &[], json!({ "role": role })).await
}

fn slugs(list: &Value) -> Vec<&str> {
    list["tenants"].as_array().unwrap().iter().map(|t| t["slug"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_joins_by_a_link_that_works_once() {
    let (server, owner) = with_tenants().await;
    let link = invite(&owner, "/v1/invitations", "Grace@Example.com", "viewer").await;
    assert!(!owner.get("/v1/invitations").await.text().contains(link.rsplit('/').next().unwrap()));
    assert_eq!(
        owner.get("/v1/invitations").await.json()["invitations"][0]["email"],
        "grace@example.com"
    );
    let page = server.visitor.visit(&link).await.text();
    assert!(page.contains("Join the team") && page.contains("name=\"password\""), "{page}");
    let weak = server.visitor.submit(&link, &[("name", ""), ("password", "short")]).await;
    assert_eq!(weak.status, 422);
    let (grace, made) = sign_up(&server, &link).await;
    assert_eq!((made.status.as_u16(), made.header("location")), (303, "/admin"));
    let shown = me(&grace).await;
    assert_eq!(shown["email"], "grace@example.com");
    assert_eq!((&shown["role"], &shown["platform_admin"]), (&json!("viewer"), &json!(false)));
    assert_eq!(slugs(&grace.get("/v1/tenants").await.json()), ["acme", "globex"]);
    assert_eq!(sign_up(&server, &link).await.1.problem_page(), 410);
    assert_eq!(server.visitor.get(&link).await.problem(), "410 invitation_ended");
    assert_eq!(owner.get("/v1/invitations").await.json()["invitations"], json!([]));
    let again = owner
        .post("/v1/invitations", json!({ "email": "grace@example.com", "role": "admin" }))
        .await;
    assert_eq!(again.problem(), "409 already_member");
    let actions = owner.get("/v1/audit?resource=user:grace@example.com").await.json();
    assert_eq!(actions["entries"][0]["action"], "invitation.accept");
    assert_eq!(actions["entries"][0]["after"], json!({ "role": "viewer" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_show_and_rename_a_person() {
    let (server, owner) = with_tenants().await;
    server.sign_in_as("grace", "none", &[("acme", "member")]).await;
    let viewer = server.sign_in_as("vic", "viewer", &[]).await;
    let id = server.user("grace@example.com").await.id;
    let path = format!("/v1/users/{id}");
    let shown = viewer.get(&path).await;
    let grace = json!({ "id": id, "email": "grace@example.com", "name": "grace", "role": "none" });
    assert_eq!((shown.status.as_u16(), shown.json()), (200, grace));
    let change =
        async |by: &TestClient, body: Value| by.json(Method::PATCH, &path, &[], body).await;
    let renamed = change(&owner, json!({ "name": " Grace Hopper " })).await;
    assert_eq!(
        (&renamed.json()["name"], &renamed.json()["role"]),
        (&json!("Grace Hopper"), &json!("none"))
    );
    assert_eq!(viewer.get(&path).await.json(), renamed.json());
    // Both at once; what is the same already is no change.
    let both = change(&owner, json!({ "name": "Grace Hopper", "role": "viewer" })).await;
    assert_eq!(both.json()["role"], "viewer");
    assert_eq!(change(&owner, json!({})).await.json(), both.json());
    let person = "user:grace@example.com".to_owned();
    let entry = |field: &str, before: &str, after: &str| {
        (EMAIL.to_owned(), person.clone(), json!({ field: before }), json!({ field: after }))
    };
    assert_eq!(server.audited("user.name").await, [entry("name", "grace", "Grace Hopper")]);
    assert_eq!(server.audited("user.role").await, [entry("role", "none", "viewer")]);
    for (name, code) in [("", "required"), ("a\nb", "invalid_name")] {
        let refused = change(&owner, json!({ "name": name, "role": "admin" })).await;
        assert_eq!(refused.problem(), "422 invalid_fields");
        assert_eq!(refused.json()["errors"][0]["code"], code);
    }
    assert_eq!(change(&viewer, json!({ "name": "x" })).await.problem(), "403 insufficient_role");
    // An admin changes no owner.
    let admin = server.sign_in_as("adam", "admin", &[]).await;
    let of_owner = format!("/v1/users/{}", server.user(EMAIL).await.id);
    let refused = admin.json(Method::PATCH, &of_owner, &[], json!({ "name": "x" })).await;
    assert_eq!(refused.problem(), "403 insufficient_role");
    assert_eq!(viewer.get(&path).await.json(), both.json());
    let nobody = "/v1/users/00000000-0000-0000-0000-000000000000";
    assert_eq!(viewer.get(nobody).await.problem(), "404 resource_not_found");
}

impl TestResponse {
    /// The status of a problem that is shown as a page.
    fn problem_page(&self) -> u16 {
        assert!(self.header("content-type").starts_with("text/html"), "{}", self.text());
        self.status.as_u16()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_of_the_platform_makes_nobody_an_owner_by_a_key() {
    let (server, owner) = with_tenants().await;
    let link = invite(&owner, "/v1/invitations", "grace@example.com", "admin").await;
    let (grace, _) = sign_up(&server, &link).await;
    let wide = json!({ "name": "wide", "role": "admin", "is_admin": true });
    let refused = grace.post("/v1/auth/keys", wide.clone()).await;
    assert_eq!(refused.problem(), "403 insufficient_role");
    let plain = grace.post("/v1/auth/keys", json!({ "name": "plain", "role": "admin" })).await;
    assert_eq!(plain.status, 201);
    // Nor does an admin end the keys of the owners.
    let key = owner.post("/v1/auth/keys", wide).await.json();
    let path = format!("/v1/auth/keys/{}", key["id"].as_str().unwrap());
    assert_eq!(delete(&grace, &path).await.problem(), "403 insufficient_role");
    assert_eq!(delete(&owner, &path).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_end_after_a_day_by_withdrawal_and_by_a_later_link() {
    let (server, owner) = with_tenants().await;
    let first = invite(&owner, "/v1/invitations", "grace@example.com", "viewer").await;
    let second = invite(&owner, "/v1/invitations", "grace@example.com", "admin").await;
    assert_eq!(server.visitor.get(&first).await.problem(), "410 invitation_ended");
    let open = owner.get("/v1/invitations").await.json();
    let path = format!("/v1/invitations/{}", open["invitations"][0]["id"].as_str().unwrap());
    assert_eq!(delete(&owner, &path).await.status, 204);
    assert_eq!(delete(&owner, &path).await.problem(), "404 resource_not_found");
    assert_eq!(server.visitor.get(&second).await.problem(), "410 invitation_ended");
    let third = invite(&owner, "/v1/tenants/acme/invitations", "grace@example.com", "admin").await;
    server.advance_clock(Duration::from_secs(24 * 3_600 - 1));
    assert_eq!(server.visitor.get(&third).await.status, 200);
    server.advance_clock(Duration::from_secs(1));
    assert_eq!(server.visitor.get(&third).await.problem(), "410 invitation_ended");
    assert_eq!(
        server.visitor.get("/admin/invitations/%ff").await.problem(),
        "410 invitation_ended"
    );
    for (path, email, role) in [
        ("/v1/invitations", "nonsense", "viewer"),
        ("/v1/invitations", "a@b.c", "none"),
        ("/v1/invitations", "a@b.c", "member"),
        ("/v1/tenants/acme/invitations", "a@b.c", "owner"),
    ] {
        let owner = server.new_session_of(EMAIL).await;
        let refused = owner.post(path, json!({ "email": email, "role": role })).await;
        assert_eq!(refused.problem(), "422 invalid_fields", "{path} {email} {role}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_sees_only_their_tenants_and_another_account_cannot_accept() {
    let (server, owner) = with_tenants().await;
    let grace = server.sign_in_as("grace", "none", &[]).await;
    let eve = server.sign_in_as("eve", "none", &[]).await;
    let link = invite(&owner, "/v1/tenants/acme/invitations", "grace@example.com", "member").await;
    let page = server.visitor.visit(&link).await.text();
    assert!(page.contains("Sign in to accept") && !page.contains("password"), "{page}");
    assert!(eve.visit(&link).await.text().contains("another e-mail address"));
    let refused = eve
        .send(Method::POST, &link, &[("content-type", "application/x-www-form-urlencoded")], "")
        .await;
    assert_eq!(refused.problem(), "403 invitation_mismatch");
    assert_eq!(grace.get("/v1/tenants/acme").await.problem(), "403 forbidden");
    assert_eq!(grace.submit(&link, &[]).await.header("location"), "/admin");
    assert_eq!(slugs(&grace.get("/v1/tenants").await.json()), ["acme"]);
    assert_eq!(me(&grace).await["tenants"][0]["role"], "member");
    assert_eq!(grace.get("/v1/tenants/acme").await.status, 200);
    assert_eq!(grace.get("/v1/tenants/globex").await.problem(), "403 forbidden");
    let members = owner.get("/v1/tenants/acme/members").await.json();
    assert_eq!(members["members"][0]["email"], "grace@example.com");
    // Only an admin of the tenant manages its people, and nobody is added without being invited.
    let invitation = json!({ "email": "x@example.com", "role": "viewer" });
    let forbidden = grace.post("/v1/tenants/acme/invitations", invitation.clone()).await;
    assert_eq!(forbidden.problem(), "403 insufficient_role");
    let admin = server.sign_in_as("admin", "none", &[("acme", "admin")]).await;
    assert_eq!(admin.post("/v1/tenants/acme/invitations", invitation).await.status, 201);
    let eve_id = me(&eve).await["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/tenants/acme/members/{eve_id}");
    let role = json!({ "role": "admin" });
    assert_eq!(
        admin.json(Method::PUT, &path, &[], role.clone()).await.problem(),
        "404 resource_not_found"
    );
    let set = owner.json(Method::PUT, &path, &[], role).await;
    assert_eq!((set.status.as_u16(), &set.json()["role"]), (200, &json!("admin")));
    assert_eq!(slugs(&eve.get("/v1/tenants").await.json()), ["acme"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_tenant_takes_effect_with_the_same_cookie_and_ends_the_tenant_session() {
    let (server, owner) = with_tenants().await;
    for leaves_by_themselves in [false, true] {
        let name = format!("grace-{leaves_by_themselves}");
        let mut grace = server.sign_in_as(&name, "none", &[("acme", "member")]).await;
        let id = me(&grace).await["id"].as_str().unwrap().to_owned();
        assert_eq!(grace.get(SIGN_IN).await.status, 303);
        let sid = grace.get("/api/auth/session").await.json()["session"]["id"].clone();
        let asked = server.row("acme").await.changes_asked;
        let left = if leaves_by_themselves {
            let acme = me(&grace).await["tenants"][0]["id"].as_str().unwrap().to_owned();
            delete(&grace, &format!("/v1/users/me/tenants/{acme}")).await
        } else {
            delete(&owner, &format!("/v1/tenants/acme/members/{id}")).await
        };
        assert_eq!(left.status, 204, "{}", left.text());
        let refused = grace.get("/v1/tenants/acme").await;
        assert_eq!(refused.problem(), "403 forbidden");
        server
            .until("acme", |t| {
                t.is_some_and(|t| t.changes_asked > asked && t.changes_done == t.changes_asked)
            })
            .await;
        let sent =
            server.orchestrator.specs.lock().unwrap().last().unwrap().revoked_sessions.clone();
        assert!(sent.iter().any(|ended| json!(ended) == sid), "{sent:?}");
        // The refusal carried a new cookie: who comes back can open the tenant again.
        grace.store_cookie(&refused);
        let path = format!("/v1/tenants/acme/members/{id}");
        assert_eq!(
            owner.json(Method::PUT, &path, &[], json!({ "role": "viewer" })).await.status,
            200
        );
        assert_eq!(grace.get(SIGN_IN).await.status, 303);
        assert_ne!(grace.get("/api/auth/session").await.json()["session"]["id"], sid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_owner_stays_and_roles_are_given_from_above() {
    let (server, owner) = with_tenants().await;
    let ada = format!("/v1/users/{}", me(&owner).await["id"].as_str().unwrap());
    assert_eq!(patch(&owner, &ada, "admin").await.problem(), "409 last_owner");
    assert_eq!(delete(&owner, &ada).await.problem(), "409 last_owner");
    assert_eq!(patch(&owner, &ada, "owner").await.status, 200, "nothing changes");
    let admin = server.sign_in_as("admin", "admin", &[]).await;
    let viewer = server.sign_in_as("viewer", "viewer", &[]).await;
    let id = async |client: &TestClient| {
        format!("/v1/users/{}", me(client).await["id"].as_str().unwrap())
    };
    let (admin_path, viewer_path) = (id(&admin).await, id(&viewer).await);
    assert_eq!(patch(&admin, &ada, "none").await.problem(), "403 insufficient_role");
    assert_eq!(delete(&admin, &ada).await.problem(), "403 insufficient_role");
    assert_eq!(patch(&admin, &viewer_path, "owner").await.problem(), "403 insufficient_role");
    let invitation = json!({ "email": "x@example.com", "role": "owner" });
    assert_eq!(admin.post("/v1/invitations", invitation).await.problem(), "403 insufficient_role");
    assert_eq!(patch(&viewer, &viewer_path, "admin").await.problem(), "403 insufficient_role");
    assert_eq!(patch(&owner, "/v1/users/none", "admin").await.problem(), "404 not_found");
    assert_eq!(patch(&owner, &admin_path, "owner").await.json()["role"], "owner");
    // Two owners who demote each other at once: one stays.
    let (first, second) =
        tokio::join!(patch(&owner, &admin_path, "none"), patch(&admin, &ada, "none"));
    let mut statuses = [first.status.as_u16(), second.status.as_u16()];
    statuses.sort_unstable();
    assert!(matches!(statuses, [200, 403 | 409]), "{} {}", first.text(), second.text());
    assert_eq!(server.database.count("users WHERE role = 'owner'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_person_is_signed_out_everywhere_and_their_tenants_stay() {
    let (server, owner) = with_tenants().await;
    let grace = server.sign_in_as("grace", "admin", &[("acme", "admin")]).await;
    grace.post("/v1/tenants", json!({ "slug": "initech", "name": "Initech" })).await;
    assert_eq!(grace.get(SIGN_IN).await.status, 303);
    let sid = grace.get("/api/auth/session").await.json()["session"]["id"].clone();
    let path = format!("/v1/users/{}", me(&grace).await["id"].as_str().unwrap());
    assert_eq!(delete(&owner, &path).await.status, 204);
    assert_eq!(grace.get("/api/auth/session").await.status, 401);
    server
        .until("acme", |t| {
            t.is_some_and(|t| t.changes_asked > 0 && t.changes_done == t.changes_asked)
        })
        .await;
    let sent = server
        .orchestrator
        .specs
        .lock()
        .unwrap()
        .iter()
        .flat_map(|a| a.revoked_sessions.clone())
        .collect::<Vec<_>>();
    assert!(sent.iter().any(|ended| json!(ended) == sid), "{sent:?}");
    assert_eq!(owner.get("/v1/tenants/initech").await.json()["owner_id"], Value::Null);
    assert_eq!(delete(&owner, &path).await.problem(), "404 resource_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_memberships_do_not_grow_the_cookie() {
    let (server, _owner) = with_tenants().await;
    let few = server.sign_in_as("few", "none", &[("acme", "viewer")]).await;
    server
        .database
        .sql(
            "INSERT INTO tenants (id, slug, name, limits, policy) \
             SELECT gen_random_uuid(), 'many-' || n, 'Many', '{}', '{}' FROM generate_series(1, 200) n",
        )
        .await;
    let many = server.sign_in_as("many", "none", &[]).await;
    server
        .database
        .sql(
            "INSERT INTO memberships (tenant_id, user_id, role) SELECT tenants.id, users.id, 'viewer' \
             FROM tenants, users WHERE slug LIKE 'many-%' AND email = 'many@example.com'",
        )
        .await;
    assert_eq!(me(&many).await["tenants"].as_array().unwrap().len(), 200);
    assert_eq!(slugs(&many.get("/v1/tenants?limit=500").await.json()).len(), 200);
    assert_eq!(many.cookie.as_ref().unwrap().len(), few.cookie.as_ref().unwrap().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_managed_by_forms_alone() {
    let (server, owner) = with_tenants().await;
    let invited = owner
        .submit("/admin/team/invitations", &[("email", "grace@example.com"), ("role", "viewer")])
        .await;
    assert_eq!(invited.status, 201);
    let text = invited.text();
    let link =
        text.split("http://localhost:3100").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let page = owner.visit("/admin/team").await.text();
    assert!(page.contains("grace@example.com") && !page.contains(&link), "{page}");
    let (grace, _) = sign_up(&server, &link).await;
    let id = me(&grace).await["id"].as_str().unwrap().to_owned();
    let role = format!("/admin/team/{id}/role");
    assert_eq!(owner.submit(&role, &[("role", "none")]).await.header("location"), "/admin/team");
    assert_eq!(me(&grace).await["role"], "none");
    assert_eq!(owner.submit(&role, &[("role", "king")]).await.status, 422);
    let bad = owner
        .submit("/admin/tenants/acme/members/invitations", &[("email", "x"), ("role", "member")])
        .await;
    assert!(bad.status == 422 && bad.text().contains("email-fault"), "{}", bad.text());
    let form = [("email", "grace@example.com"), ("role", "member")];
    let invited = owner.submit("/admin/tenants/acme/members/invitations", &form).await.text();
    let link = invited
        .split("http://localhost:3100")
        .nth(1)
        .unwrap()
        .split('<')
        .next()
        .unwrap()
        .to_owned();
    let mut grace = grace;
    let rotated = grace.submit(&link, &[]).await;
    assert_eq!(rotated.status, 303);
    grace = server.new_session_of("grace@example.com").await;
    let page = owner.visit("/admin/tenants/acme/members").await.text();
    assert!(page.contains("grace@example.com"), "{page}");
    assert!(grace.visit("/admin/tenants/acme/members").await.text().contains("grace@example.com"));
    let remove = format!("/admin/tenants/acme/members/{id}/remove");
    assert_eq!(grace.submit(&remove, &[]).await.status, 403);
    assert_eq!(owner.submit(&remove, &[]).await.header("location"), "/admin/tenants/acme/members");
    assert_eq!(
        owner.submit(&format!("/admin/team/{id}/remove"), &[]).await.header("location"),
        "/admin/team"
    );
    assert_eq!(grace.get("/api/auth/session").await.status, 401);
}

/// Whether a visitor can still use the link, by its page and by its form.
async fn is_open(server: &Server, link: &str) -> bool {
    let page = server.visitor.get(link).await;
    if page.status == 200 {
        return true;
    }
    assert_eq!(page.problem(), "410 invitation_ended");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = "name=Grace&password=correct+horse+battery";
    let made = server.visitor.send(Method::POST, link, &form, body).await;
    assert_eq!(made.problem(), "410 invitation_ended");
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_worth_what_the_rights_of_its_inviter_are_worth() {
    let (server, owner) = with_tenants().await;
    let sql = async |text: &str| server.database.sql(text).await;
    let admin = server.sign_in_as("admin", "none", &[("acme", "admin")]).await;
    let link = invite(&admin, "/v1/tenants/acme/invitations", "a@example.com", "member").await;
    assert!(is_open(&server, &link).await);
    sql("UPDATE memberships SET role = 'member'").await;
    assert!(!is_open(&server, &link).await, "the inviter is no admin any more");
    sql("UPDATE memberships SET role = 'admin'").await;
    assert!(is_open(&server, &link).await);
    sql("DELETE FROM memberships").await;
    assert!(!is_open(&server, &link).await, "the inviter has left");

    let operator = server.sign_in_as("operator", "admin", &[]).await;
    let link = invite(&operator, "/v1/invitations", "b@example.com", "admin").await;
    let of_tenant = invite(&operator, "/v1/tenants/acme/invitations", "c@example.com", "admin");
    let of_tenant = of_tenant.await;
    assert!(is_open(&server, &link).await && is_open(&server, &of_tenant).await);
    sql("UPDATE users SET role = 'viewer' WHERE name = 'operator'").await;
    assert!(!is_open(&server, &link).await && !is_open(&server, &of_tenant).await);
    let path = format!("/v1/users/{}", me(&operator).await["id"].as_str().unwrap());
    assert_eq!(delete(&owner, &path).await.status, 204);
    assert_eq!(server.database.count("invitations WHERE email = 'b@example.com'").await, 0);

    // A key: until it is revoked, and no longer than it lives.
    for tenant in [Some("acme"), None] {
        let expires_at = Some(server.now() + Duration::from_secs(3_600));
        let role = protocol::api_keys::Role::Admin;
        let key = TestKey { is_admin: tenant.is_none(), expires_at, ..TestKey::new(tenant, role) };
        let inviter = server.visitor.with_key(&server.insert_key(key).await);
        let invitation = json!({ "email": "d@example.com", "role": "viewer" });
        let created = inviter.post("/v1/tenants/acme/invitations", invitation).await;
        assert_eq!(created.status, 201, "{}", created.text());
        assert_eq!(created.json()["expires_at"], "2027-01-15T09:00:00.000Z");
        let url = created.json()["url"].as_str().unwrap().to_owned();
        let link = url.strip_prefix("http://localhost:3100").unwrap();
        assert!(is_open(&server, link).await);
        sql("UPDATE api_keys SET revoked = true").await;
        assert!(!is_open(&server, link).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_promoted_at_an_address_that_an_inviter_may_hold() {
    let (server, owner) = with_tenants().await;
    let client_admin = server.sign_in_as("client", "none", &[("acme", "admin")]).await;
    let invitations = "/v1/tenants/acme/invitations";
    let link = invite(&client_admin, invitations, "boss@example.com", "viewer").await;
    // The inviter keeps the link and makes the account.
    let (mut taken, _) = sign_up(&server, &link).await;
    let id = me(&taken).await["id"].as_str().unwrap().to_owned();
    let (user, member) = (format!("/v1/users/{id}"), format!("/v1/tenants/globex/members/{id}"));
    let role = json!({ "role": "viewer" });
    assert_eq!(patch(&owner, &user, "viewer").await.problem(), "409 address_unconfirmed");
    let added = owner.json(Method::PUT, &member, &[], role.clone()).await;
    assert_eq!(added.problem(), "409 address_unconfirmed");
    // Within the inviter's own tenant nothing more is given than the inviter could have taken.
    let own = format!("/v1/tenants/acme/members/{id}");
    let member_of_acme =
        client_admin.json(Method::PUT, &own, &[], json!({ "role": "admin" })).await;
    assert_eq!(member_of_acme.status, 200);
    assert_eq!(member_of_acme.json()["role"], "admin");
    // A link that the operator hands to the person confirms the address, up to the operator's own role.
    let operator = server.sign_in_as("operator", "admin", &[]).await;
    let link = invite(&operator, "/v1/invitations", "boss@example.com", "viewer").await;
    let accepted = taken.submit(&link, &[]).await;
    assert_eq!(accepted.status, 303, "{}", accepted.text());
    taken = server.new_session_of("boss@example.com").await;
    assert_eq!(me(&taken).await["role"], "viewer");
    assert_eq!(owner.json(Method::PUT, &member, &[], role).await.status, 200);
    assert_eq!(patch(&owner, &user, "admin").await.status, 200);
    assert_eq!(patch(&owner, &user, "owner").await.problem(), "409 address_unconfirmed");
    let link = invite(&owner, "/v1/invitations", "boss@example.com", "owner").await;
    taken = server.new_session_of("boss@example.com").await;
    assert_eq!(taken.submit(&link, &[]).await.status, 303);
    taken = server.new_session_of("boss@example.com").await;
    assert_eq!(me(&taken).await["role"], "owner");
    let again = json!({ "email": "boss@example.com", "role": "viewer" });
    assert_eq!(owner.post("/v1/invitations", again).await.problem(), "409 already_member");
}

#[tokio::test(flavor = "multi_thread")]
async fn invitations_of_one_address_at_once_leave_one() {
    // Without an owner nothing orders the callers.
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    let admin = server.visitor.with_key(&server.admin_key().await);
    let invited = (0..12).map(|_| {
        let admin = admin.clone();
        tokio::spawn(async move {
            let body = json!({ "email": "a@example.com", "role": "viewer" });
            admin.post("/v1/invitations", body).await
        })
    });
    let mut created = 0;
    for response in futures_util::future::join_all(invited).await {
        let response = response.unwrap();
        match response.status.as_u16() {
            201 => created += 1,
            _ => assert_eq!(response.problem(), "409 already_invited"),
        }
    }
    assert!(created > 0);
    assert_eq!(server.database.count("invitations").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn invitations_are_listed_by_page() {
    let (_server, owner) = with_tenants().await;
    for name in ["a", "b", "c"] {
        invite(&owner, "/v1/invitations", &format!("{name}@example.com"), "viewer").await;
    }
    let first = owner.get("/v1/invitations?limit=2").await.json();
    assert_eq!(first["invitations"][0]["email"], "c@example.com");
    let cursor = first["next"].as_str().unwrap();
    let last = owner.get(&format!("/v1/invitations?limit=2&cursor={cursor}")).await.json();
    assert_eq!(last["invitations"][0]["email"], "a@example.com");
    assert_eq!(last["next"], Value::Null);
    for bad in ["limit=0", "limit=501", "cursor=x", "what=1"] {
        let response = owner.get(&format!("/v1/invitations?{bad}")).await;
        assert_eq!(response.problem(), "400 invalid_query", "{bad}");
    }
}

/// A page offers what its person may do, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_tenant_offers_what_its_person_may_do() {
    let (server, owner) = with_tenants().await;
    let viewer = server.sign_in_as("vic", "none", &[("acme", "viewer")]).await;
    let member = server.sign_in_as("mia", "none", &[("acme", "member")]).await;
    let admin = server.sign_in_as("ann", "none", &[("acme", "admin")]).await;
    let base = "/admin/tenants/acme";
    let links =
        ["stop", "restart", "keys", "edit", "delete"].map(|part| format!("{base}/{part}\""));
    for (person, offered) in [
        (&viewer, &[][..]),
        (&member, &["stop", "restart"]),
        (&admin, &["stop", "restart", "keys"]),
        (&owner, &["stop", "restart", "keys", "edit", "delete"]),
    ] {
        let page = person.visit(base).await.text();
        let found = links.iter().filter(|link| page.contains(link.as_str()));
        let expected = offered.iter().map(|part| format!("{base}/{part}\""));
        assert_eq!(found.cloned().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        let is_operator = offered.contains(&"edit");
        assert_eq!(page.contains("href=\"/admin/audit\""), is_operator);
        assert_eq!(page.contains("href=\"/admin/team\""), is_operator);
    }
}
