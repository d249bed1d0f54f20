//! Checks a machine's requirements on values that the caller has read. Pure: no engine, no file, no
//! clock.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::error::ActionableError;

/// Bytes that an engine needs for new images and volumes.
pub(super) const MIN_DISK: u64 = 5 << 30;
/// Bytes that compiling in a checkout needs.
pub(super) const MIN_CHECKOUT: u64 = 2 << 30;
const MIN_MEMORY: u64 = 1 << 30;

/// Checks that `blocks` free blocks of `size` bytes at `place` amount to at least `least` bytes.
pub(super) fn disk_space(
    place: &str,
    blocks: u64,
    size: u64,
    least: u64,
) -> Option<ActionableError> {
    let free = blocks.saturating_mul(size);
    let cause = format!("{} MB are free below {place}; {} are needed", free >> 20, least >> 20);
    (free < least).then(|| ActionableError::new(cause, format!("make room on the disk of {place}")))
}

/// Checks the text of /proc/meminfo; a text without the line passes.
pub(super) fn memory(meminfo: &str) -> Option<ActionableError> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.split_whitespace().next()?.parse::<u64>().ok()? << 10;
    let cause =
        format!("{} MB of memory are available; {} are needed", free >> 20, MIN_MEMORY >> 20);
    (free < MIN_MEMORY)
        .then(|| ActionableError::new(cause, "end what needs memory, or stop other installations"))
}

/// Finds each pair of variables with the same port.
pub(super) fn equal_ports(ports: &[(&str, u16)]) -> Vec<ActionableError> {
    let pairs = ports
        .iter()
        .enumerate()
        .flat_map(|(at, one)| ports[at + 1..].iter().map(move |other| (one, other)));
    let equal = pairs.filter(|(one, other)| one.1 == other.1);
    let error = |(one, other): (&(&str, u16), &(&str, u16))| {
        let cause = format!("{} and {} are both {}", one.0, other.0, one.1);
        ActionableError::new(
            cause,
            format!("give {} another port, in the environment or in .env", other.0),
        )
    };
    equal.map(error).collect()
}

/// Checks the pool of tenants' networks against the text of /proc/net/route. Other networks of the
/// engine are no error, because the orchestrator skips them.
pub(super) fn pool(text: &str, routes: &str) -> Option<ActionableError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;

    #[test]
    fn disk_space_by_the_table() {
        // The columns are blocks, their size, the minimum, and the expected result.
        let cases = [
            (0, 4096, MIN_DISK, false),
            (MIN_DISK / 4096 - 1, 4096, MIN_DISK, false),
            (MIN_DISK / 4096, 4096, MIN_DISK, true),
            (MIN_DISK / 512, 512, MIN_DISK, true),
            (3 * GB / 4096, 4096, MIN_DISK, false),
            (3 * GB / 4096, 4096, MIN_CHECKOUT, true),
            (u64::MAX, 4096, MIN_DISK, true),
        ];
        for (blocks, size, least, will_do) in cases {
            assert_eq!(
                disk_space("/here", blocks, size, least).is_none(),
                will_do,
                "{blocks} × {size}"
            );
        }
        let error = disk_space("/var/lib/docker", 1024, 4096, MIN_DISK).unwrap().to_string();
        assert_eq!(
            error,
            "4 MB are free below /var/lib/docker; 5120 are needed (fix: make room on the disk of /var/lib/docker)"
        );
    }

    #[test]
    fn memory_by_the_table() {
        let cases = [
            ("MemTotal: 8000000 kB\nMemAvailable:    1048576 kB\n", true),
            ("MemAvailable:    1048575 kB\n", false),
            ("MemAvailable: 0 kB\n", false),
            ("", true),
        ];
        for (text, will_do) in cases {
            assert_eq!(memory(text).is_none(), will_do, "{text}");
        }
    }

    #[test]
    fn equal_ports_are_named_in_pairs() {
        let with =
            |admin, router, postgres| equal_ports(&[("A", admin), ("R", router), ("P", postgres)]);
        assert_eq!(with(3100, 8080, 5432), []);
        let causes = |errors: Vec<ActionableError>| {
            errors.into_iter().map(|error| error.cause).collect::<Vec<_>>()
        };
        assert_eq!(causes(with(8080, 8080, 5432)), ["A and R are both 8080"]);
        assert_eq!(
            causes(with(1, 1, 1)),
            ["A and R are both 1", "A and P are both 1", "R and P are both 1"]
        );
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
            ("10.201.0.0/16", None),
            ("172.17.0.0/16", None),
            ("10.201.0.0", Some("(is \"10.201.0.0\")")),
            ("10.201.0.0/30", Some("/8 to /29")),
            ("0.0.0.0/0", Some("/8 to /29")),
            ("10.201.0.1/16", Some("starts where its prefix says")),
            ("10.201.0/16", Some("IPv4 network")),
            ("10.201.0.0/sixteen", Some("IPv4 network")),
            ("fd00::/16", Some("IPv4 network")),
            ("", Some("IPv4 network")),
            ("10.100.0.0/16", Some("meets 10.100.0.0/16, which this machine reaches by tun0")),
            ("10.100.7.0/24", Some("meets 10.100.0.0/16")),
            ("10.0.0.0/8", Some("meets 10.100.0.0/16")),
            ("192.0.2.0/24", Some("by eth0")),
        ];
        for (text, expected) in cases {
            let cause = pool(text, ROUTES).map(|error| error.cause);
            match (&cause, expected) {
                (None, None) => {}
                (Some(cause), Some(expected)) => {
                    assert!(cause.contains(expected), "{text}: {cause}")
                }
                (_, _) => panic!("{text}: {cause:?}"),
            }
        }
        assert_eq!(pool("10.201.0.0/16", ""), None, "a machine that shows no routes");
    }
}
