//! The public door of a tenant: who may pass ([`gate`]), which half answers ([`routes`]), and what crosses
//! between the halves ([`headers`]). Those are pure; the rest asks core-back who is signed in and leaves the
//! bytes to the engine.

mod answers;
mod exchange;
pub mod gate;
pub mod headers;
mod identity;
mod policy;
pub mod routes;
mod serve;
mod settings;

pub use serve::{serve, start};
pub use settings::{Insides, Settings};
