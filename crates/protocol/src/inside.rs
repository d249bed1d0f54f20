//! The inside of a tenant's container: users, paths, sockets, variables. Shared by the one who makes the
//! container and those who live in it.

/// The trusted half runs as this user.
pub const CIAL_UID: u32 = 1000;
/// The tenant's own app runs as this user.
pub const AGENT_UID: u32 = 1001;

/// Bound read-only from the tenant's directory of the installation's secrets volume.
pub const SECRETS_DIR: &str = "/run/cial/secrets";
/// 32 raw bytes: the tenant's HS256 key. Absent where [`SSO_PUBLIC_KEY`] is used.
pub const SSO_KEY: &str = "sso-key";
/// PEM of the installation's RS256 public key; where it exists no HS256 token is accepted.
pub const SSO_PUBLIC_KEY: &str = "sso-public.pem";
/// Text that a request must carry in `x-cial-route-token`. Absent: the edge has no guard.
pub const ROUTE_TOKEN: &str = "route-token";
/// Text that guarded answers carry in `x-cial-proof`.
pub const ROUTE_PROOF: &str = "route-proof";

/// Bound from the tenant's directory of the installation's sockets volume; owned by `cial`, 0750.
pub const INGRESS_DIR: &str = "/run/cial/ingress";
/// The public door, next to TCP :8080.
pub const INGRESS_SOCKET: &str = "edge.sock";
pub const INGRESS_PORT: u16 = 8080;
/// In the same directory: where core-back tells the orchestrator what keeps the tenant busy. No way in from outside.
pub const BUSY_SOCKET: &str = "busy.sock";
/// tmpfs, `cial` with the group of `agent`, 0750: `agent` may enter it and replace nothing in it.
pub const AGENT_DIR: &str = "/run/cial/agent";
/// Where processes of `agent` declare that they are busy.
pub const AGENT_BUSY_SOCKET: &str = "/run/cial/agent/busy.sock";

/// tmpfs, `cial` 0700.
pub const CORE_DIR: &str = "/run/cial/core";
pub const CORE_BACK_SOCKET: &str = "/run/cial/core/back.sock";
pub const CORE_FRONT_SOCKET: &str = "/run/cial/core/front.sock";
/// Where the core half declares that it is busy. Not [`CORE_BACK_SOCKET`]: over that the edge passes on what strangers ask.
pub const CORE_BUSY_SOCKET: &str = "/run/cial/core/busy.sock";
pub const PLATFORM_FRONT: &str = "127.0.0.1:3000";
pub const PLATFORM_BACK: &str = "127.0.0.1:3001";

/// Volume of the core half, `cial` 0700.
pub const DATA_DIR: &str = "/var/lib/cial";
/// Volume of the tenant's own files, owned by `agent`.
pub const FILES_DIR: &str = "/home/agent/files";

/// What pages call the tenant: the slug, or what the caller set.
pub const TENANT_ID: &str = "TENANT_ID";
/// The identity in tokens.
pub const TENANT_UUID: &str = "CIAL_TENANT_UUID";
/// Names of variables, with commas between them, that the tenant's own app may see (those of `Spec::env`).
/// Of the container's other variables it sees [`TENANT_ID`] and the locale.
pub const APP_ENV: &str = "CIAL_APP_ENV";

/// What PID 1 hands each service, by `LISTEN_FDS` from descriptor 3 on: its listening sockets in the order of
/// the service's own documentation, then, last, one end of a datagram pair, the *link*.
///
/// Over the link a service says [`READY`](link::READY) once it accepts; when all five have, PID 1 says
/// [`ALL_READY`](link::ALL_READY) to core-back, whose health answers from then on.
pub mod link {
    pub const READY: &[u8] = b"ready";
    pub const ALL_READY: &[u8] = b"all-ready";
}
