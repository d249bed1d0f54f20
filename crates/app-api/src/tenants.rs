//! What an owner does with tenants: the same for pages and for the API.

pub mod change;

use axum::http::StatusCode;
use protocol::Slug;
use protocol::control::{self, NewTenant};
use protocol::spec::Desired;
use service::failure::Failure;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::access::Owner;
use crate::accounts::{invalid, rules};
use crate::app::App;
use crate::db::Conn;
use crate::db::creation::{self, Memo};
use crate::db::idempotency;
use crate::db::tenant::{self, Filter, Tenant, Wish};
use crate::reconcile::plan::Ask;
use crate::views;
use change::{Change, FieldFault};

/// A create, with what makes sending it twice harmless.
pub struct Create<'a> {
    pub wish: &'a NewTenant,
    pub key: Option<&'a str>,
    /// The body as it came.
    pub bytes: &'a [u8],
}

/// Writes a new tenant down; the reconcile loop does the rest.
pub async fn create(app: &App, owner: &Owner, new: Create<'_>) -> Result<control::Tenant, Failure> {
    if new.key.is_some_and(|key| key.is_empty() || key.len() > 200) {
        let detail = "Idempotency-Key must be 1 to 200 characters long.";
        return Err(Failure::new(StatusCode::BAD_REQUEST, "invalid_idempotency_key", detail));
    }
    let body_hash = Sha256::digest(new.bytes).to_vec();
    let mut conn = app.conn().await?;
    if let Some(answer) = remembered(&mut conn, owner, new.key, &body_hash).await? {
        return Ok(answer);
    }
    let (slug, name) = checked(new.wish)?;
    let now = app.clock.now();
    let row = tenant::NewTenant {
        id: Uuid::now_v7(),
        slug: &slug,
        name: &name,
        owner_id: owner.user.id,
        now,
    };
    let memo = new.key.map(|key| Memo { key, body_hash: &body_hash });
    let view = |tenant: &Tenant| views::tenant(app, tenant, None);
    if let Some(answer) = creation::create(&mut conn, &row, memo, view).await? {
        app.bell.ring(answer.id);
        return Ok(answer);
    }
    // Whoever came first with the same key took the slug as well.
    let first = remembered(&mut conn, owner, new.key, &body_hash).await?;
    first.ok_or_else(|| slug_taken(&slug))
}

async fn remembered(
    conn: &mut Conn,
    owner: &Owner,
    key: Option<&str>,
    body_hash: &[u8],
) -> Result<Option<control::Tenant>, Failure> {
    let Some(key) = key else { return Ok(None) };
    idempotency::delete_old(conn).await?;
    let Some(held) = idempotency::find(conn, owner.user.id, key).await? else { return Ok(None) };
    if held.body_hash != body_hash {
        let detail = "This Idempotency-Key came with another body before. Use a new key.";
        return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_mismatch", detail));
    }
    Ok(Some(serde_json::from_value(held.answer)?))
}

fn checked(wish: &NewTenant) -> Result<(Slug, String), Failure> {
    let name = rules::name(&wish.name);
    match (Slug::choose(&wish.slug), name) {
        (Ok(slug), Ok(name)) => Ok((slug, name)),
        (Ok(_), Err(fault)) => Err(invalid(&[("name", Some(fault))])),
        (Err(why), name) => {
            let detail = format!("The slug {why}.");
            let failure =
                Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_slug", detail.clone())
                    .field("slug", "invalid_slug", detail);
            Err(match name {
                Ok(_) => failure,
                Err(fault) => failure.field("name", fault.code, fault.message),
            })
        }
    }
}

fn slug_taken(slug: &Slug) -> Failure {
    let detail = format!("A tenant with the slug {slug} exists already. Choose another.");
    Failure::new(StatusCode::CONFLICT, "slug_taken", detail.clone()).field(
        "slug",
        "slug_taken",
        detail,
    )
}

pub async fn list(app: &App, owner: &Owner, filter: &Filter) -> Result<Vec<Tenant>, Failure> {
    Ok(tenant::list(&mut *app.conn().await?, owner.user.id, filter).await?)
}

pub async fn find(app: &App, owner: &Owner, slug: &str) -> Result<Tenant, Failure> {
    // Postgres knows no text with a zero in it.
    if slug.contains('\0') {
        return Err(no_such_tenant());
    }
    let mut conn = app.conn().await?;
    tenant::by_slug(&mut conn, owner.user.id, slug).await?.ok_or_else(no_such_tenant)
}

pub fn no_such_tenant() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "tenant_not_found", "There is no tenant of this name.")
}

/// Each lost try is the success of another: enough for so many callers at once, and for the reconcile loop.
const TRIES: usize = 100;

/// Writes down what its owner wants of a tenant. A delete beats everything that comes later.
pub async fn ask(app: &App, owner: &Owner, slug: &str, ask: Ask) -> Result<Tenant, Failure> {
    for _ in 0..TRIES {
        let seen = find(app, owner, slug).await?;
        if seen.desired == Desired::Deleted {
            return if ask == Ask::Delete { Ok(seen) } else { Err(being_deleted()) };
        }
        let desired = match ask {
            Ask::Start | Ask::Restart => Desired::Running,
            Ask::Stop => Desired::Stopped,
            Ask::Delete => Desired::Deleted,
        };
        let wish = Wish {
            desired,
            restart: ask == Ask::Restart,
            // Whatever the row says of its state: it may have fallen asleep since.
            wake: ask == Ask::Start && seen.desired == Desired::Running,
        };
        let life = seen.life().asked(ask, app.clock.now());
        let mut conn = app.conn().await?;
        if let Some(asked) = tenant::ask(&mut conn, &seen, wish, &life).await? {
            tracing::info!(tenant = %asked.id, %slug, ?ask, user = %owner.user.id, "asked");
            app.bell.ring(asked.tenant_id());
            return Ok(asked);
        }
    }
    Err(changes_too_fast())
}

fn being_deleted() -> Failure {
    let detail = "This tenant is being deleted. Nothing else can be done with it.";
    Failure::new(StatusCode::CONFLICT, "tenant_deleting", detail)
}

fn changes_too_fast() -> Failure {
    let detail = "The tenant changes faster than this could be written. Try again.";
    Failure::new(StatusCode::CONFLICT, "revision_conflict", detail)
}

/// `revision`: what the caller last saw, if it insists on that.
pub async fn change(
    app: &App,
    owner: &Owner,
    slug: &str,
    change: &Change,
    revision: Option<i64>,
) -> Result<Tenant, Failure> {
    for _ in 0..TRIES {
        let seen = find(app, owner, slug).await?;
        if seen.desired == Desired::Deleted {
            return Err(being_deleted());
        }
        if revision.is_some_and(|wanted| wanted != seen.revision) {
            let detail = format!("The tenant is at revision {} by now.", seen.revision);
            return Err(Failure::new(StatusCode::PRECONDITION_FAILED, "revision_mismatch", detail));
        }
        let next = change.onto(&seen.changeable()).map_err(|faults| refused(&faults))?;
        let mut conn = app.conn().await?;
        if let Some(now) = tenant::change(&mut conn, &seen, &next).await? {
            tracing::info!(tenant = %now.id, %slug, user = %owner.user.id, "changed");
            app.bell.ring(now.tenant_id());
            return Ok(now);
        }
    }
    Err(changes_too_fast())
}

fn refused(faults: &[FieldFault]) -> Failure {
    let detail = "Some fields need another value.";
    let whole = Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields", detail);
    faults.iter().fold(whole, |failure, f| failure.field(f.field, f.code, f.message.clone()))
}
