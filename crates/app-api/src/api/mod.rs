//! The admin API, one file per noun. Handlers read a request, call what does it, and show the result.

pub mod apps;
pub mod audit;
pub mod auth;
pub mod cli_logins;
pub mod dev_login;
pub mod events;
pub mod exec;
pub mod executions;
pub mod health;
pub mod invitations;
pub mod keys;
pub mod mails;
pub mod members;
pub mod open;
pub mod packages;
pub mod passkeys;
pub mod rollouts;
pub mod second_factor;
pub mod sessions;
pub mod summaries;
pub mod tenant_logs;
pub mod tenants;
pub mod users;
pub mod variables;
pub mod webhooks;
pub mod workflows;
