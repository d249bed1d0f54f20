//! The settings of core-back.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use protocol::TenantId;
use protocol::inside::{
    APP_PROCESS, CORE_FRONT_GAUGES_SOCKET, DATA_DIR, DISK_SHARE, EDGE_GAUGES_SOCKET, FILES_DIR,
    FILES_SOCKET, MODEL_TOKEN, MODELS_DIR, MODELS_SOCKET, PLATFORM_BACK, SECRETS_DIR, TENANT_UUID,
};
use protocol::process::{AppProcess, CHAT_MODEL};
use service::settings::SettingsErrors;
use service::{Env, Secret, Setting, SettingsReader};
use tenant_service::TENANT;

use super::v1::chat::{ChatHandler, ModelHandler};
use crate::token::Verifier;

const UUID: Setting = Setting::optional(
    TENANT_UUID,
    "the tenant's id in sign-on tokens; without it nobody can sign in",
)
.by_orchestrator();

const APP: Setting = Setting::optional(
    APP_PROCESS,
    "the program of an app as JSON; without it, the built-in app echoes messages of the chat",
)
.by_orchestrator();

/// Every variable that the core reads; core-front reads the first alone.
pub const SETTINGS: &[Setting] = &[TENANT, UUID, APP];

pub struct Settings {
    /// The tenant's name on pages.
    pub tenant: String,
    /// Without a verifier, no visitor can sign in.
    pub verifier: Option<Verifier>,
    pub data: PathBuf,
    /// Where other services of the core half report their gauges.
    pub gauges_sockets: [PathBuf; 2],
    /// `None`: the app takes no messages.
    pub chat: Option<ChatHandler>,
    /// Where the tenant's files are opened.
    pub files_socket: PathBuf,
    /// The volume of those files.
    pub files_dir: PathBuf,
    /// The file with the tenant's share of the disk.
    pub disk_share: PathBuf,
}

impl Settings {
    pub fn read(env: &Env) -> Result<Self, SettingsErrors> {
        let mut settings = SettingsReader::new(env);
        let tenant = settings.value(&TENANT);
        let uuid = settings.optional::<TenantId>(&UUID).flatten();
        let read = uuid.and_then(|uuid| Verifier::read(Path::new(SECRETS_DIR), uuid).transpose());
        let verifier = match read.transpose() {
            Ok(verifier) => Some(verifier),
            Err(error) => settings.reject_named(SECRETS_DIR, &error.to_string()),
        };
        let gauges_sockets = [EDGE_GAUGES_SOCKET, CORE_FRONT_GAUGES_SOCKET].map(PathBuf::from);
        let chat = read_chat_handler(&mut settings);
        settings.finish(|| {
            Some(Self {
                tenant: tenant?,
                verifier: verifier?,
                data: DATA_DIR.into(),
                gauges_sockets,
                chat: chat?,
                files_socket: FILES_SOCKET.into(),
                files_dir: FILES_DIR.into(),
                disk_share: Path::new(SECRETS_DIR).join(DISK_SHARE),
            })
        })
    }
}

fn read_chat_handler(settings: &mut SettingsReader<'_>) -> Option<Option<ChatHandler>> {
    let Some(json) = settings.optional::<String>(&APP)? else {
        let address = PLATFORM_BACK.parse().ok()?;
        return Some(Some(ChatHandler::App { address, path: "/chat".to_owned() }));
    };
    match serde_json::from_str::<AppProcess>(&json) {
        Ok(app) => match app.chat {
            None => Some(None),
            Some(chat) if chat == CHAT_MODEL => read_model_handler(settings).map(Some),
            Some(path) => {
                let address = (Ipv4Addr::LOCALHOST, app.port).into();
                Some(Some(ChatHandler::App { address, path }))
            }
        },
        Err(error) => settings.reject(&APP, &error.to_string()),
    }
}

fn read_model_handler(settings: &mut SettingsReader<'_>) -> Option<ChatHandler> {
    let path = Path::new(SECRETS_DIR).join(MODEL_TOKEN);
    let socket = Path::new(MODELS_DIR).join(MODELS_SOCKET);
    match std::fs::read_to_string(&path) {
        Ok(token) => Some(ChatHandler::Model(ModelHandler { socket, token: Secret::new(token) })),
        Err(error) => {
            settings.reject_named(SECRETS_DIR, &format!("{MODEL_TOKEN} cannot be read: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_variable_that_is_read() {
        let read = service::settings::variables_read(|env| drop(Settings::read(env)));
        assert_eq!(read, SETTINGS.iter().map(|setting| setting.name.to_owned()).collect());
        let table = service::settings::reference_table(SETTINGS);
        testkit::reference::check_table("docs/reference/settings.md", "### core", &table);
    }
}
