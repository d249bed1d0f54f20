//! A tenant that sleeps is exported without waking, and comes back under another slug as it was.

use std::fs;

use anyhow::{Context as _, Result};
use e2e::Checks;
use e2e::command_line::{fails, json, succeed};
use e2e::session::Session;
use testkit::{Installation, TempDir};

const SLUG: &str = "mover";
const COPY: &str = "moved";
/// Everything that an export promises to keep.
const MAKE: &str = "cd /home/agent/files && mkdir -p kept/empty && echo one > kept/a && ln kept/a kept/hard && \
     ln -s /usr/bin/env kept/symbolic && chmod 640 kept/a && chmod 2770 kept/empty && \
     dd if=/dev/zero of=kept/sparse bs=1 count=1 seek=3000000 2>/dev/null && touch -d @1700000000 kept/a";
const SHOW: &str = "cd /home/agent/files && find kept -printf '%p %y %m %U %G %n %l\\n' | sort && \
     stat -c %Y kept/a && sha256sum kept/a kept/sparse";

fn in_tenant(slug: &str, command: &str) -> Result<String> {
    succeed(&["tenants", "exec", slug, "--no-tty", "--", "sh", "-c", command], None)
}

#[tokio::test]
async fn a_tenant_moves_by_export_and_import() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut session = Session::of_owner(&installation, SLUG).await?;
    let folder = TempDir::new("transfers")?;
    let file = folder.path().join("mover.tar.zst").display().to_string();
    succeed(&["tenants", "create", SLUG, "--name", "Mover"], None)?;
    checks.require("files are made in the tenant", in_tenant(SLUG, MAKE))?;
    let before = in_tenant(SLUG, SHOW)?;

    let running = fails(&["tenants", "export", SLUG, "--file", &file], None)?;
    checks.contains("a tenant that runs is not exported", "tenant_awake", &running);
    session.set_policy(1, 2).await?;
    checks.require("the tenant sleeps", session.becomes("sleeping").await)?;
    succeed(&["tenants", "export", SLUG, "--file", &file], None)?;
    let shown = json(&["tenants", "get", SLUG])?;
    checks.equal("the export does not wake it", "sleeping", shown["state"].as_str().unwrap_or(""));

    let mut bytes = fs::read(&file)?;
    succeed(&["tenants", "import", &file, "--as", COPY], None)?;
    let shown = json(&["tenants", "get", COPY])?;
    checks.equal("the copy has the name", "Mover", shown["name"].as_str().unwrap_or(""));
    succeed(&["tenants", "start", COPY], None)?;
    checks.equal("the copy has the same files", before, in_tenant(COPY, SHOW)?);
    succeed(&["tenants", "delete", COPY, "--yes"], None)?;

    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("an empty export")? ^= 1;
    fs::write(&file, bytes)?;
    let damaged = fails(&["tenants", "import", &file, "--as", COPY], None)?;
    checks.contains("a damaged file is refused", "archive_corrupt", &damaged);
    let gone = fails(&["tenants", "get", COPY], None)?;
    checks.contains("and leaves no tenant", "no tenant", &gone);
    succeed(&["tenants", "delete", SLUG, "--yes"], None)?;
    checks.finish()
}
