//! What core-back is told at its start.

use std::path::{Path, PathBuf};

use protocol::TenantId;
use protocol::inside::{DATA_DIR, SECRETS_DIR, TENANT_ID, TENANT_UUID};
use service::settings::SettingsErrors;
use service::{Env, SettingsReader};

use crate::token::Verifier;

pub struct Settings {
    /// What pages call the tenant.
    pub tenant: String,
    /// Without one, nobody can sign in.
    pub verifier: Option<Verifier>,
    pub data: PathBuf,
}

impl Settings {
    pub fn read(env: &Env) -> Result<Self, SettingsErrors> {
        let mut vars = SettingsReader::new(env);
        let tenant = vars.required(TENANT_ID);
        let uuid = vars.optional::<TenantId>(TENANT_UUID).flatten();
        let read = uuid.and_then(|uuid| Verifier::read(Path::new(SECRETS_DIR), uuid).transpose());
        let verifier = match read.transpose() {
            Ok(verifier) => Some(verifier),
            Err(error) => vars.reject(SECRETS_DIR, &error.to_string()),
        };
        vars.finish(|| Some(Self { tenant: tenant?, verifier: verifier?, data: DATA_DIR.into() }))
    }
}
