//! Every kind of caller, at a server with the tenants acme and globex.

use app_api::auth::api_key::KeyText;
use app_api::db::api_key::{self, NewApiKey};
use app_api::db::user::{self, User};
use protocol::Timestamp;
use protocol::api_keys::Role;
use serde_json::json;
use uuid::Uuid;

use super::{EMAIL, PASSWORD, Server, TestClient};

/// Where the rights of a caller lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The tenant in the path.
    Here,
    Elsewhere,
    Everywhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No session and no key; also a forged cookie, or that of an ended session.
    Anonymous,
    /// A person with this platform role.
    Operator(&'static str),
    Member(Role, Place),
    Key(Role, Place),
    AdminKey,
    /// A key that a person with this role there got by `cial login`; everywhere: an admin or viewer of the platform.
    LoginKey(Role, Place),
    /// Malformed, unknown, expired or revoked, or of a tenant that is gone.
    DeadKey,
}

#[derive(Clone, Debug)]
pub(crate) struct TestCaller {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) client: TestClient,
    pub(crate) key: Option<String>,
}

pub(crate) const ROLES: [Role; 3] = [Role::Read, Role::Write, Role::Admin];

/// The name of a membership with this role.
fn membership(role: Role) -> &'static str {
    match role {
        Role::Read => "viewer",
        Role::Write => "member",
        Role::Admin => "admin",
    }
}

/// A key as a test wants it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TestKey<'a> {
    pub(crate) role: Role,
    pub(crate) tenant: Option<&'a str>,
    /// The e-mail address of the person to whom the key belongs.
    pub(crate) person: Option<&'a str>,
    pub(crate) is_admin: bool,
    pub(crate) expires_at: Option<Timestamp>,
}

impl<'a> TestKey<'a> {
    /// A key of one tenant, or of all for `None`.
    pub(crate) fn new(tenant: Option<&'a str>, role: Role) -> Self {
        Self { role, tenant, person: None, is_admin: false, expires_at: None }
    }
}

impl Server {
    /// Inserts a key and returns its text.
    pub(crate) async fn insert_key(&self, key: TestKey<'_>) -> String {
        let text = KeyText::random().unwrap();
        let tenant_id = match key.tenant {
            Some(slug) => Some(self.row(slug).await.id),
            None => None,
        };
        let person_id = match key.person {
            Some(email) => Some(self.user(email).await.id),
            None => None,
        };
        let row = NewApiKey {
            id: Uuid::now_v7(),
            key_hash: &text.hash(),
            name: "test",
            role: key.role.as_str(),
            is_admin: key.is_admin,
            tenant_id,
            person_id,
            created_by_user: None,
            created_by_key: None,
            created_at: self.now(),
            expires_at: key.expires_at,
        };
        assert!(api_key::insert(&mut self.database.conn().await, &row).await.unwrap());
        text.reveal().to_owned()
    }

    /// A key of one tenant, or of all for `None`.
    pub(crate) async fn key_of(&self, tenant: Option<&str>, role: Role) -> String {
        self.insert_key(TestKey::new(tenant, role)).await
    }

    pub(crate) async fn admin_key(&self) -> String {
        self.insert_key(TestKey { is_admin: true, ..TestKey::new(None, Role::Admin) }).await
    }

    pub(crate) async fn user(&self, email: &str) -> User {
        let found = user::by_email(&mut self.database.conn().await, email).await;
        found.unwrap().unwrap_or_else(|| panic!("no user {email}"))
    }

    /// Signs in as a new person with a platform role and memberships, with the owner's password.
    pub(crate) async fn sign_in_as(
        &self,
        name: &str,
        platform_role: &str,
        memberships: &[(&str, &str)],
    ) -> TestClient {
        let email = format!("{name}@example.com");
        self.database
            .sql(&format!(
                "INSERT INTO users (id, email, name, role, password_hash, vouched_role) \
                 SELECT gen_random_uuid(), '{email}', '{name}', '{platform_role}', password_hash, 'owner' FROM users WHERE email = '{EMAIL}'"
            ))
            .await;
        for (slug, role) in memberships {
            self.database
                .sql(&format!(
                    "INSERT INTO memberships (tenant_id, user_id, role) SELECT tenants.id, users.id, '{role}' \
                     FROM tenants, users WHERE slug = '{slug}' AND email = '{email}'"
                ))
                .await;
        }
        let mut client = self.visitor.new_client();
        let request = json!({ "email": email, "password": PASSWORD });
        let signed_in = client.post("/api/auth/sign-in/email", request).await;
        assert_eq!(signed_in.status, 200, "{}", signed_in.text());
        client.store_cookie(&signed_in);
        client
    }

