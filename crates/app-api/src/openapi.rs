//! The OpenAPI description, built from the route table: it names each call of the table and no other.

use serde_json::{Map, Value, json};

use crate::access::Access;
use crate::route::Route;

const SCHEMAS: &str = include_str!("openapi_schemas.json");

/// `cookie` is the name of the session's cookie.
pub fn describe(routes: &[Route], cookie: &str) -> Value {
    let mut paths = Map::new();
    for route in routes.iter().filter(|route| !route.summary.is_empty()) {
        for path in route.paths() {
            let operation = operation(route, &path);
            let described = paths.entry(path).or_insert_with(|| json!({}));
            described[route.method.as_str().to_lowercase()] = operation;
        }
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
                "key": { "type": "http", "scheme": "bearer" },
            },
        },
    })
}

fn operation(route: &Route, path: &str) -> Value {
    let is_secured = route.access != Access::Public;
    let mut parameters = Vec::new();
    if route.names_tenant() {
        parameters.push(parameter("path", "slug", true));
    }
    parameters
        .extend(details(route, path).query.iter().map(|name| parameter("query", name, false)));
    parameters
        .extend(details(route, path).headers.iter().map(|name| parameter("header", name, false)));
    let (status, content) = details(route, path).response;
    let mut responses = json!({
        status: response_object(content),
        "default": {
            "description": "An error",
            "content": { "application/problem+json": { "schema": reference("Problem") } },
        },
    });
    if is_secured {
        responses["401"] = json!({ "description": "No session and no key" });
    }
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": responses,
        "security": if is_secured { json!([{ "session": [] }, { "key": [] }]) } else { json!([]) },
    });
    if let Some(body) = details(route, path).body {
        let schema = json!({ "schema": reference(body) });
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": schema } });
    }
    operation
}

fn parameter(place: &str, name: &str, required: bool) -> Value {
    json!({ "in": place, "name": name, "required": required, "schema": { "type": "string" } })
}

fn response_object(content: Content) -> Value {
    match content {
        Content::Empty(description) => json!({ "description": description }),
        Content::Text => json!({
            "description": "Lines, newest last",
            "content": { "text/plain": { "schema": { "type": "string" } } },
        }),
        Content::Json(name) => json!({
            "description": name,
            "content": { "application/json": { "schema": reference(name) } },
        }),
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

#[derive(Clone, Copy)]
enum Content {
    Empty(&'static str),
    Text,
    Json(&'static str),
}

/// Facts of a call that the route table does not hold.
struct Details {
    body: Option<&'static str>,
    query: &'static [&'static str],
    headers: &'static [&'static str],
    response: (&'static str, Content),
}

fn details(route: &Route, path: &str) -> Details {
    let plain = |status, content| Details {
        body: None,
        query: &[],
        headers: &[],
        response: (status, content),
    };
    match (route.method.as_str(), path.trim_start_matches("/v1").trim_start_matches("/api/admin")) {
        ("POST", "/api/auth/sign-up/email") => {
            Details { body: Some("SignUp"), ..plain("201", Content::Json("SignedIn")) }
        }
        ("POST", "/api/auth/sign-in/email") => {
            Details { body: Some("SignIn"), ..plain("200", Content::Json("SignedIn")) }
        }
        ("POST", "/api/auth/sign-out") => plain("204", Content::Empty("The session ended")),
        ("GET", "/api/auth/session") => plain("200", Content::Json("Session")),
        ("GET", "/tenants") => Details {
            query: &["state", "q", "cursor", "limit"],
            ..plain("200", Content::Json("TenantList"))
        },
        ("POST", "/tenants") => Details {
            body: Some("NewTenant"),
            headers: &["Idempotency-Key"],
            ..plain("201", Content::Json("Tenant"))
        },
        ("PATCH", _) => Details {
            body: Some("Change"),
            headers: &["If-Match"],
            ..plain("200", Content::Json("Tenant"))
        },
        ("GET", "/tenants/{slug}/logs") => Details {
            query: &["tail", "since", "follow", "timestamps"],
            ..plain("200", Content::Text)
        },
        (_, "/tenants/{slug}/open") => {
            plain("303", Content::Empty("To the tenant, with a token for one minute"))
        }
        ("GET", "/tenants/{slug}") => plain("200", Content::Json("Tenant")),
        ("POST" | "DELETE", _) => plain("202", Content::Json("Tenant")),
        (_, _) => plain("200", Content::Json("Anything")),
    }
}
