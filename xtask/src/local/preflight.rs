//! The requirements of a start. One pass finds all missing requirements, each with its fix.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};
use docker_command::{ActionableError, Compose, Docker};
use ipnet::Ipv4Net;

use super::installation::Installation;
use super::ports;
use crate::environment::{connect_docker, root, variable};

/// Bytes that an engine needs for new images and volumes.
const MIN_DISK: u64 = 5 << 30;
/// Bytes that compiling in a checkout needs.
const MIN_CHECKOUT: u64 = 2 << 30;
const MIN_MEMORY: u64 = 1 << 30;

/// Finds the engine and compose, and checks disk, memory, ports and subnets.
pub(crate) fn check(installation: &Installation) -> Result<(Docker, Compose)> {
    let mut errors = Vec::new();
    let docker = collect(connect_docker(), &mut errors)?;
    let compose = collect(Compose::find(), &mut errors)?;
    if let (Some(docker), Some(compose)) = (&docker, &compose) {
        let Docker { version, api_version, .. } = docker;
        eprintln!("    engine {version} (API {api_version}), {}", compose.describe());
    }
    errors.extend(disks(docker.as_ref()));
    errors.extend(memory(&read("/proc/meminfo")));
    errors.extend(equal_ports(&installation.ports()));
    errors.extend(pool(&installation.subnet_pool, &read("/proc/net/route")));
    errors.extend(taken_ports(docker.as_ref(), installation)?);
    match ActionableError::joined(errors) {
        Some(error) => Err(error.into()),
        None => docker.zip(compose).context("a requirement is missing without an error"),
    }
}

/// Adds an actionable error to the others, so that it does not hide them. Any other error fails the
/// check itself.
fn collect<T>(found: Result<T>, errors: &mut Vec<ActionableError>) -> Result<Option<T>> {
    match found.map_err(anyhow::Error::downcast::<ActionableError>) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            errors.push(error?);
            Ok(None)
        }
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
    let engine = info.and_then(|folder| disk_space(Path::new(folder.trim()), MIN_DISK));
    engine.into_iter().chain(disk_space(&target, MIN_CHECKOUT)).collect()
}

/// Checks that at least `least` bytes are free at `place`, where the system tells.
fn disk_space(place: &Path, least: u64) -> Option<ActionableError> {
    let stat = nix::sys::statvfs::statvfs(place).ok()?;
    #[expect(clippy::useless_conversion, reason = "these are narrower than u64 on some systems")]
    let (blocks, size) = (u64::from(stat.blocks_available()), u64::from(stat.fragment_size()));
    let (free, place) = (blocks.saturating_mul(size), place.display());
    let cause = format!("{} MB are free below {place}; {} are needed", free >> 20, least >> 20);
    let fix = format!("make room on the disk of {place}");
    (free < least).then(|| ActionableError::new(cause, fix))
}

/// Checks the text of /proc/meminfo; a text without the line passes.
fn memory(meminfo: &str) -> Option<ActionableError> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.split_whitespace().next()?.parse::<u64>().ok()? << 10;
    let cause =
        format!("{} MB of memory are available; {} are needed", free >> 20, MIN_MEMORY >> 20);
    (free < MIN_MEMORY)
        .then(|| ActionableError::new(cause, "end what needs memory, or stop other installations"))
}

/// Finds each pair of variables with the same port.
fn equal_ports(ports: &[(&str, u16)]) -> Vec<ActionableError> {
    let mut errors = Vec::new();
    for (at, (first, port)) in ports.iter().enumerate() {
        for (second, _) in ports[at + 1..].iter().filter(|(_, other)| other == port) {
            let fix = format!("give {second} another port, in the environment or in .env");
            errors.push(ActionableError::new(format!("{first} and {second} are both {port}"), fix));
        }
    }
    errors
}

/// Checks the pool of tenants' networks against the text of /proc/net/route. Other networks of the
/// engine are no error, because the orchestrator skips them.
fn pool(text: &str, routes: &str) -> Option<ActionableError> {
    let fix = "set CIAL_SUBNET_POOL to a private range that this machine has no route to, like 10.201.0.0/16";
    let is_valid = |pool: &Ipv4Net| (8..=29).contains(&pool.prefix_len()) && *pool == pool.trunc();
    let Some(pool) = text.parse().ok().filter(is_valid) else {
        let rule = "CIAL_SUBNET_POOL must be an IPv4 network of /8 to /29 that starts where its prefix says";
        return Some(ActionableError::new(format!("{rule} (is {text:?})"), fix));
    };
    let (interface, route) = routes.lines().filter_map(route).find(|(interface, route)| {
        // The engine's bridges are named after their networks' ids.
        let is_engines = *interface == "docker0" || interface.starts_with("br-");
        !is_engines && route.prefix_len() > 0 && (route.contains(&pool) || pool.contains(route))
    })?;
    let cause =
        format!("CIAL_SUBNET_POOL {text} meets {route}, which this machine reaches by {interface}");
    Some(ActionableError::new(cause, fix))
}

