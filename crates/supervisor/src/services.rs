//! The five services of a tenant, and where each finds its place.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use protocol::inside;

/// One of the five.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Edge,
    CoreBack,
    CoreFront,
    PlatformFront,
    PlatformBack,
}

/// Who a service runs as, and so what it may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// The trusted half.
    Core,
    /// The tenant's own app: code that others edit.
    Platform,
}

/// A Linux user whose group has the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: u32,
    pub name: &'static str,
    pub home: &'static str,
    /// The temporary file system that is this user's own.
    pub scratch: &'static str,
}

/// What makes a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    Tcp(SocketAddr),
    /// A path in a directory that belongs to the core's account.
    Unix(PathBuf),
    /// The same, left out where the directory does not exist.
    UnixIfMounted(PathBuf),
    /// The same, open to the app's group too.
    UnixForTheApp(PathBuf),
}

/// Where things are. One for all tenants; tests have one of their own.
#[derive(Clone, Debug)]
pub struct Layout {
    pub core_programs: PathBuf,
    pub platform_programs: PathBuf,
    pub ingress: PathBuf,
    pub core_back: PathBuf,
    pub core_front: PathBuf,
    /// Where core-back hears who is busy: from the core, from the app; and where it tells the orchestrator.
    pub core_busy: PathBuf,
    pub agent_busy: PathBuf,
    pub ingress_busy: PathBuf,
    pub public: SocketAddr,
    pub platform_front: SocketAddr,
    pub platform_back: SocketAddr,
}

impl Layout {
    pub fn tenant() -> Self {
        let local = |text: &str| text.parse().expect("the protocol's own address");
        Self {
            core_programs: "/opt/cial-core".into(),
            platform_programs: "/opt/cial-platform".into(),
            ingress: Path::new(inside::INGRESS_DIR).join(inside::INGRESS_SOCKET),
            core_back: inside::CORE_BACK_SOCKET.into(),
            core_front: inside::CORE_FRONT_SOCKET.into(),
            core_busy: inside::CORE_BUSY_SOCKET.into(),
            agent_busy: inside::AGENT_BUSY_SOCKET.into(),
            ingress_busy: Path::new(inside::INGRESS_DIR).join(inside::BUSY_SOCKET),
            public: SocketAddr::from((Ipv4Addr::UNSPECIFIED, inside::INGRESS_PORT)),
            platform_front: local(inside::PLATFORM_FRONT),
            platform_back: local(inside::PLATFORM_BACK),
        }
    }
}

impl Zone {
    pub const fn account(self) -> Account {
        match self {
            Self::Core => Account {
                id: inside::CIAL_UID,
                name: "cial",
                home: inside::DATA_DIR,
                scratch: inside::CORE_DIR,
            },
            Self::Platform => Account {
                id: inside::AGENT_UID,
                name: "agent",
                home: "/home/agent",
                scratch: "/tmp",
            },
        }
    }
}

impl Service {
    pub const ALL: [Self; 5] =
        [Self::Edge, Self::CoreBack, Self::CoreFront, Self::PlatformFront, Self::PlatformBack];

    /// What its lines begin with.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::CoreBack => "core-back",
            Self::CoreFront => "core-front",
            Self::PlatformFront => "platform-front",
            Self::PlatformBack => "platform-back",
        }
    }

    /// Its arguments; the first is also its program's file name.
    pub const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Edge => &["edge"],
            Self::CoreBack => &["core", "back"],
            Self::CoreFront => &["core", "front"],
            Self::PlatformFront => &["platform", "front"],
            Self::PlatformBack => &["platform", "back"],
        }
    }

    pub const fn zone(self) -> Zone {
        match self {
            Self::Edge | Self::CoreBack | Self::CoreFront => Zone::Core,
            Self::PlatformFront | Self::PlatformBack => Zone::Platform,
        }
    }

    pub fn program(self, layout: &Layout) -> PathBuf {
        let folder = match self.zone() {
            Zone::Core => &layout.core_programs,
            Zone::Platform => &layout.platform_programs,
        };
        folder.join(self.words()[0])
    }

    /// Its listening sockets, in the order in which it gets them.
    pub fn listeners(self, layout: &Layout) -> Vec<Listener> {
        match self {
            Self::Edge => {
                vec![Listener::Tcp(layout.public), Listener::UnixIfMounted(layout.ingress.clone())]
            }
            Self::CoreBack => vec![
                Listener::Unix(layout.core_back.clone()),
                Listener::Unix(layout.core_busy.clone()),
                Listener::UnixForTheApp(layout.agent_busy.clone()),
                Listener::UnixIfMounted(layout.ingress_busy.clone()),
            ],
            Self::CoreFront => vec![Listener::Unix(layout.core_front.clone())],
            Self::PlatformFront => vec![Listener::Tcp(layout.platform_front)],
            Self::PlatformBack => vec![Listener::Tcp(layout.platform_back)],
        }
    }

    /// Its place in [`Service::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let layout = Layout::tenant();
        let row = |service: Service| {
            let listeners: Vec<_> = service.listeners(&layout).iter().map(show).collect();
            let (program, words) = (service.program(&layout), service.words().join(" "));
            let who = service.zone().account().name;
            format!("{words} | {} | {who} | {}", program.display(), listeners.join(", "))
        };
        insta::assert_snapshot!(Service::ALL.map(row).join("\n"), @r"
        edge | /opt/cial-core/edge | cial | 0.0.0.0:8080, /run/cial/ingress/edge.sock if mounted
        core back | /opt/cial-core/core | cial | /run/cial/core/back.sock, /run/cial/core/busy.sock, /run/cial/agent/busy.sock for the app, /run/cial/ingress/busy.sock if mounted
        core front | /opt/cial-core/core | cial | /run/cial/core/front.sock
        platform front | /opt/cial-platform/platform | agent | 127.0.0.1:3000
        platform back | /opt/cial-platform/platform | agent | 127.0.0.1:3001
        ");
    }

    #[test]
    fn only_the_edge_is_public() {
        let layout = Layout::tenant();
        for service in Service::ALL.into_iter().filter(|s| *s != Service::Edge) {
            for listener in service.listeners(&layout) {
                assert!(
                    !matches!(listener, Listener::Tcp(address) if !address.ip().is_loopback()),
                    "{} listens on {listener:?}",
                    service.name()
                );
            }
        }
    }

    fn show(listener: &Listener) -> String {
        match listener {
            Listener::Tcp(address) => address.to_string(),
            Listener::Unix(path) => path.display().to_string(),
            Listener::UnixIfMounted(path) => format!("{} if mounted", path.display()),
            Listener::UnixForTheApp(path) => format!("{} for the app", path.display()),
        }
    }
}
