//! Reports to app-api how tenants answer, for its rollouts. App-api names the tenants that it wants to know of; a router
//! counts for all, because a lease counts for its own target alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use protocol::TenantId;
use protocol::response_counts::{self, CountedTenants, ResponseCount, ResponseCounts};
use service::client::{CallError, Client};

use crate::routes::cached_lease::{CachedLease, Responses};
use crate::routes::store::RouteStore;

/// The time from one report to the next while a rollout is under way.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same while there is none. Nothing is lost meanwhile: a count begins with the lease.
const IDLE_INTERVAL: Duration = Duration::from_secs(2);
const RETRY_DELAY: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// The counts that app-api has of each tenant.
#[derive(Default)]
struct Reporter {
    counted: Vec<TenantId>,
    reported: HashMap<TenantId, Reported>,
}

struct Reported {
    lease: Arc<CachedLease>,
    responses: Responses,
}

/// Reports for as long as the future is polled.
pub(crate) async fn run(store: &RouteStore, client: &Client) {
    let mut reporter = Reporter::default();
    loop {
        let pause = match reporter.report(store, client).await {
            Ok(()) if reporter.counted.is_empty() => IDLE_INTERVAL,
            Ok(()) => INTERVAL,
            Err(error) => {
                tracing::debug!(%error, "report of responses failed");
                RETRY_DELAY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

impl Reporter {
    /// Sends what is new. A report whose response is lost is sent again.
    async fn report(&mut self, store: &RouteStore, client: &Client) -> Result<(), CallError> {
        let news = self.news(|tenant| store.lease(tenant));
        let mut parts: Vec<_> = news.chunks(response_counts::MAX_TENANTS).collect();
        if parts.is_empty() {
            // The response names the tenants of a rollout that began.
            parts.push(&[]);
        }
        for part in parts {
            let tenants = part.iter().map(|(count, _)| *count).collect();
            let body = ResponseCounts { tenants };
            let call = client.call(Method::POST, response_counts::PATH, Some(&body), CALL_TIMEOUT);
            let counted: CountedTenants = call.await?;
            for (count, lease) in part {
                self.mark_reported(count, lease.clone());
            }
            self.counted = counted.tenants;
        }
        let counted = &self.counted;
        self.reported.retain(|tenant, _| counted.contains(tenant));
        Ok(())
    }

    /// The counts that app-api does not know yet, each with its lease.
    fn news(
        &self,
        lease_of: impl Fn(TenantId) -> Option<Arc<CachedLease>>,
    ) -> Vec<(ResponseCount, Arc<CachedLease>)> {
        let news = self.counted.iter().filter_map(|tenant| {
            let lease = lease_of(*tenant)?;
            let (known, now) = (self.known(&lease), lease.responses());
            let count = ResponseCount {
                tenant: *tenant,
                generation: lease.target.generation,
                responses: now.all - known.all,
                server_errors: now.server_errors.saturating_sub(known.server_errors),
            };
            (count.responses > 0).then_some((count, lease))
        });
        news.collect()
    }

    /// Returns the counts that app-api has of this lease. The counts of another lease do not apply.
    fn known(&self, lease: &Arc<CachedLease>) -> Responses {
        let reported = self.reported.get(&lease.tenant);
        let reported = reported.filter(|reported| Arc::ptr_eq(&reported.lease, lease));
        reported.map_or_else(Responses::default, |reported| reported.responses)
    }

    fn mark_reported(&mut self, count: &ResponseCount, lease: Arc<CachedLease>) {
        let mut responses = self.known(&lease);
        responses.all += count.responses;
        responses.server_errors += count.server_errors;
        self.reported.insert(count.tenant, Reported { lease, responses });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::keys::TenantKeys;
    use protocol::orchestrator::Upstream;

    fn lease(generation: i64) -> Arc<CachedLease> {
        let keys = TenantKeys { route_token: String::new(), route_proof: String::new() };
        let target = (generation, Upstream::Unix("/1".to_owned()));
        CachedLease::new(tenant(), Arc::new(keys), target, 1)
    }

    fn tenant() -> TenantId {
        TenantId::new(uuid::Uuid::from_u128(1))
    }

    #[test]
    fn each_response_of_a_counted_tenant_is_reported_once_with_its_generation() {
        let (old, new) = (lease(1), lease(2));
        let answer =
            |lease: &Arc<CachedLease>, status| lease.begin_request(0).count_response(status);
        let mut reporter = Reporter::default();
        answer(&old, 500);
        assert!(reporter.news(|_| Some(old.clone())).is_empty(), "nobody counts it");
        reporter.counted = vec![tenant()];
        assert!(reporter.news(|_| None).is_empty(), "it has no address");
        // The generation, the responses and the server errors that are new.
        let news = |reporter: &Reporter, lease: &Arc<CachedLease>| {
            let news = reporter.news(|_| Some(lease.clone()));
            news.first().map(|(c, _)| (c.generation, c.responses, c.server_errors))
        };
        let report = |reporter: &mut Reporter, lease: &Arc<CachedLease>| {
            for (count, lease) in reporter.news(|_| Some(lease.clone())) {
                reporter.mark_reported(&count, lease);
            }
        };
        assert_eq!(news(&reporter, &old), Some((1, 1, 1)));
        assert_eq!(news(&reporter, &old), Some((1, 1, 1)), "the report did not arrive");
        report(&mut reporter, &old);
        assert_eq!(news(&reporter, &old), None);
        answer(&old, 200);
        assert_eq!(news(&reporter, &old), Some((1, 1, 0)));
        answer(&new, 502);
        answer(&new, 200);
        assert_eq!(news(&reporter, &new), Some((2, 2, 1)), "of another release");
        report(&mut reporter, &new);
        assert_eq!(news(&reporter, &new), None);
    }
}
