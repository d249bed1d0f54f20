//! HTTP inside a tenant: a small server, its answers, a bounded fetch. Sized for processes of a megabyte.

pub mod answer;
pub mod body;
pub mod bounded;
pub mod echo;
pub mod fetch;
pub mod origin;
pub mod page;
pub mod serve;
pub mod start;
pub mod user;

pub use answer::{Answer, Asker};
pub use bounded::Bounded;
pub use serve::{Drain, serve};
pub use start::start;
pub use user::User;
