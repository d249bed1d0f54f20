//! API keys: live until they expire or are revoked, for one tenant or for all.

use std::time::Duration;

use protocol::TenantId;
use protocol::api_keys::{CreatedKey, NewKey, Role};
use protocol::people::PlatformRole;
use protocol::problem::{Code, FieldCode};
use protocol::{Slug, Timestamp};
use serde_json::json;
use service::api_error::ApiError;
use uuid::Uuid;

use crate::access::authority::refused;
use crate::access::principal::{AccessError, CallerScope};
use crate::access::{AuthorizedTenant, Person, Principal};
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::auth::api_key::KeyText;
use crate::db::api_key::{self, ApiKey, KeySet, Lookup, NewApiKey};
use crate::db::user::User;
use crate::db::{Conn, Transaction as _, audit_log};
use crate::http::paging::Window;
use crate::people;
use crate::validation::{self, FieldError, invalid_fields};
use crate::views;

/// The time of the last use is written at most this often.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);
const DEFAULT_LIFETIME_DAYS: u32 = 30;
const MAX_LIFETIME_DAYS: u32 = 3_650;
/// A key of `cial login` ends unless it is used within this time: a key whose response was lost stays nowhere.
pub const FIRST_USE_TIMEOUT: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// The tenants of a key.
#[derive(Clone, Debug)]
pub enum Scope {
    AllTenants,
    Tenant {
        id: TenantId,
        slug: Slug,
        /// The caller's role on the tenant.
        role: Option<Role>,
    },
}

impl Scope {
    pub fn of(found: &AuthorizedTenant) -> Self {
        let tenant = &found.tenant;
        Self::Tenant { id: tenant.tenant_id(), slug: tenant.slug.clone(), role: found.role }
    }

    pub(crate) fn tenant_id(&self) -> Option<TenantId> {
        match self {
            Self::AllTenants => None,
            Self::Tenant { id, .. } => Some(*id),
        }
    }

    fn key_set(&self) -> KeySet {
        match self {
            Self::AllTenants => KeySet::AllTenants,
            Self::Tenant { id, .. } => KeySet::Tenant(*id),
        }
    }

    pub(crate) fn slug(&self) -> Option<&Slug> {
        match self {
            Self::AllTenants => None,
            Self::Tenant { slug, .. } => Some(slug),
        }
    }
}

/// Returns the live key of a bearer token, which counts as a use of the key.
///
/// # Errors
/// `invalid_key`, the same for a malformed, unknown, revoked or expired key; `database_unavailable`.
pub async fn authenticate(app: &App, text: &str) -> Result<ApiKey, ApiError> {
    // A typing error costs no query.
    let key = KeyText::parse(text).map_err(|_| invalid_key())?;
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let found = api_key::find_live(&mut conn, Lookup::Hash(&key.hash()), now).await?;
    let mut key = found.ok_or_else(invalid_key)?;
    if key.last_used_at.is_none_or(|at| at + TOUCH_INTERVAL <= now) {
        if key.is_of_login() && key.last_used_at.is_none() {
            key.expires_at = Some(key.created_at + DAY * DEFAULT_LIFETIME_DAYS);
        }
        api_key::touch(&mut conn, key.id, now, key.expires_at).await?;
        key.last_used_at = Some(now);
    }
    Ok(key)
}

fn invalid_key() -> ApiError {
    ApiError::new(Code::InvalidKey, "The API key is malformed, expired or revoked.")
}

