//! The requests of commands: the API's own type parses each body, which holds the values of the flags.

use protocol::api_keys::NewKey;
use protocol::apps::{NewApp, NewRelease, SetRelease};
use protocol::control::NewTenant;
use protocol::images::SetRegistry;
use protocol::packages::NewPackageKey;
use protocol::people::{ChangeUser, NewInvitation, SetMember};
use protocol::rollouts::NewRollout;
use protocol::triggers::NewTrigger;
use protocol::variables::SetVariable;
use protocol::webhooks::NewWebhook;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{Cial, Server, json as json_response};

/// Fails when the type has a rule that the body breaks; the types refuse unknown fields.
type Reader = fn(&str) -> serde_json::Result<()>;

fn read_as<T: DeserializeOwned>(body: &str) -> serde_json::Result<()> {
    serde_json::from_str::<T>(body).map(drop)
}

fn cases() -> Vec<(&'static str, &'static str, Reader, Value)> {
    vec![
        (
            "tenants create acme --app shop --release v2 --no-wait",
            "POST /v1/tenants",
            read_as::<NewTenant>,
            json!({ "slug": "acme", "name": "acme", "app": "shop", "release": "v2" }),
        ),
        (
            "tenants set acme --name Acme --require-sign-in true",
            "PATCH /v1/tenants/acme",
            read_as::<Value>,
            json!({ "name": "Acme", "policy": { "require_sign_in": true } }),
        ),
        (
            "tenants set-release acme v2",
            "PUT /v1/tenants/acme/release",
            read_as::<SetRelease>,
            json!({ "release": "v2" }),
        ),
        (
            "tenants unpin acme",
            "PATCH /v1/tenants/acme",
            read_as::<Value>,
            json!({ "pinned": false }),
        ),
        (
            "triggers create hourly --workflow etl --cron @hourly --tenant acme",
            "POST /v1/tenants/acme/triggers",
            read_as::<NewTrigger>,
            json!({ "name": "hourly", "workflow": "etl", "kind": "cron", "cron": "@hourly", "context": {} }),
        ),
        (
            "apps release create shop --image r.example/shop:1 --pull always",
            "POST /v1/apps/shop/releases",
            read_as::<NewRelease>,
            json!({ "image": "r.example/shop:1", "pull": "always" }),
        ),
        (
            "registries set 127.0.0.1:5000 --username bob --file password",
            "PUT /v1/registries/127.0.0.1%3A5000",
            read_as::<SetRegistry>,
            json!({ "username": "bob", "password": "hunter2" }),
        ),
        (
            "packages keys add ci --file password",
            "POST /v1/package-keys",
            read_as::<NewPackageKey>,
            json!({ "name": "ci", "public_key": "hunter2" }),
        ),
        (
            "tenants env set acme MODE=a=b",
            "PUT /v1/tenants/acme/env/MODE",
            read_as::<SetVariable>,
            json!({ "value": "a=b" }),
        ),
        (
            "tenants secrets set acme TOKEN --file value",
            "PUT /v1/tenants/acme/secrets/TOKEN",
            read_as::<SetVariable>,
            json!({ "value": "two\nlines" }),
        ),
        (
            "apps create shop --name Shop",
            "POST /v1/apps",
            read_as::<NewApp>,
            json!({ "slug": "shop", "name": "Shop" }),
        ),
        (
            "apps env set shop MODE=a=b",
            "PUT /v1/apps/shop/env/MODE",
            read_as::<SetVariable>,
            json!({ "value": "a=b" }),
        ),
        (
            "apps secrets set shop TOKEN --file value",
            "PUT /v1/apps/shop/secrets/TOKEN",
            read_as::<SetVariable>,
            json!({ "value": "two\nlines" }),
        ),
        (
            "apps release create shop --image shop:2 --no-smoke-start",
            "POST /v1/apps/shop/releases",
            read_as::<NewRelease>,
            json!({ "image": "shop:2", "smoke_start": false }),
        ),
        (
            "apps rollout start shop --release v2 --percent 10 --window 02:00-04:00 --max-failures 2 --max-error-percent 5 --watch 2m --no-wait",
            "POST /v1/apps/shop/rollouts",
            read_as::<NewRollout>,
            json!({
                "release": "v2", "waves": { "percent": 10 }, "window": "02:00-04:00", "max_failures": 2,
                "max_error_percent": 5, "watch_seconds": 120,
            }),
        ),
        (
            "apps rollout start shop --release v1 --wave-size 5 --only-idle --no-wait",
            "POST /v1/apps/shop/rollouts",
            read_as::<NewRollout>,
            json!({ "release": "v1", "waves": { "size": 5 }, "window": "idle" }),
        ),
        (
            "keys create ci --role read --never-expires --tenant acme",
            "POST /v1/tenants/acme/keys",
            read_as::<NewKey>,
            json!({ "name": "ci", "role": "read", "expires_in_days": 0 }),
        ),
        (
            "keys create ops --role admin --is-admin",
            "POST /v1/auth/keys",
            read_as::<NewKey>,
            json!({ "name": "ops", "role": "admin", "is_admin": true, "expires_in_days": 30 }),
        ),
        (
            "users set 1 --role viewer",
            "PATCH /v1/users/1",
            read_as::<ChangeUser>,
            json!({ "role": "viewer" }),
        ),
        (
            "users set 1 --name Grace",
            "PATCH /v1/users/1",
            read_as::<ChangeUser>,
            json!({ "name": "Grace" }),
        ),
        (
            "members set 1 --role member --tenant acme",
            "PUT /v1/tenants/acme/members/1",
            read_as::<SetMember>,
            json!({ "role": "member" }),
        ),
        (
            "invitations create bob@example.com --role admin --tenant acme",
            "POST /v1/tenants/acme/invitations",
            read_as::<NewInvitation>,
            json!({ "email": "bob@example.com", "role": "admin" }),
        ),
        (
            "webhooks create https://example.com/hook",
            "POST /v1/webhooks",
            read_as::<NewWebhook>,
            json!({ "url": "https://example.com/hook" }),
        ),
        (
            "api post /v1/apps -d @body.json",
            "POST /v1/apps",
            read_as::<NewApp>,
            json!({ "slug": "shop", "name": "Shop" }),
        ),
    ]
}

