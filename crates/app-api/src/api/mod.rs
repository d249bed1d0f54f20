//! The admin API, one file per noun. Handlers read a request, call what does it, and show the result.

pub mod audit;
pub mod auth;
pub mod health;
pub mod keys;
pub mod open;
pub mod sessions;
pub mod tenant_logs;
pub mod tenants;
