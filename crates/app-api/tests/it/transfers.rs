//! Export and import of a tenant: who may, what the archive holds, and that a failed import leaves nothing.

mod schemas;

use axum::http::Method;
use protocol::api_keys::Role;
use protocol::problem::Code;
use protocol::spec::Desired;
use protocol::transfer::END_MARK;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use tokio::time::timeout;

use crate::harness::{FakeOrchestrator, Server, TEST_TIMEOUT, TestClient, TestResponse};

const SECRET: &[u8] = b"tokens of people";

fn add(tar: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, mode: u32, content: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    let owner = if path.starts_with("data") { 1000 } else { 1001 };
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(1_700_000_000);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content).unwrap();
}

/// Volumes as the engine sends them.
pub(crate) fn volumes(content: &[u8]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, "data/", EntryType::Directory, 0o700, b"");
    add(&mut tar, "data/history.db", EntryType::Regular, 0o600, b"history");
    add(&mut tar, "data/assertion-key.der", EntryType::Regular, 0o600, SECRET);
    add(&mut tar, "data/sessions.json", EntryType::Regular, 0o600, SECRET);
    add(&mut tar, "files/", EntryType::Directory, 0o750, b"");
    add(&mut tar, "files/content", EntryType::Regular, 0o640, content);
    tar.into_inner().unwrap()
}

/// The same without the core's sessions and its signing key, and without the end of the tar.
pub(crate) fn exported_volumes(content: &[u8]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, "data/", EntryType::Directory, 0o700, b"");
    add(&mut tar, "data/history.db", EntryType::Regular, 0o600, b"history");
    add(&mut tar, "files/", EntryType::Directory, 0o750, b"");
    add(&mut tar, "files/content", EntryType::Regular, 0o640, content);
    let mut tar = tar.into_inner().unwrap();
    tar.truncate(tar.len() - 1_024);
    tar
}

/// Content that compresses badly, so that it fills many pieces.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        u8::try_from(state >> 24).unwrap()
    };
    (0..length).map(step).collect()
}

pub(crate) async fn server_with(content: &[u8]) -> (Server, TestClient) {
    let (server, owner) = Server::with_acme(FakeOrchestrator::obedient()).await;
    // Its container stays as it is from here on.
    server.until_state("acme", protocol::State::Running).await;
    let id = server.row("acme").await.tenant_id();
    server.orchestrator.volumes.lock().unwrap().insert(id, volumes(content));
    (server, owner)
}

pub(crate) async fn export(client: &TestClient) -> Vec<u8> {
    let response = client.get("/v1/tenants/acme/export").await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), "application/zstd");
    assert_eq!(response.header("content-disposition"), "attachment; filename=\"acme.tar.zst\"");
    assert!(response.body.ends_with(&END_MARK));
    response.body.to_vec()
}

pub(crate) async fn import(
    client: &TestClient,
    slug: &str,
    archive: impl Into<bytes::Bytes>,
) -> TestResponse {
    client.send(Method::POST, &format!("/v1/imports/{slug}"), &[], archive).await
}

