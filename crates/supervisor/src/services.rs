//! The five services of a tenant: user, program, arguments and listening sockets of each.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use protocol::inside;

/// A service of the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Edge,
    CoreBack,
    CoreFront,
    PlatformFront,
    PlatformBack,
}

/// The half of the tenant that a service belongs to. The zone decides the user and the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// The trusted half.
    Core,
    /// The tenant's own app: untrusted code.
    Platform,
}

/// A Linux user whose group has the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: u32,
    pub name: &'static str,
    pub home: &'static str,
    /// The user's own tmpfs.
    pub temp_dir: &'static str,
}

/// The address of a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    Tcp(SocketAddr),
    /// A path in a directory that belongs to the core's account.
    Unix(PathBuf),
    /// Like `Unix`, but left out where the directory does not exist.
    UnixIfMounted(PathBuf),
    /// Like `Unix`, but the group of `agent` may connect.
    UnixForAgent(PathBuf),
}

/// Paths and addresses. All tenants share one layout; tests use another.
#[derive(Clone, Debug)]
pub struct Layout {
    pub core_programs: PathBuf,
    /// The directory of the tenant's secrets, readable by the core's account.
    pub secrets: PathBuf,
    pub platform_programs: PathBuf,
    pub ingress: PathBuf,
    pub core_back: PathBuf,
    pub core_front: PathBuf,
    /// The sockets on which core-back serves the busy API, for the core and for the app.
    pub core_busy: PathBuf,
    pub agent_busy: PathBuf,
    /// The socket on which core-back serves the orchestrator.
    pub orchestrator_api: PathBuf,
    /// The socket of the file server.
    pub files: PathBuf,
    /// The volume of the tenant's own files.
    pub files_dir: PathBuf,
    pub public: SocketAddr,
    pub platform_front: SocketAddr,
    pub platform_back: SocketAddr,
}

impl Layout {
    pub fn tenant() -> Self {
        let local = |text: &str| text.parse().expect("an address constant of the protocol");
        Self {
            core_programs: "/opt/cial-core".into(),
            secrets: inside::SECRETS_DIR.into(),
            platform_programs: "/opt/cial-platform".into(),
            ingress: Path::new(inside::INGRESS_DIR).join(inside::INGRESS_SOCKET),
            core_back: inside::CORE_BACK_SOCKET.into(),
            core_front: inside::CORE_FRONT_SOCKET.into(),
            core_busy: inside::CORE_BUSY_SOCKET.into(),
            agent_busy: inside::AGENT_BUSY_SOCKET.into(),
            orchestrator_api: Path::new(inside::INGRESS_DIR).join(inside::ORCHESTRATOR_SOCKET),
            files: inside::FILES_SOCKET.into(),
            files_dir: inside::FILES_DIR.into(),
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
                temp_dir: inside::CORE_DIR,
            },
            Self::Platform => Account {
                id: inside::AGENT_UID,
                name: "agent",
                home: "/home/agent",
                temp_dir: "/tmp",
            },
        }
    }
}

impl Service {
    pub const ALL: [Self; 5] =
        [Self::Edge, Self::CoreBack, Self::CoreFront, Self::PlatformFront, Self::PlatformBack];

    /// The services of a tenant that runs an app: its program is platform-front, and platform-back
    /// does not exist.
    pub const WITH_APP: [Self; 4] =
        [Self::Edge, Self::CoreBack, Self::CoreFront, Self::PlatformFront];

    /// The prefix of the service's log lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::CoreBack => "core-back",
            Self::CoreFront => "core-front",
            Self::PlatformFront => "platform-front",
            Self::PlatformBack => "platform-back",
        }
    }

    /// The arguments; the first is also the file name of the program.
    pub const fn arguments(self) -> &'static [&'static str] {
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
        folder.join(self.arguments()[0])
    }

    /// The listening sockets, in the order in which the service inherits them.
    pub fn listeners(self, layout: &Layout) -> Vec<Listener> {
        match self {
            Self::Edge => {
                vec![Listener::Tcp(layout.public), Listener::UnixIfMounted(layout.ingress.clone())]
            }
            Self::CoreBack => vec![
                Listener::Unix(layout.core_back.clone()),
                Listener::Unix(layout.core_busy.clone()),
                Listener::UnixForAgent(layout.agent_busy.clone()),
                Listener::UnixIfMounted(layout.orchestrator_api.clone()),
            ],
            Self::CoreFront => vec![Listener::Unix(layout.core_front.clone())],
            Self::PlatformFront => vec![Listener::Tcp(layout.platform_front)],
            Self::PlatformBack => vec![Listener::Tcp(layout.platform_back)],
        }
    }

    /// The index in [`Service::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_services() {
        let layout = Layout::tenant();
        let row = |service: Service| {
            let listeners: Vec<_> = service.listeners(&layout).iter().map(show).collect();
            let (program, arguments) = (service.program(&layout), service.arguments().join(" "));
            let who = service.zone().account().name;
            format!("{arguments} | {} | {who} | {}", program.display(), listeners.join(", "))
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
            Listener::UnixForAgent(path) => format!("{} for the app", path.display()),
        }
    }
}
