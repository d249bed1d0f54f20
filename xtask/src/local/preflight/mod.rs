//! The requirements of a start. One pass finds all missing requirements, each with its fix.

mod requirements;

use std::path::Path;

use anyhow::Result;

use super::compose::Compose;
use super::installation::Installation;
use super::{objects, ports};
use crate::docker::Docker;
use crate::environment::{root, variable};
use crate::error::ActionableError;

/// Finds the engine and compose, and checks disk, memory, ports and subnets.
pub fn check(installation: &Installation) -> Result<(Docker, Compose)> {
    let mut errors = Vec::new();
    let docker = collect(Docker::connect(), &mut errors)?;
    let compose = collect(Compose::find(), &mut errors)?;
    if let (Some(docker), Some(compose)) = (&docker, &compose) {
        let Docker { version, api_version, .. } = docker;
        eprintln!("    engine {version} (API {api_version}), {}", compose.describe());
    }
    errors.extend(disks(docker.as_ref()));
    errors.extend(requirements::memory(&read("/proc/meminfo")));
    errors.extend(requirements::equal_ports(&installation.ports()));
    errors.extend(requirements::pool(&installation.subnet_pool, &read("/proc/net/route")));
    errors.extend(taken_ports(docker.as_ref(), installation)?);
    match (ActionableError::joined(errors), docker, compose) {
        (None, Some(docker), Some(compose)) => Ok((docker, compose)),
        (Some(error), _, _) => Err(error.into()),
        (None, _, _) => anyhow::bail!("a requirement is missing without an error"),
    }
}

/// Adds an actionable error to the others, so that it does not hide them. Any other error fails the
/// check itself.
fn collect<T>(found: Result<T>, errors: &mut Vec<ActionableError>) -> Result<Option<T>> {
    match found.map_err(anyhow::Error::downcast::<ActionableError>) {
        Ok(value) => Ok(Some(value)),
        Err(Ok(error)) => {
            errors.push(error);
            Ok(None)
        }
        Err(Err(error)) => Err(error),
    }
}

/// Reads a file of the system; returns an empty text if the file does not exist.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Checks the space where the engine keeps images and volumes, if on this machine, and where cargo
/// compiles.
fn disks(docker: Option<&Docker>) -> Vec<ActionableError> {
    let info =
        docker.and_then(|docker| docker.run(&["info", "--format", "{{.DockerRootDir}}"]).ok());
    let target = variable("CARGO_TARGET_DIR").map_or_else(root, Into::into);
    let target = target.ancestors().find(|folder| folder.exists()).unwrap_or(&target).to_owned();
    let engine =
        info.and_then(|folder| disk_space(Path::new(folder.trim()), requirements::MIN_DISK));
    engine.into_iter().chain(disk_space(&target, requirements::MIN_CHECKOUT)).collect()
}

fn disk_space(place: &Path, least: u64) -> Option<ActionableError> {
    let stat = nix::sys::statvfs::statvfs(place).ok()?;
    #[expect(clippy::useless_conversion, reason = "these are narrower than u64 on some systems")]
    let (blocks, size) = (u64::from(stat.blocks_available()), u64::from(stat.fragment_size()));
    requirements::disk_space(&place.display().to_string(), blocks, size, least)
}

/// Finds ports that another process holds. A port that this installation already holds is no error.
fn taken_ports(
    docker: Option<&Docker>,
    installation: &Installation,
) -> Result<Vec<ActionableError>> {
    let containers = match docker {
        Some(docker) => docker.containers(&[])?,
        None => Vec::new(),
    };
    let mut errors = Vec::new();
    let taken = installation.ports().into_iter().filter(|(_, port)| !ports::is_free(*port));
    for (setting, port) in taken {
        let container = containers.iter().find(|found| found.published_ports.contains(&port));
        if container.is_some_and(|found| objects::is_of_project(found, installation)) {
            continue;
        }
        let holder = match container {
            Some(container) => format!("container {}", container.name),
            None => ports::holder(port)
                .unwrap_or_else(|| "a process that cannot be seen from here".to_owned()),
        };
        let fix = format!("stop it, or choose another port: put {setting}=… into .env");
        errors.push(ActionableError::new(format!("port {port} is taken by {holder}"), fix));
    }
    Ok(errors)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn every_missing_requirement_is_reported_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let installation = Installation::read(&|name| match name {
            "CIAL_ADMIN_PORT" | "CIAL_POSTGRES_PORT" => Some(port.clone()),
            "CIAL_SUBNET_POOL" => Some("10.201.0.0".to_owned()),
            _ => None,
        });
        let error = check(&installation.unwrap()).err().unwrap().to_string();
        let expected = [
            format!("CIAL_ADMIN_PORT and CIAL_POSTGRES_PORT are both {port}"),
            "CIAL_SUBNET_POOL must be an IPv4 network".to_owned(),
            format!("port {port} is taken by "),
            format!("(pid {})", std::process::id()),
            "put CIAL_ADMIN_PORT=… into .env".to_owned(),
        ];
        for part in expected {
            assert!(error.contains(&part), "{part:?} is not in {error}");
        }
    }

    #[test]
    fn the_disk_and_the_memory_of_this_machine_are_read() {
        let place = std::env::temp_dir();
        assert_eq!(disk_space(&place, 1), None);
        let full = disk_space(&place, u64::MAX).expect("no disk is that large").to_string();
        assert!(full.contains(&place.display().to_string()), "{full}");
        // The bar in the place of what is available, in the real text.
        let with = |kib: u64| {
            let line = |line: &str| match line.split_once(':') {
                Some(("MemAvailable", _)) => format!("MemAvailable: {kib} kB\n"),
                _ => format!("{line}\n"),
            };
            read("/proc/meminfo").lines().map(line).collect::<String>()
        };
        assert!(
            requirements::memory(&with(0)).is_some()
                && requirements::memory(&with(1 << 20)).is_none()
        );
    }

    #[test]
    fn an_actionable_error_is_collected_and_any_other_is_returned() {
        let mut errors = Vec::new();
        let error = ActionableError::new("Compose is missing", "install it");
        assert_eq!(collect(Ok(1), &mut errors).unwrap(), Some(1));
        assert_eq!(collect::<u8>(Err(error.clone().into()), &mut errors).unwrap(), None);
        assert!(collect::<u8>(Err(anyhow::anyhow!("no clue")), &mut errors).is_err());
        assert_eq!(errors, [error]);
    }
}
