//! Retries a request whose tenant died under it: once, where and when the tenant is reachable again.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use connect::{connect_unix, is_local_shortage};
use lease::{LeaseError, Moment};
use protocol::leases::RequestIntent;
use protocol::orchestrator::Upstream;
use proxy::{Action, ProxyError};
use tokio::net::TcpStream;

use crate::clock;
use crate::http::exchange::TenantExchange;
use crate::http::worker::{RequestContext, Worker};
use crate::leases::LeaseResult;
use crate::routes::cached_lease::CachedLease;

/// The orchestrator may notice the tenant's death later than the router. Only time helps then.
const LEASE_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A refusal arrives within this time. A lease request that is pending for longer waits for a wake.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits for a lease on the tenant and forwards the request again. `failed` is the lease under which the request failed.
pub(crate) async fn retry_request(
    worker: Rc<Worker>,
    failed: Arc<CachedLease>,
    context: RequestContext,
    error: ProxyError,
) -> Action<TenantExchange> {
    let (tenant, started_at) = (failed.tenant, clock::now());
    let deadline_after = |wait: Duration| started_at.plus(clock::millis(wait));
    let short_deadline = deadline_after(worker.wait_times.after_tenant_failure);
    let mut deadline = short_deadline;
    let mut tables = worker.reader.tables.clone();
    tables.mark_unchanged();
    let mut failed = Some(failed);
    let intent = context.intent.unwrap_or(RequestIntent::Visit);
    loop {
        let (number, wait) = (worker.number, time_until(deadline).max(REFUSAL_TIMEOUT));
        let result = worker.leases.wait_for_lease(tenant, number, intent, failed.take(), wait);
        match result.await {
            LeaseResult::Leased(guard) if is_listening(&guard.lease.target.address).await => {
                worker.counters.retried();
                return Action::Forward(worker.forward(guard, context, true));
            }
            LeaseResult::Unleased(guard) if is_listening(&guard.lease.target.address).await => {
                worker.counters.retried();
                return Action::Forward(worker.forward(guard, context, false));
            }
            LeaseResult::Leased(guard) => {
                (failed, deadline) = (Some(guard.lease.clone()), short_deadline);
            }
            // The orchestrator may have suspended the tenant before it became unreachable: the router waits
            // for the orchestrator's restart.
            LeaseResult::Unleased(_) => {
                deadline = deadline_after(worker.leases.shared.limits.outage_grace);
            }
            LeaseResult::Refused(LeaseError::NotRunning) => deadline = short_deadline,
            // A tenant that is waking is worth as long a wait as for any other request.
            LeaseResult::Refused(LeaseError::Waking { .. }) => {
                deadline = deadline_after(worker.wait_times.others);
            }
            // The client receives the first failure.
            LeaseResult::Refused(LeaseError::RouterQueueFull) => {
                return Action::Respond(worker.failed(&error, &context, tenant));
            }
            LeaseResult::Refused(refusal) => {
                return Action::Respond(worker.refuse(&refusal, &context));
            }
        }
        if clock::now() >= deadline {
            return Action::Respond(worker.failed(&error, &context, tenant));
        }
        tokio::select! {
            _ = tables.changed() => {}
            () = tokio::time::sleep(LEASE_RETRY_INTERVAL) => {}
        }
    }
}

fn time_until(at: Moment) -> Duration {
    Duration::from_millis(at.since(clock::now()))
}

/// Whether the tenant accepts connections. A request can be sent again only once, so this is checked first.
async fn is_listening(address: &Upstream) -> bool {
    let connected = async {
        match address {
            Upstream::Unix(path) => accepts(connect_unix(Path::new(path)).await),
            Upstream::Tcp(address) => accepts(TcpStream::connect(address).await),
        }
    };
    tokio::time::timeout(CONNECT_TIMEOUT, connected).await.unwrap_or(false)
}

/// A shortage of this process shows nothing about the tenant, and a full accept queue belongs to a listener.
fn accepts<S>(connected: io::Result<S>) -> bool {
    match connected {
        Ok(_) => true,
        Err(error) => is_local_shortage(&error) || error.kind() == io::ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_tenant_that_links_to_the_socket_of_another_does_not_listen() {
        let dir = testkit::TempDir::new("router-retry").unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let _other = std::os::unix::net::UnixListener::bind(at("other.sock")).unwrap();
        symlink(at("other.sock"), at("edge.sock")).unwrap();
        let mut found = Vec::new();
        for name in ["other.sock", "edge.sock", "absent.sock"] {
            found.push(is_listening(&Upstream::Unix(at(name))).await);
        }
        assert_eq!(found, [true, false, false]);
    }
}
