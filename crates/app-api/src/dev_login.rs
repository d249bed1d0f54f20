//! The development profile, `CIAL_DEV_LOGIN`: a client signs anybody in without a password, gets a tenant for each
//! account, and wakes it. Only for an admin that nobody but this machine reaches: the settings refuse any other.

use std::time::Duration;

use protocol::people::{MemberRole, PlatformRole};
use protocol::problem::Code;
use protocol::{Slug, State, Timestamp};
use serde_json::json;
use service::api_error::ApiError;
use tokio::time::timeout;
use uuid::Uuid;

use crate::access::authority::{authority_of, refused};
use crate::access::principal::AccessError;
use crate::access::{Person, Principal};
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::auth::passwords::Caller;
use crate::auth::token::Token;
use crate::db::change_listener::ChangeListener;
use crate::db::tenant::NewTenant;
use crate::db::user::{self, User};
use crate::db::{Conn, Transaction as _, audit_log, membership, tenant};
use crate::tenant::Tenant;
use crate::tenant::status::OwnerAction;
use crate::tenant_actions;
use crate::validation::{self, invalid_fields};

/// How long a wake-up may take.
const WARMUP_TIMEOUT: Duration = Duration::from_secs(45);

/// Returns the account of this address and makes it an admin of the tenant whose slug is `user_id`. Both are created when
/// there are none.
///
/// # Errors
/// `invalid_slug`; `invalid_fields`; `forbidden` for an operator's address, and for a tenant of other people.
pub async fn sign_in(app: &App, user_id: &str, email: &str) -> Result<User, ApiError> {
    let slug = Slug::choose(user_id).map_err(validation::invalid_slug)?;
    let email =
        validation::email(email).map_err(|error| invalid_fields(&[("email", Some(error))]))?;
    let caller = Caller::NewClient(std::net::Ipv4Addr::LOCALHOST.into());
    let new = User {
        id: Uuid::now_v7(),
        name: slug.to_string(),
        email,
        role: PlatformRole::None.as_str().to_owned(),
        // Nobody knows it: the account has no password.
        password_hash: app.passwords.hash(Token::random()?.reveal(), caller).await?,
    };
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let (account, created) = conn
        .transaction(async |conn| -> Result<_, ApiError> {
            let account = ensure_account(conn, &new, now).await?;
            let created = ensure_tenant(conn, &account, &slug, now).await?;
            Ok((account, created))
        })
        .await?;
    if let Some(created) = created {
        app.reconcile.notify(created.tenant_id());
    }
    Ok(account)
}

async fn ensure_account(conn: &mut Conn, new: &User, now: Timestamp) -> Result<User, ApiError> {
    if user::insert(conn, new).await? {
        let entry =
            Entry::new(Actor::user(new, None), Action::UserSignUp, Resource::user(&new.email));
        audit_log::append(conn, &entry.after(json!({ "name": new.name })), now).await?;
        return Ok(new.clone());
    }
    let found = user::by_email(conn, &new.email).await?;
    let is_operator = |user: &User| PlatformRole::from_stored(&user.role) != PlatformRole::None;
    found.filter(|user| !is_operator(user)).ok_or_else(|| refused(AccessError::Forbidden))
}

/// Returns the tenant if it was created.
async fn ensure_tenant(
    conn: &mut Conn,
    account: &User,
    slug: &Slug,
    now: Timestamp,
) -> Result<Option<Tenant>, ApiError> {
    let new = NewTenant {
        id: Uuid::now_v7(),
        slug,
        name: slug.as_str(),
        owner_id: Some(account.id),
        followed: None,
        now,
    };
    let Some(created) = tenant::insert(conn, &new).await? else {
        let found = tenant::by_slug_with_membership(conn, slug.as_str(), Some(account.id)).await?;
        let is_member = found.is_some_and(|(_, membership)| membership.is_some());
        return if is_member { Ok(None) } else { Err(refused(AccessError::Forbidden)) };
    };
    membership::set(conn, created.tenant_id(), account.id, MemberRole::Admin, now).await?;
    let actor = Actor::user(account, None);
    let entry = Entry::new(actor, Action::TenantCreate, Resource::tenant(slug));
    audit_log::append(conn, &entry.after(json!({ "id": created.id })), now).await?;
    Ok(Some(created))
}

/// Starts a tenant of the person and waits until it runs.
///
/// # Errors
/// `forbidden` for any other tenant; `warmup_failed`.
pub async fn warm_up(app: &App, person: Person, user_id: &str) -> Result<Tenant, ApiError> {
    let caller = Principal::Session(person);
    let found = authority_of(&mut *app.conn().await?, &caller, user_id).await?;
    let found = found.filter(|found| found.role >= Some(protocol::api_keys::Role::Write));
    let found = found.ok_or_else(|| refused(AccessError::Forbidden))?;
    let mut changes = ChangeListener::connect(&app.database).await?;
    let asked = tenant_actions::request_action(app, &caller, found.tenant, OwnerAction::Start);
    let asked = asked.await?;
    let running = timeout(WARMUP_TIMEOUT, async {
        loop {
            let read = tenant::by_id(&mut *app.conn().await?, asked.tenant_id()).await?;
            match read {
                Some(tenant) if tenant.state == State::Running => return Ok(tenant),
                Some(tenant) if tenant.state != State::Error => {}
                Some(_) | None => return Err(warmup_failed()),
            }
            changes.next_change().await?;
        }
    });
    running.await.unwrap_or_else(|_| Err(warmup_failed()))
}

fn warmup_failed() -> ApiError {
    let detail = "The tenant did not become ready. Its log says why.";
    ApiError::new(Code::WarmupFailed, detail)
}
