//! A request whose tenant died under it: once more, where and when the tenant is there again.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use protocol::leases::RequestIntent;
use protocol::orchestrator::Upstream;
use proxy::{Action, ProxyError};
use tokio::net::{TcpStream, UnixStream};

use crate::clock;
use crate::http::exchange::TenantExchange;
use crate::http::worker::{RequestContext, Worker};
use crate::leases::{Outcome, Refusal, until};
use crate::tenure::Tenure;

/// Whoever keeps it may hear of its death later than we do. Then nothing but time tells.
const BREATH: Duration = Duration::from_millis(100);

/// Whoever is not woken is told of within this: an ask that takes longer waits for a wake.
const HEARD: Duration = Duration::from_secs(1);

/// `old` is where it died.
pub(crate) async fn again(
    thread: Rc<Worker>,
    old: Arc<Tenure>,
    asked: RequestContext,
    fault: ProxyError,
) -> Action<TenantExchange> {
    let (tenant, begun) = (old.tenant, clock::now());
    let after =
        |patience: Duration| begun.plus(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
    let soon = after(thread.hold.again);
    let mut end = soon;
    let mut tables = thread.reader.tables.clone();
    tables.mark_unchanged();
    let mut lost = Some(old);
    let intent = asked.intent.unwrap_or(RequestIntent::Visit);
    loop {
        let (number, left) = (thread.number, until(end).max(HEARD));
        match thread.leases.wait(tenant, number, intent, lost.take(), left).await {
            Outcome::Leased(used) if is_there(&used.tenure).await => {
                thread.counters.retried();
                return Action::Forward(thread.forward(used, asked, true));
            }
            Outcome::Unleased(used) if is_there(&used.tenure).await => {
                thread.counters.retried();
                return Action::Forward(thread.forward(used, asked, false));
            }
            Outcome::Leased(used) => (lost, end) = (Some(used.tenure.clone()), soon),
            // Whoever put it to sleep is not heard: a restart of that one is waited through, as by all who want a sleeper.
            Outcome::Unleased(_) => end = after(thread.leases.room.limits.restart),
            Outcome::Refused(Refusal::NotRunning) => end = soon,
            // It is being woken: worth as long a wait as any other request's.
            Outcome::Refused(Refusal::Waking { .. }) => end = after(thread.hold.others),
            // What is to be told is what happened to this one.
            Outcome::Refused(Refusal::Crowded) => {
                return Action::Respond(thread.failed(&fault, &asked, tenant));
            }
            Outcome::Refused(refusal) => return Action::Respond(thread.refuse(&refusal, &asked)),
        }
        if clock::now() >= end {
            return Action::Respond(thread.failed(&fault, &asked, tenant));
        }
        tokio::select! {
            _ = tables.changed() => {}
            () = tokio::time::sleep(BREATH) => {}
        }
    }
}

/// Whether somebody listens: a request can be sent once more only once.
async fn is_there(tenure: &Tenure) -> bool {
    let connected = async {
        match &tenure.target.told {
            Upstream::Unix(path) => UnixStream::connect(path).await.is_ok(),
            Upstream::Tcp(address) => TcpStream::connect(address).await.is_ok(),
        }
    };
    tokio::time::timeout(Duration::from_secs(1), connected).await.unwrap_or(false)
}
