//! orchestrator → database proxy, over [`CONTROL_SOCKET`]. The permissions of the socket are the only credentials.
//!
//! | call | → response |
//! |---|---|
//! | `GET /healthz` | → 204 |
//! | `PUT /tenants/{id}` | → 204: listens in the tenant's directory as it is at this moment; without a directory, nothing listens |
//! | `DELETE /tenants/{id}/connections` | → 204: the tenant's connections have ended |
//!
//! The directory of a tenant holds [`DATABASE_ROLE`](crate::inside::DATABASE_ROLE), which the orchestrator writes, and
//! [`DATABASE_SOCKET`](crate::inside::DATABASE_SOCKET), on which the proxy listens. A proxy that starts listens in all
//! directories by itself, so a call that failed is made up for.

/// File name, beside the directories of the tenants.
pub const CONTROL_SOCKET: &str = "proxy.sock";
