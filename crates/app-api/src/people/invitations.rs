//! Invitations: a link that works once, for 24 hours, for one e-mail address; to the platform or to one tenant.

use std::net::IpAddr;
use std::time::Duration;

use protocol::people::{MemberRole, PlatformRole};
use protocol::problem::{Code, FieldCode};
use protocol::{TenantId, Timestamp};
use serde_json::json;
use service::api_error::ApiError;
use uuid::Uuid;

use super::{check_grant, inviter, members};
use crate::access::{Person, Principal};
use crate::accounts::count_attempt;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::auth::passwords::Caller as PasswordCaller;
use crate::auth::throttle::Attempt;
use crate::auth::token::Token;
use crate::db::invitation::{self, Invitation};
use crate::db::user::{self, User};
use crate::db::{Conn, Transaction as _, audit_log, membership, sso_grant, tenant};
use crate::http::paging::Window;
use crate::mail::{Mail, Prepared};
use crate::sessions;
use crate::tenant::Tenant;
use crate::validation::{self, FieldError, invalid_fields};

/// How long a link stays valid.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// The target of an invitation: the platform or one tenant.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    Platform,
    Tenant(&'a Tenant),
}

impl Target<'_> {
    fn tenant_id(self) -> Option<TenantId> {
        match self {
            Self::Platform => None,
            Self::Tenant(tenant) => Some(tenant.tenant_id()),
        }
    }

    fn tenant_name(self) -> Option<String> {
        match self {
            Self::Platform => None,
            Self::Tenant(tenant) => Some(tenant.name.clone()),
        }
    }

    /// # Errors
    /// The rule that the role breaks.
    fn check_role(self, role: &str) -> Result<(), FieldError> {
        let fits = match self {
            Self::Platform => {
                role.parse().is_ok_and(|role: PlatformRole| role != PlatformRole::None)
            }
            Self::Tenant(_) => role.parse::<MemberRole>().is_ok(),
        };
        let message = match self {
            Self::Platform => "Choose viewer, admin or owner.",
            Self::Tenant(_) => "Choose viewer, member or admin.",
        };
        if fits { Ok(()) } else { Err(FieldError { code: FieldCode::InvalidRole, message }) }
    }
}

/// An invitation with the link, which is shown once.
pub struct Created {
    pub id: Uuid,
    pub url: String,
    pub expires_at: Timestamp,
    /// Whether the link is mailed to the person.
    pub is_mailed: bool,
}

/// Creates an invitation; an earlier one of the same person to the same target ends.
///
/// # Errors
/// `invalid_fields`; `insufficient_role` for a platform role above the caller's; `already_member`; `already_invited`.
pub async fn create(
    app: &App,
    caller: &Principal,
    target: Target<'_>,
    email: &str,
    role: &str,
) -> Result<Created, ApiError> {
    let (email, checked) = (validation::email(email), target.check_role(role));
    let (Ok(email), Ok(())) = (&email, &checked) else {
        return Err(invalid_fields(&[("email", email.err()), ("role", checked.err())]));
    };
    if let Target::Platform = target {
        check_grant(caller, PlatformRole::from_stored(role))?;
    }
    let (token, now, actor) = (Token::random()?, app.clock.now(), Actor::from(caller));
    let (inviter_user, inviter_key, key_end) = match caller {
        Principal::Session(person) => (Some(person.user.id), None, None),
        Principal::Key(key) => (caller.user_id(), Some(key.id), key.expires_at),
        Principal::Service => (None, None, None),
    };
    let end = now + LIFETIME;
    let row = Invitation {
        id: Uuid::now_v7(),
        token_hash: token.hash(),
        email: email.clone(),
        role: role.to_owned(),
        tenant_id: target.tenant_id().map(|id| id.uuid()),
        invited_by: actor.name.clone(),
        created_at: now,
        // The inviter's rights end with the key.
        expires_at: key_end.map_or(end, |key_end| key_end.min(end)),
        inviter_user,
        inviter_key,
    };
    let entry = Entry::new(actor, Action::InvitationCreate, Resource::new("invitation", email))
        .after(
            json!({ "role": role, "tenant": tenant_slug(target), "expires_at": row.expires_at }),
        );
    let url = format!("{}/admin/invitations/{}", app.addresses.admin_origin(), token.reveal());
    let mail = Mail::Invitation {
        url: url.clone(),
        invited_by: row.invited_by.clone(),
        role: role.to_owned(),
        tenant: target.tenant_name(),
        expires_at: row.expires_at,
    };
    let prepare = || Prepared::new(&app.sealing, email, &mail, now);
    let mail = app.sends_mail.then(prepare).transpose()?;
    let mut conn = app.conn().await?;
    let is_mailed = conn
        .transaction(async |conn| -> Result<_, ApiError> {
            user::lock_owners(conn).await?;
            // Under the lock: the caller's rights may have ended since they were read.
            inviter::check(conn, &row, now).await?;
            refuse_members(conn, target, email, role).await?;
            invitation::delete_expired(conn, now).await?;
            if !invitation::replace(conn, &row).await? {
                let detail = "Somebody else invited this address just now.";
                return Err(ApiError::new(Code::AlreadyInvited, detail));
            }
            // Above the limit of mails to one address the response says `mailed: false`, and the inviter hands the link over.
            let mail = mail.as_ref().filter(|mail| mail.is_within_limit(app, now));
            if let Some(mail) = mail {
                mail.insert(conn).await?;
            }
            audit_log::append(conn, &entry, now).await?;
            Ok(mail.is_some())
        })
        .await?;
    Ok(Created { id: row.id, url, expires_at: row.expires_at, is_mailed })
}

