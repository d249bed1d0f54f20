//! An installation on this machine: brought up, taken down, inspected.

mod command_line;
mod compose;
mod dotenv;
pub mod down;
mod health;
mod images;
mod installation;
pub mod logs;
mod objects;
mod ports;
mod preflight;
pub mod status;
mod steps;
pub mod up;

pub use compose::Compose;
pub use health::unhealthy;
pub use installation::Installation;
pub use objects::tenant_objects;
pub use preflight::check as preflight;
