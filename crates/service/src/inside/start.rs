//! How a service begins that is told its tenant's name and nothing else.

use std::io;

use protocol::inside::TENANT_ID;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;

use super::serve::Drain;
use crate::inherited::Inherited;
use crate::{Env, Failed, Vars, stop_requested};

/// A listening socket that PID 1 hands over.
pub trait Handed: Sized {
    /// Called within a runtime.
    fn take(from: &mut Inherited, place: usize) -> io::Result<Self>;
}

impl Handed for UnixListener {
    fn take(from: &mut Inherited, place: usize) -> io::Result<Self> {
        Self::from_std(from.unix(place)?)
    }
}

impl Handed for TcpListener {
    fn take(from: &mut Inherited, place: usize) -> io::Result<Self> {
        Self::from_std(from.tcp(place)?)
    }
}

/// Takes the one listener and the link from PID 1, says ready, and serves until the drain is done.
pub fn start<L: Handed, F: Future<Output = ()>>(
    env: &Env,
    runtime: io::Result<Runtime>,
    run: impl FnOnce(L, String, Drain) -> F,
) -> Result<(), Failed> {
    let mut vars = Vars::new(env);
    let tenant = vars.required::<String>(TENANT_ID);
    let tenant = vars.finish(|| tenant)?;
    runtime?.block_on(async {
        let mut inherited = Inherited::take();
        let (listener, link) = (L::take(&mut inherited, 0)?, inherited.link()?);
        let drain = Drain::new(stop_requested()?);
        link.say_ready()?;
        run(listener, tenant, drain).await;
        Ok(())
    })
}