/// Creates a key with at most the rights of its creator. A key that a person's key creates belongs to that person, too: it
/// has no more rights than the person has at each request, and ends with them.
///
/// # Errors
/// `insufficient_role`; `invalid_fields`; `invalid_key` or `tenant_not_found` when the calling key or the tenant went
/// meanwhile.
pub async fn create(
    app: &App,
    caller: &Principal,
    scope: &Scope,
    new: &NewKey,
) -> Result<CreatedKey, ApiError> {
    if !may_grant(caller.scope(), scope, new) || (new.is_admin && !manages_admin_keys(caller)) {
        return Err(refused(AccessError::InsufficientRole));
    }
    let parent = match caller {
        Principal::Key(parent) => Some(parent),
        Principal::Session(_) | Principal::Service => None,
    };
    let person = parent.and_then(|parent| parent.person.as_ref());
    if new.is_admin && person.is_some() {
        let detail = "A key that belongs to a person creates none with is_admin. Create it in the admin, signed in as an owner.";
        return Err(ApiError::new(Code::InsufficientRole, detail));
    }
    let now = app.clock.now();
    let (name, expires_at) = validate(scope, new, now)?;
    let expires_at = match parent {
        Some(parent) => earlier(parent.expires_at, expires_at),
        None => expires_at,
    };
    let created = Creation {
        caller,
        scope,
        name: &name,
        role: new.role,
        is_admin: new.is_admin,
        person,
        expires_at,
    };
    let mut conn = app.conn().await?;
    conn.transaction(async |conn| {
        if let (Some(parent), Some(person)) = (parent, person) {
            api_key::lock_person(conn, person.id, scope.tenant_id()).await?;
            // A revocation of the parent waits, and then revokes the new key, too.
            let live = api_key::lock_live(conn, parent.id, now).await?;
            live.ok_or_else(invalid_key)?;
        }
        created.insert(conn, expires_at, now).await
    })
    .await
}

/// Creates the key of a person, for their device: with at most the rights that the person has at each request, for 30
/// days once it is used. Call within a transaction, after [`api_key::lock_person`].
///
/// # Errors
/// `tenant_not_found` when the tenant went meanwhile.
pub async fn create_for_person(
    conn: &mut Conn,
    person: &Person,
    scope: &Scope,
    (device, role): (&str, Role),
    now: Timestamp,
) -> Result<CreatedKey, ApiError> {
    let created = Creation {
        caller: &Principal::Session(person.clone()),
        scope,
        name: device,
        role,
        is_admin: false,
        person: Some(&person.user),
        expires_at: Some(now + FIRST_USE_TIMEOUT),
    };
    created.insert(conn, Some(now + DAY * DEFAULT_LIFETIME_DAYS), now).await
}

/// A key that its creator may create.
struct Creation<'a> {
    caller: &'a Principal,
    scope: &'a Scope,
    name: &'a str,
    role: Role,
    is_admin: bool,
    /// The person to whom the key belongs.
    person: Option<&'a User>,
    expires_at: Option<Timestamp>,
}

impl Creation<'_> {
    /// `shown_end`: the expiry that the creator gets to know.
    async fn insert(
        &self,
        conn: &mut Conn,
        shown_end: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<CreatedKey, ApiError> {
        let Self { caller, scope, name, role, is_admin, person, expires_at } = *self;
        let text = KeyText::random()?;
        let row = NewApiKey {
            id: Uuid::now_v7(),
            key_hash: &text.hash(),
            name,
            role: role.as_str(),
            is_admin,
            tenant_id: scope.tenant_id().map(TenantId::uuid),
            person_id: person.map(|person| person.id),
            created_by_user: caller.user_id(),
            created_by_key: match caller {
                Principal::Key(key) => Some(key.id),
                Principal::Session(_) | Principal::Service => None,
            },
            created_at: now,
            expires_at,
        };
        let resource = Resource::new("key", row.id);
        let entry = Entry::new(Actor::from(caller), Action::KeyCreate, resource).after(json!({
            "name": name, "role": role, "is_admin": is_admin, "tenant": scope.slug(),
            "person": person.map(|person| &person.email), "expires_at": shown_end,
        }));
        if !api_key::insert(conn, &row).await? {
            return Err(crate::tenant_actions::no_such_tenant());
        }
        audit_log::append(conn, &entry, now).await?;
        tracing::info!(key = %row.id, %caller, role = row.role, is_admin, "API key created");
        Ok(CreatedKey {
            id: row.id,
            key: text.reveal().to_owned(),
            name: name.to_owned(),
            role,
            tenant: scope.slug().cloned(),
            is_admin,
            expires_at: shown_end.map(views::time),
        })
    }
}

/// Whether a caller may create and revoke `is_admin` keys: an owner, or another such key. A platform admin may not: the
/// key would make its holder an owner.
fn manages_admin_keys(caller: &Principal) -> bool {
    people::widest_grant(caller) == PlatformRole::Owner
}

