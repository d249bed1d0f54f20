//! The actions of an owner on tenants, shared by the pages and the API.

use protocol::Slug;
use protocol::apps::{BUILT_IN_APP, SetRelease};
use protocol::control::{self, NewTenant};
use protocol::problem::{Code, FieldCode};
use protocol::spec::Desired;
use serde_json::json;
use service::api_error::ApiError;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::access::Principal;
use crate::app::App;
use crate::apps::{self, Followed};
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::creation::{self, IdempotencyKey};
use crate::db::idempotency;
use crate::db::tenant::{self, Filter, OwnerRequest, Visibility};
use crate::db::{
    Conn, OptionalExtension as _, QueryError, QueryResult, Transaction as _, api_key, audit_log,
    is_foreign_key_violation,
};
use crate::tenant::change::{Change, Changeable, FieldError};
use crate::tenant::status::OwnerAction;
use crate::tenant::{Tenant, TenantApp};
use crate::validation::{self, invalid_fields};
use crate::{transfer, views};

/// A request to create a tenant.
pub struct Create<'a> {
    pub request: &'a NewTenant,
    pub idempotency_key: Option<&'a str>,
    /// The body as received.
    pub bytes: &'a [u8],
}

/// Inserts the row of a new tenant; the reconciler starts its container.
pub async fn create(
    app: &App,
    caller: &Principal,
    new: Create<'_>,
) -> Result<control::Tenant, ApiError> {
    if new.idempotency_key.is_some_and(|key| key.is_empty() || key.len() > 200) {
        let detail = "Idempotency-Key must be 1 to 200 characters long.";
        return Err(ApiError::new(Code::InvalidIdempotencyKey, detail));
    }
    let body_hash = Sha256::digest(new.bytes).to_vec();
    let mut conn = app.conn().await?;
    if let Some(response) =
        stored_response(&mut conn, caller, new.idempotency_key, &body_hash).await?
    {
        return Ok(response);
    }
    let (slug, name) = validate(new.request)?;
    let followed = followed_release(&mut conn, new.request).await?;
    let now = app.clock.now();
    let row = tenant::NewTenant {
        id: Uuid::now_v7(),
        slug: &slug,
        name: &name,
        owner_id: caller.user_id(),
        followed,
        imported: None,
        now,
    };
    let key = new.idempotency_key.map(|text| IdempotencyKey {
        principal: caller.id(),
        text,
        body_hash: &body_hash,
    });
    let view = |tenant: &Tenant| views::tenant(app, tenant.clone(), views::Observed::default());
    let followed_name = row.followed.as_ref().map(|followed| followed.tenant_app.name());
    let entry = Entry::new(Actor::from(caller), Action::TenantCreate, Resource::tenant(&slug))
        .after(json!({ "id": row.id, "name": name, "app": followed_name }));
    let created = creation::create(&mut conn, &row, key, view, &entry).await;
    if let Err(error) = &created
        && error.downcast_ref().is_some_and(is_foreign_key_violation)
    {
        // Gives the reason when the app was deleted meanwhile.
        followed_release(&mut conn, new.request).await?;
    }
    if let Some(response) = created? {
        app.reconcile.notify(response.id);
        return Ok(response);
    }
    // A concurrent request with the same key may have taken the slug.
    let first = stored_response(&mut conn, caller, new.idempotency_key, &body_hash).await?;
    first.ok_or_else(|| slug_taken(&slug))
}

async fn stored_response(
    conn: &mut Conn,
    caller: &Principal,
    key: Option<&str>,
    body_hash: &[u8],
) -> Result<Option<control::Tenant>, ApiError> {
    let Some(key) = key else { return Ok(None) };
    idempotency::delete_old(conn).await?;
    let Some(stored) = idempotency::find(conn, caller.id(), key).await? else { return Ok(None) };
    if stored.body_hash != body_hash {
        let detail = "This Idempotency-Key came with another body before. Use a new key.";
        return Err(ApiError::new(Code::IdempotencyMismatch, detail));
    }
    let response: control::Tenant = serde_json::from_value(stored.answer)?;
    let created = tenant::by_id(conn, response.id).await?;
    if created.is_none_or(|tenant| tenant.desired == Desired::Deleted) {
        let detail =
            "The tenant that was created with this Idempotency-Key was deleted. Use a new key.";
        return Err(ApiError::new(Code::TenantDeleted, detail));
    }
    Ok(Some(response))
}

fn validate(request: &NewTenant) -> Result<(Slug, String), ApiError> {
    let name = validation::name(&request.name);
    match (Slug::choose(&request.slug), name) {
        (Ok(slug), Ok(name)) => Ok((slug, name)),
        (Ok(_), Err(error)) => Err(invalid_fields(&[("name", Some(error))])),
        (Err(why), name) => {
            let failure = validation::invalid_slug(why);
            Err(match name {
                Ok(_) => failure,
                Err(error) => failure.with_field_error("name", error.code, error.message),
            })
        }
    }
}

