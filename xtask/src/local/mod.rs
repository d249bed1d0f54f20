//! An installation on this machine: brought up, taken down, inspected.

mod command_line;
pub(crate) mod compose;
mod dotenv;
pub(crate) mod down;
mod health;
mod images;
mod installation;
pub(crate) mod logs;
mod ports;
mod preflight;
pub(crate) mod status;
mod steps;
pub(crate) mod up;

pub(crate) use health::unhealthy;
pub(crate) use images::provide_portable;
pub(crate) use installation::{Installation, TENANT_IMAGE};
pub(crate) use preflight::check as preflight;
