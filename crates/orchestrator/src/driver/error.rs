//! The errors of a driver: a stable code to branch on and a sentence to act on.

use std::fmt;

use protocol::problem::Code;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DriverErrorCode {
    NoSuchTenant,
    TenantDeleted,
    /// The tenant runs, and the request is about one that rests.
    TenantAwake,
    ImageMissing,
    ImageInvalid,
    /// A registry does not respond, or breaks off.
    RegistryUnreachable,
    /// A registry wants credentials, or others.
    RegistryRefused,
    /// The program of an image did not get ready in a smoke start.
    ProgramFailed,
    /// A secret that the release requires has no value.
    SecretMissing,
    NameTaken,
    PortConflict,
    SubnetsExhausted,
    DiskFull,
    /// The tenant uses more of the disk than it may.
    DiskLimitReached,
    EngineUnreachable,
    EngineTimeout,
    EngineTooOld,
    EngineRefused,
    /// The engine's containers were not listed yet, so nothing is known, least of all "gone".
    NotListed,
    /// This process lacks descriptors, memory or addresses, so the engine's state is unknown.
    OutOfResources,
    /// An error of our own.
    Internal,
}

impl DriverErrorCode {
    pub const ALL: [Self; 21] = [
        Self::NoSuchTenant,
        Self::TenantDeleted,
        Self::TenantAwake,
        Self::ImageMissing,
        Self::ImageInvalid,
        Self::RegistryUnreachable,
        Self::RegistryRefused,
        Self::ProgramFailed,
        Self::SecretMissing,
        Self::NameTaken,
        Self::PortConflict,
        Self::SubnetsExhausted,
        Self::DiskFull,
        Self::DiskLimitReached,
        Self::EngineUnreachable,
        Self::EngineTimeout,
        Self::EngineTooOld,
        Self::EngineRefused,
        Self::NotListed,
        Self::OutOfResources,
        Self::Internal,
    ];

    /// The code of the problem that reports the error.
    pub const fn problem_code(self) -> Code {
        match self {
            Self::NoSuchTenant => Code::NoSuchTenant,
            Self::TenantDeleted => Code::TenantDeleted,
            Self::TenantAwake => Code::TenantAwake,
            Self::ImageMissing => Code::ImageMissing,
            Self::ImageInvalid => Code::ImageInvalid,
            Self::RegistryUnreachable => Code::RegistryUnreachable,
            Self::RegistryRefused => Code::RegistryRefused,
            Self::ProgramFailed => Code::ProgramFailed,
            Self::SecretMissing => Code::SecretMissing,
            Self::NameTaken => Code::NameTaken,
            Self::PortConflict => Code::PortConflict,
            Self::SubnetsExhausted => Code::SubnetsExhausted,
            Self::DiskFull => Code::DiskFull,
            Self::DiskLimitReached => Code::DiskLimitReached,
            Self::EngineUnreachable => Code::EngineUnreachable,
            Self::EngineTimeout => Code::EngineTimeout,
            Self::EngineTooOld => Code::EngineTooOld,
            Self::EngineRefused => Code::EngineRefused,
            Self::NotListed => Code::NotListed,
            Self::OutOfResources => Code::OutOfResources,
            Self::Internal => Code::Internal,
        }
    }

