//! Checks a machine's requirements on values that the caller has read. Pure: no engine, no file, no
//! clock.

use std::fmt;
use std::net::Ipv4Addr;

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
    let Some(pool) = Network::parse(text).filter(|pool| (8..=29).contains(&pool.prefix)) else {
        let rule = "CIAL_SUBNET_POOL must be an IPv4 network of /8 to /29 that starts where its prefix says";
        return Some(ActionableError::new(format!("{rule} (is {text:?})"), fix));
    };
    let (interface, route) = routes.lines().filter_map(route).find(|(interface, route)| {
        !is_engines(interface) && route.prefix > 0 && route.meets(&pool)
    })?;
    let cause =
        format!("CIAL_SUBNET_POOL {text} meets {route}, which this machine reaches by {interface}");
    Some(ActionableError::new(cause, fix))
}

/// Recognises the engine's bridges, which are named after their networks' ids.
fn is_engines(interface: &str) -> bool {
    interface == "docker0" || interface.starts_with("br-")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: u32,
    prefix: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        let network = Self { address, prefix };
        (network.address & network.mask() == address).then_some(network)
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - self.prefix).unwrap_or(0)
    }

    fn meets(&self, other: &Self) -> bool {
        let mask = self.mask() & other.mask();
        self.address & mask == other.address & mask
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.address), self.prefix)
    }
}

/// Parses the interface and the destination of a line of /proc/net/route. The file prints numbers
/// in network order as if they were in this machine's order.
fn route(line: &str) -> Option<(&str, Network)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok().map(u32::from_be);
    let (address, mask) = (number(1)?, number(7)?);
    Some((fields.first()?, Network { address, prefix: mask.leading_ones() }))
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