fn tenant_slug(target: Target<'_>) -> Option<String> {
    match target {
        Target::Platform => None,
        Target::Tenant(tenant) => Some(tenant.slug.to_string()),
    }
}

/// A role of somebody who has one already is changed, not invited, unless nobody confirmed the person's address yet.
async fn refuse_members(
    conn: &mut Conn,
    target: Target<'_>,
    email: &str,
    role: &str,
) -> Result<(), ApiError> {
    let Some(found) = user::by_email(conn, email).await? else { return Ok(()) };
    let has_role = match target {
        Target::Platform => {
            let held = PlatformRole::from_stored(&found.role);
            let changeable = held.max(user::confirmed_role(conn, found.id).await?);
            held != PlatformRole::None && PlatformRole::from_stored(role) <= changeable
        }
        Target::Tenant(tenant) => {
            membership::lock_role(conn, tenant.tenant_id(), found.id).await?.is_some()
        }
    };
    let detail = "This person has a role there already. Change the role instead.";
    if has_role { Err(ApiError::new(Code::AlreadyMember, detail)) } else { Ok(()) }
}

/// The open invitations, the newest first.
pub async fn list(
    app: &App,
    target: Target<'_>,
    window: Window,
) -> Result<Vec<Invitation>, ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    Ok(invitation::open(&mut conn, target.tenant_id(), now, window).await?)
}

/// Ends an open invitation.
///
/// # Errors
/// `not_found`.
pub async fn revoke(
    app: &App,
    caller: &Principal,
    target: Target<'_>,
    id: Uuid,
) -> Result<(), ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let deleted = invitation::delete(conn, target.tenant_id(), id).await?;
        let nothing = || ApiError::new(Code::ResourceNotFound, "There is no such open invitation.");
        let deleted = deleted.ok_or_else(nothing)?;
        let resource = Resource::new("invitation", &deleted.email);
        let entry = Entry::new(Actor::from(caller), Action::InvitationRevoke, resource)
            .before(json!({ "role": deleted.role, "tenant": tenant_slug(target) }));
        audit_log::append(conn, &entry, now).await?;
        Ok(())
    })
    .await
}

/// An open invitation as the invited person sees it.
pub struct Open {
    pub invitation: Invitation,
    /// The name of the tenant; `None`: to the platform.
    pub tenant_name: Option<String>,
    pub has_account: bool,
}

/// # Errors
/// `invitation_ended`.
pub async fn find_open(app: &App, token: &str) -> Result<Open, ApiError> {
    let (mut conn, hash) = (app.conn().await?, Token::from(token).hash());
    let found = invitation::by_token_hash(&mut conn, &hash, app.clock.now()).await?;
    let (invitation, tenant_name) = found.ok_or_else(invitation_ended)?;
    inviter::check(&mut conn, &invitation, app.clock.now()).await?;
    let has_account = user::by_email(&mut conn, &invitation.email).await?.is_some();
    Ok(Open { invitation, tenant_name, has_account })
}

