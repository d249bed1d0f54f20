//! The types and names that all parts of Cial share. Serde types and pure functions: no I/O, no async.
//!
//! One file per conversation; a type that crosses a process boundary lives here and nowhere else.

pub mod api_keys;
pub mod apps;
pub mod audit;
pub mod backups;
pub mod busy;
pub mod cli_login;
pub mod control;
pub mod database_proxy;
pub mod domain;
pub mod events;
pub mod exec;
pub mod executions;
pub mod files;
pub mod gauges;
pub mod headers;
pub mod history;
pub mod id;
pub mod images;
pub mod inside;
pub mod leases;
pub mod mails;
pub mod model;
pub mod name;
pub mod orchestrator;
pub mod packages;
pub mod passkey;
pub mod people;
pub mod problem;
pub mod process;
pub mod response_counts;
pub mod rollouts;
pub mod routes;
pub mod second_factor;
pub mod sessions;
pub mod sign_in;
pub mod site;
pub mod sleep;
pub mod spec;
pub mod state;
pub mod summaries;
pub mod tasks;
pub mod text;
pub mod transfer;
pub mod triggers;
pub mod variables;
pub mod watch;
pub mod webhooks;

pub use domain::Domain;
pub use id::{InstallName, TenantId};
pub use name::Slug;
pub use problem::Problem;
pub use state::State;

/// A moment on the wire: RFC 3339, UTC.
pub type Timestamp = chrono::DateTime<chrono::Utc>;