/// Parses the interface and the destination of a line of /proc/net/route. The file prints numbers
/// in network order as if they were in this machine's order.
fn route(line: &str) -> Option<(&str, Ipv4Net)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok().map(u32::from_be);
    let (address, mask) = (Ipv4Addr::from(number(1)?), Ipv4Addr::from(number(7)?));
    Some((fields.first()?, Ipv4Net::with_netmask(address, mask).ok()?))
}

/// Finds ports that another process holds. A port that this installation already holds is no error.
fn taken_ports(
    docker: Option<&Docker>,
    installation: &Installation,
) -> Result<Vec<ActionableError>> {
    let containers = docker.map(Docker::containers).transpose()?.unwrap_or_default();
    let mut errors = Vec::new();
    let taken = installation.ports().into_iter().filter(|(_, port)| !ports::is_free(*port));
    for (setting, port) in taken {
        let container = containers.iter().find(|found| found.published_ports.contains(&port));
        if container.is_some_and(|found| installation.objects().has_service(found)) {
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
    use std::net::TcpListener;

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
    fn an_actionable_error_is_collected_and_any_other_is_returned() {
        let mut errors = Vec::new();
        let error = ActionableError::new("Compose is missing", "install it");
        assert_eq!(collect(Ok(1), &mut errors).unwrap(), Some(1));
        assert_eq!(collect::<u8>(Err(error.clone().into()), &mut errors).unwrap(), None);
        assert!(collect::<u8>(Err(anyhow::anyhow!("no clue")), &mut errors).is_err());
        assert_eq!(errors, [error]);
    }

    #[test]
    fn disk_space_is_that_of_this_machine() {
        let place = std::env::temp_dir();
        assert_eq!(disk_space(&place, 1), None);
        let full = disk_space(&place, u64::MAX).expect("no disk is that large").to_string();
        assert!(full.contains(&format!("free below {}", place.display())), "{full}");
        assert!(full.contains("17592186044415 are needed"), "{full}");
    }

    #[test]
    fn memory_by_the_table() {
        let here = read("/proc/meminfo").replace("MemAvailable:", "MemAvailable: 0 kB of");
        for (text, will_do) in [
            ("MemTotal: 8000000 kB\nMemAvailable:    1048576 kB\n", true),
            ("MemAvailable:    1048575 kB\n", false),
            (here.as_str(), false),
            ("", true),
        ] {
            assert_eq!(memory(text).is_none(), will_do, "{text}");
        }
    }

    #[test]
    fn equal_ports_are_named_in_pairs() {
        let causes = |admin, router, postgres| {
            let errors = equal_ports(&[("A", admin), ("R", router), ("P", postgres)]);
            errors.into_iter().map(|error| error.cause).collect::<Vec<_>>()
        };
        assert_eq!(causes(3100, 8080, 5432), [""; 0]);
        assert_eq!(causes(8080, 8080, 5432), ["A and R are both 8080"]);
        let all = ["A and R are both 1", "A and P are both 1", "R and P are both 1"];
        assert_eq!(causes(1, 1, 1), all);
    }

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
        br-0123456789ab\t0000C90A\t00000000\t0001\t0\t0\t0\tF8FFFFFF\t0\t0\t0\n\
        tun0\t0000640A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";

    #[test]
    fn pools_by_the_table() {
        let cases = [
            ("10.201.0.0/16", ""),
            ("172.17.0.0/16", ""),
            ("10.201.0.0", "(is \"10.201.0.0\")"),
            ("10.201.0.0/30", "/8 to /29"),
            ("0.0.0.0/0", "/8 to /29"),
            ("10.201.0.1/16", "starts where its prefix says"),
            ("10.201.0/16", "IPv4 network"),
            ("10.201.0.0/sixteen", "IPv4 network"),
            ("fd00::/16", "IPv4 network"),
            ("", "IPv4 network"),
            ("10.100.0.0/16", "meets 10.100.0.0/16, which this machine reaches by tun0"),
            ("10.100.7.0/24", "meets 10.100.0.0/16"),
            ("10.0.0.0/8", "meets 10.100.0.0/16"),
            ("192.0.2.0/24", "by eth0"),
        ];
        for (text, expected) in cases {
            let cause = pool(text, ROUTES).map(|error| error.cause).unwrap_or_default();
            assert!(cause.contains(expected), "{text}: {cause}");
            assert_eq!(cause.is_empty(), expected.is_empty(), "{text}: {cause}");
        }
        assert_eq!(pool("10.201.0.0/16", ""), None, "a machine that shows no routes");
    }
}
