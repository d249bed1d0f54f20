//! The files of a tenant over the API of the image: they belong to the app, and what the app plants leads nowhere.

use anyhow::Result;
use e2e::Checks;
use serde_json::json;

use super::Client;

pub(super) async fn check(checks: &mut Checks, client: &Client) -> Result<()> {
    let begun = client.post("/files/uploads", &json!({})).await?;
    checks.equal("an upload begins", 201, begun.status);
    let upload = format!("/files/uploads/{}", begun.json()["id"].as_str().unwrap_or_default());
    let mut offset = 0;
    for part in ["Hello, ", "world"] {
        let arrived = client.call("PUT", &format!("{upload}?offset={offset}"), part).await?;
        checks.equal(&format!("the part {part:?} arrives"), 200, arrived.status);
        offset += part.len();
    }
    let finish = json!({ "path": "hello.txt", "size": offset });
    let finished = client.post(&format!("{upload}/finish"), &finish).await?;
    checks.equal("an upload takes its place", 204, finished.status);
    let plant = "cd /home/agent/files && stat -c '%U %G %a' hello.txt && ln -s /etc/passwd link \
                 && ln -s / folder && mkfifo pipe && echo own > closed && chmod 0 closed";
    let planted = client.tenant.exec_shell("agent", plant).await?;
    checks.equal("an upload belongs to the app", "agent agent 640", planted.text.trim());
    let whole = client.get("/files/content?path=hello.txt").await?;
    checks.equal("a file is downloaded", "Hello, world", &whole.body);
    let kept = whole.header("content-disposition").unwrap_or_default();
    checks.contains("a file is no page", "attachment", kept);
    for (path, code) in [
        ("link", "file_conflict"),
        ("folder/etc/passwd", "file_conflict"),
        ("pipe", "file_conflict"),
        ("closed", "file_denied"),
        ("none", "resource_not_found"),
        ("../cial", "invalid_query"),
        ("/etc/passwd", "invalid_query"),
    ] {
        let refused = client.get(&format!("/files/content?path={path}")).await?;
        let found = refused.json()["code"].as_str().unwrap_or_default().to_owned();
        checks.equal(&format!("{path} leads nowhere"), code, found);
    }
    let list = client.get("/files").await?.json();
    checks.equal(
        "a folder is listed",
        "closed, folder, hello.txt, link, pipe",
        super::joined(&list, "name"),
    );
    Ok(())
}
