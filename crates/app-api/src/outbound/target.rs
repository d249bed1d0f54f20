//! Where webhooks and calls of the model may go. An address inside the installation's networks is refused: who may create a webhook
//! or set the model must not reach services that trust their network (SSRF). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Whether requests may go to private addresses, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    Public,
    Any,
}

impl std::str::FromStr for Targets {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "public" => Ok(Self::Public),
            "any" => Ok(Self::Any),
            _ => Err("must be public or any"),
        }
    }
}

impl Targets {
    pub fn permits(self, address: IpAddr) -> bool {
        self == Self::Any || is_public(address)
    }

    /// Whether a request may go to the URL, if its host is an address. A name passes: it is checked when it is resolved.
    pub fn permits_url(self, url: &Url) -> bool {
        literal_address(url).is_none_or(|address| self.permits(address))
    }
}

/// Returns the URL when a webhook may have it. A name is checked again at each delivery, when it was resolved.
///
/// # Errors
/// The rule that the URL breaks.
pub fn check_url(text: &str, targets: Targets) -> Result<Url, &'static str> {
    let url: Url = text.trim().parse().map_err(|_| "Enter a URL like https://example.com/hook.")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("Use http or https.");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("Leave out the user name and the password.");
    }
    if url.as_str().len() > 2_000 {
        return Err("Use at most 2,000 characters.");
    }
    if targets.permits_url(&url) { Ok(url) } else { Err("Use a public address.") }
}

/// The address of a URL whose host is no name.
fn literal_address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Whether the address is one of the public internet (IANA special-purpose registries).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || a >= 224
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || (a, b & 0xc0) == (100, 64)
        || (a, b, c) == (192, 0, 0)
        || (a, b & 0xfe) == (198, 18))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Addresses that carry an IPv4 address: mapped, and by NAT64.
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    let segments = address.segments();
    if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        let [_, _, _, _, _, _, high, low] = segments;
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    // Only 2000::/3 is global unicast; of that, 6to4 and Teredo lead elsewhere, and 2001:db8::/32 is documentation.
    let is_global = segments[0] & 0xe000 == 0x2000;
    let leads_elsewhere = segments[0] == 0x2002 || segments[..2] == [0x2001, 0];
    is_global && !leads_elsewhere && segments[..2] != [0x2001, 0xdb8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for public in [
            "1.1.1.1",
            "203.0.112.1",
            "100.128.0.1",
            "2606:4700::1",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2001::1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn a_url_names_a_public_target_in_any_spelling() {
        for good in [
            "https://example.com/hook",
            "http://example.com:8080",
            "https://1.1.1.1/x?y=1",
            " https://a.b ",
        ] {
            assert!(check_url(good, Targets::Public).is_ok(), "{good}");
        }
        for bad in [
            "",
            "example.com",
            "ftp://example.com",
            "https://user@example.com",
            "https://:p@example.com",
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://017700000001/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
        ] {
            assert!(check_url(bad, Targets::Public).is_err(), "{bad}");
        }
        assert!(check_url("http://127.0.0.1:1/", Targets::Any).is_ok());
        assert!(
            check_url(&format!("https://example.com/{}", "x".repeat(2_000)), Targets::Any).is_err()
        );
    }
}
