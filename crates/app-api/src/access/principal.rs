//! Principals, the access that a route requires, and the check of one against the other. Pure.

use std::fmt;

use protocol::api_keys::Role;
use protocol::people::PlatformRole;
use uuid::Uuid;

use crate::db::api_key::ApiKey;
use crate::db::session::Session;
use crate::db::user::User;

/// The access that a route requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone, without a check.
    Public,
    /// Any person or key.
    SignedIn,
    /// Any person; no key.
    Person,
    /// Any person, also by a key of theirs.
    Account,
    /// Any person, also by a key of theirs that has this role and is not confined to one tenant.
    WholeAccount(Role),
    /// Any person, and any key that is not confined to one tenant.
    Global,
    /// This role on the tenant in the path.
    Tenant(Role),
    /// A person with this role on the tenant in the path; no key.
    Member(Role),
    /// An owner, admin or viewer of the platform, or an `is_admin` key.
    PlatformRead,
    /// An owner or admin of the platform, or an `is_admin` key.
    PlatformAdmin,
    /// Another service of the installation.
    Service,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::SignedIn => f.write_str("signed in"),
            Self::Person => f.write_str("person"),
            Self::Account => f.write_str("account"),
            Self::WholeAccount(role) => write!(f, "whole account {role}"),
            Self::Global => f.write_str("global"),
            Self::Tenant(role) => write!(f, "tenant {role}"),
            Self::Member(role) => write!(f, "member {role}"),
            Self::PlatformRead => f.write_str("platform read"),
            Self::PlatformAdmin => f.write_str("platform admin"),
            Self::Service => f.write_str("service"),
        }
    }
}

/// A signed-in person.
#[derive(Clone, Debug)]
pub struct Person {
    pub user: User,
    pub session: Session,
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub enum Principal {
    Session(Person),
    Key(ApiKey),
    /// Another service, which holds the installation's token.
    Service,
}

/// How far the rights of a caller go, before any tenant is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerScope<'a> {
    /// Everything.
    Platform,
    /// Reads everything; memberships may add to that.
    PlatformRead,
    /// This role on every tenant.
    AllTenants(Role),
    /// This role on the tenant of this slug.
    OneTenant(&'a str, Role),
    /// The roles of the person's memberships, one for each tenant.
    Memberships,
    /// The routes of services.
    Services,
}

/// The reason for which a caller is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// The tenant, or anything beside the caller's own tenant, is outside the caller's scope.
    Forbidden,
    /// A higher role would be admitted.
    InsufficientRole,
}

impl Principal {
    pub fn scope(&self) -> CallerScope<'_> {
        match self {
            Self::Session(person) => CallerScope::of_user(&person.user),
            Self::Key(key) => CallerScope::of_key(key),
            Self::Service => CallerScope::Services,
        }
    }

    /// The person of a session.
    pub fn person(&self) -> Option<&Person> {
        match self {
            Self::Session(person) => Some(person),
            Self::Key(_) | Self::Service => None,
        }
    }

    /// The account of the caller: that of a session, or the one that a key belongs to.
    pub fn user(&self) -> Option<&User> {
        match self {
            Self::Session(person) => Some(&person.user),
            Self::Key(key) => key.person.as_ref(),
            Self::Service => None,
        }
    }

    pub fn user_id(&self) -> Option<Uuid> {
        self.user().map(|user| user.id)
    }

    /// The role on what belongs to the caller's account beside any tenant; `None` for a key that is confined to one
    /// tenant, or belongs to nobody.
    fn role_on_account(&self) -> Option<Role> {
        match self {
            Self::Session(_) => Some(Role::Admin),
            Self::Key(ApiKey { tenant: None, person: Some(_), role, .. }) => Some(*role),
            Self::Key(_) | Self::Service => None,
        }
    }

    /// The role on a tenant, where the caller's account has `membership`.
    pub fn role_on_tenant(&self, membership: Option<Role>) -> Option<Role> {
        match self {
            Self::Key(key) => key.role_on_tenant(membership),
            Self::Session(_) | Self::Service => self.scope().role_on_tenant(membership),
        }
    }

    /// The id of what bounds are counted for, so that more keys give nobody more: the person of a session or of a key, the
    /// tenant of a key that belongs to nobody, or else the key.
    pub fn owner_id(&self) -> Uuid {
        match self {
            Self::Session(person) => person.user.id,
            Self::Key(ApiKey { person: Some(user), .. }) => user.id,
            Self::Key(ApiKey { tenant: Some(tenant), .. }) => tenant.id.uuid(),
            Self::Key(key) => key.id,
            Self::Service => Uuid::nil(),
        }
    }

    /// The id of the session or of the key; nil for a service.
    pub fn credential_id(&self) -> Uuid {
        match self {
            Self::Session(person) => person.session.id,
            Self::Key(key) => key.id,
            Self::Service => Uuid::nil(),
        }
    }

    /// The id of the user or of the key; nil for a service.
    pub fn id(&self) -> Uuid {
        match self {
            Self::Session(person) => person.user.id,
            Self::Key(key) => key.id,
            Self::Service => Uuid::nil(),
        }
    }
}