#[test]
fn each_command_sends_what_the_api_reads() {
    for (line, request, read, body) in cases() {
        let server = Server::always(json_response("200 OK", &json!({})));
        let cial = Cial::at(&server)
            .file("value", "two\nlines\n")
            .file("password", "hunter2\n")
            .file("body.json", r#"{ "slug": "shop", "name": "Shop" }"#);
        let args: Vec<_> = line.split(' ').collect();
        let output = cial.command(&args).current_dir(cial.home()).output().unwrap();
        assert!(output.status.success(), "{}", cial.show(&args, &output));
        assert_eq!(server.requests(), [request], "{line}");
        let text = server.texts().remove(0);
        let (_, sent) = text.split_once("\r\n\r\n").unwrap();
        read(sent).unwrap_or_else(|error| panic!("{line}: {error} in {sent}"));
        assert_eq!(serde_json::from_str::<Value>(sent).unwrap(), body, "{line}");
    }
}

#[test]
fn a_body_that_is_no_json_or_no_file_is_not_sent() {
    let server = Server::always(json_response("200 OK", &json!({})));
    for data in ["@missing.json", "{"] {
        let text = Cial::at(&server).run(&["api", "POST", "/v1/apps", "-d", data]);
        assert!(text.contains("exit code 2") && text.contains("cannot read the body"), "{text}");
    }
    assert_eq!(server.requests(), [""; 0]);
}

/// Filters travel as the query, and the export as it is.
#[test]
fn an_export_of_the_audit_is_copied_byte_by_byte() {
    let rows = "id,actor\n1,\"a, b\"\n";
    let server = Server::always(crate::support::response("200 OK", "", "text/csv", rows));
    let args = ["audit", "export", "--actor", "a b", "--since", "2026-11-30T08:00:00Z"];
    let output = Cial::at(&server).command(&args).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), rows.as_bytes()));
    let [request] = &server.requests()[..] else { panic!("{:?}", server.requests()) };
    assert!(
        request.starts_with("GET /v1/audit/export?format=csv&actor=a%20b&since=2026-11-30T08"),
        "{request}"
    );
}
