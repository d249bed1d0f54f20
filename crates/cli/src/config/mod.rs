//! Settings: from flags, variables and profiles to one server, key and tenant.

mod credential;
mod file;
mod resolve;
mod server;

pub use credential::{Credential, CredentialError, is_open_to_others};
pub(crate) use file::write_private;
pub use file::{ConfigError, ConfigFile, Profile};
pub use resolve::{Origin, ProfileChoice, Resolved, Setting, Sources, resolve};
pub use server::{ServerUrl, ServerUrlError};
