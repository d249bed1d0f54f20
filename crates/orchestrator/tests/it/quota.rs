//! Disk limits that the filesystem enforces: tenants write until the kernel refuses, on a separate engine whose data is on
//! btrfs, beside the service `quota`. Needs root and `mkfs.btrfs`.

use std::process::Command;

use orchestrator::driver::Driver as _;
use protocol::TenantId;
use protocol::orchestrator::{DiskEnforcement, DiskUse, Phase, QuotaService};
use protocol::spec::{Limits, Spec};
use testkit::engine::TenantContainer;
use testkit::{Filesystem, eventually};

use crate::process::{PROGRAM, Process};
use crate::support::private_engine::{PrivateEngine, with_private_engine_on};
use crate::support::{Install, PATIENCE, Running, spec};

const LIMIT: u64 = 24 << 20;
const MIB: u64 = 1 << 20;
/// `EDQUOT`.
const QUOTA_EXCEEDED: i32 = 122;
const DATA: &str = "/var/lib/cial/filler";
const FILES: &str = "/home/agent/files/filler";

fn limited(spec: &Spec, disk_bytes: u64) -> Spec {
    Spec { limits: Limits { disk_bytes, ..spec.limits }, ..spec.clone() }
}

fn service(engine: &PrivateEngine, install: &Install) -> Command {
    let mut command = Command::new(PROGRAM);
    // The service finds the `btrfs` command there.
    command.arg("quota").env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("CIAL_QUOTA_SOCKET", install.quota_socket());
    command.env("CIAL_ENGINE_VOLUMES", engine.volumes());
    command
}

async fn start_service(engine: &PrivateEngine, install: &Install) -> Process {
    let process = Process(service(engine, install).spawn().unwrap());
    let responds = eventually("the service quota", PATIENCE, async || {
        Ok(service(engine, install).arg("check").status()?.success())
    });
    responds.await.unwrap();
    process
}

/// Writes at most so many bytes inside the tenant. Returns how many it wrote, and the system's error or 0.
async fn write(install: &Install, id: TenantId, path: &str, bytes: u64) -> (u64, i32) {
    let container = TenantContainer::existing(&install.client, &id.container());
    let bytes = bytes.to_string();
    // The image of the tests gives the data to one user, and the files to nobody.
    let user = if path == DATA { "1000" } else { "0" };
    let printed = container.exec(user, &["/tenant", path, &bytes]).await.unwrap().text;
    let (written, error) = printed.split_once(' ').unwrap_or_else(|| panic!("{printed}"));
    (written.parse().unwrap(), error.parse().unwrap())
}

fn disk_use(running: &Running, id: TenantId) -> DiskUse {
    running.controller.operations.disk_use(id).unwrap()
}

async fn until_enforced_by(running: &Running, id: TenantId, expected: DiskEnforcement) {
    let is_enforced = eventually("the way of enforcement", PATIENCE, async || {
        Ok(disk_use(running, id).enforced_by == expected)
    });
    is_enforced.await.unwrap();
}

async fn ready(running: &Running, slug: &str) -> Spec {
    ready_with(running, limited(&spec(slug, ""), LIMIT)).await
}

async fn ready_with(running: &Running, spec: Spec) -> Spec {
    running.run(&spec).await;
    running.until_phase(spec.id, Phase::Ready).await;
    spec
}

/// Lists the quota groups of tenants, as the filesystem shows them.
fn groups(engine: &PrivateEngine) -> Vec<String> {
    let output = Command::new("btrfs").args(["qgroup", "show"]).arg(engine.volumes()).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| name.starts_with("9/")).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_tenant_writes_up_to_its_limit_and_nobody_else_notices() {
    with_private_engine_on(Filesystem::Btrfs, async |engine, install| {
        let _service = start_service(engine, install).await;
        let running = install.controller();
        let (full, other) = (ready(&running, "full").await, ready(&running, "other").await);
        for spec in [&full, &other] {
            until_enforced_by(&running, spec.id, DiskEnforcement::Filesystem).await;
        }
        let container = running.until_phase(full.id, Phase::Ready).await.container_id;

        // Half of the limit in one volume leaves the other half for the other volume.
        assert_eq!(write(install, full.id, FILES, LIMIT / 2).await, (LIMIT / 2, 0));
        let (written, error) = write(install, full.id, DATA, LIMIT).await;
        assert_eq!(error, QUOTA_EXCEEDED);
        assert!((LIMIT / 4..=LIMIT / 2).contains(&written), "{written}");
        assert_eq!(write(install, full.id, FILES, 4 * MIB).await.1, QUOTA_EXCEEDED);

        // Others write, the engine creates, and the full tenant still runs.
        assert_eq!(write(install, other.id, DATA, 8 * MIB).await, (8 * MIB, 0));
        let new = ready(&running, "new").await;
        let seen = running.until_phase(full.id, Phase::Ready).await;
        assert_eq!((&seen.container_id, seen.exits), (&container, 0));
        // The filesystem counts what is written when it commits.
        let sync =
            Command::new("btrfs").args(["filesystem", "sync"]).arg(engine.volumes()).status();
        assert!(sync.unwrap().success());
        let counted = eventually("the use", PATIENCE, async || {
            Ok(disk_use(&running, full.id).used_bytes.is_some_and(|used| used > LIMIT * 3 / 4))
        });
        counted.await.unwrap();

        // A raised limit holds at once, without a restart.
        running.run(&limited(&full, 2 * LIMIT)).await;
        assert_eq!(disk_use(&running, full.id).enforced_by, DiskEnforcement::Filesystem);
        assert_eq!(write(install, full.id, DATA, LIMIT / 2).await, (LIMIT / 2, 0));
        let seen = running.until_phase(full.id, Phase::Ready).await;
        assert_eq!((seen.container_id, seen.exits), (container, 0));

        assert_eq!(groups(engine).len(), 3);
        for spec in [full, other, new] {
            running.controller.operations.delete(spec.id).await.unwrap();
        }
        assert_eq!(groups(engine), [""; 0]);
        assert_eq!(install.objects(None).await.map(|list| list.len()), [0, 0, 0]);
    })
    .await;
}

