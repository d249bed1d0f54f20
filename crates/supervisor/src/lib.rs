//! PID 1 of a tenant: starts five services as two users and ends as soon as one of them ends.
//!
//! PID 1 opens every listening socket and passes it on, so that no process inside can take the
//! public port. An app of the tenant's owner replaces the platform's two services: its program
//! opens its own port on 127.0.0.1, and a probe reports when it answers. Beside the services, a
//! file server opens the files of `agent` for the core. PID 1 prefixes the lines of the services,
//! reaps every orphan and restarts nothing: restarts are the engine's work.

pub mod app;
pub mod commands;
pub mod environment;
pub mod files;
pub mod hooks;
pub mod machine;
pub mod output;
pub mod privilege_drop;
pub mod probe;
pub mod reaper;
pub mod serve;
pub mod services;
pub mod sockets;
pub mod spawn;
pub mod task;

pub use serve::run;
pub use services::Layout;