/// Nothing of a failed import is left, on neither side.
pub(crate) async fn assert_nothing_left(server: &Server) {
    assert_eq!(server.database.count("tenants WHERE slug <> 'acme'").await, 0);
    assert_eq!(server.database.count("tenant_imports").await, 0);
    assert_eq!(server.orchestrator.volumes.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_exported_and_imported_under_another_slug() {
    let content = noise(3 << 20);
    let (server, owner) = server_with(&content).await;
    let change = json!({
        "limits": { "disk_bytes": 128 << 20 },
        "policy": { "sleep_after_seconds": 7_200, "require_sign_in": true },
    });
    owner.json(Method::PATCH, "/v1/tenants/acme", &[], change).await;
    let archive = export(&owner).await;
    let imported = import(&owner, "acme2", archive).await;
    assert_eq!(imported.status, 201, "{}", imported.text());
    assert_eq!(imported.header("location"), "/v1/tenants/acme2");
    let (from, to) = (server.row("acme").await, server.row("acme2").await);
    assert_eq!(imported.json()["id"], json!(to.id));
    assert_ne!(from.id, to.id);
    assert_eq!((&to.name, to.limits, to.policy), (&from.name, from.limits, from.policy));
    assert_eq!(to.limits.disk_bytes, 128 << 20);
    assert_eq!(to.desired, Desired::Stopped, "nothing starts by itself");
    let written = server.orchestrator.volumes.lock().unwrap()[&to.tenant_id()].clone();
    assert!(written == exported_volumes(&content), "{} bytes", written.len());
    assert_eq!(server.database.count("tenant_imports").await, 0);
    let started = owner.post("/v1/tenants/acme2/start", json!({})).await;
    assert_eq!(started.status, 202, "{}", started.text());
    server.until_state("acme2", protocol::State::Running).await;
    let taken = import(&owner, "acme2", export(&owner).await).await;
    assert_eq!(taken.problem(), "409 slug_taken");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_are_audited_and_an_archive_has_names_of_variables_alone() {
    let (server, owner) = server_with(b"x").await;
    let archive = export(&owner).await;
    let manifest = manifest_of(&archive);
    assert_eq!(manifest["format"], 2);
    assert_eq!(manifest["tenant"]["slug"], "acme");
    assert_eq!(manifest["tenant"]["name"], "Acme Ltd");
    assert_eq!(manifest["tenant"]["secrets"], json!([]));
    assert!(!unpacked(&archive).windows(SECRET.len()).any(|bytes| bytes == SECRET));
    import(&owner, "acme2", archive).await;
    let (acme, acme2) = (server.row("acme").await.id, server.row("acme2").await.id);
    let exported = owner.get("/v1/audit?action=tenant.export").await.json();
    assert_eq!(exported["entries"][0]["resource"], "tenant:acme");
    assert_eq!(exported["entries"][0]["after"], json!({ "id": acme }));
    let imported = owner.get("/v1/audit?action=tenant.import").await.json();
    assert_eq!(imported["entries"][0]["resource"], "tenant:acme2");
    let after = &imported["entries"][0]["after"];
    assert_eq!((&after["id"], &after["from"]), (&json!(acme2), &json!("acme")));
    assert_eq!(imported["entries"][0]["address"], "127.0.0.1");
    server.stop().await;
}

pub(crate) fn unpacked(archive: &[u8]) -> Vec<u8> {
    let mut decompressor = tenant_archive::Decompressor::new().unwrap();
    decompressor.push(bytes::Bytes::copy_from_slice(archive));
    let mut tar = Vec::new();
    while let Some(piece) = decompressor.next_piece().unwrap() {
        tar.extend(piece);
    }
    tar
}

pub(crate) fn manifest_of(archive: &[u8]) -> Value {
    let tar = unpacked(archive);
    let mut archive = tar::Archive::new(tar.as_slice());
    let first = archive.entries().unwrap().next().unwrap().unwrap();
    serde_json::from_reader(first).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_cannot_be_exported_says_why() {
    let (server, owner) = server_with(b"x").await;
    for (code, shown) in [
        (Code::TenantAwake, "409 tenant_awake"),
        (Code::NoSuchTenant, "409 tenant_not_running"),
        (Code::EngineRefused, "503 orchestrator_unavailable"),
    ] {
        *server.orchestrator.refuse_transfers.lock().unwrap() = Some(code);
        assert_eq!(owner.get("/v1/tenants/acme/export").await.problem(), shown);
    }
    *server.orchestrator.refuse_transfers.lock().unwrap() = None;
    let member = server.key_of(Some("acme"), Role::Write).await;
    let refused = server.visitor.with_key(&member).get("/v1/tenants/acme/export").await;
    assert_eq!(refused.problem(), "403 insufficient_role");
    server.stop().await;
}

/// Neither the transport nor the archive says that all is well.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_breaks_off_has_no_end() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (server, owner) = server_with(b"x").await;
    let id = server.row("acme").await.tenant_id();
    let whole = volumes(&noise(1 << 20));
    for at in [512, whole.len() / 2] {
        server.orchestrator.volumes.lock().unwrap().insert(id, whole[..at].to_vec());
        let mut stream = tokio::net::TcpStream::connect(owner.address()).await.unwrap();
        let head = format!(
            "GET /v1/tenants/acme/export HTTP/1.1\r\nhost: {}\r\ncookie: {}\r\n\r\n",
            owner.address(),
            owner.cookie.as_deref().unwrap(),
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        // The server closes the connection, which it keeps after a whole response.
        timeout(TEST_TIMEOUT, stream.read_to_end(&mut response)).await.unwrap().unwrap();
        assert!(!response.ends_with(b"0\r\n\r\n"), "cut at {at}");
        assert!(!response.windows(END_MARK.len()).any(|bytes| bytes == END_MARK), "cut at {at}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_and_damaged_archives_leave_nothing() {
    let (server, owner) = server_with(&noise(300_000)).await;
    let whole = export(&owner).await;
    let mut damaged = unpacked(&whole);
    // In the content of a file.
    let at = damaged.len() - 100_000;
    damaged[at] ^= 1;
    let compressed = |tar: &[u8]| {
        let mut compressor = tenant_archive::Compressor::new().unwrap();
        let mut bytes = compressor.compress(tar).unwrap();
        bytes.extend(compressor.finish().unwrap());
        bytes
    };
    let manifest = |change: &dyn Fn(&mut Value)| {
        let mut manifest = manifest_of(&whole);
        change(&mut manifest);
        serde_json::to_vec(&manifest).unwrap()
    };
    let with = |manifest: &[u8], entries: &dyn Fn(&mut Builder<Vec<u8>>)| {
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, "manifest.json", EntryType::Regular, 0o644, manifest);
        add(&mut tar, "data/", EntryType::Directory, 0o700, b"");
        add(&mut tar, "files/", EntryType::Directory, 0o750, b"");
        entries(&mut tar);
        compressed(&tar.into_inner().unwrap())
    };
    let plain = manifest(&|_| {});
    let set_uid = |tar: &mut Builder<Vec<u8>>| {
        add(tar, "files/x", EntryType::Regular, 0o4755, b"");
    };
    let device = |tar: &mut Builder<Vec<u8>>| {
        add(tar, "files/x", EntryType::Block, 0o644, b"");
    };
    let outside = |tar: &mut Builder<Vec<u8>>| {
        add(tar, "etc/passwd", EntryType::Regular, 0o644, b"root");
    };
    let open_to_the_program = |tar: &mut Builder<Vec<u8>>| {
        add(tar, "data/x", EntryType::Regular, 0o666, b"");
    };
    let foreign_key = |tar: &mut Builder<Vec<u8>>| {
        add(tar, "data/assertion-key.der", EntryType::Regular, 0o600, b"");
    };
    let large = |tar: &mut Builder<Vec<u8>>| {
        add(tar, "files/x", EntryType::Regular, 0o644, &vec![0; 65 << 20]);
    };
    let small = manifest(&|manifest| manifest["tenant"]["limits"]["disk_bytes"] = json!(64 << 20));
    let later = manifest(&|manifest| manifest["format"] = json!(3));
    let no_app = manifest(&|manifest| manifest["tenant"]["app"] = json!("unknown"));
    let no_limit = manifest(&|manifest| manifest["tenant"]["limits"]["pids"] = json!(1));
    let nothing = |_: &mut Builder<Vec<u8>>| {};
    for (name, archive, expected) in [
        ("empty", Vec::new(), "422 archive_corrupt"),
        ("no zstd", b"hello, world".to_vec(), "422 archive_corrupt"),
        ("cut", whole[..whole.len() / 2].to_vec(), "422 archive_corrupt"),
        ("changed", compressed(&damaged), "422 archive_corrupt"),
        ("no checksums", with(&plain, &nothing), "422 archive_corrupt"),
        ("set-uid", with(&plain, &set_uid), "422 archive_unsafe"),
        ("device", with(&plain, &device), "422 archive_unsafe"),
        ("outside", with(&plain, &outside), "422 archive_unsafe"),
        ("open to the program", with(&plain, &open_to_the_program), "422 archive_unsafe"),
        ("a foreign key", with(&plain, &foreign_key), "422 archive_unsafe"),
        ("over the limit", with(&small, &large), "422 archive_too_large"),
        ("a later format", with(&later, &nothing), "422 archive_format"),
        ("an unknown app", with(&no_app, &nothing), "422 invalid_fields"),
        ("a limit out of bounds", with(&no_limit, &nothing), "422 invalid_fields"),
    ] {
        let refused = import(&owner, "acme2", archive).await;
        assert_eq!(refused.problem(), expected, "{name}: {}", refused.text());
        assert_nothing_left(&server).await;
    }
    assert_eq!(import(&owner, "admin", whole.clone()).await.problem(), "422 invalid_slug");
    *server.orchestrator.refuse_transfers.lock().unwrap() = Some(Code::DiskFull);
    assert_eq!(import(&owner, "acme2", whole.clone()).await.problem(), "507 disk_full");
    assert_nothing_left(&server).await;
    *server.orchestrator.refuse_transfers.lock().unwrap() = None;
    assert_eq!(import(&owner, "acme2", whole).await.status, 201);
    server.stop().await;
}

/// A body that begins and does not end, as of a client that was killed.
async fn begin_import(client: &TestClient, archive: &[u8], sent: usize) -> tokio::net::TcpStream {
    use tokio::io::AsyncWriteExt as _;
    let mut stream = tokio::net::TcpStream::connect(client.address()).await.unwrap();
    let head = format!(
        "POST /v1/imports/acme2 HTTP/1.1\r\nhost: {}\r\ncookie: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        client.address(),
        client.cookie.as_deref().unwrap(),
        archive.len(),
    );
    stream.write_all(&[head.as_bytes(), &archive[..sent]].concat()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_its_client_leaves_is_deleted_at_once() {
    let (server, owner) = server_with(&noise(300_000)).await;
    let archive = export(&owner).await;
    let stream = begin_import(&owner, &archive, archive.len() / 2).await;
    server.until("acme2", |tenant| tenant.is_some()).await;
    let early = owner.post("/v1/tenants/acme2/start", json!({})).await;
    assert_eq!(early.problem(), "409 tenant_importing");
    let early = owner.get("/v1/tenants/acme2/export").await;
    assert_eq!(early.problem(), "409 tenant_importing");
    drop(stream);
    server.until("acme2", |tenant| tenant.is_none()).await;
    assert_nothing_left(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_server_died_is_deleted_by_the_next() {
    let (server, owner) = server_with(&noise(300_000)).await;
    let archive = export(&owner).await;
    let _stream = begin_import(&owner, &archive, archive.len() / 2).await;
    server.until("acme2", |tenant| tenant.is_some()).await;
    let server = server.restart().await;
    assert_eq!(server.database.count("tenants WHERE slug = 'acme2'").await, 1);
    server.advance_clock(std::time::Duration::from_secs(61));
    server.until("acme2", |tenant| tenant.is_none()).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_during_an_import_imports_nothing() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (server, owner) = server_with(&noise(300_000)).await;
    let archive = export(&owner).await;
    let half = archive.len() / 2;
    let mut stream = begin_import(&owner, &archive, half).await;
    server.until("acme2", |tenant| tenant.is_some()).await;
    server.database.sql("DELETE FROM sessions").await;
    stream.write_all(&archive[half..]).await.unwrap();
    let mut response = String::new();
    let _ = timeout(TEST_TIMEOUT, stream.read_to_string(&mut response)).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 401 "), "{response}");
    assert_nothing_left(&server).await;
    server.stop().await;
}
