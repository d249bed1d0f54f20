//! `/api/admin/tenants`: list, create, show, change, delete, start, stop, restart.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::State as TenantState;
use protocol::control::{NewTenant, TenantList};
use protocol::problem::Code;
use serde::Deserialize;
use service::api_error::ApiError;

use crate::access::{AuthorizedTenant, Caller, Principal};
use crate::app::App;
use crate::db::tenant::Filter;
use crate::http::extract::{Json, Query, invalid_query};
use crate::tenant::Tenant;
use crate::tenant::change::Change;
use crate::tenant::status::OwnerAction;
use crate::tenant_actions::{self, Create};
use crate::{sleep_status, views};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    state: Option<String>,
    q: Option<String>,
    cursor: Option<String>,
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
            return Err(invalid_query("cursor", "is not one that a list gave out"));
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
) -> Result<Response, ApiError> {
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
    let mut sleeps = sleep_status::fetch_all(&app, &rows).await;
    let view = |row: Tenant| {
        let sleep = sleeps.remove(&row.tenant_id());
        views::tenant(&app, row, sleep)
    };
    let tenants = rows.into_iter().map(view).collect();
    Ok(axum::Json(TenantList { tenants, next_cursor }).into_response())
}

pub async fn create_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Json<NewTenant>,
) -> Result<Response, ApiError> {
    let key = headers.get("idempotency-key").map(|v| v.to_str().unwrap_or_default());
    let new = Create { request: &body.value, idempotency_key: key, bytes: &body.bytes };
    let tenant = tenant_actions::create(&app, &caller, new).await?;
    let head = [
        (header::LOCATION, format!("/api/admin/tenants/{}", tenant.slug)),
        (header::ETAG, etag(tenant.revision)),
    ];
    Ok((StatusCode::CREATED, head, axum::Json(tenant)).into_response())
}

pub async fn show_tenant(State(app): State<App>, found: AuthorizedTenant) -> Response {
    tenant_response(&app, StatusCode::OK, &found.tenant).await
}

pub async fn change_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    headers: HeaderMap,
    body: Json<Change>,
) -> Result<Response, ApiError> {
    let revisions = expected_revisions(&headers)?;
    let tenant =
        tenant_actions::change(&app, &caller, found.tenant, &body.value, revisions.as_deref())
            .await?;
    Ok(tenant_response(&app, StatusCode::OK, &tenant).await)
}

/// Parses `If-Match` by RFC 9110 §13.1.1: `None` when any revision matches. A bare number counts as a strong tag.
///
/// The comparison is strong, so a weak tag and a tag that is no revision match nothing.
fn expected_revisions(headers: &HeaderMap) -> Result<Option<Vec<i64>>, ApiError> {
    let mut revisions = Vec::new();
    let lines = headers.get_all(header::IF_MATCH);
    if lines.iter().next().is_none() {
        return Ok(None);
    }
    for line in lines {
        let text = line.to_str().map_err(|_| invalid_if_match())?;
        for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            if tag == "*" {
                return Ok(None);
            }
            let (is_weak, tag) = tag.strip_prefix("W/").map_or((false, tag), |tag| (true, tag));
            let opaque = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            match opaque {
                Some(opaque) if !is_weak => revisions.extend(opaque.parse::<i64>().ok()),
                Some(_) => {}
                None if !is_weak => revisions.push(tag.parse().map_err(|_| invalid_if_match())?),
                None => return Err(invalid_if_match()),
            }
        }
    }
    Ok(Some(revisions))
}

fn invalid_if_match() -> ApiError {
    let detail = "If-Match must be the tenant's revision, like \"7\".";
    ApiError::new(Code::InvalidIfMatch, detail)
}

pub async fn delete_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Response, ApiError> {
    request_action(&app, &caller, found.tenant, OwnerAction::Delete).await
}

pub async fn start_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Response, ApiError> {
    request_action(&app, &caller, found.tenant, OwnerAction::Start).await
}

pub async fn stop_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Response, ApiError> {
    request_action(&app, &caller, found.tenant, OwnerAction::Stop).await
}

pub async fn restart_tenant(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
) -> Result<Response, ApiError> {
    request_action(&app, &caller, found.tenant, OwnerAction::Restart).await
}

fn etag(revision: i64) -> String {
    format!("\"{revision}\"")
}

async fn request_action(
    app: &App,
    caller: &Principal,
    tenant: Tenant,
    action: OwnerAction,
) -> Result<Response, ApiError> {
    Ok(tenant_response(
        app,
        StatusCode::ACCEPTED,
        &tenant_actions::request_action(app, caller, tenant, action).await?,
    )
    .await)
}

async fn tenant_response(app: &App, status: StatusCode, tenant: &Tenant) -> Response {
    let head = [(header::ETAG, etag(tenant.revision))];
    let sleep = sleep_status::fetch(app, tenant).await;
    (status, head, axum::Json(views::tenant(app, tenant.clone(), sleep))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_is_compared_strongly() {
        let parse = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::IF_MATCH, line.parse().unwrap());
            }
            expected_revisions(&headers).map_err(|failure| failure.problem.code)
        };
        for (lines, expected) in [
            (&[][..], None),
            (&["*"], None),
            (&["\"3\""], Some(vec![3])),
            (&["3"], Some(vec![3])),
            (&["\"3\", \"4\"", "\"5\""], Some(vec![3, 4, 5])),
            (&["W/\"3\""], Some(vec![])),
            (&["W/\"3\", \"4\""], Some(vec![4])),
            (&["\"abc\""], Some(vec![])),
        ] {
            assert_eq!(parse(lines), Ok(expected), "{lines:?}");
        }
        for bad in ["x", "\"3", "W/3"] {
            assert_eq!(parse(&[bad]), Err("invalid_if_match".to_owned()), "{bad}");
        }
    }
}
