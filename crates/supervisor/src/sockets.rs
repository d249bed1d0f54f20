//! The listening sockets. PID 1 opens all of them, so no process inside can bind an address before
//! or after its owner.

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

/// The hint in an error of a missing capability.
const CAPABILITY_HINT: &str = "it needs the capabilities SETUID, SETGID, SETPCAP and KILL";

/// Opens a listener; returns `None` for a listener whose directory is not mounted.
///
/// # Errors
/// The error names the address.
pub fn open(listener: &Listener) -> io::Result<Option<OwnedFd>> {
    let opened = match listener {
        Listener::Tcp(address) => tcp(*address).map(Some),
        Listener::Unix(path) => unix(path, Zone::Core).map(Some),
        Listener::UnixForAgent(path) => unix(path, Zone::Platform).map(Some),
        Listener::UnixIfMounted(path) if path.parent().is_some_and(Path::is_dir) => {
            unix(path, Zone::Core).map(Some)
        }
        Listener::UnixIfMounted(_) => Ok(None),
    };
    opened.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {listener}: {error}"))
    })
}

/// Binds the same port of IPv6 without listening, so that no other process can. `None` without
/// IPv6.
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

/// Listens under a temporary name and then renames the socket, so that a watcher of the name can
/// connect at once. The core's account owns the socket; members of the group of `group` may
/// connect.
fn unix(path: &Path, group: Zone) -> io::Result<OwnedFd> {
    let _ids = EffectiveIds::assume(Zone::Core.account(), group.account())?;
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

/// Takes the effective user and group of two accounts until dropped: PID 1 lacks the capabilities
/// to write into directories of other users and to change the owner of files.
pub(crate) struct EffectiveIds;

impl EffectiveIds {
    pub(crate) fn assume(user: Account, group: Account) -> io::Result<Self> {
        // The group goes first, because the change of user takes away the capability for it.
        setegid(Gid::from_raw(group.id))
            .map_err(|why| io::Error::other(format!("{why}: {CAPABILITY_HINT}")))?;
        let assumed = Self;
        seteuid(Uid::from_raw(user.id))?;
        Ok(assumed)
    }
}

impl Drop for EffectiveIds {
    fn drop(&mut self) {
        let back = seteuid(Uid::from_raw(0)).and_then(|()| setegid(Gid::from_raw(0)));
        back.expect("root stays the saved user until the privilege drop");
    }
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) | Self::UnixIfMounted(path) | Self::UnixForAgent(path) => {
                path.display().fmt(f)
            }
        }
    }
}
