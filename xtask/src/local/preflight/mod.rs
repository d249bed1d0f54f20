//! What must hold before anything is started. Every fault is found in one pass, each with its fix.

mod judge;

use std::path::Path;

use anyhow::Result;
use bollard::Docker;

use super::compose::Compose;
use super::installation::Installation;
use super::{engine, ports};
use crate::fault::Fault;
use crate::{images, world};

/// What later steps work with.
pub(super) struct Ready {
    pub docker: Docker,
    pub compose: Compose,
}

pub(super) async fn check(installation: &Installation) -> Result<Ready> {
    let mut faults = Vec::new();
    let docker = known(images::engine().await, &mut faults)?;
    let compose = known(Compose::find(), &mut faults)?;
    if let (Some(docker), Some(compose)) = (&docker, &compose) {
        let version = docker.version().await?;
        let (version, api) =
            (version.version.unwrap_or_default(), version.api_version.unwrap_or_default());
        eprintln!("    engine {version} (API {api}), {}", compose.describe());
    }
    faults.extend(disks(docker.as_ref()).await);
    faults.extend(judge::memory(&read("/proc/meminfo")));
    faults.extend(judge::equal_ports(&installation.ports()));
    faults.extend(judge::pool(&installation.subnet_pool, &read("/proc/net/route")));
    faults.extend(taken_ports(docker.as_ref(), installation).await?);
    match (Fault::joined(faults), docker, compose) {
        (None, Some(docker), Some(compose)) => Ok(Ready { docker, compose }),
        (Some(fault), _, _) => Err(fault.into()),
        (None, _, _) => anyhow::bail!("what is missing has no fault"),
    }
}

/// The same for whoever only looks.
pub async fn machine(installation: &Installation) -> Result<(Docker, Compose)> {
    check(installation).await.map(|ready| (ready.docker, ready.compose))
}

/// Puts a fault beside the others, so that it does not hide them. What is no fault is a failure of the check.
fn known<T>(found: Result<T>, faults: &mut Vec<Fault>) -> Result<Option<T>> {
    match found.map_err(anyhow::Error::downcast::<Fault>) {
        Ok(value) => Ok(Some(value)),
        Err(Ok(fault)) => {
            faults.push(fault);
            Ok(None)
        }
        Err(Err(error)) => Err(error),
    }
}

/// A file of the system's, empty where there is none.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Room where the engine keeps images and volumes, when that is on this machine, and where cargo compiles.
async fn disks(docker: Option<&Docker>) -> Vec<Fault> {
    let root = match docker {
        Some(docker) => docker.info().await.ok().and_then(|info| info.docker_root_dir),
        None => None,
    };
    let target = world::var("CARGO_TARGET_DIR").map_or_else(world::root, Into::into);
    let target = target.ancestors().find(|folder| folder.exists()).unwrap_or(&target).to_owned();
    let engine = root.and_then(|root| room(Path::new(&root), judge::LEAST_DISK));
    engine.into_iter().chain(room(&target, judge::LEAST_CHECKOUT)).collect()
}

fn room(place: &Path, least: u64) -> Option<Fault> {
    let stat = nix::sys::statvfs::statvfs(place).ok()?;
    #[expect(clippy::useless_conversion, reason = "these are narrower than u64 on some systems")]
    let (blocks, size) = (u64::from(stat.blocks_available()), u64::from(stat.fragment_size()));
    judge::room(&place.display().to_string(), blocks, size, least)
}

/// Ports that somebody else holds. One that this installation holds already is as it should be.
async fn taken_ports(docker: Option<&Docker>, installation: &Installation) -> Result<Vec<Fault>> {
    let everyones = match docker {
        Some(docker) => engine::containers(docker, Vec::new()).await?,
        None => Vec::new(),
    };
    let mut faults = Vec::new();
    for (variable, port) in
        installation.ports().into_iter().filter(|(_, port)| !ports::is_free(*port))
    {
        let publishes = |c: &&bollard::models::ContainerSummary| {
            c.ports.iter().flatten().any(|published| published.public_port == Some(port))
        };
        let container = everyones.iter().find(publishes);
        let is_ours = container.is_some_and(|c| {
            engine::label(c, "com.docker.compose.project") == installation.project()
        });
        if is_ours {
            continue;
        }
        let holder = match container {
            Some(container) => format!("container {}", engine::name(container)),
            None => ports::holder(port)
                .unwrap_or_else(|| "a process that cannot be seen from here".to_owned()),
        };
        let fix = format!("stop it, or choose another port: put {variable}=… into .env");
        faults.push(Fault::new(format!("port {port} is taken by {holder}"), fix));
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[tokio::test]
    async fn what_is_wrong_is_told_all_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let installation = Installation::read(&|name| match name {
            "CIAL_ADMIN_PORT" | "CIAL_POSTGRES_PORT" => Some(port.clone()),
            "CIAL_SUBNET_POOL" => Some("10.201.0.0".to_owned()),
            _ => None,
        });
        let fault = check(&installation.unwrap()).await.err().unwrap().to_string();
        let expected = [
            format!("CIAL_ADMIN_PORT and CIAL_POSTGRES_PORT are both {port}"),
            "CIAL_SUBNET_POOL must be an IPv4 network".to_owned(),
            format!("port {port} is taken by "),
            format!("(pid {})", std::process::id()),
            "put CIAL_ADMIN_PORT=… into .env".to_owned(),
        ];
        for part in expected {
            assert!(fault.contains(&part), "{part:?} is not in {fault}");
        }
    }

    #[test]
    fn a_fault_is_kept_and_a_failure_is_passed_on() {
        let mut faults = Vec::new();
        let fault = Fault::new("Compose is missing", "install it");
        assert_eq!(known(Ok(1), &mut faults).unwrap(), Some(1));
        assert_eq!(known::<u8>(Err(fault.clone().into()), &mut faults).unwrap(), None);
        assert!(known::<u8>(Err(anyhow::anyhow!("no clue")), &mut faults).is_err());
        assert_eq!(faults, [fault]);
    }
}
