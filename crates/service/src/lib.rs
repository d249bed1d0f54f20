//! Shared by every long-running service: from `main` to a true exit code, settings, the shutdown signal, bounds of
//! connections and descriptors.
//!
//! The feature `control` adds the parts of the control plane and the router, which stand on axum. The services inside
//! a tenant do without it and use the crate `tenant-service` instead.

pub mod connections;
pub mod cookies;
pub mod descriptors;
pub mod healthcheck;
pub mod json_object;
pub mod request_id;
pub mod run;
pub mod secret;
pub mod settings;
pub mod shutdown;

#[cfg(feature = "control")]
pub mod api_error;
#[cfg(feature = "control")]
pub mod client;
#[cfg(feature = "control")]
pub mod forwarded;
#[cfg(feature = "control")]
pub mod keys;
#[cfg(feature = "control")]
pub mod logs;
#[cfg(feature = "control")]
pub mod metrics;
#[cfg(feature = "sealed")]
pub mod sealed;
#[cfg(feature = "sealed")]
pub mod sealing_keys;
#[cfg(feature = "control")]
pub mod unread_body;
#[cfg(feature = "control")]
pub mod watch;
#[cfg(feature = "control")]
pub mod websocket;

pub use run::{Env, ServiceError, run};
pub use secret::Secret;
pub use settings::{Setting, SettingsReader};
pub use shutdown::shutdown_token;
