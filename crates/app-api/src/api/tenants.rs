//! `/api/admin/tenants`: list, create, show, change, delete, start, stop, restart.

use axum::extract::State;
use axum::http::{HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::State as TenantState;
use protocol::apps::SetRelease;
use protocol::control::{self, NewTenant, TenantList};
use serde::Deserialize;
use service::api_error::ApiError;
use utoipa::IntoParams;

use crate::access::{AuthorizedTenant, Caller, Principal};
use crate::app::App;
use crate::db::tenant::Filter;
use crate::http::extract::{Json, Query, invalid_query};
use crate::http::reply::{Accepted, Created, Okay, Reply};
use crate::http::request_headers::{IdempotencyKey, IfMatch};
use crate::sleep_status;
use crate::tenant::Tenant;
use crate::tenant::change::Change;
use crate::tenant::status::OwnerAction;
use crate::tenant_actions::{self, Create};
use crate::tenant_databases::last_sizes;
use crate::views::{self, Observed};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only tenants in this state.
    #[param(value_type = Option<TenantState>)]
    state: Option<String>,
    /// Part of the slug or of the name.
    q: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 100 unless given.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 500;

impl ListQuery {
    fn filter(self) -> Result<Filter, ApiError> {
        let state = self.state.filter(|s| !s.is_empty());
        let state = state.map(|s| s.parse::<TenantState>()).transpose();
        let after = self.cursor.map(|c| {
            let slug = URL_SAFE_NO_PAD.decode(c).ok().and_then(|b| String::from_utf8(b).ok());
            slug.filter(|slug| !slug.contains('\0'))
        });
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(invalid_query("limit", "must be 1 to 500"));
        }
        if after.as_ref().is_some_and(Option::is_none) {
            return Err(invalid_query("cursor", "is not the `next` of an earlier page"));
        }
        let text = self.q.filter(|q| !q.is_empty());
        if text.as_ref().is_some_and(|q| q.contains('\0')) {
            return Err(invalid_query("q", "must be text"));
        }
        let state = state.map_err(|why| invalid_query("state", &why.to_string()))?;
        Ok(Filter { state, text, after: after.flatten(), limit })
    }
}

pub async fn list_tenants(
    State(app): State<App>,
    Caller(caller): Caller,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<TenantList>, ApiError> {
    let mut filter = query.filter()?;
    let limit = filter.limit;
    // One extra row shows whether there is a next page.
    filter.limit += 1;
    let mut rows = tenant_actions::list(&app, &caller, &filter).await?;
    let more = i64::try_from(rows.len()).is_ok_and(|n| n > limit);
    if more {
        rows.pop();
    }
    let last = rows.last().filter(|_| more);
    let next_cursor = last.map(|tenant| URL_SAFE_NO_PAD.encode(tenant.slug.as_str()));
    let (mut sleeps, mut disks, sizes) = tokio::join!(
        sleep_status::fetch_all(&app, &rows),
        sleep_status::fetch_all_disk_use(&app, &rows),
        last_sizes(&app, &rows),
    );
    let view = |row: Tenant| {
        let id = row.tenant_id();
        let observed = Observed {
            sleep: sleeps.remove(&id),
            disk: disks.remove(&id),
            database_bytes: sizes.get(&row.id).copied(),
        };
        views::tenant(&app, row, observed)
    };
    let tenants = rows.into_iter().map(view).collect();
    Ok(axum::Json(TenantList { tenants, next_cursor }))
}

pub async fn create_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    IdempotencyKey(key): IdempotencyKey,
    body: Json<NewTenant>,
) -> Result<Created<control::Tenant>, ApiError> {
    let key = key.as_deref();
    let new = Create { request: &body.value, idempotency_key: key, bytes: &body.bytes };
    let tenant = tenant_actions::create(&app, &caller, new).await?;
    let (location, tag) = (format!("/api/admin/tenants/{}", tenant.slug), etag(tenant.revision));
    let created = Created::new(tenant).with_text(header::LOCATION, &location)?;
    Ok(created.with_header(header::ETAG, tag))
}

pub async fn show_tenant(State(app): State<App>, found: AuthorizedTenant) -> Okay<control::Tenant> {
    reply(&app, &found.tenant).await
}

pub async fn change_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    IfMatch(revisions): IfMatch,
    body: Json<Change>,
) -> Result<Okay<control::Tenant>, ApiError> {
    let tenant =
        tenant_actions::change(&app, &caller, found.tenant, &body.value, revisions.as_deref())
            .await?;
    Ok(reply(&app, &tenant).await)
}

pub async fn delete_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Accepted<control::Tenant>, ApiError> {
    request_action(&app, &caller, found.tenant, OwnerAction::Delete).await
}

pub async fn set_release(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    body: Json<SetRelease>,
) -> Result<Accepted<control::Tenant>, ApiError> {
    let tenant = tenant_actions::set_release(&app, &caller, found.tenant, &body.value).await?;
    Ok(reply(&app, &tenant).await)
}

pub async fn start_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Accepted<control::Tenant>, ApiError> {
    request_action(&app, &caller, found.tenant, OwnerAction::Start).await
}

pub async fn stop_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Accepted<control::Tenant>, ApiError> {
    request_action(&app, &caller, found.tenant, OwnerAction::Stop).await
}

pub async fn restart_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Accepted<control::Tenant>, ApiError> {
    request_action(&app, &caller, found.tenant, OwnerAction::Restart).await
}

fn etag(revision: i64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).expect("a number in quotes")
}

async fn request_action(
    app: &App,
    caller: &Principal,
    tenant: Tenant,
    action: OwnerAction,
) -> Result<Accepted<control::Tenant>, ApiError> {
    let tenant = tenant_actions::request_action(app, caller, tenant, action).await?;
    Ok(reply(app, &tenant).await)
}

async fn reply<const STATUS: u16>(app: &App, tenant: &Tenant) -> Reply<STATUS, control::Tenant> {
    let (sleep, disk, sizes) = tokio::join!(
        sleep_status::fetch(app, tenant),
        sleep_status::fetch_disk_use(app, tenant),
        last_sizes(app, std::slice::from_ref(tenant)),
    );
    let observed = Observed { sleep, disk, database_bytes: sizes.get(&tenant.id).copied() };
    Reply::new(views::tenant(app, tenant.clone(), observed))
        .with_header(header::ETAG, etag(tenant.revision))
}
