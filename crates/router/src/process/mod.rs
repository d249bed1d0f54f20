//! Runs the router: threads, listeners, the parent process, and upgrades without downtime (graceful shutdown of the old process).

mod admin;
mod fd_passing;
mod file_limit;
pub mod parent;
pub(crate) mod server;
mod upgrade;
