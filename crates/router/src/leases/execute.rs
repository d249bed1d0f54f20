//! The effects of the loop: executes the commands of [`lease::LeaseManager`].

use std::sync::Arc;

use lease::{LeaseError, ManagerCommand, Moment};
use protocol::TenantId;

use super::handle::LeaseResult;
use super::manager_loop::ManagerLoop;
use crate::clock;
use crate::routes::cached_lease::{CachedLease, LeaseGuard};

impl ManagerLoop {
    pub(super) fn execute_commands(&mut self) {
        while let Some(command) = self.manager.next_command() {
            match command {
                ManagerCommand::SendRequest { tenant, call, intent } => {
                    self.counters.count_request();
                    self.calls.send_request(tenant, call, intent);
                }
                ManagerCommand::SendRenewal { tenant, call } => {
                    let lease = self.leases.entry(tenant).or_default();
                    let usage = lease.report_usage(tenant, call.number, &lease.usage());
                    self.calls.add_renewal(tenant, call, usage);
                }
                ManagerCommand::Release { tenant, last_used } => {
                    self.release_lease(tenant, last_used);
                }
                ManagerCommand::SendProbe => self.calls.send_probe(),
                ManagerCommand::AdoptGrant { tenant, valid_until, woke, is_awaited } => {
                    if woke {
                        self.counters.count_wake();
                    }
                    if let Some(lease) = self.leases.get(&tenant) {
                        lease.adopt_grant(valid_until, woke && is_awaited);
                    }
                }
                ManagerCommand::Publish { tenant, valid_until } => {
                    if let Some(lease) = self.leases.get(&tenant) {
                        lease.publish(valid_until);
                    }
                }
                ManagerCommand::ServeLeased { tenant, waiter } => {
                    let lease = self.leases.get(&tenant).and_then(|lease| lease.current.clone());
                    self.serve(lease, waiter, LeaseResult::Leased);
                }
                ManagerCommand::ServeUnleased { tenant, waiter } => {
                    // At the address that the route table shows now.
                    self.serve(self.routes.lease(tenant), waiter, LeaseResult::Unleased);
                }
                ManagerCommand::Refuse { waiter, error } => {
                    self.respond(waiter, LeaseResult::Refused(error));
                }
                ManagerCommand::SetQueuePosition { tenant, queue_position } => {
                    self.shared.set_queue_position(tenant, queue_position);
                }
                ManagerCommand::SetStatus(status) => self.shared.set_status(status),
                ManagerCommand::Forget { tenant } => {
                    self.leases.remove(&tenant);
                    self.shared.set_queue_position(tenant, None);
                }
            }
        }
        self.calls.flush();
    }

    /// Ends the lease, unless the tenant is in use or was used after `last_used`.
    pub(super) fn release_lease(&mut self, tenant: TenantId, last_used: Moment) {
        let (now, manager) = (clock::now(), &mut self.manager);
        let Some(lease) = self.leases.get(&tenant) else { return };
        match lease.clear_if_unused(last_used) {
            Some(usage) => {
                if let Some(number) = manager.begin_release(now, tenant) {
                    self.calls.add_release(lease.report_usage(tenant, number, &usage));
                }
            }
            None => {
                lease.publish(manager.keep_lease(now, tenant));
            }
        }
    }

    fn serve(
        &mut self,
        lease: Option<Arc<CachedLease>>,
        waiter: u64,
        result: fn(LeaseGuard) -> LeaseResult,
    ) {
        let Some(thread) = self.waiters.get(&waiter).map(|waiter| waiter.thread) else { return };
        let not_running = LeaseResult::Refused(LeaseError::NotRunning);
        let served = lease.map_or(not_running, |lease| result(lease.begin_request(thread)));
        self.respond(waiter, served);
    }

    fn respond(&mut self, waiter: u64, result: LeaseResult) {
        if let Some(waiter) = self.waiters.remove(&waiter) {
            // A waiter that left needs no result.
            let _ = waiter.result.send(result);
        }
    }
}
