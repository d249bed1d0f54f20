//! Who a request comes from when proxies of ours stand in between. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A block of addresses, like `10.0.0.0/8` or `::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    network: u128,
    /// Of 128 bits: IPv4 counts as mapped into IPv6.
    bits: u32,
}

/// Proxies of ours: blocks with commas between them, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted(Vec<Block>);

/// A text that is no block of addresses.
#[derive(Debug)]
pub struct InvalidBlock(String);

/// What is believed of where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub client: IpAddr,
    pub scheme: &'static str,
}

impl Trusted {
    fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|block| block.has(address))
    }

    /// The first address outside the trusted ones, seen from here: `peer` itself, or what proxies that we trust say.
    ///
    /// `forwarded` gives the values of all `X-Forwarded-For` lines in their order, `scheme` that of `X-Forwarded-Proto`.
    pub fn origin<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl Iterator<Item = &'a [u8]>,
        scheme: impl FnOnce() -> Option<&'a [u8]>,
    ) -> Origin {
        let peer = peer.to_canonical();
        if !self.has(peer) {
            return Origin { client: peer, scheme: "http" };
        }
        let hops: Vec<&[u8]> = forwarded.flat_map(|line| line.split(|b| *b == b',')).collect();
        let mut client = peer;
        for hop in hops.iter().rev() {
            // Beyond what cannot be read nothing can be believed.
            let Some(address) = address(hop) else { break };
            client = address;
            if !self.has(address) {
                break;
            }
        }
        let scheme = match scheme() {
            Some(word) if word.eq_ignore_ascii_case(b"https") => "https",
            Some(_) | None => "http",
        };
        Origin { client, scheme }
    }
}

/// Whom a limit counts as one client: an IPv6 client has a whole /64 to ask from.
pub fn counted_as(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

/// An address as proxies write it: bare, in brackets, with a port or without.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if text.matches(':').count() == 1 => text.split_once(':')?.0,
        None => text,
    };
    bare.parse().ok().map(|address: IpAddr| address.to_canonical())
}

impl Block {
    fn has(&self, address: IpAddr) -> bool {
        let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
        number(address) & mask == self.network & mask
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl FromStr for Block {
    type Err = InvalidBlock;

    fn from_str(text: &str) -> Result<Self, InvalidBlock> {
        let invalid = || InvalidBlock(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().map_err(|_| invalid())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let (room, offset) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let bits = bits.unwrap_or(room);
        if bits > room {
            return Err(invalid());
        }
        Ok(Self { network: number(address), bits: bits + offset })
    }
}

impl FromStr for Trusted {
    type Err = InvalidBlock;

    fn from_str(text: &str) -> Result<Self, InvalidBlock> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for InvalidBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "must be addresses or blocks like 10.0.0.0/8 with commas between them, not {:?}",
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(trusted: &str, peer: &str, lines: &[&str], scheme: Option<&str>) -> String {
        let trusted: Trusted = trusted.parse().unwrap();
        let lines = lines.iter().map(|line| line.as_bytes());
        let origin = trusted.origin(peer.parse().unwrap(), lines, || scheme.map(str::as_bytes));
        format!("{} {}", origin.scheme, origin.client)
    }

    #[test]
    fn the_client_is_the_first_address_outside_the_trusted_ones() {
        const OURS: &str = "10.0.0.0/8, 192.0.2.7,fd00::/8";
        let one = |peer: &str, lines: &[&str]| origin(OURS, peer, lines, Some("https"));
        for (peer, lines, wanted) in [
            ("203.0.113.9", &["1.1.1.1"][..], "http 203.0.113.9"),
            ("::ffff:203.0.113.9", &["1.1.1.1"], "http 203.0.113.9"),
            ("10.0.0.1", &[], "https 10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1"], "https 1.1.1.1"),
            ("::ffff:10.0.0.1", &["1.1.1.1"], "https 1.1.1.1"),
            ("10.0.0.1", &["6.6.6.6, 1.1.1.1"], "https 1.1.1.1"),
            ("10.0.0.1", &["6.6.6.6", "1.1.1.1, 10.2.3.4"], "https 1.1.1.1"),
            ("10.0.0.1", &["1.1.1.1, 192.0.2.7"], "https 1.1.1.1"),
            ("10.0.0.1", &["1.1.1.1, 192.0.2.8"], "https 192.0.2.8"),
            ("10.0.0.1", &["10.9.9.9, 10.8.8.8"], "https 10.9.9.9"),
            ("10.0.0.1", &["1.1.1.1, nonsense, 10.2.3.4"], "https 10.2.3.4"),
            ("10.0.0.1", &["", ","], "https 10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1:4711"], "https 1.1.1.1"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "https 2001:db8::1"),
            ("fd00::1", &["2001:db8::1"], "https 2001:db8::1"),
            ("fe00::1", &["2001:db8::1"], "http fe00::1"),
        ] {
            assert_eq!(one(peer, lines), wanted, "{peer} {lines:?}");
        }
        assert_eq!(origin("", "10.0.0.1", &["1.1.1.1"], Some("https")), "http 10.0.0.1");
        assert_eq!(origin("::/0", "10.0.0.1", &["1.1.1.1"], Some("ftp")), "http 1.1.1.1");
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in ["10.0.0.0/33", "::/129", "10.0.0/8", "localhost", "10.0.0.0/", "10.0.0.1/-1"] {
            assert!(text.parse::<Trusted>().is_err(), "{text}");
        }
    }
}