/// btrfs has no number of inodes: each takes room in the tenant's part of the metadata, which counts.
#[tokio::test]
async fn empty_files_count_too() {
    with_private_engine_on(Filesystem::Btrfs, async |engine, install| {
        let _service = start_service(engine, install).await;
        let running = install.controller();
        let spec = ready_with(&running, limited(&spec("acme", ""), 8 * MIB)).await;
        until_enforced_by(&running, spec.id, DiskEnforcement::Filesystem).await;
        let directory = engine.volumes().join(spec.id.files_volume()).join("_data");
        let refused = (0..1_000_000).find_map(|n| {
            std::fs::File::create(directory.join(format!("{n}"))).err().map(|error| (n, error))
        });
        let (files, error) = refused.expect("there is a bound");
        assert_eq!(error.raw_os_error(), Some(QUOTA_EXCEEDED), "{error}");
        assert!(files > 10_000, "{files}");
    })
    .await;
}

#[tokio::test]
async fn a_tenant_that_the_service_did_not_see_being_created_is_measured() {
    with_private_engine_on(Filesystem::Btrfs, async |engine, install| {
        let running = install.controller();
        let driver = install.driver();
        let quota_service = async || {
            driver.refresh_quotas().await;
            driver.capacity().await.unwrap().quota
        };
        assert_eq!(quota_service().await, QuotaService::Absent);
        let older = ready(&running, "older").await;
        assert_eq!(disk_use(&running, older.id).enforced_by, DiskEnforcement::Measurement);

        let service = start_service(engine, install).await;
        assert_eq!(quota_service().await, QuotaService::Ready);
        let newer = ready(&running, "newer").await;
        until_enforced_by(&running, newer.id, DiskEnforcement::Filesystem).await;
        // Its volumes hold files, which stay where they are.
        running.run(&limited(&older, 2 * LIMIT)).await;
        assert_eq!(disk_use(&running, older.id).enforced_by, DiskEnforcement::Measurement);
        assert_eq!(groups(engine).len(), 1);

        // The kernel goes on enforcing the limit, yet nobody observes that.
        drop(service);
        until_enforced_by(&running, newer.id, DiskEnforcement::Measurement).await;
        assert!(matches!(quota_service().await, QuotaService::Failed(_)));
        assert_eq!(write(install, newer.id, DATA, 2 * LIMIT).await.1, QUOTA_EXCEEDED);
        running.run(&limited(&newer, 2 * LIMIT)).await;
        assert_eq!(disk_use(&running, newer.id).enforced_by, DiskEnforcement::Measurement);

        let service = start_service(engine, install).await;
        // Without another call of the owner.
        until_enforced_by(&running, newer.id, DiskEnforcement::Filesystem).await;
        assert_eq!(disk_use(&running, newer.id).limit_bytes, 2 * LIMIT);
        assert_eq!(write(install, newer.id, DATA, LIMIT / 2).await, (LIMIT / 2, 0));

        drop(service);
        for spec in [older, newer] {
            running.controller.operations.delete(spec.id).await.unwrap();
        }
        assert_eq!(groups(engine).len(), 1, "the engine knows nothing of it");
        let _service = start_service(engine, install).await;
        assert_eq!(groups(engine), [""; 0]);
    })
    .await;
}

/// A filesystem may be mounted without quotas: nothing changes.
#[tokio::test]
async fn the_service_changes_nothing_on_a_filesystem_without_quotas() {
    with_private_engine_on(Filesystem::Ext4, async |engine, install| {
        let _service = start_service(engine, install).await;
        let running = install.controller();
        let spec = ready(&running, "acme").await;
        assert_eq!(disk_use(&running, spec.id).enforced_by, DiskEnforcement::Measurement);
        let driver = install.driver();
        driver.refresh_quotas().await;
        let QuotaService::Unsupported(why) = driver.capacity().await.unwrap().quota else {
            panic!("supported");
        };
        assert!(why.contains("is on a file system without project quotas"), "{why}");
        running.controller.operations.delete(spec.id).await.unwrap();
    })
    .await;
}
