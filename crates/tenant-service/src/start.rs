//! The start of a service that needs the tenant's name and nothing else.

use std::io;

use protocol::inside::TENANT_ID;
use service::descriptors::{connection_limit, raise_open_file_limit};
use service::{Env, ServiceError, Setting, SettingsReader, shutdown_token};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;

use crate::inherited::Inherited;
use crate::serve::Listener;
use crate::{BoundedListener, Drain};

/// The tenant's name on pages.
pub const TENANT: Setting =
    Setting::required(TENANT_ID, "the tenant's name on pages").by_orchestrator();

/// A listening socket that PID 1 passes to the service.
pub trait InheritedListener: Sized {
    /// Takes the listener at position `index`. Call within a runtime.
    ///
    /// # Errors
    /// When there is no listener of this kind at `index`.
    fn take(inherited: &mut Inherited, index: usize) -> io::Result<Self>;
}

impl InheritedListener for UnixListener {
    fn take(inherited: &mut Inherited, index: usize) -> io::Result<Self> {
        Self::from_std(inherited.unix_listener(index)?)
    }
}

impl InheritedListener for TcpListener {
    fn take(inherited: &mut Inherited, index: usize) -> io::Result<Self> {
        Self::from_std(inherited.tcp_listener(index)?)
    }
}

/// Standard streams, the listener, the link, epoll, and connections to other services.
const RESERVED_DESCRIPTORS: usize = 32;
/// More would only wait for each other.
pub const MAX_CONNECTIONS: usize = 4_096;

/// Takes the listener and the readiness link from PID 1, reports ready, and serves until the drain is done.
///
/// # Errors
/// For missing settings or sockets, or a limit of open files that is too low, before anything is served.
pub fn start<L: InheritedListener + Listener, F: Future<Output = ()>>(
    env: &Env,
    runtime: io::Result<Runtime>,
    run: impl FnOnce(BoundedListener<L>, String, Drain) -> F,
) -> Result<(), ServiceError> {
    let mut settings = SettingsReader::new(env);
    let tenant = settings.value::<String>(&TENANT);
    let tenant = settings.finish(|| tenant)?;
    let connections = connection_limit(raise_open_file_limit(), RESERVED_DESCRIPTORS, 1)?;
    runtime?.block_on(async {
        let mut inherited = Inherited::take();
        let (listener, link) = (L::take(&mut inherited, 0)?, inherited.readiness_link()?);
        let drain = Drain::new(shutdown_token()?);
        let listener = BoundedListener::new(listener, connections.min(MAX_CONNECTIONS));
        link.notify_ready()?;
        run(listener, tenant, drain).await;
        Ok(())
    })
}
