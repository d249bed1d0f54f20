//! Leases: the right to send a tenant requests. While a lease is live the tenant is neither frozen nor stopped, so one protocol
//! decides sleep, wake and routing. Both sides are pure cores: no I/O, no clock (time is an argument), commands out.
//!
//! ```text
//!  holder (router), one LeaseManager              authority (orchestrator), one Authority
//!  ──────────────────────────────────────        ─────────────────────────────────────────────
//!  no lease  ── request ──────────────────────►  ready? granted at once
//!                                                frozen, sleeping? one wake, all requests wait for it
//!  may_send until sent + D − margin  ◄─ granted  counts D from its response: the holder's lease ends first
//!  in use    ── renew, every D/3 ─────────────►  idle time restarts at the last use
//!  lingered  ── release ──────────────────────►  idle time goes on
//!                                                idle, no lease → query busy → recheck → freeze, stop
//!                                                frozen, still idle → thaw → query busy → stop
//! ```
//!
//! No tenant is frozen or stopped while a lease is live, except by its owner. A request before the engine's call voids the
//! decision to suspend; a request after that waits for the call and is served then. An orchestrator that starts suspends
//! nothing for one lease duration: by then the leases that it does not know have expired.
//!
//! | file | contents |
//! |---|---|
//! | ★ `holder/manager.rs`, `holder/decide.rs` | the holder's side, all tenants: waiters, single requests, reused refusals, retries, outages |
//! | ★ `holder/lease.rs`, `holder/entry.rs`, `holder/outage.rs` | one lease: may requests be sent, which call is due; one tenant; whether the orchestrator is reachable |
//! | ★ `authority/sleep_state.rs`, `authority/suspend.rs` | the authority's side, one tenant: leases and idle time; the steps of a suspend |
//! | `authority/wake_queue.rs` | the authority's side, all tenants: pending wakes, waiters, queue, bounds |
//! | `authority/mod.rs`, `authority/reconcile.rs` | both combined: events in, commands out, one timer |
//! | `holder/command.rs`, `authority/command.rs`, `authority/reason.rs` | inputs and outputs; reasons as data |
//!
//! A caller loops: pass an event, run `next_command` until there is none, sleep until `next_deadline`, call `tick`.
//!
//! # How it is checked
//!
//! `model` explores every order of events, within budgets, with [`LeaseManager`] and [`Authority`] as they ship: calls that are late, lost,
//! repeated and reordered, routers that crash, an orchestrator that crashes before, during and after every call or is unreachable, an engine
//! that refuses, owners, exits, work inside, clients that leave, route tables that lag behind. It checks that a request is sent only under a
//! live lease, or without one while the orchestrator is unreachable; that no tenant is suspended under a lease or after a busy report; that each
//! waiter gets one response with a true reason; that one lease request per tenant and one wake call run at a time; and that from every state,
//! once nothing fails any more, every waiter is served and a tenant in use is leased. `properties` runs random sequences that are longer
//! and finer in time; `scenarios` are single cases to read. `cargo xtask mutants lease` changes line after line; each
//! change must fail one of them.
//!
//! One assumption about the engine: calls of an earlier orchestrator have ended before the engine shows the tenant to the next one.
//! Should that fail, a tenant that is suspended under a live lease is woken.

pub mod authority;
pub mod holder;
#[cfg(test)]
mod model;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod scenarios;
pub mod time;

pub use authority::Authority;
pub use authority::command::{
    AuthoritySettings, CallId, CallOutcome, Command, EngineCall, Grant, LeaseRequest,
    LeaseResponse, WakeError, WakeProgress,
};
pub use authority::reason::{AwakeReason, BusyReport, SleepRecord};
pub use authority::sleep_state::{HolderUsage, SleepPolicy, TenantSleepState};
pub use authority::suspend::BUSY_REPORT_TIMEOUT;
pub use authority::wake_queue::{Waiter, WakeKind, WakeLimits, WakeTimings};
pub use holder::command::{
    CurrentUsage, ManagerCommand, ManagerSettings, RequestOutcome, RouteStatus, TenantRequest,
};
pub use holder::error::LeaseError;
pub use holder::lease::{LeaseCall, LeaseTerms};
pub use holder::manager::{LeaseManager, REQUEST_WAIT};
pub use holder::outage::{CallHealth, OrchestratorStatus};
pub use time::{Millis, Moment};
