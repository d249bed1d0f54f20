//! Subnets for tenants: a pool cut into /29s that avoids every existing network. Pure.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Eight addresses: network, broadcast, gateway, the tenant, and room.
const TENANT_PREFIX: u8 = 29;
const BLOCK: u64 = 1 << (32 - TENANT_PREFIX);

/// An IPv4 network in CIDR form, its host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Net {
    base: u32,
    prefix: u8,
}

impl Net {
    /// `None` when the prefix is over 32. Host bits are dropped.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let host_bits = 32_u32.checked_sub(prefix.into())?;
        let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Self { base: u32::from(address) & mask, prefix })
    }

    fn first(self) -> u64 {
        u64::from(self.base)
    }

    /// The address after the last one.
    fn end(self) -> u64 {
        self.first() + (1 << (32 - self.prefix))
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.first() < other.end() && other.first() < self.end()
    }

    /// The first usable address, which we give to the bridge.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl FromStr for Net {
    type Err = InvalidNet;

    fn from_str(text: &str) -> Result<Self, InvalidNet> {
        let (address, prefix) = text.split_once('/').ok_or(InvalidNet)?;
        let address = address.parse().map_err(|_| InvalidNet)?;
        let net = Self::new(address, prefix.parse().map_err(|_| InvalidNet)?).ok_or(InvalidNet)?;
        if Ipv4Addr::from(net.base) == address { Ok(net) } else { Err(InvalidNet) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidNet;

impl fmt::Display for InvalidNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be an IPv4 network like 10.201.0.0/16")
    }
}

/// The range that tenants' networks are cut from: at least one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool(Net);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPool;

impl fmt::Display for InvalidPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be an IPv4 network of /8 to /29, like 10.201.0.0/16")
    }
}

impl FromStr for Pool {
    type Err = InvalidPool;

    fn from_str(text: &str) -> Result<Self, InvalidPool> {
        let net: Net = text.parse().map_err(|_| InvalidPool)?;
        if (8..=TENANT_PREFIX).contains(&net.prefix) { Ok(Self(net)) } else { Err(InvalidPool) }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Pool {
    pub fn first_address(self) -> Ipv4Addr {
        Ipv4Addr::from(self.0.base)
    }

    pub fn last_address(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::try_from(self.0.end() - 1).unwrap_or(u32::MAX))
    }

    /// Returns the first block that overlaps none of `taken`; `None` when the pool is used up.
    pub fn pick(self, taken: &[Net]) -> Option<Net> {
        let mut overlapping: Vec<_> = taken.iter().filter(|n| n.overlaps(self.0)).collect();
        overlapping.sort_unstable();
        let mut at = self.0.first();
        for net in overlapping {
            if net.first() >= at + BLOCK {
                break;
            }
            at = at.max(net.end().next_multiple_of(BLOCK));
        }
        (at + BLOCK <= self.0.end())
            .then(|| Net { base: u32::try_from(at).unwrap_or(u32::MAX), prefix: TENANT_PREFIX })
    }

    /// Returns the number of blocks, and how many of them overlap one of `taken`.
    pub fn usage(self, taken: &[Net]) -> (u32, u32) {
        let count = |from: u64, to: u64| u32::try_from((to - from) / BLOCK).unwrap_or(u32::MAX);
        let mut overlapping: Vec<_> = taken.iter().filter(|n| n.overlaps(self.0)).collect();
        overlapping.sort_unstable();
        let (mut used, mut at) = (0, self.0.first());
        for net in overlapping {
            let from = (net.first() - net.first() % BLOCK).max(at);
            let to = net.end().next_multiple_of(BLOCK).min(self.0.end());
            if to > from {
                used += count(from, to);
                at = to;
            }
        }
        (count(self.0.first(), self.0.end()), used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Net {
        text.parse().unwrap()
    }

    fn pool(text: &str) -> Pool {
        text.parse().unwrap()
    }

    #[test]
    fn blocks_are_taken_in_order_around_what_exists() {
        let table: [(&str, &[&str], Option<&str>); 9] = [
            ("10.201.0.0/16", &[], Some("10.201.0.0/29")),
            ("10.201.0.0/16", &["10.201.0.0/29"], Some("10.201.0.8/29")),
            ("10.201.0.0/16", &["10.201.0.8/29"], Some("10.201.0.0/29")),
            ("10.201.0.0/16", &["10.201.0.0/28", "10.201.0.24/29"], Some("10.201.0.16/29")),
            ("10.201.0.0/16", &["10.0.0.0/8"], None),
            ("10.201.0.0/16", &["172.17.0.0/16", "0.0.0.0/32"], Some("10.201.0.0/29")),
            ("10.201.0.0/16", &["10.201.0.4/30"], Some("10.201.0.8/29")),
            ("10.201.0.0/29", &["10.201.0.0/29"], None),
            ("255.255.255.240/28", &["255.255.255.240/29"], Some("255.255.255.248/29")),
        ];
        for (from, taken, picked) in table {
            let taken: Vec<_> = taken.iter().map(|t| net(t)).collect();
            assert_eq!(pool(from).pick(&taken), picked.map(net), "{from} {taken:?}");
        }
    }

    #[test]
    fn a_pool_ends_with_its_last_address() {
        for (text, first, last) in [
            ("10.201.0.0/16", "10.201.0.0", "10.201.255.255"),
            ("255.255.255.240/28", "255.255.255.240", "255.255.255.255"),
        ] {
            let ends = (pool(text).first_address(), pool(text).last_address());
            assert_eq!(ends, (first.parse().unwrap(), last.parse().unwrap()));
        }
    }

    #[test]
    fn a_pool_of_the_default_size_holds_8192_tenants() {
        let (pool, mut taken) = (pool("10.201.0.0/16"), Vec::new());
        assert_eq!(pool.usage(&taken), (8192, 0));
        for _ in 0..40 {
            taken.push(pool.pick(&taken).unwrap());
        }
        assert_eq!(pool.usage(&taken), (8192, 40));
        assert_eq!(taken[31].to_string(), "10.201.0.248/29");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.1/8", "10.0.0/8", "a/8", "::/64"] {
            assert_eq!(bad.parse::<Net>(), Err(InvalidNet), "{bad}");
        }
        for bad in ["10.201.0.0/30", "0.0.0.0/0", "x"] {
            assert_eq!(bad.parse::<Pool>(), Err(InvalidPool), "{bad}");
        }
    }

    prop_compose! {
        /// Networks of any size in and around 10.201.0.0/24.
        fn nets()(raw in prop::collection::vec((0u32..0x400, 22u8..=32), 0..24)) -> Vec<Net> {
            let base = u32::from(Ipv4Addr::new(10, 200, 254, 0));
            raw.iter().map(|(at, prefix)| Net::new(Ipv4Addr::from(base + at), *prefix).unwrap()).collect()
        }
    }

    proptest! {
        #[test]
        fn a_pick_is_free_and_there_is_one_whenever_a_block_is(taken in nets()) {
            let pool = pool("10.201.0.0/24");
            let blocks = (0..32u32).map(|n| Net::new(Ipv4Addr::from(pool.0.base + n * 8), 29).unwrap());
            let free: Vec<_> = blocks.filter(|b| !taken.iter().any(|t| t.overlaps(*b))).collect();
            prop_assert_eq!(pool.pick(&taken), free.first().copied());
            prop_assert_eq!(pool.usage(&taken), (32, 32 - free.len() as u32));
        }
    }
}
