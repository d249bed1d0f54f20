//! The client of a request that came through trusted proxies, by `X-Forwarded-For` and `X-Forwarded-Proto`. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv6Net};

/// The proxies whose `X-Forwarded-*` headers are believed: address blocks with commas between them, or none.
///
/// An IPv4 block counts as mapped into IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Ipv6Net>);

/// A text that is neither an address nor an address block.
#[derive(Debug)]
pub struct InvalidBlock(String);

/// The client of a request and the scheme that the client used, as far as both are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub client: IpAddr,
    pub scheme: &'static str,
}

impl TrustedProxies {
    /// Whether `address` (canonical) is one of the proxies.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = to_ipv6(address);
        self.0.iter().any(|block| block.contains(&address))
    }

    /// The client of a request: `peer`, or the last address of `X-Forwarded-For` that is not a trusted proxy.
    ///
    /// `forwarded` yields the values of all `X-Forwarded-For` lines in order, `scheme` the value of `X-Forwarded-Proto`.
    pub fn client_origin<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl Iterator<Item = &'a [u8]>,
        scheme: impl FnOnce() -> Option<&'a [u8]>,
    ) -> Origin {
        let peer = peer.to_canonical();
        if !self.contains(peer) {
            return Origin { client: peer, scheme: "http" };
        }
        let hops: Vec<&[u8]> = forwarded.flat_map(|line| line.split(|b| *b == b',')).collect();
        let mut client = peer;
        for hop in hops.iter().rev() {
            // An unreadable hop ends the chain: whatever stands before it is not believed.
            let Some(address) = parse_hop(hop) else { break };
            client = address;
            if !self.contains(address) {
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

/// The address by which a rate limit counts a client: an IPv6 client may use its whole /64.
pub fn rate_limit_key(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

/// Parses an address as proxies write it: bare or in brackets, with a port or without.
fn parse_hop(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if text.matches(':').count() == 1 => text.split_once(':')?.0,
        None => text,
    };
    bare.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn to_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Parses a block, or an address as a block of its own.
fn parse_block(text: &str) -> Result<Ipv6Net, InvalidBlock> {
    let invalid = || InvalidBlock(text.to_owned());
    let block = text
        .parse()
        .or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)))
        .map_err(|_| invalid())?;
    match block {
        IpNet::V4(v4) => Ipv6Net::new(v4.addr().to_ipv6_mapped(), 96 + v4.prefix_len()),
        IpNet::V6(v6) => Ok(v6),
    }
    .map_err(|_| invalid())
}

impl FromStr for TrustedProxies {
    type Err = InvalidBlock;

    fn from_str(text: &str) -> Result<Self, InvalidBlock> {
        if text.trim() == "none" {
            return Ok(Self::default());
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(parse_block).collect::<Result<_, _>>().map(Self)
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
        let trusted: TrustedProxies = trusted.parse().unwrap();
        let lines = lines.iter().map(|line| line.as_bytes());
        let origin =
            trusted.client_origin(peer.parse().unwrap(), lines, || scheme.map(str::as_bytes));
        format!("{} {}", origin.scheme, origin.client)
    }

    #[test]
    fn the_client_is_the_first_address_outside_the_trusted_ones() {
        const OURS: &str = "10.0.0.0/8, 192.0.2.7,fd00::/8";
        let read = |peer: &str, lines: &[&str]| origin(OURS, peer, lines, Some("https"));
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
            assert_eq!(read(peer, lines), wanted, "{peer} {lines:?}");
        }
        assert_eq!(origin("", "10.0.0.1", &["1.1.1.1"], Some("https")), "http 10.0.0.1");
        assert_eq!(origin("::/0", "10.0.0.1", &["1.1.1.1"], Some("ftp")), "http 1.1.1.1");
    }

    #[test]
    fn none_is_no_proxy() {
        assert_eq!("none".parse::<TrustedProxies>().unwrap(), TrustedProxies::default());
    }

    #[test]
    fn a_text_that_is_not_an_address_block_is_refused() {
        for text in ["10.0.0.0/33", "::/129", "10.0.0/8", "localhost", "10.0.0.0/", "10.0.0.1/-1"] {
            assert!(text.parse::<TrustedProxies>().is_err(), "{text}");
        }
    }
}
