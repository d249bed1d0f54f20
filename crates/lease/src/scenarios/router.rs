//! The holder's side of one router.

use super::{LEASE, START};
use crate::holder::command::{
    CurrentUsage, ManagerCommand, ManagerSettings, RequestOutcome, RouteStatus, TenantRequest,
};
use crate::holder::error::LeaseError;
use crate::holder::lease::{LeaseCall, LeaseTerms};
use crate::holder::manager::{LeaseManager, REQUEST_WAIT};
use crate::holder::outage::{CallHealth, OrchestratorStatus};
use crate::time::{Millis, Moment};
use protocol::leases::RequestIntent;

/// The holder's side of one router, with tenant 1 in use or not.
pub(super) struct RouterScenario {
    pub(super) core: LeaseManager<u8, u8>,
    pub(super) now: Moment,
}

impl RouterScenario {
    pub(super) fn new() -> Self {
        let settings = ManagerSettings {
            waiters_per_tenant: 2,
            request_wait: REQUEST_WAIT,
            outage_grace: 10_000,
        };
        Self { core: LeaseManager::new(settings), now: START }
    }

    pub(super) fn request(&mut self, waiter: u8, is_running: bool) -> Vec<ManagerCommand<u8, u8>> {
        let route = if is_running { RouteStatus::Running } else { RouteStatus::NotRunning };
        self.request_as(waiter, RequestIntent::Visit, route)
    }

    pub(super) fn request_as(
        &mut self,
        waiter: u8,
        intent: RequestIntent,
        route: RouteStatus,
    ) -> Vec<ManagerCommand<u8, u8>> {
        let waiter = Some(waiter);
        let request = TenantRequest { intent, route, retries_failure: false, waiter };
        self.core.request_tenant(self.now, 1, request);
        self.commands()
    }

    pub(super) fn finish(
        &mut self,
        call: LeaseCall,
        outcome: RequestOutcome,
    ) -> Vec<ManagerCommand<u8, u8>> {
        self.core.on_request_finished(self.now, 1, call, outcome);
        self.commands()
    }

    pub(super) fn tick_after(&mut self, time: Millis) -> Vec<ManagerCommand<u8, u8>> {
        self.tick_with(time, CurrentUsage::default())
    }

    pub(super) fn tick_with(
        &mut self,
        time: Millis,
        usage: CurrentUsage,
    ) -> Vec<ManagerCommand<u8, u8>> {
        self.now = self.now.plus(time);
        self.core.tick(self.now, |_| usage);
        self.commands()
    }

    pub(super) fn commands(&mut self) -> Vec<ManagerCommand<u8, u8>> {
        let all = std::iter::from_fn(|| self.core.next_command());
        all.filter(|command| !matches!(command, ManagerCommand::SetQueuePosition { .. })).collect()
    }
}

/// The terms of every grant.
pub(super) const TERMS: LeaseTerms = LeaseTerms { expires_in: LEASE, linger: 10_000 };

pub(super) fn sent(commands: &[ManagerCommand<u8, u8>]) -> LeaseCall {
    match commands {
        [ManagerCommand::SendRequest { call, .. }] => *call,
        _ => panic!("{commands:?}"),
    }
}

#[test]
fn requests_for_one_tenant_share_one_lease_request_up_to_a_bound() {
    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, false));
    assert_eq!(router.request(2, false), []);
    let error = LeaseError::RouterQueueFull;
    assert_eq!(router.request(3, false), [ManagerCommand::Refuse { waiter: 3, error }]);
    let terms = TERMS;
    let served = router.finish(call, RequestOutcome::Granted { terms, woke: true });
    let valid_until = router.core.valid_until(1);
    assert_eq!(
        served,
        [
            ManagerCommand::AdoptGrant { tenant: 1, valid_until, woke: true, is_awaited: true },
            ManagerCommand::ServeLeased { tenant: 1, waiter: 1 },
            ManagerCommand::ServeLeased { tenant: 1, waiter: 2 },
        ]
    );
    let leased = ManagerCommand::ServeLeased { tenant: 1, waiter: 4 };
    assert_eq!(router.request(4, false), [leased]);
}

#[test]
fn a_failed_wake_is_reused_until_its_time_is_over_or_the_tenant_runs() {
    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, false));
    let error = LeaseError::WakeFailed("no image".into());
    let refused = |waiter| [ManagerCommand::Refuse { waiter, error: error.clone() }];
    assert_eq!(router.finish(call, RequestOutcome::Refused(error.clone())), refused(1));
    router.tick_after(9_999);
    assert_eq!(router.request(2, false), refused(2));
    sent(&router.request(3, true));
    let mut later = router;
    later.now = later.now.plus(1);
    later.core.remove_waiter(later.now, 1, 3);
    assert_eq!(later.request(4, false), [], "the request of waiter 3 is in flight");
}

#[test]
fn an_outage_serves_running_tenants_unleased_and_retries_for_the_others() {
    let unreachable = RequestOutcome::CallFailed(CallHealth::NoResponse);
    let status = ManagerCommand::SetStatus(OrchestratorStatus::Unreachable);
    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, true));
    let unleased = ManagerCommand::ServeUnleased { tenant: 1, waiter: 1 };
    assert_eq!(router.finish(call, unreachable.clone()), [status.clone(), unleased]);

    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, false));
    assert_eq!(router.finish(call, unreachable.clone()), [status]);
    assert_eq!(router.tick_after(999), []);
    let call = sent(&router.tick_after(1));
    router.finish(call, unreachable);
    router.now = router.now.plus(10_000);
    let error = LeaseError::OrchestratorUnavailable;
    let refused = router.request(2, false);
    assert_eq!(refused[0], ManagerCommand::Refuse { waiter: 2, error }, "longer than a restart");
}

#[test]
fn a_grant_that_a_release_has_overtaken_is_no_lease() {
    let mut router = RouterScenario::new();
    let terms = TERMS;
    let granted = || RequestOutcome::Granted { terms, woke: false };
    let first = sent(&router.request(1, true));
    router.finish(first, RequestOutcome::CallFailed(CallHealth::NoResponse));
    let second = sent(&router.request(2, true));
    router.finish(second, granted());
    assert!(router.core.valid_until(1) > router.now);
    assert_eq!(router.core.begin_release(router.now, 1), Some(second.number));
    assert_eq!(router.finish(first, granted()), []);
    assert_eq!(router.core.valid_until(1), Moment(0));
}

#[test]
fn a_call_that_fails_for_want_of_resources_is_no_outage() {
    let local = RequestOutcome::CallFailed(CallHealth::OutOfResources);
    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, true));
    let error = LeaseError::OutOfResources;
    assert_eq!(router.finish(call, local), [ManagerCommand::Refuse { waiter: 1, error }]);
    router.core.on_probe_finished(router.now, CallHealth::OutOfResources);
    router.core.on_call_health(router.now, CallHealth::OutOfResources);
    assert_eq!(router.core.status(), OrchestratorStatus::Reachable);
    sent(&router.request(2, true));
}
