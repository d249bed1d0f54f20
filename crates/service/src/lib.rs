//! What every long-running service does. `main` stays one sentence; its exit code is true.

pub mod probe;
pub mod run;
pub mod settings;
pub mod stop;

#[cfg(feature = "control")]
pub mod client;
#[cfg(feature = "control")]
pub mod failure;
#[cfg(feature = "control")]
pub mod forwarded;
#[cfg(feature = "inherited")]
pub mod inherited;
#[cfg(feature = "inside")]
pub mod inside;
#[cfg(feature = "control")]
pub mod keys;
#[cfg(feature = "control")]
pub mod logs;
#[cfg(any(feature = "control", feature = "inside"))]
pub mod object;
#[cfg(feature = "control")]
pub mod request_id;
#[cfg(feature = "control")]
pub mod watch;

pub use run::{Env, Failed, run};
pub use settings::{Secret, Vars};
pub use stop::stop_requested;
