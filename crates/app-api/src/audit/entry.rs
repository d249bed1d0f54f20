//! An entry of the audit log, as a change writes it.

use std::fmt;

use serde_json::Value;
use uuid::Uuid;

use super::mask::{differing, mask};
use super::origin::{self, Origin};
use crate::access::Principal;
use crate::db::api_key::ApiKey;
use crate::db::user::User;

macro_rules! actions {
    ($($name:ident = $text:literal,)+) => {
        /// The kind of a change. The name is stable: people filter by it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Action {
            $($name,)+
        }

        impl Action {
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

actions! {
    UserSignUp = "user.sign_up",
    UserRole = "user.role",
    UserName = "user.name",
    UserDelete = "user.delete",
    PasswordResetLink = "user.password_reset_link",
    PasswordReset = "user.password_reset",
    SecondFactorOn = "user.second_factor_on",
    SecondFactorOff = "user.second_factor_off",
    SecondFactorReset = "user.second_factor_reset",
    PasskeyAdd = "user.passkey_add",
    PasskeyRename = "user.passkey_rename",
    PasskeyRemove = "user.passkey_remove",
    RecoveryCodeUse = "user.recovery_code_use",
    SessionBegin = "session.begin",
    SessionEnd = "session.end",
    SessionRevoke = "session.revoke",
    SessionRevokeOthers = "session.revoke_others",
    CliLoginConfirm = "cli_login.confirm",
    CliLoginRefuse = "cli_login.refuse",
    TenantCreate = "tenant.create",
    TenantChange = "tenant.change",
    TenantStart = "tenant.start",
    TenantStop = "tenant.stop",
    TenantRestart = "tenant.restart",
    TenantDelete = "tenant.delete",
    TenantRelease = "tenant.release",
    TenantEnv = "tenant.env",
    TenantSecret = "tenant.secret",
    TenantOpen = "tenant.open",
    TenantExec = "tenant.exec",
    TenantExport = "tenant.export",
    TenantImport = "tenant.import",
    BackupRequest = "backup.request",
    BackupCreate = "backup.create",
    BackupRestore = "backup.restore",
    BackupDelete = "backup.delete",
    TenantDatabaseCreate = "tenant.database_create",
    TenantDatabaseDrop = "tenant.database_drop",
    TenantDatabaseClose = "tenant.database_close",
    TenantDatabaseOpen = "tenant.database_open",
    TenantGone = "tenant.gone",
    AppCreate = "app.create",
    AppDelete = "app.delete",
    AppEnv = "app.env",
    AppSecret = "app.secret",
    ReleaseCreate = "release.create",
    RolloutStart = "rollout.start",
    RolloutPause = "rollout.pause",
    RolloutResume = "rollout.resume",
    RolloutAbort = "rollout.abort",
    RolloutFail = "rollout.fail",
    RolloutFinish = "rollout.finish",
    KeyCreate = "key.create",
    KeyRevoke = "key.revoke",
    InvitationCreate = "invitation.create",
    InvitationRevoke = "invitation.revoke",
    InvitationAccept = "invitation.accept",
    MembershipSet = "membership.set",
    MembershipRemove = "membership.remove",
    RegistrySet = "registry.set",
    RegistryDelete = "registry.delete",
    WebhookCreate = "webhook.create",
    WebhookDelete = "webhook.delete",
    WebhookReplay = "webhook.replay",
    ModelSet = "model.set",
    ModelUnset = "model.unset",
    SealingKeyAdd = "sealing_key.add",
    SealingKeyRemove = "sealing_key.remove",
    PackageUpload = "package.upload",
    PackageDelete = "package.delete",
    PackageKeyAdd = "package_key.add",
    PackageKeyDelete = "package_key.delete",
    WorkflowRun = "workflow.run",
    WorkflowPause = "workflow.pause",
    WorkflowResume = "workflow.resume",
    ExecutionCancel = "execution.cancel",
    TriggerCreate = "trigger.create",
    TriggerPause = "trigger.pause",
    TriggerResume = "trigger.resume",
    TriggerFire = "trigger.fire",
    TriggerDelete = "trigger.delete",
}

impl Action {
    /// The event of which webhooks are notified: changes of tenants, of who belongs to them, and rollouts.
    pub fn event(self) -> Option<&'static str> {
        match self {
            Self::TenantCreate
            | Self::TenantChange
            | Self::TenantStart
            | Self::TenantStop
            | Self::TenantRestart
            | Self::TenantDelete
            | Self::TenantRelease
            | Self::TenantImport
            | Self::TenantDatabaseClose
            | Self::TenantDatabaseOpen
            | Self::TenantEnv
            | Self::TenantSecret
            | Self::RolloutStart
            | Self::RolloutPause
            | Self::RolloutResume
            | Self::RolloutAbort
            | Self::RolloutFail
            | Self::RolloutFinish
            | Self::InvitationAccept
            | Self::MembershipSet
            | Self::MembershipRemove => Some(self.as_str()),
            Self::UserSignUp
            | Self::UserRole
            | Self::UserName
            | Self::UserDelete
            | Self::PasswordResetLink
            | Self::PasswordReset
            | Self::SecondFactorOn
            | Self::SecondFactorOff
            | Self::SecondFactorReset
            | Self::RecoveryCodeUse
            | Self::PasskeyAdd
            | Self::PasskeyRename
            | Self::PasskeyRemove
            | Self::SessionBegin
            | Self::SessionEnd
            | Self::SessionRevoke
            | Self::SessionRevokeOthers
            | Self::CliLoginConfirm
            | Self::CliLoginRefuse
            | Self::TenantOpen
            | Self::TenantExec
            | Self::TenantExport
            | Self::BackupRequest
            | Self::BackupCreate
            | Self::BackupRestore
            | Self::BackupDelete
            | Self::TenantDatabaseCreate
            | Self::TenantDatabaseDrop
            | Self::TenantGone
            | Self::AppCreate
            | Self::AppDelete
            | Self::AppEnv
            | Self::AppSecret
            | Self::ReleaseCreate
            | Self::KeyCreate
            | Self::KeyRevoke
            | Self::InvitationCreate
            | Self::InvitationRevoke
            | Self::RegistrySet
            | Self::RegistryDelete
            | Self::WebhookCreate
            | Self::WebhookDelete
            | Self::WebhookReplay
            | Self::ModelSet
            | Self::ModelUnset
            | Self::SealingKeyAdd
            | Self::SealingKeyRemove
            | Self::PackageUpload
            | Self::PackageDelete
            | Self::PackageKeyAdd
            | Self::PackageKeyDelete
            | Self::WorkflowRun
            | Self::WorkflowPause
            | Self::WorkflowResume
            | Self::ExecutionCancel
            | Self::TriggerCreate
            | Self::TriggerPause
            | Self::TriggerResume
            | Self::TriggerFire
            | Self::TriggerDelete => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The person, key or command that makes a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub(crate) kind: &'static str,
    pub(crate) id: Option<Uuid>,
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) session_id: Option<Uuid>,
}

impl Actor {
    /// A person, with the session that the request belongs to or begins.
    pub fn user(user: &User, session_id: Option<Uuid>) -> Self {
        Self {
            kind: "user",
            id: Some(user.id),
            name: user.email.clone(),
            role: user.role.clone(),
            session_id,
        }
    }

    /// A key. A person's key has the name and the role of the person.
    pub fn key(id: Uuid, name: &str, role: &str) -> Self {
        Self {
            kind: "key",
            id: Some(id),
            name: name.to_owned(),
            role: role.to_owned(),
            session_id: None,
        }
    }

    /// The actor of a change that no person and no key makes: a command on the machine, such as `app-api reset-password`, or a trigger.
    pub fn command(name: &str) -> Self {
        Self {
            kind: "command",
            id: None,
            name: name.to_owned(),
            role: String::new(),
            session_id: None,
        }
    }
}

impl From<&Principal> for Actor {
    fn from(caller: &Principal) -> Self {
        match caller {
            Principal::Session(person) => Self::user(&person.user, Some(person.session.id)),
            Principal::Key(ApiKey { id, person: Some(user), .. }) => {
                Self::key(*id, &user.email, &user.role)
            }
            Principal::Key(key) if key.is_admin => Self::key(key.id, &key.name, "is_admin"),
            Principal::Key(key) => Self::key(key.id, &key.name, key.role.as_str()),
            Principal::Service => Self::command("service"),
        }
    }
}

/// The object that a change concerns: its kind and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
}

impl Resource {
    pub fn new(kind: &'static str, name: impl fmt::Display) -> Self {
        Self { kind, name: name.to_string() }
    }

    pub fn tenant(slug: &protocol::Slug) -> Self {
        Self::new("tenant", slug)
    }

    pub fn user(email: &str) -> Self {
        Self::new("user", email)
    }
}

/// A change. The address and the id of the request are those of the request that this task handles.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(crate) actor: Actor,
    pub(crate) action: Action,
    pub(crate) resource: Resource,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
    pub(crate) origin: Origin,
}

impl Entry {
    pub fn new(actor: Actor, action: Action, resource: Resource) -> Self {
        Self { actor, action, resource, before: None, after: None, origin: origin::current() }
    }

    /// Adds what the change made. Secrets are masked.
    #[must_use]
    pub fn after(mut self, after: Value) -> Self {
        self.after = Some(mask(after));
        self
    }

    /// Adds what the change removed. Secrets are masked.
    #[must_use]
    pub fn before(mut self, before: Value) -> Self {
        self.before = Some(mask(before));
        self
    }

    /// Adds the fields that the change changed. Secrets are masked.
    #[must_use]
    pub fn changed(self, before: Value, after: Value) -> Self {
        let (before, after) = differing(before, after);
        self.before(before).after(after)
    }
}
