//! Work of tenants: packages with workflows, and triggers that run them.

use std::io::Write as _;
use std::time::Duration;

use axum::http::Method;
use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::{Server, TEST_TIMEOUT, TestClient, TestDatabase, TestResponse};

/// A package `etl-1`.
pub(crate) const WORKFLOWS: &str = r#"
name = "etl"
version = "1"
[[workflow]]
name = "nightly"
[[workflow.task]]
name = "fetch"
command = ["bin/fetch"]
inputs = ["day"]
[[workflow]]
name = "called"
[[workflow.task]]
name = "fetch"
command = ["bin/fetch"]
inputs = ["body", "day"]
"#;
/// The next minute of a server that was just started, as SQL.
pub(crate) const DUE_AT: &str = "'2027-01-15T08:01:00Z'";

pub(crate) fn archive(description: &str, folder: &str) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, mode, contents) in
        [("package.toml", 0o644, description), ("bin/fetch", 0o755, "#!/bin/sh\n")]
    {
        let mut header = Header::new_ustar();
        header.set_path(format!("{folder}/{path}")).unwrap();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(mode);
        header.set_size(contents.len().try_into().unwrap());
        header.set_cksum();
        builder.append(&header, contents.as_bytes()).unwrap();
    }
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(&builder.into_inner().unwrap()).unwrap();
    encoder.finish().unwrap()
}

/// Sends a file like `cial package upload`.
pub(crate) async fn upload(
    client: &TestClient,
    key: &str,
    slug: &str,
    archive: &[u8],
) -> TestResponse {
    upload_signed(client, key, slug, (archive, None)).await
}

/// Sends a file with a signature.
pub(crate) async fn upload_signed(
    client: &TestClient,
    key: &str,
    slug: &str,
    (archive, signature): (&[u8], Option<&str>),
) -> TestResponse {
    let mut form =
        b"--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.cial\"\r\n\r\n"
            .to_vec();
    if let Some(text) = signature {
        let field =
            format!("--b\r\ncontent-disposition: form-data; name=\"signature\"\r\n\r\n{text}\r\n");
        form.splice(0..0, field.into_bytes());
    }
    form.extend_from_slice(archive);
    form.extend_from_slice(b"\r\n--b--\r\n");
    let headers = [("content-type", "multipart/form-data; boundary=b")];
    let path = format!("/v1/tenants/{slug}/packages");
    client.with_key(key).send(Method::POST, &path, &headers, form).await
}

/// Inserts triggers of the workflow `nightly` with this next time. `of` is a `FROM` clause with the tenants `t` and the triggers'
/// numbers `n`. Returns how many they are.
pub(crate) async fn insert_triggers(
    database: &TestDatabase,
    next_fire_at: &str,
    of: &str,
) -> usize {
    let insert = format!(
        "INSERT INTO triggers (id, tenant_id, name, workflow, kind, cron, time_zone, catch_up, context, \
             next_fire_at, not_before, created_by, created_at) \
         SELECT gen_random_uuid(), t.id, 't' || n, 'nightly', 'cron', '1 8 * * *', 'UTC', 'run_all', '{{\"day\": 1}}', \
             {next_fire_at}, '2027-01-15T08:00:00Z', '', now() FROM {of}"
    );
    database.sql(&insert).await
}

impl Server {
    /// Creates tenants `tenant-0` and so on with the package of [`WORKFLOWS`], and waits until all of them run.
    pub(crate) async fn tenants_with_workflows(&self, owner: &TestClient, count: usize) {
        let slugs: Vec<_> = (0..count).map(|number| format!("tenant-{number}")).collect();
        for slug in &slugs {
            let created = owner.post("/v1/tenants", json!({ "slug": slug, "name": slug })).await;
            assert_eq!(created.status, 201, "{}", created.text());
        }
        let timeout = TEST_TIMEOUT + Duration::from_millis(200) * u32::try_from(count).unwrap();
        let run = testkit::eventually("the tenants run", timeout, async || {
            let running = "tenants WHERE state = 'running' AND slug LIKE 'tenant-%'";
            Ok(usize::try_from(self.database.count(running).await)? == count)
        });
        run.await.unwrap();
        let (key, package) = (self.admin_key().await, archive(WORKFLOWS, "etl-1"));
        for slug in &slugs {
            let uploaded = upload(&self.visitor, &key, slug, &package).await;
            assert_eq!(uploaded.status, 201, "{}", uploaded.text());
        }
    }
}
