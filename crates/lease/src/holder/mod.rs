//! The holder's side of leases: a router.

pub mod command;
mod decide;
pub(crate) mod entry;
pub(crate) mod error;
pub mod lease;
pub mod manager;
pub mod outage;
