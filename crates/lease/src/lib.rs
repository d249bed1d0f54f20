//! Sleep, wake and routing in one idea: a **lease** is the right to send a tenant requests, and whoever holds it keeps the tenant
//! awake. Both sides as pure cores: no I/O, no clock (time is an argument), commands out.
//!
//! ```text
//!  holder (router), one Holder a tenant          keeper (orchestrator), one Authority
//!  ───────────────────────────────────           ─────────────────────────────────────────────
//!  no lease  ── ask ──────────────────────────►  awake? granted at once
//!                                                frozen, asleep? one flight wakes it, all wait
//!  may_send until sent + D − margin  ◄─ granted  counts D from its answer: the holder's ends first
//!  in use    ── renew, every D/3 ─────────────►  idle clock = last use
//!  lingered  ── release ──────────────────────►  idle clock runs on
//!                                                idle, no lease → busy inside? → recheck → freeze, stop
//!                                                frozen, still idle → thaw → busy inside? → stop
//! ```
//!
//! Nothing is frozen or stopped while a lease is live, but by its owner's will. An ask on the way to sleep voids the decision, up
//! to the engine's call; from there on it waits and is served after. A keeper that starts puts nothing to sleep for one D: leases
//! that it cannot know have then run out.
//!
//! | file | is |
//! |---|---|
//! | ★ [`holder`] | the holder's side: may I send, what is due |
//! | ★ [`rest`], [`fall`] | the keeper's, one tenant: leases and idle clock; the steps to sleep |
//! | [`wake`] | the keeper's, all tenants: flights, waiters, queue, bounds |
//! | [`authority`], `settle` | both put together: events in, commands out, one timer |
//! | [`command`], [`why`], [`time`] | what is said; reasons as data; moments |
//!
//! A shell is a loop: feed an event, then run `next_command` until there is none; sleep until `next_deadline`, `tick`.
//!
//! # How it is checked
//!
//! `model` walks through every order of events, within budgets, with these very cores on both sides: messages late, lost,
//! repeated and overtaking each other, holders that crash, a keeper that crashes before, during and after every call, an engine
//! that refuses, owners, deaths, work inside. Two million states in nine scenes: no holder may send without a live lease; nothing
//! sleeps under one, nor after it said that it is busy; each waiter is answered, for a reason that is true; one call to wake at
//! a time; and left alone from any state, whoever waits is served. `planted` holds bugs that only tests can switch on; each is
//! found, with a trace of a few moves (`cargo nextest run -p lease bugs --no-capture`). `props` does the same at random in longer
//! stories and finer time; `stories` are single cases to read.
//!
//! One thing is assumed of the engine: what an earlier keeper told it has ended before it shows that tenant to the next one.
//! Should that fail, a tenant that rests under a live lease is woken.

pub mod authority;
pub mod command;
pub mod fall;
pub mod holder;
#[cfg(test)]
mod model;
mod planted;
#[cfg(test)]
mod props;
pub mod rest;
mod settle;
#[cfg(test)]
mod stories;
pub mod time;
pub mod wake;
pub mod why;

pub use authority::Authority;
pub use command::{Act, Answer, Ask, Command, Failure, Grant, Outcome, Progress, Settings, Ticket};
pub use holder::{Call, Due, Holder, Terms};
pub use rest::{Depth, Policy, Rest, Used};
pub use time::{Millis, Moment};
pub use wake::{Limits, Rouse, Waiter, Woke};
pub use why::{Awake, Heard, Slept};