async fn followed_release(
    conn: &mut Conn,
    request: &NewTenant,
) -> Result<Option<Followed>, ApiError> {
    let app = request.app.as_deref().unwrap_or(BUILT_IN_APP);
    if app == BUILT_IN_APP && request.release.is_none() {
        return Ok(None);
    }
    apps::followed(conn, app, request.release.as_deref()).await.map(Some)
}

pub(crate) fn slug_taken(slug: &Slug) -> ApiError {
    let detail = format!("A tenant with the slug {slug} exists already. Choose another.");
    validation::refused_field(Code::SlugTaken, "slug", Code::SlugTaken, detail)
}

/// Lists the tenants that the caller may see.
pub async fn list(app: &App, caller: &Principal, filter: &Filter) -> Result<Vec<Tenant>, ApiError> {
    let visibility = if caller.scope().knows_all_tenants() {
        Visibility::All
    } else {
        Visibility::MemberOf(caller.user_id().unwrap_or_default())
    };
    Ok(tenant::list(&mut *app.conn().await?, visibility, filter).await?)
}

pub(crate) async fn read_again(app: &App, tenant: &Tenant) -> Result<Tenant, ApiError> {
    let read = tenant::by_id(&mut *app.conn().await?, tenant.tenant_id()).await?;
    read.ok_or_else(no_such_tenant)
}

pub fn no_such_tenant() -> ApiError {
    ApiError::new(Code::TenantNotFound, "There is no tenant of this name.")
}

/// Each lost race is the success of another writer: enough for many concurrent callers and the reconciler.
pub(crate) const MAX_WRITE_ATTEMPTS: usize = 100;

/// Records a request of the caller. A delete wins over every later request.
pub async fn request_action(
    app: &App,
    caller: &Principal,
    tenant: Tenant,
    action: OwnerAction,
) -> Result<Tenant, ApiError> {
    let mut read = tenant;
    for _ in 0..MAX_WRITE_ATTEMPTS {
        if read.desired == Desired::Deleted {
            return if action == OwnerAction::Delete { Ok(read) } else { Err(being_deleted()) };
        }
        if matches!(action, OwnerAction::Start | OwnerAction::Restart) {
            transfer::refuse_while_importing(&mut *app.conn().await?, &read).await?;
        }
        let desired = match action {
            OwnerAction::Start | OwnerAction::Restart => Desired::Running,
            OwnerAction::Stop => Desired::Stopped,
            OwnerAction::Delete => Desired::Deleted,
        };
        let request = OwnerRequest {
            desired,
            restart: read.status().needs_restart(action),
            // Independent of the row's state: the tenant may have fallen asleep since.
            wake: action == OwnerAction::Start && read.desired == Desired::Running,
            at: app.clock.now(),
        };
        let status = read.status().after_action(action, app.clock.now());
        let mut conn = app.conn().await?;
        let entry = Entry::new(Actor::from(caller), audited(action), Resource::tenant(&read.slug))
            .changed(json!({ "desired": read.desired }), json!({ "desired": desired }));
        let recorded = conn
            .transaction(async |conn| {
                if action == OwnerAction::Delete {
                    // No key works while the removal takes its time. Keys before the tenant's row: a new key locks in
                    // this order, too.
                    api_key::revoke_all(conn, read.tenant_id()).await?;
                }
                // Without the row, the keys stay as well: the transaction ends with this error.
                let recorded = tenant::record_request(conn, &read, request, &status).await?;
                let recorded = recorded.ok_or(QueryError::NotFound)?;
                audit_log::append(conn, &entry, request.at).await?;
                QueryResult::Ok(recorded)
            })
            .await
            .optional()?;
        if let Some(recorded) = recorded {
            tracing::info!(tenant = %recorded.id, slug = %recorded.slug, ?action, %caller, "tenant action requested");
            app.reconcile.notify(recorded.tenant_id());
            return Ok(recorded);
        }
        drop(conn);
        read = read_again(app, &read).await?;
    }
    Err(changes_too_fast())
}

fn audited(action: OwnerAction) -> Action {
    match action {
        OwnerAction::Start => Action::TenantStart,
        OwnerAction::Stop => Action::TenantStop,
        OwnerAction::Restart => Action::TenantRestart,
        OwnerAction::Delete => Action::TenantDelete,
    }
}

pub(crate) fn being_deleted() -> ApiError {
    let detail = "This tenant is being deleted. Nothing else can be done with it.";
    ApiError::new(Code::TenantDeleting, detail)
}

