//! Tarballs of images: uploaded in parts, resumed after a cut, checked, and given up.

use std::time::Duration;

use axum::http::Method;
use protocol::problem::Code;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testkit::eventually;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::schema::Schemas;
use crate::harness::{FakeOrchestrator, Server, Setup, TEST_TIMEOUT, TestClient, TestResponse};

const UPLOADS: &str = "/v1/image-uploads";

/// Longer than what is written to the disk at once.
fn tarball() -> Vec<u8> {
    (0..3_000_000_u32).map(|at| (at % 251) as u8).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server whose uploads lie in a folder of the test.
async fn start() -> (Server, TestClient, tempfile::TempDir) {
    let state = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    setup.env.push(("CIAL_STATE_DIR", state.path().display().to_string()));
    let server = setup.start().await;
    let owner = server.sign_up().await;
    owner.post("/v1/apps", json!({ "slug": "notes", "name": "Notes" })).await;
    (server, owner, state)
}

async fn begin(client: &TestClient, tarball: &[u8]) -> Value {
    let new = json!({ "size": tarball.len(), "sha256": sha256(tarball) });
    let begun = client.post(UPLOADS, new).await;
    assert_eq!(begun.status, 201, "{}", begun.text());
    begun.json()
}

async fn put(client: &TestClient, id: &str, offset: usize, part: &[u8]) -> TestResponse {
    let path = format!("{UPLOADS}/{id}?offset={offset}");
    client.send(Method::PUT, &path, &[], part.to_vec()).await
}

async fn release(client: &TestClient, id: &str) -> TestResponse {
    client.post("/v1/apps/notes/releases", json!({ "upload": id })).await
}

/// Sends the head of a request for the rest of the tarball, and so many bytes of it, and leaves.
async fn cut_off(client: &TestClient, id: &str, offset: usize, bytes: &[u8], length: usize) {
    let mut stream = TcpStream::connect(client.address()).await.unwrap();
    let cookie = client.cookie.as_deref().unwrap();
    let head = format!(
        "PUT {UPLOADS}/{id}?offset={offset} HTTP/1.1\r\nhost: {}\r\ncookie: {cookie}\r\ncontent-length: {length}\r\n\r\n",
        client.address()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
}

/// Waits until so many bytes have arrived, and nobody writes any more.
async fn until_offset(client: &TestClient, id: &str, offset: usize) {
    eventually("the bytes", TEST_TIMEOUT, async || {
        let shown = client.get(&format!("{UPLOADS}/{id}")).await.json();
        // An empty part shows that no other request writes.
        Ok(shown["offset"] == offset && put(client, id, offset, b"").await.status == 200)
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_cut_off_anywhere_goes_on_and_arrives_whole() {
    let (server, owner, _state) = start().await;
    let tarball = tarball();
    let begun = begin(&owner, &tarball).await;
    let described = Schemas::served(&server.visitor).await;
    assert_eq!(described.violations("ImageUpload", &begun), [""; 0]);
    let id = begun["id"].as_str().unwrap().to_owned();
    let mut offset = 0;
    for bytes in [1, 511, 65_536, 1_048_577] {
        let part = &tarball[offset..offset + bytes];
        cut_off(&owner, &id, offset, part, tarball.len() - offset).await;
        offset += bytes;
        until_offset(&owner, &id, offset).await;
    }
    let early = release(&owner, &id).await;
    assert_eq!(early.problem(), "409 upload_conflict");
    assert!(early.text().contains(&format!("{offset} of {}", tarball.len())), "{}", early.text());
    for wrong in [0, offset - 1, offset + 1] {
        let refused = put(&owner, &id, wrong, b"x").await;
        assert_eq!(refused.problem(), "409 upload_conflict");
        assert!(refused.text().contains(&format!("offset {offset}.")), "{}", refused.text());
    }
    // A command that begins anew goes on, also after a restart.
    let server = server.restart().await;
    let again = begin(&owner_of(&server, &owner), &tarball).await;
    assert_eq!((&again["id"], &again["offset"]), (&json!(id), &json!(offset)));
    let owner = owner_of(&server, &owner);
    assert_eq!(put(&owner, &id, offset, &tarball[offset..]).await.status, 200);
    let made = release(&owner, &id).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let name = format!("upload.cial.invalid/tarball:{}", sha256(&tarball));
    assert_eq!(made.json()["image"], name);
    let loaded = server.orchestrator.loaded_images.lock().unwrap().clone();
    assert_eq!(loaded, [(sha256(&tarball), tarball)]);
    assert_eq!(owner.get(&format!("{UPLOADS}/{id}")).await.status, 404, "the release has it");
}

/// The same person at another server.
fn owner_of(server: &Server, owner: &TestClient) -> TestClient {
    let mut client = server.visitor.new_client();
    client.cookie.clone_from(&owner.cookie);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn another_digest_is_refused_and_removed() {
    let (server, owner, _state) = start().await;
    let begun = begin(&owner, b"announced").await;
    let id = begun["id"].as_str().unwrap();
    assert_eq!(put(&owner, id, 0, b"different").await.status, 200);
    let refused = release(&owner, id).await;
    assert_eq!(refused.problem(), "422 image_invalid");
    for digest in [sha256(b"announced"), sha256(b"different")] {
        assert!(refused.text().contains(&digest), "{}", refused.text());
    }
    assert_eq!(release(&owner, id).await.problem(), "404 resource_not_found");
    assert!(server.orchestrator.loaded_images.lock().unwrap().is_empty());
    let both = json!({ "upload": id, "image": "notes:1" });
    let both = owner.post("/v1/apps/notes/releases", both).await;
    assert_eq!(both.problem(), "422 invalid_fields");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_refused_needs_no_other_upload() {
    let (server, owner, _state) = start().await;
    let id = begin(&owner, b"tarball").await["id"].as_str().unwrap().to_owned();
    put(&owner, &id, 0, b"tarball").await;
    let reason = (Code::ImageInvalid, "The tarball has no manifest.json.".to_owned());
    *server.orchestrator.refuse_images.lock().unwrap() = Some(reason);
    let refused = release(&owner, &id).await;
    assert_eq!(refused.problem(), "422 image_invalid");
    assert!(refused.text().contains("manifest.json"), "{}", refused.text());
    *server.orchestrator.refuse_images.lock().unwrap() = None;
    assert_eq!(release(&owner, &id).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_bounded_and_goes_when_nobody_goes_on_with_it() {
    let (server, owner, state) = start().await;
    let too_large = json!({ "size": (20_u64 << 30) + 1, "sha256": sha256(b"") });
    assert_eq!(owner.post(UPLOADS, too_large).await.problem(), "422 invalid_fields");
    let no_digest = json!({ "size": 1, "sha256": "x" });
    assert_eq!(owner.post(UPLOADS, no_digest).await.problem(), "422 invalid_fields");
    let id = begin(&owner, b"first").await["id"].as_str().unwrap().to_owned();
    let beyond = put(&owner, &id, 0, b"first and more").await;
    assert_eq!(beyond.problem(), "409 upload_conflict");
    // One upload of each caller: another tarball takes its place.
    begin(&owner, b"second").await;
    assert_eq!(owner.get(&format!("{UPLOADS}/{id}")).await.status, 404);
    let files = || {
        let entries = std::fs::read_dir(state.path().join("image-uploads")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name() != ".lock").count()
    };
    assert_eq!(files(), 2);

    // A session does not last that long without use.
    let mut keys = Vec::new();
    for name in ["one", "two"] {
        let new = json!({ "name": name, "role": "admin", "is_admin": true });
        let key = owner.post("/v1/auth/keys", new).await.json();
        keys.push(format!("Bearer {}", key["key"].as_str().unwrap()));
    }
    let begin_by = async |key: usize, size: usize| {
        let new = json!({ "size": size, "sha256": sha256(b"third") });
        let headers = [("authorization", keys[key].as_str())];
        let begun = server.visitor.json(Method::POST, UPLOADS, &headers, new).await;
        assert_eq!(begun.status, 201, "{}", begun.text());
        begun.json()["id"].as_str().unwrap().to_owned()
    };
    let third = begin_by(0, 5).await;
    assert_eq!(files(), 4);
    server.advance_clock(Duration::from_secs(23 * 3_600));
    let headers = [("authorization", keys[0].as_str())];
    let path = format!("{UPLOADS}/{third}?offset=0");
    let part = server.visitor.send(Method::PUT, &path, &headers, "thi").await;
    assert_eq!(part.status, 200, "{}", part.text());
    server.advance_clock(Duration::from_secs(2 * 3_600));
    begin_by(1, 6).await;
    assert_eq!(files(), 4, "the second one was given up; the third one had a part within a day");
    assert_eq!(begin_by(0, 5).await, third);
}
