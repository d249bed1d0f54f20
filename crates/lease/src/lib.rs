//! Leases: the right to send a tenant requests. While a lease is live the tenant is neither frozen nor stopped, so one protocol
//! decides sleep, wake and routing. Both sides are pure cores: no I/O, no clock (time is an argument), commands out.
//!
//! ```text
//!  holder (router), one Holder per tenant        authority (orchestrator), one Authority
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
//! | ★ [`holder`] | the holder's side: whether requests may be sent, which call is due |
//! | ★ [`sleep_state`], [`suspend`] | the authority's side, one tenant: leases and idle time; the steps of a suspend |
//! | [`wake_queue`] | the authority's side, all tenants: pending wakes, waiters, queue, bounds |
//! | ★ [`manager`], [`outage`] | the holder's side, all tenants: waiters, single requests, reused refusals, retries, outages |
//! | [`authority`], `reconcile` | both combined: events in, commands out, one timer |
//! | [`command`], [`reason`], [`time`] | inputs and outputs; reasons as data; moments |
//!
//! A caller loops: pass an event, run `next_command` until there is none, sleep until `next_deadline`, call `tick`.
//!
//! # How it is checked
//!
//! `model` explores every order of events, within budgets, with [`Holder`] and [`Authority`] as they are: messages that are late, lost, repeated
//! and reordered, holders that crash, an orchestrator that crashes before, during and after every call, an engine that refuses,
//! owners, exits, work inside. It checks that no holder may send without a live lease; that no tenant is suspended under a lease
//! or after a busy report; that each waiter gets one response with a true reason; that one wake call runs at a time; and that from
//! every state, once nothing fails any more, every waiter is served. `planted` holds bugs that only tests switch on; the model finds
//! each with a short trace (`cargo nextest run -p lease bugs --no-capture`). `properties` runs random sequences that are longer and
//! finer in time; `scenarios` are single cases to read,
//! and cover [`LeaseManager`], which the model does not contain yet.
//!
//! One assumption about the engine: calls of an earlier orchestrator have ended before the engine shows the tenant to the next one.
//! Should that fail, a tenant that is suspended under a live lease is woken.

pub mod authority;
pub mod command;
pub mod holder;
mod lease_error;
pub mod manager;
#[cfg(test)]
mod model;
pub mod outage;
mod planted;
#[cfg(test)]
mod properties;
pub mod reason;
mod reconcile;
#[cfg(test)]
mod scenarios;
pub mod sleep_state;
pub mod suspend;
pub mod time;
pub mod wake_queue;

pub use authority::Authority;
pub use command::{
    AuthoritySettings, CallId, CallOutcome, Command, EngineCall, Grant, LeaseRequest,
    LeaseResponse, WakeError, WakeProgress,
};
pub use holder::{DueAction, Holder, LeaseCall, LeaseTerms};
pub use lease_error::LeaseError;
pub use manager::{
    CurrentUsage, LeaseManager, ManagerCommand, ManagerSettings, REQUEST_WAIT, RequestOutcome,
    TenantRequest,
};
pub use outage::{CallHealth, OrchestratorStatus};
pub use reason::{AwakeReason, BusyReport, SleepRecord};
pub use sleep_state::{HolderUsage, SleepPolicy, TenantSleepState};
pub use suspend::BUSY_REPORT_TIMEOUT;
pub use time::{Millis, Moment};
pub use wake_queue::{Waiter, WakeKind, WakeLimits, WakeTimings};
