//! A tenant that sleeps is exported without waking, and comes back under another slug as it was.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::command_line::{fails, json, succeed};
use e2e::postgres::as_superuser;
use e2e::session::{Session, TIMEOUT};
use e2e::{Checks, Parts};
use testkit::{Installation, TempDir, eventually};

const SLUG: &str = "mover";
const COPY: &str = "moved";
/// Everything that an export promises to keep.
const MAKE: &str = "cd /home/agent/files && mkdir -p kept/empty && echo one > kept/a && ln kept/a kept/hard && \
     ln -s /usr/bin/env kept/symbolic && chmod 640 kept/a && chmod 2770 kept/empty && \
     dd if=/dev/zero of=kept/sparse bs=1 count=1 seek=3000000 2>/dev/null && touch -d @1700000000 kept/a";
const SHOW: &str = "cd /home/agent/files && find kept -printf '%p %y %m %U %G %n %l\\n' | sort && \
     stat -c %Y kept/a && sha256sum kept/a kept/sparse";

/// Made by the role of the tenant, as a program of it would.
const TABLES: &str = "SET ROLE t_mover; SET search_path = t_mover;
    CREATE TABLE orders (id serial PRIMARY KEY, amount int);
    INSERT INTO orders (amount) VALUES (1), (2);
    CREATE FUNCTION total() RETURNS bigint LANGUAGE sql AS 'SELECT sum(amount) FROM t_mover.orders';
    CREATE VIEW totals AS SELECT t_mover.total() AS n";
/// As the role of the copy: the next number of a sequence, and what a view and a function say after another order.
const COPIED: &str = "SET ROLE t_moved; SET search_path = t_moved;
    INSERT INTO orders (amount) VALUES (3);
    SELECT max(o.id) || ' ' || max(n) || ' ' || t_moved.total() FROM orders o, totals";
const PACKAGE: &str = "mkdir -p hello-1/bin && printf '#!/bin/sh\necho hello\n' > hello-1/bin/hello && chmod +x hello-1/bin/hello && \
     printf 'name = \"hello\"\nversion = \"1\"\n[[workflow]]\nname = \"hello\"\n[[workflow.task]]\nname = \"hello\"\ncommand = [\"bin/hello\"]\n' \
     > hello-1/package.toml && tar --zstd -cf hello-1.cial hello-1";

fn make_package(folder: &Path) -> Result<String> {
    let made = Command::new("sh").args(["-euc", PACKAGE]).current_dir(folder).status()?;
    ensure!(made.success(), "the package was not made");
    Ok(folder.join("hello-1.cial").display().to_string())
}

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
    let postgres = Parts::of(&installation).service("postgres").await?.id;
    checks.require("tables are made in its schema", as_superuser(&postgres, TABLES))?;
    let package = make_package(folder.path())?;
    succeed(&["package", "upload", &package, "--tenant", SLUG], None)?;

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
    checks.equal("the copy has the same tables", "3 6 6", as_superuser(&postgres, COPIED)?);
    let scheduled = json(&["workflow", "run", "hello", "--tenant", COPY])?;
    let id = scheduled["execution_id"].as_str().context("no execution_id")?;
    let ended = eventually("the execution succeeds", TIMEOUT, async || {
        let shown = json(&["execution", "get", id, "--tenant", COPY])?;
        ensure!(shown["state"] != "failed", "{shown}");
        Ok(shown["state"] == "succeeded")
    });
    checks.require("a workflow runs in the copy", ended.await)?;
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