impl ApiKey {
    /// The role on a tenant, where the key's person has `membership`: the lower of the person's role and the key's.
    pub fn role_on_tenant(&self, membership: Option<Role>) -> Option<Role> {
        match &self.person {
            Some(user) => {
                CallerScope::of_user(user).role_on_tenant(membership).min(Some(self.role))
            }
            None => CallerScope::of_key(self).role_on_tenant(membership),
        }
    }
}

/// For logs: the kind and the id.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(person) => write!(f, "user {}", person.user.id),
            Self::Key(key) => write!(f, "key {}", key.id),
            Self::Service => f.write_str("service"),
        }
    }
}

impl<'a> CallerScope<'a> {
    pub fn of_user(user: &User) -> Self {
        match PlatformRole::from_stored(&user.role) {
            PlatformRole::Owner | PlatformRole::Admin => Self::Platform,
            PlatformRole::Viewer => Self::PlatformRead,
            PlatformRole::None => Self::Memberships,
        }
    }

    pub fn of_key(key: &'a ApiKey) -> Self {
        match key {
            ApiKey { tenant: Some(tenant), role, .. } => {
                Self::OneTenant(tenant.slug.as_str(), *role)
            }
            ApiKey { person: Some(user), role, .. } => Self::of_user(user).at_most(*role),
            ApiKey { is_admin: true, .. } => Self::Platform,
            ApiKey { role, .. } => Self::AllTenants(*role),
        }
    }

    /// The part of these rights that a key with `role` has.
    fn at_most(self, role: Role) -> Self {
        if self == Self::Platform && role < Role::Admin { Self::PlatformRead } else { self }
    }

    /// The role on a tenant, where the caller has `membership`.
    pub fn role_on_tenant(self, membership: Option<Role>) -> Option<Role> {
        match self {
            Self::Platform => Some(Role::Admin),
            Self::PlatformRead => membership.max(Some(Role::Read)),
            Self::AllTenants(role) | Self::OneTenant(_, role) => Some(role),
            Self::Memberships => membership,
            Self::Services => None,
        }
    }

    /// Whether the tenant in a path is outside the caller's scope. Decided by the path alone, without a lookup.
    pub fn excludes(self, slug: &str) -> bool {
        matches!(self, Self::OneTenant(own, _) if own != slug)
    }

    /// Whether the caller may know which tenants exist.
    pub fn knows_all_tenants(self) -> bool {
        matches!(self, Self::Platform | Self::PlatformRead | Self::AllTenants(_))
    }
}

impl Access {
    /// Whether the rule concerns the tenant in the path.
    pub const fn needs_tenant(self) -> bool {
        matches!(self, Self::Tenant(_) | Self::Member(_))
    }

    /// Decides about a caller with `role` on the tenant in the path; `None` without such a tenant or role.
    ///
    /// # Errors
    /// The refusal of a caller who is not admitted.
    pub fn admit(self, principal: &Principal, role: Option<Role>) -> Result<(), AccessError> {
        let is_person = principal.person().is_some();
        let scope = principal.scope();
        let is_admitted = match self {
            Self::Public => true,
            Self::SignedIn => scope != CallerScope::Services,
            Self::Person => is_person,
            Self::Account => principal.user().is_some(),
            Self::WholeAccount(needed) => principal.role_on_account() >= Some(needed),
            Self::Global => !matches!(scope, CallerScope::OneTenant(..) | CallerScope::Services),
            Self::Tenant(needed) => role >= Some(needed),
            Self::Member(needed) => is_person && role >= Some(needed),
            Self::PlatformRead => {
                matches!(scope, CallerScope::Platform | CallerScope::PlatformRead)
            }
            Self::PlatformAdmin => scope == CallerScope::Platform,
            Self::Service => scope == CallerScope::Services,
        };
        if is_admitted {
            return Ok(());
        }
        if let Self::WholeAccount(_) = self {
            let has_role = principal.role_on_account().is_some();
            return Err(if has_role {
                AccessError::InsufficientRole
            } else {
                AccessError::Forbidden
            });
        }
        let is_for_people =
            matches!(self, Self::Person | Self::Account | Self::Member(_)) && !is_person;
        let is_outside =
            role.is_none() && !matches!(scope, CallerScope::Platform | CallerScope::PlatformRead);
        let is_platform_rule = matches!(self, Self::PlatformRead | Self::PlatformAdmin);
        let is_forbidden = is_for_people || (is_outside && !(is_platform_rule && is_person));
        Err(if is_forbidden { AccessError::Forbidden } else { AccessError::InsufficientRole })
    }
}
