//! The `report` subcommand: problems of the running orchestrator and its tenants, read from its own API for tools on
//! the same machine, like `cargo xtask doctor`. Tenants are named by their ids.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::Method;
use protocol::orchestrator::{
    Capacity, Check, DiskCapacity, DiskUse, DiskUseList, Drift, ObservedTenant, ObservedTenantList,
    QuotaService,
};
use protocol::text::describe_bytes;
use service::client::Client;
use service::settings::shared;
use service::{Env, ServiceError, SettingsReader};

use crate::settings;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the checks with the settings of the running service.
///
/// # Errors
/// Invalid settings, and a service that does not respond or refuses the token.
pub fn report(env: &Env) -> Result<Vec<Check>, ServiceError> {
    let mut vars = SettingsReader::new(env);
    let listen = vars.value::<SocketAddr>(&settings::LISTEN);
    let token = vars.secret(&shared::ORCHESTRATOR_TOKEN);
    let (listen, token) = vars.finish(|| Some((listen?, token?)))?;
    let client = Client::new(format!("http://127.0.0.1:{}", listen.port()), token);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(examine(&client))
}

async fn examine(client: &Client) -> Result<Vec<Check>, ServiceError> {
    let capacity: Capacity = client.call(Method::GET, "/v1/capacity", None::<&()>, TIMEOUT).await?;
    let tenants: ObservedTenantList =
        client.call(Method::GET, "/v1/tenants", None::<&()>, TIMEOUT).await?;
    let disk: DiskUseList = client.call(Method::GET, "/v1/disk", None::<&()>, TIMEOUT).await?;
    Ok(vec![check_drift(&tenants.tenants), check_disk(&capacity, &disk.tenants)])
}

/// Finds containers that differ from their specs. A rebuilt image and changed settings are no problem: they apply at the
/// next start.
fn check_drift(tenants: &[ObservedTenant]) -> Check {
    let name = "every container is as its tenant's settings say".to_owned();
    let mut check = Check { name, ..Check::default() };
    for ObservedTenant { id, drift, .. } in tenants {
        for (lines, are_updates) in [(&mut check.problems, false), (&mut check.notes, true)] {
            let is_update = |drift: &Drift| matches!(drift, Drift::Image | Drift::Settings);
            let parts = drift.iter().filter(|drift| is_update(drift) == are_updates);
            let parts: Vec<_> = parts.map(|drift| drift.describe()).collect();
            if !parts.is_empty() {
                let parts = parts.join("; ");
                lines.push(format!("{id}: {parts}. The next start corrects this."));
            }
        }
    }
    check
}

/// Finds tenants over their disk limit and a disk below its reserve, and notes how full all are, and what enforces the
/// limits.
fn check_disk(capacity: &Capacity, tenants: &[DiskUse]) -> Check {
    let name = "the disk has room, and each tenant is within its limit".to_owned();
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    if let Some(DiskCapacity { free_bytes, total_bytes, reserve_bytes }) = capacity.disk {
        let [free, total, reserve] = [free_bytes, total_bytes, reserve_bytes].map(describe_bytes);
        let line = format!("the engine's disk: {free} of {total} free, reserve {reserve}");
        if free_bytes < reserve_bytes {
            problems.push(format!("{line}: no tenant is created until there is room"));
        } else {
            notes.push(line);
        }
    } else {
        problems.push("the free space of the engine's disk is unknown".to_owned());
    }
    const MEASURED: &str = "disk limits are measured";
    match &capacity.quota {
        QuotaService::Ready => notes.push(
            "the file system enforces the disk limit of each tenant that says so below".to_owned(),
        ),
        QuotaService::Absent => notes.push(format!("the service quota does not run: {MEASURED}")),
        QuotaService::Unsupported(why) => notes.push(format!("{why}: {MEASURED}")),
        QuotaService::Failed(why) => problems.push(format!("{why}: {MEASURED} meanwhile")),
    }
    for DiskUse { tenant, used_bytes, limit_bytes, enforced_by } in tenants {
        let limit = describe_bytes(*limit_bytes);
        match used_bytes.map(|used| (used > *limit_bytes, describe_bytes(used))) {
            Some((true, used)) => problems.push(format!(
                "{tenant}: {used} used, over its limit of {limit}: raise limits.disk_bytes, then start it"
            )),
            Some((false, used)) => {
                let way = enforced_by.describe();
                notes.push(format!("{tenant}: {used} of {limit} used, {way}"));
            }
            None => notes.push(format!("{tenant}: not measured yet, limit {limit}")),
        }
    }
    Check { name, problems, notes }
}

