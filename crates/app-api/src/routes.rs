//! The route table: method, path, access, handler. The server and the API's description are built from the table,
//! and a test walks it as every kind of visitor.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{delete, get, patch, post};
use service::api_error::ApiError;

use crate::access::{self, Access, require_owner};
use crate::app::App;
use crate::http::security;
use crate::route::Route;
use crate::{api, openapi, pages, sessions};

macro_rules! routes {
    ($($method:ident $path:literal $access:ident $summary:literal $verb:ident($($handler:tt)+);)+) => {
        &[$(Route {
            method: Method::$method,
            path: $path,
            access: Access::$access,
            summary: $summary,
            handler: || $verb($($handler)+),
        }),+]
    };
}

pub const ROUTES: &[Route] = routes! {
    GET    "/healthz"                          Anyone "" get(api::health::healthz);
    GET    "/readyz"                           Anyone "" get(api::health::readyz);
    GET    "/assets/admin.css"                 Anyone "" get(pages::assets::style);
    GET    "/assets/icon.svg"                  Anyone "" get(pages::assets::icon);
    GET    "/favicon.ico"                      Anyone "" get(pages::assets::icon);
    GET    "/api/openapi.json"                 Anyone "This description" get(show_description);

    POST   "/api/auth/sign-up/email"           Anyone "Create the owner's account" post(api::auth::sign_up);
    POST   "/api/auth/sign-in/email"           Anyone "Sign in" post(api::auth::sign_in);
    POST   "/api/auth/sign-out"                Anyone "Sign out" post(api::auth::sign_out);
    GET    "/api/auth/session"                 Owner  "Who is signed in" get(api::auth::show_session);

    GET    "/api/admin/tenants"                Owner  "List tenants" get(api::tenants::list_tenants);
    POST   "/api/admin/tenants"                Owner  "Create a tenant" post(api::tenants::create_tenant);
    GET    "/api/admin/tenants/{slug}"         Owner  "Show a tenant" get(api::tenants::show_tenant);
    PATCH  "/api/admin/tenants/{slug}"         Owner  "Change a tenant" patch(api::tenants::change_tenant);
    DELETE "/api/admin/tenants/{slug}"         Owner  "Delete a tenant" delete(api::tenants::delete_tenant);
    POST   "/api/admin/tenants/{slug}/start"   Owner  "Start a tenant" post(api::tenants::start_tenant);
    POST   "/api/admin/tenants/{slug}/stop"    Owner  "Stop a tenant" post(api::tenants::stop_tenant);
    POST   "/api/admin/tenants/{slug}/restart" Owner  "Restart a tenant" post(api::tenants::restart_tenant);
    GET    "/api/admin/tenants/{slug}/logs"    Owner  "A tenant's log" get(api::tenant_logs::show_logs);
    GET    "/api/admin/tenants/{slug}/open"    Owner  "Enter a tenant, signed in" get(api::open::open_tenant);
    POST   "/api/admin/tenants/{slug}/open"    Owner  "Enter a tenant, signed in" post(api::open::open_tenant);

    GET    "/v1/sessions"                      Owner  "" get(api::sessions::list_sessions);
    DELETE "/v1/sessions"                      Owner  "" delete(api::sessions::revoke_other_sessions);
    DELETE "/v1/sessions/{id}"                 Owner  "" delete(api::sessions::revoke_session);

    GET    "/"                                 Anyone "" get(pages::root);
    GET    "/admin/signup"                     Anyone "" get(pages::accounts::show_signup);
    POST   "/admin/signup"                     Anyone "" post(pages::accounts::sign_up);
    GET    "/admin/login"                      Anyone "" get(pages::accounts::show_login);
    POST   "/admin/login"                      Anyone "" post(pages::accounts::sign_in);
    POST   "/admin/logout"                     Anyone "" post(pages::accounts::sign_out);
    GET    "/admin/reset"                      Anyone "" get(pages::accounts::show_reset);
    POST   "/admin/reset"                      Anyone "" post(pages::accounts::reset);
    GET    "/admin"                            Owner  "" get(pages::tenants::list_tenants);
    GET    "/admin/tenants/new"                Owner  "" get(pages::tenants::show_new_tenant);
    POST   "/admin/tenants/new"                Owner  "" post(pages::tenants::create_tenant);
    GET    "/admin/tenants/{slug}"             Owner  "" get(pages::tenants::show_tenant);
    POST   "/admin/tenants/{slug}/start"       Owner  "" post(pages::tenants::start_tenant);
    POST   "/admin/tenants/{slug}/stop"        Owner  "" post(pages::tenants::stop_tenant);
    POST   "/admin/tenants/{slug}/restart"     Owner  "" post(pages::tenants::restart_tenant);
    GET    "/admin/tenants/{slug}/edit"        Owner  "" get(pages::edit::show_edit_tenant);
    POST   "/admin/tenants/{slug}/edit"        Owner  "" post(pages::edit::edit_tenant);
    GET    "/admin/tenants/{slug}/delete"      Owner  "" get(pages::tenants::show_delete_tenant);
    POST   "/admin/tenants/{slug}/delete"      Owner  "" post(pages::tenants::delete_tenant);
    GET    "/admin/account"                    Owner  "" get(pages::account::show_account);
    POST   "/admin/account/sessions/revoke"    Owner  "" post(pages::account::revoke_other_sessions);
    POST   "/admin/account/sessions/{id}/revoke" Owner "" post(pages::account::revoke_session);
};

/// The public service: each route behind its access check, and no route beside the table.
pub fn public_service(app: App) -> Router {
    let table = ROUTES.iter().fold(Router::new(), |router, route| {
        let handler = (route.handler)();
        router.route(
            route.path,
            match route.access {
                Access::Anyone => handler,
                Access::Owner => {
                    handler.route_layer(from_fn_with_state(app.clone(), require_owner))
                }
            },
        )
    });
    table
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(app.clone(), security::check_request))
        .layer(from_fn_with_state(app.clone(), pages::problem::layer))
        .layer(from_fn_with_state(app.clone(), security::add_security_headers))
        .layer(from_fn(service::unread_body::layer))
        .layer(from_fn(service::request_id::layer))
        .with_state(app)
}

async fn show_description(State(app): State<App>) -> axum::Json<serde_json::Value> {
    axum::Json(description(&app))
}

fn description(app: &App) -> serde_json::Value {
    openapi::describe(ROUTES, sessions::cookie_name(&app.addresses))
}

async fn not_found(
    State(app): State<App>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(refusal) = deny_unauthenticated(&app, &method, &uri, &headers).await? {
        return Ok(refusal);
    }
    Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", "There is nothing here."))
}

async fn method_not_allowed(
    State(app): State<App>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(refusal) = deny_unauthenticated(&app, &method, &uri, &headers).await? {
        return Ok(refusal);
    }
    let detail = format!("{method} is not understood here.");
    Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail))
}

/// Refuses a caller without a session on an owner's path: the response must not show whether the path exists.
async fn deny_unauthenticated(
    app: &App,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Option<Response>, ApiError> {
    if access::requires_owner(uri.path()) && sessions::find(app, headers).await?.is_none() {
        return Ok(Some(access::unauthenticated_response(method, uri)));
    }
    Ok(None)
}
