//! The development profile, `CIAL_DEV_LOGIN`: a client signs anybody in without a password, gets a tenant for each
//! account, and wakes it. Only for an admin site on loopback: the settings refuse any other.

use std::time::Duration;

use protocol::api_keys::Role;
use protocol::people::{MemberRole, PlatformRole};
use protocol::problem::Code;
use protocol::{Slug, State, Timestamp};
use serde_json::json;
use service::api_error::ApiError;
use service::keys;
use tokio::time::timeout;
use uuid::Uuid;

use crate::access::authority::{authority_of, refused};
use crate::access::principal::AccessError;
use crate::access::{Person, Principal};
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::tenant::NewTenant;
use crate::db::user::{self, User};
use crate::db::{Conn, Transaction as _, audit_log, membership, tenant};
use crate::tenant::Tenant;
use crate::tenant::status::OwnerAction;
use crate::tenant_actions;
use crate::validation::{self, invalid_fields};

/// How long a tenant may take to become ready.
const WARMUP_TIMEOUT: Duration = Duration::from_secs(45);
/// How often a warm-up reads the tenant's state.
const WARMUP_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The slug of the tenant of `user_id`, whether or not it exists: the same after a restart, and unknown to whoever lacks the
/// installation's secret.
fn tenant_slug(app: &App, user_id: &str) -> Result<Slug, ApiError> {
    let slug = Slug::choose(&keys::tenant_name(&app.device_key, user_id));
    slug.map_err(validation::invalid_slug)
}

/// Returns the account with this address and makes it an admin of the tenant of `user_id`. Creates both when there are
/// none.
///
/// # Errors
/// `invalid_fields`; `forbidden` for an operator's address, and for a tenant of other people.
pub async fn sign_in(app: &App, user_id: &str, email: &str) -> Result<User, ApiError> {
    let (name, email) = match (validation::name(user_id), validation::email(email)) {
        (Ok(name), Ok(email)) => (name, email),
        (name, email) => {
            return Err(invalid_fields(&[("user_id", name.err()), ("email", email.err())]));
        }
    };
    let slug = tenant_slug(app, &name)?;
    let new = User {
        id: Uuid::now_v7(),
        name,
        email,
        role: PlatformRole::None.as_str().to_owned(),
        // No password signs the account in.
        password_hash: app.passwords.hash_of_nobody(),
    };
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let (account, created) = conn
        .transaction(async |conn| -> Result<_, ApiError> {
            let mut entries = Vec::new();
            let account = ensure_account(conn, &new, &mut entries).await?;
            let created = ensure_tenant(conn, &account, &slug, now, &mut entries).await?;
            audit_log::append_all(conn, &entries, now).await?;
            Ok((account, created))
        })
        .await?;
    if let Some(created) = created {
        app.reconcile.notify(created.tenant_id());
    }
    Ok(account)
}

async fn ensure_account(
    conn: &mut Conn,
    new: &User,
    entries: &mut Vec<Entry>,
) -> Result<User, ApiError> {
    if user::insert(conn, new).await? {
        let resource = Resource::user(&new.email);
        let entry = Entry::new(Actor::user(new, None), Action::UserSignUp, resource);
        entries.push(entry.after(json!({ "name": new.name, "role": new.role })));
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
    entries: &mut Vec<Entry>,
) -> Result<Option<Tenant>, ApiError> {
    let new = NewTenant {
        id: Uuid::now_v7(),
        slug,
        name: &account.name,
        owner_id: Some(account.id),
        followed: None,
        imported: None,
        now,
    };
    let Some(created) = tenant::insert(conn, &new).await? else {
        let found = tenant::by_slug_with_membership(conn, slug.as_str(), Some(account.id)).await?;
        let is_member = found.is_some_and(|(_, membership)| membership.is_some());
        return if is_member { Ok(None) } else { Err(refused(AccessError::Forbidden)) };
    };
    membership::set(conn, created.tenant_id(), account.id, MemberRole::Admin, now).await?;
    let entry =
        Entry::new(Actor::user(account, None), Action::TenantCreate, Resource::tenant(slug));
    entries.push(entry.after(json!({ "id": created.id, "name": new.name })));
    Ok(Some(created))
}

/// Starts the tenant of `user_id`, which must be one of the person's, and waits until it runs.
///
/// # Errors
/// `forbidden` for any other tenant; `tenant_deleting`; `warmup_failed`.
pub async fn warm_up(app: &App, person: Person, user_id: &str) -> Result<Tenant, ApiError> {
    let slug = tenant_slug(app, user_id)?;
    let caller = Principal::Session(person);
    let found = authority_of(&mut *app.conn().await?, &caller, slug.as_str()).await?;
    let found = found.filter(|found| found.role >= Some(Role::Write));
    let found = found.ok_or_else(|| refused(AccessError::Forbidden))?;
    let started =
        tenant_actions::request_action(app, &caller, found.tenant, OwnerAction::Start).await?;
    let running = timeout(WARMUP_TIMEOUT, async {
        loop {
            let read = tenant_actions::read_again(app, &started).await?;
            match read.state {
                State::Running => return Ok(read),
                State::Error | State::Deleting => return Err(warmup_failed()),
                State::Provisioning
                | State::Starting
                | State::Frozen
                | State::Sleeping
                | State::Stopped => tokio::time::sleep(WARMUP_POLL_INTERVAL).await,
            }
        }
    });
    running.await.unwrap_or_else(|_| Err(warmup_failed()))
}

fn warmup_failed() -> ApiError {
    let detail = "The tenant did not become ready. Its log says why.";
    ApiError::new(Code::WarmupFailed, detail)
}