    /// Signs the owner, or somebody else with the owner's password, in once more.
    pub(crate) async fn new_session_of(&self, email: &str) -> TestClient {
        let mut client = self.visitor.new_client();
        let body = json!({ "email": email, "password": PASSWORD });
        client.store_cookie(&client.post("/api/auth/sign-in/email", body).await);
        client
    }

    /// One caller of every kind. `owner` has created acme and globex; a third tenant comes and goes.
    pub(crate) async fn every_caller(&self, owner: &TestClient) -> Vec<TestCaller> {
        let nobody = self.visitor.clone();
        let mut callers = Vec::new();
        let mut add = |name: String, kind, client: &TestClient, key: Option<String>| {
            callers.push(TestCaller { name, kind, client: client.clone(), key });
        };
        add("nobody".into(), Kind::Anonymous, &nobody, None);
        let mut forger = nobody.clone();
        forger.cookie = Some(format!("cial_admin={}", "A".repeat(43)));
        add("a forged cookie".into(), Kind::Anonymous, &forger, None);
        let signed_out = self.sign_in_as("gone", "admin", &[]).await;
        signed_out.send("POST".parse().unwrap(), "/api/auth/sign-out", &[], "").await;
        add("an ended session".into(), Kind::Anonymous, &signed_out, None);

        add("the owner".into(), Kind::Operator("owner"), owner, None);
        for role in ["admin", "viewer"] {
            let client = self.sign_in_as(&format!("platform-{role}"), role, &[]).await;
            add(format!("a platform {role}"), Kind::Operator(role), &client, None);
        }
        let without = self.sign_in_as("without", "none", &[]).await;
        add("a person without rights".into(), Kind::Operator("none"), &without, None);
        for (slug, place) in [("acme", Place::Here), ("globex", Place::Elsewhere)] {
            for role in ROLES {
                let member = membership(role);
                let client =
                    self.sign_in_as(&format!("{slug}-{member}"), "none", &[(slug, member)]).await;
                add(format!("a {member} of {slug}"), Kind::Member(role, place), &client, None);
                let key = self.key_of(Some(slug), role).await;
                add(format!("a {role} key of {slug}"), Kind::Key(role, place), &nobody, Some(key));
                // The person has this role, the key could do more.
                let email = format!("{slug}-{member}@example.com");
                let key = TestKey::new(Some(slug), Role::Admin);
                let key = self.insert_key(TestKey { person: Some(&email), ..key }).await;
                let name = format!("a login key of a {member} of {slug}");
                add(name, Kind::LoginKey(role, place), &nobody, Some(key));
            }
        }
        for role in ROLES {
            let key = self.key_of(None, role).await;
            let kind = Kind::Key(role, Place::Everywhere);
            add(format!("a {role} key of all tenants"), kind, &nobody, Some(key));
        }
        for (platform_role, role) in [("admin", Role::Admin), ("viewer", Role::Read)] {
            // Not the people above, whose sessions their keys would end.
            let name = format!("key-{platform_role}");
            self.sign_in_as(&name, platform_role, &[]).await;
            let email = format!("{name}@example.com");
            let key = TestKey { person: Some(&email), ..TestKey::new(None, role) };
            let key = self.insert_key(key).await;
            let kind = Kind::LoginKey(role, Place::Everywhere);
            add(format!("a login key of a platform {platform_role}"), kind, &nobody, Some(key));
        }
        add("an is_admin key".into(), Kind::AdminKey, &nobody, Some(self.admin_key().await));

        let departing = json!({ "slug": "departed", "name": "Departed" });
        owner.post("/api/admin/tenants", departing).await;
        let departed = self.key_of(Some("departed"), Role::Admin).await;
        self.database.sql("DELETE FROM tenants WHERE slug = 'departed'").await;
        let revoked = self.admin_key().await;
        let hash = format!("sha256('{revoked}')");
        self.database
            .sql(&format!("UPDATE api_keys SET revoked = true WHERE key_hash = {hash}"))
            .await;
        let expired = self
            .insert_key(TestKey {
                is_admin: true,
                expires_at: Some(self.now()),
                ..TestKey::new(None, Role::Admin)
            })
            .await;
        for (name, key) in [
            ("a key of a tenant that is gone", departed),
            ("a revoked key", revoked),
            ("an expired key", expired),
            ("an unknown key", KeyText::random().unwrap().reveal().to_owned()),
            ("a malformed key", "cial_".to_owned()),
        ] {
            add(name.to_owned(), Kind::DeadKey, &nobody, Some(key));
        }
        callers
    }
}
