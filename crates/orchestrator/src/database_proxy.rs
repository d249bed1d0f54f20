//! Calls to the database proxy, about tenants whose apps want a database. An unreachable proxy delays nobody: when it starts,
//! it listens for every tenant by itself, and it has no connections.

use std::io;
use std::time::Duration;

use protocol::TenantId;

use crate::core_back::exchange;
use crate::tenant_dirs::TenantDirs;

/// Bounds one call. An end of connections may take longer in the proxy, which goes on by itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct DatabaseProxy {
    tenant_dirs: TenantDirs,
}

impl DatabaseProxy {
    pub(crate) const fn new(tenant_dirs: TenantDirs) -> Self {
        Self { tenant_dirs }
    }

    /// Whether the proxy has a directory of this tenant to listen in.
    pub(crate) fn serves(&self, id: TenantId) -> bool {
        self.tenant_dirs.database_dir(id).exists()
    }

    /// Lets the proxy listen in the tenant's directory, or stop where the directory is gone.
    pub(crate) async fn follow_directory(&self, id: TenantId) {
        self.call(id, &format!("PUT /tenants/{id}")).await;
    }

    /// Ends the connections of a tenant that does not run.
    pub(crate) async fn end_connections(&self, id: TenantId) {
        if self.serves(id) {
            self.call(id, &format!("DELETE /tenants/{id}/connections")).await;
        }
    }

    async fn call(&self, id: TenantId, target: &str) {
        let socket = self.tenant_dirs.database_proxy_socket();
        let request = format!("{target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let call = tokio::time::timeout(CALL_TIMEOUT, exchange(&socket, request.as_bytes())).await;
        let done = call.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).and_then(succeeded);
        if let Err(error) = done {
            tracing::warn!(tenant = %id, call = target, %error, "database proxy call failed");
        }
    }
}

fn succeeded(response: Vec<u8>) -> io::Result<()> {
    if response.starts_with(b"HTTP/1.1 204 ") {
        return Ok(());
    }
    let line = response.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Err(io::Error::other(String::from_utf8_lossy(line).into_owned()))
}