#[cfg(test)]
mod tests {
    use protocol::orchestrator::DiskEnforcement;
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

    #[test]
    fn drift_is_a_problem_unless_the_next_start_is_its_time() {
        let check = |drift: Value| {
            let tenant = json!({
                "id": ID, "generation": 1, "phase": "ready", "container_id": "c", "image_outdated": false,
                "drift": drift, "exits": 0,
            });
            check_drift(&[serde_json::from_value(tenant).unwrap()])
        };
        let none = check(json!([]));
        assert!(none.problems.is_empty() && none.notes.is_empty());
        let both = check(json!(["image", "network", "limits"]));
        let network = "it is not attached to its own network, or to that network only; its limits were changed on the engine. The next start corrects this.";
        assert_eq!(both.problems, [format!("{ID}: {network}")]);
        let image = "its image was rebuilt or replaced. The next start corrects this.";
        assert_eq!(both.notes, [format!("{ID}: {image}")]);
    }

    fn disk(free_bytes: u64, quota: QuotaService, tenant: DiskUse) -> Check {
        let disk = DiskCapacity { free_bytes, total_bytes: 8 << 30, reserve_bytes: 1 << 30 };
        let capacity = Capacity {
            networks_used: 1,
            networks_total: 8,
            engine_version: "20".to_owned(),
            api_version: "1.41".to_owned(),
            disk: Some(disk),
            quota,
        };
        check_disk(&capacity, &[tenant])
    }

    fn tenant(used_bytes: Option<u64>, enforced_by: DiskEnforcement) -> DiskUse {
        DiskUse { tenant: ID.parse().unwrap(), used_bytes, limit_bytes: 10 << 20, enforced_by }
    }

    #[test]
    fn a_full_disk_and_a_tenant_over_its_limit_are_problems() {
        let check = |used, free| {
            disk(free, QuotaService::Absent, tenant(used, DiskEnforcement::Measurement))
        };
        let Check { problems, notes, .. } = check(Some(3 << 20), 2 << 30);
        assert_eq!(problems, [""; 0]);
        let free = "the engine's disk: 2.0 GiB of 8.0 GiB free, reserve 1.0 GiB";
        let absent = "the service quota does not run: disk limits are measured";
        let own = format!("{ID}: 3.0 MiB of 10.0 MiB used, measured");
        assert_eq!(notes, [free, absent, own.as_str()]);
        assert!(check(None, 2 << 30).notes[2].contains("not measured yet"));
        let over = check(Some(11 << 20), 2 << 30);
        assert!(over.problems[0].contains("over its limit of 10.0 MiB"));
        assert!(check(Some(1), 1 << 29).problems[0].contains("no tenant is created"));
    }

    #[test]
    fn what_enforces_the_disk_limits_is_noted_and_a_service_that_fails_is_a_problem() {
        let check =
            |quota| disk(2 << 30, quota, tenant(Some(1 << 20), DiskEnforcement::Filesystem));
        let ready = check(QuotaService::Ready);
        assert_eq!(ready.problems, [""; 0]);
        assert!(ready.notes[1].starts_with("the file system enforces"), "{:?}", ready.notes);
        let own = format!("{ID}: 1.0 MiB of 10.0 MiB used, enforced by the file system");
        assert_eq!(ready.notes[2], own);
        let failed = check(QuotaService::Failed("the service quota does not respond".to_owned()));
        let line = "the service quota does not respond: disk limits are measured meanwhile";
        assert_eq!(failed.problems, [line]);
        let other = check(QuotaService::Unsupported(
            "/volumes is on neither btrfs, XFS nor ext4".to_owned(),
        ));
        assert_eq!(other.problems, [""; 0]);
        let line = "/volumes is on neither btrfs, XFS nor ext4: disk limits are measured";
        assert_eq!(other.notes[1], line);
    }
}
