//! PID 1 of a tenant: starts five services as two users, and ends as soon as any of them does.
//!
//! It opens every listening socket itself and hands them on, so that nobody inside can take the public port;
//! it prefixes what the services print, reaps every orphan, and restarts nothing: that is the engine's work.

pub mod door;
pub mod environment;
pub mod machine;
pub mod output;
pub mod reaper;
pub mod serve;
pub mod services;
pub mod sockets;
pub mod spawn;

pub use serve::run;
pub use services::Layout;
