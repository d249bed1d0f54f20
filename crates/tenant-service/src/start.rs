//! The start of a service that needs the tenant's name and nothing else.

use std::io;

use protocol::inside::TENANT_ID;
use service::{Env, ServiceError, Setting, SettingsReader, shutdown_token};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;

use crate::Drain;
use crate::inherited::Inherited;

/// The tenant's name on pages.
pub const TENANT: Setting = Setting::required(TENANT_ID, "the tenant's name on pages");

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

/// Takes the listener and the readiness link from PID 1, reports ready, and serves until the drain is done.
///
/// # Errors
/// For missing settings or sockets, before anything is served.
pub fn start<L: InheritedListener, F: Future<Output = ()>>(
    env: &Env,
    runtime: io::Result<Runtime>,
    run: impl FnOnce(L, String, Drain) -> F,
) -> Result<(), ServiceError> {
    let mut settings = SettingsReader::new(env);
    let tenant = settings.value::<String>(&TENANT);
    let tenant = settings.finish(|| tenant)?;
    runtime?.block_on(async {
        let mut inherited = Inherited::take();
        let (listener, link) = (L::take(&mut inherited, 0)?, inherited.readiness_link()?);
        let drain = Drain::new(shutdown_token()?);
        link.notify_ready()?;
        run(listener, tenant, drain).await;
        Ok(())
    })
}