/// The earlier of two ends; `None` is never. No key outlives the key that created it.
fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Whether a caller may create this key: nobody grants more than they have.
fn may_grant(caller: CallerScope<'_>, scope: &Scope, new: &NewKey) -> bool {
    let role = match scope {
        Scope::AllTenants => caller.role_on_tenant(None),
        Scope::Tenant { role, .. } => *role,
    };
    role >= Some(new.role) && (!new.is_admin || caller == CallerScope::Platform)
}

fn validate(
    scope: &Scope,
    new: &NewKey,
    now: Timestamp,
) -> Result<(String, Option<Timestamp>), ApiError> {
    let field = |code, message| Some(FieldError { code, message });
    let days = new.expires_in_days.unwrap_or(DEFAULT_LIFETIME_DAYS);
    let lifetime = if days > MAX_LIFETIME_DAYS {
        field(FieldCode::OutOfBounds, "Must be 1 to 3650, or 0 for a key that never expires.")
    } else {
        None
    };
    let is_confined = matches!(scope, Scope::Tenant { .. });
    let admin = if new.is_admin && is_confined {
        field(FieldCode::InvalidIsAdmin, "A key that may do everything is a key of all tenants.")
    } else if new.is_admin && new.role != Role::Admin {
        field(FieldCode::InvalidIsAdmin, "A key that may do everything has the role admin.")
    } else {
        None
    };
    let name = validation::name(&new.name);
    match name {
        Ok(name) if lifetime.is_none() && admin.is_none() => {
            Ok((name, (days > 0).then(|| now + DAY * days)))
        }
        name => Err(invalid_fields(&[
            ("name", name.err()),
            ("expires_in_days", lifetime),
            ("is_admin", admin),
        ])),
    }
}

pub async fn list(app: &App, scope: &Scope, window: Window) -> Result<Vec<ApiKey>, ApiError> {
    Ok(api_key::list(&mut *app.conn().await?, scope.key_set(), window).await?)
}

/// Lists the keys that belong to the caller's person.
pub async fn list_of_person(
    app: &App,
    caller: &Principal,
    person: &User,
    window: Window,
) -> Result<Vec<ApiKey>, ApiError> {
    Ok(api_key::list(&mut *app.conn().await?, own_keys(caller, person), window).await?)
}

/// The keys of its person that a caller sees and revokes. A key of one tenant lies on machines of that tenant, and gets no
/// others.
fn own_keys(caller: &Principal, person: &User) -> KeySet {
    let tenant = match caller {
        Principal::Key(key) => key.tenant.as_ref().map(|tenant| tenant.id),
        Principal::Session(_) | Principal::Service => None,
    };
    KeySet::Person { id: person.id, tenant }
}

/// The keys of a set that a caller may revoke.
#[derive(Clone, Copy)]
enum Revocable {
    All,
    AllButAdminKeys,
    None,
}

impl Revocable {
    fn includes(self, is_admin: bool) -> bool {
        match self {
            Self::All => true,
            Self::AllButAdminKeys => !is_admin,
            Self::None => false,
        }
    }
}

/// Revokes a key of the scope. A key that is revoked already stays so.
///
/// # Errors
/// `not_found` for a key outside the scope; `insufficient_role`.
pub async fn revoke(
    app: &App,
    caller: &Principal,
    scope: &Scope,
    id: Uuid,
) -> Result<(), ApiError> {
    let before = json!({ "tenant": scope.slug() });
    let revocable =
        if manages_admin_keys(caller) { Revocable::All } else { Revocable::AllButAdminKeys };
    revoke_in(app, caller, (scope.key_set(), before), id, revocable).await
}

/// Revokes one of the keys that [`list_of_person`] lists. A key without the role admin revokes itself only: a script that
/// only reads must not end the sign-ins of its person.
///
/// # Errors
/// `not_found` for any other key; `insufficient_role`.
pub async fn revoke_of_person(
    app: &App,
    caller: &Principal,
    person: &User,
    id: Uuid,
) -> Result<(), ApiError> {
    let before = json!({ "person": person.email });
    let revocable = match caller {
        Principal::Key(key) if key.role < Role::Admin && key.id != id => Revocable::None,
        Principal::Key(_) | Principal::Session(_) | Principal::Service => Revocable::All,
    };
    revoke_in(app, caller, (own_keys(caller, person), before), id, revocable).await
}

