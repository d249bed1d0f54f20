//! `cial.toml`: how an image's program runs as a tenant. Pure: text in, a [`Manifest`] or all of
//! its faults out.
//!
//! [`keys::KEYS`] lists the keys. The JSON Schema, the reference and the commented template are made
//! from that table, and a test holds the reader to it.

mod error;
pub mod keys;
mod read;
pub mod reference;
pub mod schema;
mod template;

use std::collections::BTreeMap;

pub use error::ManifestError;
pub use template::TEMPLATE;

/// The name of the file, by convention.
pub const FILE_NAME: &str = "cial.toml";
/// The longest text that is read, in bytes.
pub const MAX_BYTES: usize = 32 * 1024;
/// The most public paths of a release.
pub const MAX_PUBLIC_PATHS: usize = 64;
/// The most secrets that a manifest names.
pub const MAX_SECRETS: usize = 64;
/// The longest time that a manifest gives a hook, in seconds.
pub const MAX_HOOK_SECONDS: u32 = 3_600;
/// In the place of a path: the model of the installation replies to messages of the chat.
pub const CHAT_MODEL: &str = "model";
/// The port of the tenant's own entry, which no program inside may take.
pub const RESERVED_PORT: u16 = 8080;
/// Programs without privileges do not listen below this port on every machine.
pub const LOWEST_PORT: u16 = 1024;

/// How the program of an image runs. An absent value is the image's own, or the platform's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Program and arguments, instead of the image's entrypoint and command.
    pub command: Option<Vec<String>>,
    /// The port on which the program listens.
    pub port: Option<u16>,
    /// The path that answers with a status below 400 once the program is ready.
    pub health_path: Option<String>,
    /// Paths that anonymous visitors reach where a tenant requires sign-in.
    pub public_paths: Vec<String>,
    /// Whether the program reaches the tenant's schema on Postgres.
    pub database: bool,
    /// The path that takes messages of the chat, or [`CHAT_MODEL`].
    pub chat: Option<String>,
    /// Runs before the program until it succeeded once in the tenant.
    pub before_first_start: Option<Vec<String>>,
    /// Runs before the program until it succeeded once on the release.
    pub migrate: Option<Vec<String>>,
    /// The longest time of one hook, in seconds.
    pub hook_timeout: Option<u32>,
    /// Variables of the program, beside those of the image.
    pub env: BTreeMap<String, String>,
    /// Names of secrets without which a tenant does not start.
    pub required_secrets: Vec<String>,
    /// Names of other secrets.
    pub optional_secrets: Vec<String>,
}

/// Reads a manifest.
///
/// # Errors
/// All faults of the text, in the order of their places.
pub fn parse(text: &str) -> Result<Manifest, Vec<ManifestError>> {
    read::read(text)
}

/// Any bytes; for the fuzz target.
///
/// # Panics
/// A fault is outside the text or says nothing, or an accepted value breaks a rule.
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lines = text.split('\n').count();
    match parse(text) {
        Ok(manifest) => {
            assert!(manifest.port.is_none_or(|port| keys::port_fault(port.into()).is_none()));
            let mut public = manifest.public_paths.iter();
            assert!(public.all(|path| keys::public_path_fault(path).is_none()));
            assert!(manifest.env.keys().all(|name| keys::env_fault(name).is_none()));
            let secrets: Vec<_> =
                manifest.required_secrets.iter().chain(&manifest.optional_secrets).collect();
            assert!(secrets.iter().all(|name| keys::env_fault(name).is_none()));
            assert!(secrets.len() <= MAX_SECRETS);
            assert!(manifest.chat.is_none_or(|chat| chat == CHAT_MODEL || chat.starts_with('/')));
            let commands = [manifest.command, manifest.before_first_start, manifest.migrate];
            assert!(commands.into_iter().flatten().all(|command| !command.is_empty()));
            assert!(
                manifest.hook_timeout.is_none_or(|time| (1..=MAX_HOOK_SECONDS).contains(&time))
            );
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            for fault in &faults {
                assert!((1..=lines).contains(&fault.line), "{fault:?}");
                assert!(fault.column >= 1 && !fault.message.is_empty(), "{fault:?}");
            }
            assert!(faults.is_sorted_by_key(|fault| (fault.line, fault.column)));
        }
    }
}