    /// The name in logs, metrics and problems.
    pub const fn as_str(self) -> &'static str {
        self.problem_code().as_str()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverError {
    pub code: DriverErrorCode,
    pub detail: String,
}

impl DriverError {
    pub fn new(code: DriverErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// Whether the error is worth remembering as the tenant's own reason. An unreachable engine
    /// concerns all tenants, and its return ends the reason for all at once.
    pub fn concerns_tenant(&self) -> bool {
        match self.code {
            DriverErrorCode::ImageMissing
            | DriverErrorCode::ImageInvalid
            | DriverErrorCode::SecretMissing
            | DriverErrorCode::NameTaken
            | DriverErrorCode::PortConflict
            | DriverErrorCode::SubnetsExhausted
            | DriverErrorCode::DiskFull
            | DriverErrorCode::DiskLimitReached
            | DriverErrorCode::EngineTimeout
            | DriverErrorCode::EngineRefused
            | DriverErrorCode::Internal => true,
            DriverErrorCode::NoSuchTenant
            | DriverErrorCode::TenantDeleted
            | DriverErrorCode::TenantAwake
            | DriverErrorCode::EngineUnreachable
            | DriverErrorCode::EngineTooOld
            | DriverErrorCode::NotListed
            | DriverErrorCode::OutOfResources
            | DriverErrorCode::RegistryUnreachable
            | DriverErrorCode::RegistryRefused
            | DriverErrorCode::ProgramFailed => false,
        }
    }

    /// Whether a failed start may succeed after the tenant's resources are created again from its
    /// spec.
    pub fn is_fixed_by_recreating(&self) -> bool {
        match self.code {
            DriverErrorCode::NoSuchTenant | DriverErrorCode::EngineRefused => true,
            DriverErrorCode::TenantDeleted
            | DriverErrorCode::TenantAwake
            | DriverErrorCode::ImageMissing
            | DriverErrorCode::ImageInvalid
            | DriverErrorCode::RegistryUnreachable
            | DriverErrorCode::RegistryRefused
            | DriverErrorCode::ProgramFailed
            | DriverErrorCode::SecretMissing
            | DriverErrorCode::NameTaken
            | DriverErrorCode::PortConflict
            | DriverErrorCode::SubnetsExhausted
            | DriverErrorCode::DiskFull
            | DriverErrorCode::DiskLimitReached
            | DriverErrorCode::EngineUnreachable
            | DriverErrorCode::EngineTimeout
            | DriverErrorCode::EngineTooOld
            | DriverErrorCode::NotListed
            | DriverErrorCode::OutOfResources
            | DriverErrorCode::Internal => false,
        }
    }

    pub fn no_such_tenant(id: protocol::TenantId) -> Self {
        Self::new(
            DriverErrorCode::NoSuchTenant,
            format!("The engine has no container of tenant {id}."),
        )
    }

    /// `names` are those of the missing secrets. The text is the reason of the tenant's state.
    pub fn secret_missing(tenant: &protocol::Slug, names: &[String]) -> Self {
        let (what, first) = match names {
            [name] => (format!("a value for the secret {name}"), name.as_str()),
            _ => (
                format!("values for the secrets {}", names.join(", ")),
                names.first().map_or("NAME", String::as_str),
            ),
        };
        let detail = format!(
            "Its release requires {what}, and neither the tenant nor its app has any. Set it with \
             `cial tenants secrets set {tenant} {first}`, or for all tenants of the app with `cial apps secrets set`: then \
             the tenant starts."
        );
        Self::new(DriverErrorCode::SecretMissing, detail)
    }

    pub(crate) fn no_volumes(id: protocol::TenantId) -> Self {
        let detail = format!("The engine has no volumes of tenant {id}, which never started.");
        Self::new(DriverErrorCode::NoSuchTenant, detail)
    }

    /// The reader of a stream left, or takes nothing.
    pub(crate) fn reader_gone() -> Self {
        Self::new(DriverErrorCode::Internal, "The reader of the volumes left, or was too slow.")
    }

    pub fn deleted(id: protocol::TenantId) -> Self {
        let detail = format!("Tenant {id} was deleted. Nothing of it comes back.");
        Self::new(DriverErrorCode::TenantDeleted, detail)
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for DriverError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_a_word_and_a_status() {
        let line = |code: Code| format!("{} {code}", code.status());
        let lines: Vec<_> = DriverErrorCode::ALL.iter().map(|c| line(c.problem_code())).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        404 no_such_tenant
        410 tenant_deleted
        409 tenant_awake
        422 image_missing
        422 image_invalid
        502 registry_unreachable
        422 registry_refused
        422 program_failed
        422 secret_missing
        409 name_taken
        409 port_conflict
        507 subnets_exhausted
        507 disk_full
        507 disk_limit_reached
        503 engine_unreachable
        504 engine_timeout
        503 engine_too_old
        502 engine_refused
        503 not_listed
        503 out_of_resources
        500 internal
        ");
    }

    #[test]
    fn a_missing_secret_is_named_with_the_command_that_sets_it() {
        let slug = "acme".parse().unwrap();
        let text = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            DriverError::secret_missing(&slug, &names).detail
        };
        insta::assert_snapshot!(text(&["TOKEN"]), @"Its release requires a value for the secret TOKEN, and neither the tenant nor its app has any. Set it with `cial tenants secrets set acme TOKEN`, or for all tenants of the app with `cial apps secrets set`: then the tenant starts.");
        assert!(
            text(&["A", "B"]).starts_with("Its release requires values for the secrets A, B, and")
        );
    }
}