/// Revokes the key that calls.
///
/// # Errors
/// `not_found` when its tenant went meanwhile.
pub async fn revoke_own(app: &App, key: &ApiKey) -> Result<(), ApiError> {
    let slug = key.tenant.as_ref().map(|tenant| &tenant.slug);
    let before = json!({ "tenant": slug });
    let set = key.tenant.as_ref().map_or(KeySet::AllTenants, |own| KeySet::Tenant(own.id));
    revoke_in(app, &Principal::Key(key.clone()), (set, before), key.id, Revocable::All).await
}

async fn revoke_in(
    app: &App,
    caller: &Principal,
    (set, before): (KeySet, serde_json::Value),
    id: Uuid,
    revocable: Revocable,
) -> Result<(), ApiError> {
    let entry = Entry::new(Actor::from(caller), Action::KeyRevoke, Resource::new("key", id));
    let entry = entry.before(before);
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let Some(is_admin) = api_key::revoke(conn, id, set).await? else {
            return Err(ApiError::new(Code::NotFound, "There is no such key here."));
        };
        if !revocable.includes(is_admin) {
            return Err(refused(AccessError::InsufficientRole));
        }
        audit_log::append(conn, &entry, now).await?;
        Ok(())
    })
    .await?;
    tracing::info!(key = %id, %caller, "API key revoked");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_key(role: Role, is_admin: bool) -> NewKey {
        NewKey { name: "ci".into(), role, is_admin, expires_in_days: None }
    }

    #[test]
    fn a_key_ends_with_the_key_that_created_it() {
        let (soon, late) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + DAY);
        assert_eq!(earlier(Some(soon), Some(late)), Some(soon));
        assert_eq!(earlier(Some(late), Some(soon)), Some(soon));
        assert_eq!(earlier(Some(soon), None), Some(soon));
        assert_eq!(earlier(None, Some(late)), Some(late));
        assert_eq!(earlier(None, None), None);
    }

    #[test]
    fn nobody_grants_more_than_they_have() {
        let tenant = |role| Scope::Tenant {
            id: TenantId::new(Uuid::nil()),
            slug: "acme".parse().unwrap(),
            role,
        };
        for role in Role::ALL {
            for own in Role::ALL {
                let caller = CallerScope::OneTenant("acme", own);
                let scope = tenant(Some(own));
                assert_eq!(may_grant(caller, &scope, &new_key(role, false)), role <= own);
                assert!(!may_grant(caller, &scope, &new_key(role, true)), "{own} makes is_admin");
                let caller = CallerScope::AllTenants(own);
                assert_eq!(
                    may_grant(caller, &Scope::AllTenants, &new_key(role, false)),
                    role <= own
                );
                assert!(!may_grant(caller, &Scope::AllTenants, &new_key(role, true)));
            }
            assert!(may_grant(CallerScope::Platform, &Scope::AllTenants, &new_key(role, true)));
            assert!(!may_grant(CallerScope::Memberships, &tenant(None), &new_key(role, false)));
        }
    }

    #[test]
    fn a_key_expires_after_thirty_days_unless_asked_otherwise() {
        let now = Timestamp::from_timestamp(1_800_000_000, 0).unwrap();
        let expiry = |days| {
            let new = NewKey { expires_in_days: days, ..new_key(Role::Read, false) };
            validate(&Scope::AllTenants, &new, now)
                .map(|(_, at)| at.map(|at| (at - now).num_days()))
        };
        assert_eq!(expiry(None).unwrap(), Some(30));
        assert_eq!(expiry(Some(1)).unwrap(), Some(1));
        assert_eq!(expiry(Some(3_650)).unwrap(), Some(3_650));
        assert_eq!(expiry(Some(0)).unwrap(), None);
        let refused = expiry(Some(3_651)).unwrap_err();
        assert_eq!(refused.problem.errors[0].field, "expires_in_days");
    }
}
