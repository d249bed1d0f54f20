//! What the control plane promises, a file per promise.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod access;
mod accounts;
mod creating;
mod database_down;
mod describing;
mod errors;
mod feeding;
mod listing;
mod logs;
mod migrating;
mod opening;
mod ownership;
mod pages;
mod reconciling;
mod resetting;
mod sessions;
mod sites;
mod sleeping;
mod world;
