//! Single cases, each as a readable story.

mod router;
mod router_times;
mod suspend;
mod wake;

use crate::Authority;
use crate::authority::command::{
    AuthoritySettings, CallId, Command, EngineCall, LeaseRequest, LeaseResponse,
};
use crate::authority::sleep_state::SleepPolicy;
use crate::authority::wake_queue::{Waiter, WakeLimits};
use crate::time::{Millis, Moment};
use protocol::orchestrator::Phase;

pub(super) const START: Moment = Moment(1_000_000);
pub(super) const LEASE: Millis = 15_000;

pub(super) struct Scenario {
    pub(super) core: Authority<u8, u8, u32>,
    pub(super) now: Moment,
}

impl Scenario {
    /// Creates tenant 1. The scenario begins one lease duration after the orchestrator's start.
    pub(super) fn new(phase: Phase, policy: SleepPolicy) -> Self {
        let limits = WakeLimits {
            concurrent_starts: 1,
            concurrent_thaws: 2,
            queued_wakes: 2,
            waiters_per_tenant: 2_000,
            waiters: 2_000,
            readiness_timeout: 30_000,
        };
        let mut core = Authority::new(
            START,
            AuthoritySettings { lease_duration: LEASE, retry_delay: 5_000, limits },
        );
        core.add_tenant(START, 1, phase, policy, START);
        let mut scenario = Self { core, now: START.plus(LEASE) };
        scenario.core.tick(scenario.now);
        scenario
    }

    pub(super) fn request_lease(&mut self, tenant: u8, id: u32, is_visit: bool) {
        let deadline = self.now.plus(45_000);
        let waiter = Waiter { id, holder: 1, number: u64::from(id), deadline };
        self.core.request_lease(self.now, LeaseRequest { tenant, is_visit, waiter });
    }

    pub(super) fn advance(&mut self, time: Millis) {
        self.now = self.now.plus(time);
        self.core.tick(self.now);
    }

    pub(super) fn commands(&mut self) -> Vec<Command<u8, u32>> {
        std::iter::from_fn(|| self.core.next_command()).collect()
    }

    /// Returns the only engine call among the commands.
    pub(super) fn engine_call(&mut self) -> (EngineCall, CallId) {
        let commands = self.commands();
        let calls = commands.iter().filter_map(|command| match command {
            Command::CallEngine { call, call_id, .. } => Some((*call, *call_id)),
            Command::QueryBusy { .. } | Command::Respond { .. } | Command::RecordWake { .. } => {
                None
            }
        });
        let calls: Vec<_> = calls.collect();
        assert_eq!(calls.len(), 1, "{commands:?}");
        calls[0]
    }

    pub(super) fn busy_query(&mut self) -> u64 {
        let commands = self.commands();
        match commands[..] {
            [Command::QueryBusy { generation, .. }] => generation,
            _ => panic!("{commands:?}"),
        }
    }

    pub(super) fn responses(&mut self) -> Vec<LeaseResponse> {
        let commands = self.commands().into_iter();
        commands
            .filter_map(|command| match command {
                Command::Respond { response, .. } => Some(response),
                Command::QueryBusy { .. }
                | Command::CallEngine { .. }
                | Command::RecordWake { .. } => None,
            })
            .collect()
    }
}

pub(super) fn freezes_after_a_minute() -> SleepPolicy {
    SleepPolicy::from_seconds(60, 0, 0, false)
}
