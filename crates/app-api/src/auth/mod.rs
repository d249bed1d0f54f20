//! Parts of signing in that know neither HTTP routes nor tenants: passwords, the throttle, tokens.

pub mod api_key;
pub mod common_passwords;
pub mod device;
pub mod passkey;
pub mod passwords;
pub mod second_factor;
pub mod sso;
pub mod throttle;
pub mod token;