pub(crate) fn changes_too_fast() -> ApiError {
    let detail = "The tenant changes faster than this could be written. Try again.";
    ApiError::new(Code::RevisionConflict, detail)
}

/// Changes a tenant in place. `revisions`: refuse the change when the tenant has none of them.
pub async fn change(
    app: &App,
    caller: &Principal,
    tenant: Tenant,
    change: &Change,
    revisions: Option<&[i64]>,
) -> Result<Tenant, ApiError> {
    let mut read = tenant;
    for _ in 0..MAX_WRITE_ATTEMPTS {
        if read.desired == Desired::Deleted {
            return Err(being_deleted());
        }
        if change.pinned.is_some() && read.app.is_none() {
            let detail = "The built-in app has no releases to pin.";
            return Err(validation::refused_field(
                Code::InvalidFields,
                "pinned",
                FieldCode::BuiltInApp,
                detail,
            ));
        }
        let next = change.apply_to(&read.changeable()).map_err(|errors| refused(&errors))?;
        // After the values: a precondition counts only for a request that would succeed without it (RFC 9110 §13.2.1).
        if revisions.is_some_and(|revisions| !revisions.contains(&read.revision)) {
            let detail = format!("The tenant is at revision {} by now.", read.revision);
            return Err(ApiError::new(Code::RevisionMismatch, detail));
        }
        let mut conn = app.conn().await?;
        let entry =
            Entry::new(Actor::from(caller), Action::TenantChange, Resource::tenant(&read.slug))
                .changed(described(&read.changeable()), described(&next));
        let now = app.clock.now();
        let changed = conn
            .transaction(async |conn| {
                let changed = tenant::change(conn, &read, &next).await?;
                if changed.is_some() {
                    audit_log::append(conn, &entry, now).await?;
                }
                QueryResult::Ok(changed)
            })
            .await?;
        if let Some(changed) = changed {
            tracing::info!(tenant = %changed.id, slug = %changed.slug, %caller, "tenant changed");
            app.reconcile.notify(changed.tenant_id());
            return Ok(changed);
        }
        drop(conn);
        read = read_again(app, &read).await?;
    }
    Err(changes_too_fast())
}

/// Moves a tenant to another release of its app: a running one at once, a sleeping or stopped one at its next start.
pub async fn set_release(
    app: &App,
    caller: &Principal,
    tenant: Tenant,
    request: &SetRelease,
) -> Result<Tenant, ApiError> {
    let mut read = tenant;
    for _ in 0..MAX_WRITE_ATTEMPTS {
        if read.desired == Desired::Deleted {
            return Err(being_deleted());
        }
        let mut conn = app.conn().await?;
        let slug = read.app.as_ref().map_or(BUILT_IN_APP, |app| app.slug.as_str());
        let followed = apps::followed(&mut conn, slug, Some(&request.release)).await?;
        if read.app.as_ref().is_some_and(|app| app.is_same_release(&followed.tenant_app)) {
            return Ok(read);
        }
        let now = app.clock.now();
        let status = read.status_on_other_release(now);
        let entry =
            Entry::new(Actor::from(caller), Action::TenantRelease, Resource::tenant(&read.slug))
                .changed(
                    described_release(read.app.as_ref()),
                    described_release(Some(&followed.tenant_app)),
                );
        let moved = conn
            .transaction(async |conn| {
                let moved = tenant::set_release(conn, &read, &followed, &status).await?;
                if moved.is_some() {
                    audit_log::append(conn, &entry, now).await?;
                }
                QueryResult::Ok(moved)
            })
            .await?;
        if let Some(moved) = moved {
            let release = &request.release;
            tracing::info!(tenant = %moved.id, slug = %moved.slug, %release, %caller, "tenant moved to a release");
            app.reconcile.notify(moved.tenant_id());
            return Ok(moved);
        }
        drop(conn);
        read = read_again(app, &read).await?;
    }
    Err(changes_too_fast())
}

/// The app and the release of a tenant, as the audit log shows them.
pub fn described_release(app: Option<&TenantApp>) -> serde_json::Value {
    json!({ "app": app.map(|app| &app.slug), "release": app.map(|app| &app.release) })
}

/// The changeable fields as the audit log shows them.
fn described(fields: &Changeable) -> serde_json::Value {
    json!({
        "name": fields.name, "limits": fields.limits, "policy": fields.policy, "pinned": fields.pinned,
    })
}

pub(crate) fn refused(errors: &[FieldError]) -> ApiError {
    let detail = "Some fields need another value.";
    let failure = ApiError::new(Code::InvalidFields, detail);
    errors
        .iter()
        .fold(failure, |failure, e| failure.with_field_error(e.field, e.code, e.message.clone()))
}
