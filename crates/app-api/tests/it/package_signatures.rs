//! Signatures of packages: where they are required, nothing else is stored, and nothing else runs.

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::http::Method;
use protocol::packages::{PackageSignature, to_hex};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::orchestrator::TaskReply;
use crate::harness::schema::Schemas;
use crate::harness::work::{archive, upload, upload_signed};
use crate::harness::{
    EMAIL, FakeOrchestrator, Server, Setup, TEST_TIMEOUT, TestClient, TestResponse,
};
use crate::packages::{DESCRIPTION, call, two_tenants_of};

const PACKAGES: &str = "/v1/tenants/acme/packages";
const RUN: &str = "/v1/tenants/acme/workflows/nightly/execute";
const RETRIED: &str = r#"
name = "acme-etl"
version = "1.2.0"
[[workflow]]
name = "nightly"
[[workflow.task]]
name = "fetch"
command = ["bin/fetch"]
retries = 1
"#;

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn public(pair: &Ed25519KeyPair) -> String {
    to_hex(pair.public_key().as_ref())
}

/// Signs an archive like `cial package sign`.
fn sign(pair: &Ed25519KeyPair, archive: &[u8]) -> PackageSignature {
    PackageSignature {
        public_key: pair.public_key().as_ref().try_into().unwrap(),
        signature: pair.sign(&Sha256::digest(archive)).as_ref().try_into().unwrap(),
    }
}

/// A server with the tenant acme and a key of it.
async fn with_rule(rule: &str, replies: &[TaskReply]) -> (Server, TestClient, String) {
    let orchestrator = FakeOrchestrator::obedient();
    orchestrator.task_replies.lock().unwrap().extend(replies.iter().cloned());
    let mut setup = Setup::new(orchestrator).await;
    setup.env.push(("CIAL_PACKAGE_SIGNATURES", rule.to_owned()));
    let (server, owner, [key, _]) = two_tenants_of(setup).await;
    (server, owner, key)
}

async fn trust(owner: &TestClient, name: &str, public_key: &str) -> TestResponse {
    owner.post("/v1/package-keys", json!({ "name": name, "public_key": public_key })).await
}

async fn distrust(owner: &TestClient, name: &str) -> TestResponse {
    owner.send(Method::DELETE, &format!("/v1/package-keys/{name}"), &[], "").await
}

async fn run(server: &Server, key: &str) -> TestResponse {
    let authorization = format!("Bearer {key}");
    let headers = [("authorization", authorization.as_str())];
    server.visitor.json(Method::POST, RUN, &headers, json!({ "context": {} })).await
}

