//! Authorisation: roles, and the permission that each route needs. The table of routes gives every route an [`Access`]; [`layer`] admits a caller before the handler runs.
//!
//! [`principal`] decides, without I/O. [`authority`] reads what the database says about the caller, on every request.

pub mod authority;
pub mod layer;
pub mod next_path;
pub mod principal;

pub use authority::AuthorizedTenant;
pub use layer::{Account, Caller};
pub use principal::{Access, Person, Principal};
