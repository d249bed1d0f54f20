//! The API's description, made from the table of routes: it cannot name a call that is not there, nor miss one.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::access::Access;
use crate::app::App;
use crate::routes::{ROUTES, Route};
use crate::sessions;

const SCHEMAS: &str = include_str!("openapi_schemas.json");

pub async fn show(State(app): State<App>) -> Response {
    axum::Json(document(sessions::cookie_name(&app.addresses))).into_response()
}

fn document(cookie: &str) -> Value {
    let mut paths = Map::new();
    for route in ROUTES.iter().filter(|route| !route.about.is_empty()) {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation(route);
    }
    let schemas: Value = serde_json::from_str(SCHEMAS).unwrap_or_default();
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Cial admin API", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "session": { "type": "apiKey", "in": "cookie", "name": cookie },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters = Vec::new();
    if route.path.contains("{slug}") {
        parameters.push(parameter("path", "slug", true));
    }
    parameters.extend(words(route).query.iter().map(|name| parameter("query", name, false)));
    parameters.extend(words(route).headers.iter().map(|name| parameter("header", name, false)));
    let (status, answer) = words(route).answer;
    let mut responses = json!({
        status: answered(answer),
        "default": {
            "description": "An error",
            "content": { "application/problem+json": { "schema": reference("Problem") } },
        },
    });
    if route.access == Access::Owner {
        responses["401"] = json!({ "description": "No session" });
    }
    let mut operation = json!({
        "summary": route.about,
        "parameters": parameters,
        "responses": responses,
        "security": if route.access == Access::Owner { json!([{ "session": [] }]) } else { json!([]) },
    });
    if let Some(body) = words(route).body {
        let schema = json!({ "schema": reference(body) });
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": schema } });
    }
    operation
}

fn parameter(place: &str, name: &str, required: bool) -> Value {
    json!({ "in": place, "name": name, "required": required, "schema": { "type": "string" } })
}

fn answered(answer: Answer) -> Value {
    match answer {
        Answer::Empty(description) => json!({ "description": description }),
        Answer::Text => json!({
            "description": "Lines, newest last",
            "content": { "text/plain": { "schema": { "type": "string" } } },
        }),
        Answer::Json(name) => json!({
            "description": name,
            "content": { "application/json": { "schema": reference(name) } },
        }),
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

#[derive(Clone, Copy)]
enum Answer {
    Empty(&'static str),
    Text,
    Json(&'static str),
}

/// What the table does not say of a call.
struct Words {
    body: Option<&'static str>,
    query: &'static [&'static str],
    headers: &'static [&'static str],
    answer: (&'static str, Answer),
}

fn words(route: &Route) -> Words {
    let plain =
        |status, answer| Words { body: None, query: &[], headers: &[], answer: (status, answer) };
    match (route.method.as_str(), route.path) {
        ("POST", "/api/auth/sign-up/email") => {
            Words { body: Some("SignUp"), ..plain("201", Answer::Json("SignedIn")) }
        }
        ("POST", "/api/auth/sign-in/email") => {
            Words { body: Some("SignIn"), ..plain("200", Answer::Json("SignedIn")) }
        }
        ("POST", "/api/auth/sign-out") => plain("204", Answer::Empty("The session ended")),
        ("GET", "/api/auth/session") => plain("200", Answer::Json("Session")),
        ("GET", "/api/admin/tenants") => Words {
            query: &["state", "q", "cursor", "limit"],
            ..plain("200", Answer::Json("TenantList"))
        },
        ("POST", "/api/admin/tenants") => Words {
            body: Some("NewTenant"),
            headers: &["Idempotency-Key"],
            ..plain("201", Answer::Json("Tenant"))
        },
        ("PATCH", _) => Words {
            body: Some("Change"),
            headers: &["If-Match"],
            ..plain("200", Answer::Json("Tenant"))
        },
        ("GET", "/api/admin/tenants/{slug}/logs") => {
            Words { query: &["tail", "since", "follow"], ..plain("200", Answer::Text) }
        }
        (_, "/api/admin/tenants/{slug}/open") => {
            plain("303", Answer::Empty("To the tenant, with a token for one minute"))
        }
        ("GET", "/api/admin/tenants/{slug}") => plain("200", Answer::Json("Tenant")),
        ("POST" | "DELETE", _) => plain("202", Answer::Json("Tenant")),
        (_, _) => plain("200", Answer::Json("Anything")),
    }
}
