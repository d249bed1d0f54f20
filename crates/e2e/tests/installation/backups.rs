//! The restore drill: three tenants are backed up to the folder of the installation, one is deleted and comes back byte for byte.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use bollard::body_full;
use bollard::query_parameters::{
    DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use e2e::command_line::{fails, succeed};
use e2e::session::{Session, TIMEOUT};
use e2e::{Checks, Parts};
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use testkit::{Installation, wait_for};

const SLUGS: [&str; 3] = ["drill-a", "drill-b", "drill-c"];
const FOLDER: &str = "/backups";
/// Names of any bytes, links, odd modes and times, holes, and files that do not compress.
const MAKE: &str = "cd /home/agent/files && mkdir -p d/empty 'd/with space' && printf 'x' > \"$(printf 'd/new\\nline')\" && \
     printf 'y' > \"$(printf 'd/not-utf8-\\377')\" && printf 'z' > 'd/-rf' && ln d/-rf d/hard && ln -s /etc/passwd d/away && \
     ln -s ../../.. d/up && chmod 000 'd/-rf' && chmod 2770 d/empty && touch -d @1700000000 'd/with space' && \
     long=$(printf 'n%.0s' $(seq 200)) && mkdir -p d/$long/$long && echo deep > d/$long/$long/$long && \
     dd if=/dev/zero of=d/sparse bs=1 count=1 seek=20000000 2>/dev/null && head -c SIZE /dev/urandom > d/noise && chmod 640 d/noise";
const SHOW: &str = "cd /home/agent/files && chmod 400 d/-rf && find d -printf '%p %y %m %U %G %n %l\\n' | sort && \
     find d -type f -exec stat -c '%Y %n' {} + | sort && find d -type f -exec sha256sum {} + | sort; chmod 000 d/-rf";

fn in_tenant(slug: &str, command: &str) -> Result<String> {
    succeed(&["tenants", "exec", slug, "--no-tty", "--", "sh", "-c", command], None)
}

fn json_of(args: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&succeed(&[args, &["--output", "json"]].concat(), None)?)?)
}

/// The newest backup of a tenant, once it is as expected.
async fn until_state(slug: &str, state: &str) -> Result<Value> {
    let what = format!("the backup of {slug} is {state}");
    wait_for(&what, TIMEOUT, async || {
        let listed = json_of(&["backups", "list", slug])?;
        Ok(listed.get(0).filter(|backup| backup["state"] == state).cloned())
    })
    .await
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value[name].as_str().with_context(|| format!("no {name} in {value}"))
}

/// Replaces one byte in the middle of a file of the container.
async fn damage(docker: &Docker, container: &str, object: &str) -> Result<()> {
    let (folder, _) = object.rsplit_once('/').context("an object lies in a folder")?;
    let from = DownloadFromContainerOptionsBuilder::default().path(&format!("{FOLDER}/{object}"));
    let stream = docker.download_from_container(container, Some(from.build()));
    let mut tar: Vec<u8> = stream
        .try_fold(Vec::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await?;
    // In the content: the tar of one file begins with its header.
    let middle = tar.len() / 2;
    *tar.get_mut(middle).context("an empty file")? ^= 1;
    let to = UploadToContainerOptionsBuilder::default().path(&format!("{FOLDER}/{folder}"));
    docker.upload_to_container(container, Some(to.build()), body_full(tar.into())).await?;
    Ok(())
}

#[tokio::test]
async fn three_tenants_are_backed_up_and_one_comes_back_as_it_was() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let docker = testkit::engine::connect().await?;
    let mut before = BTreeMap::new();
    for (slug, size) in SLUGS.into_iter().zip(["1000000", "3000000", "300000000"]) {
        let mut session = Session::of_owner(&installation, slug).await?;
        succeed(&["tenants", "create", slug, "--name", slug], None)?;
        checks.require("hostile files are made", in_tenant(slug, &MAKE.replace("SIZE", size)))?;
        before.insert(slug, in_tenant(slug, SHOW)?);
        let policy = json!({ "policy": { "freeze_after_seconds": 1, "sleep_after_seconds": 2 } });
        session.owner.patch(&session.path(""), &policy).await?.expect_status(200)?;
    }
    for slug in &SLUGS[..2] {
        succeed(&["backups", "create", slug], None)?;
        let made = until_state(slug, "complete").await;
        checks.require("a tenant is backed up once it rests", made)?;
        let shown = json_of(&["tenants", "get", slug])?;
        checks.holds("the backup does not wake it", "frozen or sleeping", &shown["state"], {
            shown["state"] == "sleeping" || shown["state"] == "frozen"
        });
    }

    let slug = SLUGS[2];
    succeed(&["backups", "create", slug], None)?;
    checks.require("the largest is being copied", until_state(slug, "running").await)?;
    let killed = Parts::of(&installation).kill_service("app-api").await;
    checks.require("app-api is killed in the middle", killed)?;
    let mut owner = Session::of_owner(&installation, slug).await.map(|session| session.owner);
    wait_for("app-api serves again", TIMEOUT, async || {
        if owner.is_err() {
            owner = Session::of_owner(&installation, slug).await.map(|session| session.owner);
        }
        Ok(owner.is_ok().then_some(()))
    })
    .await?;
    // The claim of the process that died runs out first.
    let made = wait_for("the backup goes on", TIMEOUT * 3, async || {
        let listed = json_of(&["backups", "list", slug])?;
        Ok(listed.get(0).filter(|backup| backup["state"] == "complete").cloned())
    });
    let made = checks.require("the next process completes the backup", made.await)?;
    ensure!(made["failure"].is_null(), "{made}");

    for slug in [SLUGS[0], SLUGS[2]] {
        let made = until_state(slug, "complete").await?;
        succeed(&["tenants", "delete", slug, "--yes"], None)?;
        let restored = succeed(&["backups", "restore", text(&made, "id")?, "--as", slug], None);
        checks.require("a deleted tenant is restored under its slug", restored)?;
        succeed(&["tenants", "start", slug], None)?;
        let after = in_tenant(slug, SHOW)?;
        checks.equal("its files are the same, byte for byte", &before[slug], &after);
    }

    let made = until_state(SLUGS[1], "complete").await?;
    let container = Parts::of(&installation).service("app-api").await?.id;
    damage(&docker, &container, text(&made, "object")?).await?;
    let refused = fails(&["backups", "restore", text(&made, "id")?, "--as", "drill-d"], None)?;
    checks.contains("a damaged object is refused", "backup_corrupt", &refused);
    let gone = fails(&["tenants", "get", "drill-d"], None)?;
    checks.contains("and leaves no tenant", "no tenant", &gone);
    // Those of the deleted tenants, too.
    for made in json_of(&["backups", "list"])?.as_array().context("a list")? {
        if SLUGS.contains(&text(made, "tenant")?) {
            succeed(&["backups", "delete", text(made, "id")?, "--yes"], None)?;
        }
    }
    for slug in SLUGS {
        succeed(&["tenants", "delete", slug, "--yes"], None)?;
    }
    checks.finish()
}
