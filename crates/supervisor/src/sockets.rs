//! The listening sockets, all opened by PID 1: nobody inside can take a door before or after its owner.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::sys::socket::sockopt::{Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, UnixAddr, bind, listen,
    setsockopt, socket,
};
use nix::unistd::{Gid, Uid, setegid, seteuid};

use crate::services::{Account, Listener, Zone};

/// What the engine must leave to PID 1.
const NEEDED: &str = "it needs the capabilities SETUID, SETGID, SETPCAP and KILL";

/// Opens one; `None` where it is not wanted here. An error names the address.
pub fn open(listener: &Listener) -> io::Result<Option<OwnedFd>> {
    let opened = match listener {
        Listener::Tcp(address) => tcp(*address).map(Some),
        Listener::Unix(path) => unix(path, Zone::Core).map(Some),
        Listener::UnixForTheApp(path) => unix(path, Zone::Platform).map(Some),
        Listener::UnixIfMounted(path) if path.parent().is_some_and(Path::is_dir) => {
            unix(path, Zone::Core).map(Some)
        }
        Listener::UnixIfMounted(_) => Ok(None),
    };
    opened.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {listener}: {error}"))
    })
}

/// Takes the same port of IPv6 without listening there, so that nobody else can. `None` without IPv6.
pub fn block_ipv6(port: u16) -> Option<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet6, SockType::Stream, flags, None).ok()?;
    setsockopt(&fd, Ipv6V6Only, &true).ok()?;
    let any = std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
    bind(fd.as_raw_fd(), &SockaddrIn6::from(any)).ok()?;
    Some(fd)
}

fn tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, ReuseAddr, &true)?;
    match address {
        SocketAddr::V4(address) => bind(fd.as_raw_fd(), &SockaddrIn::from(address))?,
        SocketAddr::V6(address) => bind(fd.as_raw_fd(), &SockaddrIn6::from(address))?,
    }
    listen(&fd, Backlog::MAXCONN)?;
    Ok(fd)
}

/// Listens under a temporary name, then renames: whoever watches for the name can connect once it is there.
/// The core owns it; whoever is of `group` may connect.
fn unix(path: &Path, group: Zone) -> io::Result<OwnedFd> {
    let _owner = Acting::start(Zone::Core.account(), group.account())?;
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(&temporary)?)?;
    listen(&fd, Backlog::MAXCONN)?;
    fs::set_permissions(&temporary, Permissions::from_mode(0o660))?;
    fs::rename(&temporary, path)?;
    Ok(fd)
}

/// Acts as an account for as long as it is held: PID 1 has no power over other users' directories. What is made
/// meanwhile belongs to the group of another where that is asked for: PID 1 cannot give files away either.
struct Acting;

impl Acting {
    fn start(user: Account, group: Account) -> io::Result<Self> {
        // The group first: the change of user takes away the capability for it.
        setegid(Gid::from_raw(group.id))
            .map_err(|why| io::Error::other(format!("{why}: {NEEDED}")))?;
        let acting = Self;
        seteuid(Uid::from_raw(user.id))?;
        Ok(acting)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        let back = seteuid(Uid::from_raw(0)).and_then(|()| setegid(Gid::from_raw(0)));
        back.expect("root stays the saved user until the door");
    }
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) | Self::UnixIfMounted(path) | Self::UnixForTheApp(path) => {
                path.display().fmt(f)
            }
        }
    }
}
