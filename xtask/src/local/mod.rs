//! An installation on this machine: brought up, taken down, looked at.

mod compose;
mod dotenv;
pub mod down;
mod engine;
mod health;
mod images;
mod installation;
mod leaks;
pub mod logs;
mod ports;
mod preflight;
pub mod status;
mod steps;
pub mod up;

pub use compose::Compose;
pub use engine::{
    GRACE_SECONDS, all_volumes, left, of_service, of_tenant, projects, remove_volumes,
    tenant_things,
};
pub use health::unhealthy;
pub use images::remove_own as remove_own_images;
pub use installation::Installation;
pub use leaks::examine as examine_logs;
pub use preflight::machine;
pub use up::tools;