async fn until_ended(server: &Server, key: &str, id: &Value) -> Value {
    let path = format!("/v1/tenants/acme/executions/{}", id.as_str().unwrap());
    let ended = async {
        loop {
            let shown = call(&server.visitor, Method::GET, &path, key).await.json();
            if ["succeeded", "failed"].iter().any(|state| shown["state"] == *state) {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, ended).await.expect("the execution does not end")
}

#[tokio::test(flavor = "multi_thread")]
async fn where_signatures_are_required_nothing_else_is_stored() {
    let (server, owner, key) = with_rule("required", &[]).await;
    let archive = archive(DESCRIPTION, "acme-etl-1.2.0");
    let (trusted, other) = (pair(1), pair(2));
    assert_eq!(trust(&owner, "ci", &public(&trusted)).await.status, 201);
    let genuine = sign(&trusted, &archive);
    let of_other_key = sign(&other, &archive);
    let of_other_file = sign(&trusted, b"another archive");
    let stolen = PackageSignature { public_key: genuine.public_key, ..of_other_key };
    let table = [
        ("none", None, "400 package_unsigned"),
        ("empty", Some(String::new()), "400 package_signature_invalid"),
        ("no signature", Some("sealed".to_owned()), "400 package_signature_invalid"),
        ("of another key", Some(of_other_key.to_string()), "400 package_key_unknown"),
        ("of another file", Some(of_other_file.to_string()), "400 package_signature_invalid"),
        ("under another name", Some(stolen.to_string()), "400 package_signature_invalid"),
    ];
    for (name, signature, expected) in table {
        let sent = (archive.as_slice(), signature.as_deref());
        let refused = upload_signed(&server.visitor, &key, "acme", sent).await;
        assert_eq!(refused.problem(), expected, "{name}");
    }
    let text = genuine.to_string();
    let mut changed = archive.clone();
    *changed.last_mut().unwrap() ^= 1;
    let refused = upload_signed(&server.visitor, &key, "acme", (&changed, Some(&text))).await;
    assert_eq!(refused.problem(), "400 package_signature_invalid");
    // A genuine signature excuses nothing else.
    let text = sign(&trusted, b"no archive").to_string();
    let refused = upload_signed(&server.visitor, &key, "acme", (b"no archive", Some(&text))).await;
    assert_eq!(refused.problem(), "400 package_corrupt");
    for table in [
        "t_acme.cial_packages",
        "t_acme.cial_package_pieces",
        "t_acme.cial_workflows",
        "package_signatures",
        "audit_log WHERE action = 'package.upload'",
    ] {
        assert_eq!(server.database.count(table).await, 0, "{table}");
    }

    let text = genuine.to_string();
    let stored = upload_signed(&server.visitor, &key, "acme", (&archive, Some(&text))).await;
    assert_eq!(stored.status, 201, "{}", stored.text());
    let list = call(&server.visitor, Method::GET, PACKAGES, &key).await.json();
    let signed_by = json!({ "public_key": public(&trusted), "key": "ci" });
    assert_eq!(list["items"][0]["signed_by"], signed_by);
    assert_eq!(Schemas::served(&server.visitor).await.violations("PackageList", &list), [""; 0]);
    let audited = &server.audited("package.upload").await[0];
    assert_eq!(audited.3["signed_by"], public(&trusted));
    let again = upload_signed(&server.visitor, &key, "acme", (&archive, Some(&text))).await;
    assert_eq!(again.problem(), "409 package_exists");
    assert_eq!(server.database.count("package_signatures").await, 1);
    let package = format!("{PACKAGES}/acme-etl/1.2.0");
    assert_eq!(call(&server.visitor, Method::DELETE, &package, &key).await.status, 204);
    assert_eq!(server.database.count("package_signatures").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_of_a_key_that_is_deleted_stay_and_run_no_more() {
    let fails = || TaskReply::Ends { failure: Some("once".to_owned()), result: None };
    let succeeds = || TaskReply::Ends { failure: None, result: None };
    let (server, owner, key) = with_rule("required", &[succeeds(), fails(), succeeds()]).await;
    let (archive, trusted) = (archive(RETRIED, "acme-etl-1.2.0"), pair(1));
    assert_eq!(trust(&owner, "ci", &public(&trusted)).await.status, 201);
    let text = sign(&trusted, &archive).to_string();
    let stored = upload_signed(&server.visitor, &key, "acme", (&archive, Some(&text))).await;
    assert_eq!(stored.status, 201, "{}", stored.text());
    let first = run(&server, &key).await.json()["execution_id"].clone();
    assert_eq!(until_ended(&server, &key, &first).await["state"], "succeeded");

    // An execution that waits for its second attempt begins no further task.
    let second = run(&server, &key).await.json()["execution_id"].clone();
    let waits = "t_acme.cial_tasks WHERE attempts = 1 AND state = 'waiting'";
    let waiting = async {
        while server.database.count(waits).await == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, waiting).await.expect("no task waits");
    assert_eq!(distrust(&owner, "ci").await.status, 204);
    server.advance_clock(Duration::from_secs(60));
    let failed = until_ended(&server, &key, &second).await;
    assert_eq!(failed["state"], "failed");
    assert!(failed["reason"].as_str().unwrap().contains("this installation trusts"), "{failed}");
    assert_eq!(run(&server, &key).await.problem(), "409 package_untrusted");
    let list = call(&server.visitor, Method::GET, PACKAGES, &key).await.json();
    let signed_by = json!({ "public_key": public(&trusted), "key": null });
    assert_eq!(list["items"][0]["signed_by"], signed_by);

    // The key that comes back counts for what it signed before.
    assert_eq!(trust(&owner, "again", &public(&trusted)).await.json()["packages"], 1);
    let third = run(&server, &key).await.json()["execution_id"].clone();
    assert_eq!(until_ended(&server, &key, &third).await["state"], "succeeded");
    // A package that only the tables of the tenant know has no signature.
    server.database.sql("UPDATE package_signatures SET package_id = gen_random_uuid()").await;
    assert_eq!(run(&server, &key).await.problem(), "409 package_untrusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_signature_is_checked_where_there_is_one() {
    let (server, owner, key) = with_rule("optional", &[]).await;
    let (archive, unknown) = (archive(DESCRIPTION, "acme-etl-1.2.0"), pair(1));
    let text = sign(&unknown, &archive).to_string();
    let refused = upload_signed(&server.visitor, &key, "acme", (&archive, Some(&text))).await;
    assert_eq!(refused.problem(), "400 package_key_unknown");
    let stored = upload(&server.visitor, &key, "acme", &archive).await;
    assert_eq!(stored.status, 201, "{}", stored.text());
    let list = call(&server.visitor, Method::GET, PACKAGES, &key).await.json();
    assert_eq!(list["items"][0]["signed_by"], Value::Null);
    assert_eq!(run(&server, &key).await.status, 202);
    // The same installation, with another rule: what is unsigned runs no more.
    let mut replica = server.replica();
    replica.env.push(("CIAL_PACKAGE_SIGNATURES", "required".to_owned()));
    let strict = replica.start().await;
    assert_eq!(run(&strict, &key).await.problem(), "409 package_untrusted");
    assert_eq!(trust(&owner, "ci", &public(&unknown)).await.status, 201);
    assert_eq!(run(&strict, &key).await.problem(), "409 package_untrusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_added_listed_and_deleted_by_administrators() {
    let (server, owner, key) = with_rule("optional", &[]).await;
    let public_key = public(&pair(1));
    let added = trust(&owner, "ci", &public_key.to_uppercase()).await;
    assert_eq!(added.status, 201, "{}", added.text());
    let list = owner.get("/v1/package-keys").await.json();
    assert_eq!(list["keys"], json!([added.json()]));
    let shown = &list["keys"][0];
    assert_eq!((&shown["public_key"], &shown["created_by"]), (&json!(public_key), &json!(EMAIL)));
    let described = Schemas::served(&server.visitor).await;
    assert_eq!(described.violations("PackageKeyList", &list), [""; 0]);
    for (name, public_key) in [("ci", public(&pair(2))), ("other", public_key.clone())] {
        assert_eq!(trust(&owner, name, &public_key).await.problem(), "409 package_key_exists");
    }
    for (name, public_key, fields) in [
        ("CI", public(&pair(2)), vec!["name"]),
        ("", String::new(), vec!["name", "public_key"]),
        ("other", "-----BEGIN PRIVATE KEY-----".to_owned(), vec!["public_key"]),
    ] {
        let refused = trust(&owner, name, &public_key).await;
        assert_eq!(refused.problem(), "422 invalid_fields", "{name}");
        let errors = refused.json()["errors"].as_array().unwrap().clone();
        let found: Vec<_> = errors.iter().map(|error| error["field"].clone()).collect();
        assert_eq!(found, fields, "{name}");
    }
    // A key of a tenant adds none.
    let of_tenant = call(&server.visitor, Method::GET, "/v1/package-keys", &key).await;
    assert_eq!(of_tenant.problem(), "403 forbidden");
    for name in ["none", "%00"] {
        assert_eq!(distrust(&owner, name).await.status, 404, "{name}");
    }
    assert_eq!(distrust(&owner, "ci").await.status, 204);
    assert_eq!(owner.get("/v1/package-keys").await.json(), json!({ "keys": [] }));
    for action in ["package_key.add", "package_key.delete"] {
        let entries = server.audited(action).await;
        let (actor, resource, before, after) = &entries[0];
        assert_eq!((actor.as_str(), resource.as_str()), (EMAIL, "package_key:ci"), "{action}");
        let named = json!({ "public_key": public_key });
        assert!(before == &named || after == &named, "{before} {after}");
    }
}