/// Accepts an invitation as a signed-in person.
///
/// # Errors
/// `invitation_ended`; `invitation_mismatch` for another e-mail address than the invited one.
pub async fn accept(app: &App, token: &str, person: &Person) -> Result<(), ApiError> {
    let (hash, now) = (Token::from(token).hash(), app.clock.now());
    let actor = Actor::user(&person.user, Some(person.session.id));
    let mut conn = app.conn().await?;
    let tenants = conn
        .transaction(async |conn| -> Result<_, ApiError> {
            user::lock_owners(conn).await?;
            let taken = invitation::take(conn, &hash, now).await?.ok_or_else(invitation_ended)?;
            if taken.email != person.user.email {
                let detail =
                    "This invitation is for another e-mail address. Sign in with that one.";
                return Err(ApiError::new(Code::InvitationMismatch, detail));
            }
            apply(conn, actor, &person.user, &taken, now).await
        })
        .await?;
    sessions::notify(app, tenants);
    Ok(())
}

/// Accepts an invitation with a new account; returns the account.
///
/// # Errors
/// `invitation_ended`; `already_member` when the address has an account; `invalid_fields`; `too_many_attempts`.
pub async fn sign_up(
    app: &App,
    token: &str,
    (name, password): (&str, &str),
    client: IpAddr,
) -> Result<User, ApiError> {
    // The cheap checks come first: only the holder of an open invitation may cause a hash.
    let open = find_open(app, token).await?;
    if open.has_account {
        return Err(has_account());
    }
    let email = open.invitation.email;
    let (name, checked) = (validation::name(name), validation::password(password, &email));
    let (Ok(name), Ok(())) = (&name, &checked) else {
        return Err(invalid_fields(&[("name", name.err()), ("password", checked.err())]));
    };
    count_attempt(app, Attempt::Client(client))?;
    let account = User {
        id: Uuid::now_v7(),
        email,
        name: name.clone(),
        role: PlatformRole::None.as_str().to_owned(),
        password_hash: app.passwords.hash(password, PasswordCaller::NewClient(client)).await?,
    };
    let (hash, now) = (Token::from(token).hash(), app.clock.now());
    let mut conn = app.conn().await?;
    let made = conn
        .transaction(async |conn| -> Result<_, ApiError> {
            user::lock_owners(conn).await?;
            let taken = invitation::take(conn, &hash, now).await?.ok_or_else(invitation_ended)?;
            if !user::insert(conn, &account).await? {
                return Err(has_account());
            }
            apply(conn, Actor::user(&account, None), &account, &taken, now).await?;
            Ok(user::by_id(conn, account.id).await?)
        })
        .await?;
    made.ok_or_else(invitation_ended)
}

/// Gives the person the role of the invitation, unless they have a wider one. Returns the tenants whose sessions end
/// with the old role. The transaction holds [`user::lock_owners`]: a role that changes meanwhile is neither restored
/// nor lost.
async fn apply(
    conn: &mut Conn,
    actor: Actor,
    person: &User,
    taken: &Invitation,
    now: Timestamp,
) -> Result<Vec<TenantId>, ApiError> {
    let confirmed = inviter::check(conn, taken, now).await?;
    let person = user::lock(conn, person.id).await?.ok_or_else(invitation_ended)?;
    user::confirm_address(conn, person.id, confirmed).await?;
    let entry = |resource| Entry::new(actor, Action::InvitationAccept, resource);
    let (entry, tenants) = match taken.tenant() {
        Some(id) => {
            let tenant = tenant::by_id(conn, id).await?.ok_or_else(invitation_ended)?;
            let before = membership::lock_role(conn, id, person.id).await?;
            let invited: MemberRole = taken.role.parse().map_err(anyhow::Error::msg)?;
            let role = before.map_or(invited, |before| before.max(invited));
            membership::set(conn, id, person.id, role, now).await?;
            let entry = entry(members::resource(&tenant, &person));
            (entry.changed(members::described(before), members::described(Some(role))), Vec::new())
        }
        None => {
            let before = PlatformRole::from_stored(&person.role);
            let role = before.max(PlatformRole::from_stored(&taken.role));
            let tenants = sso_grant::revoke_user(conn, person.id).await?;
            user::set_role(conn, person.id, role).await?;
            let entry = entry(Resource::user(&person.email));
            (entry.changed(json!({ "role": before }), json!({ "role": role })), tenants)
        }
    };
    audit_log::append(conn, &entry, now).await?;
    Ok(tenants)
}

pub fn invitation_ended() -> ApiError {
    let detail =
        "This invitation was used already, was withdrawn, or is too old. Ask for a new one.";
    ApiError::new(Code::InvitationEnded, detail)
}

fn has_account() -> ApiError {
    ApiError::new(
        Code::AlreadyMember,
        "This address has an account. Sign in, then open the link again.",
    )
}
