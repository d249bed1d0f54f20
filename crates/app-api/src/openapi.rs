//! The OpenAPI description, built from the route table and the signatures of its handlers: it names each call of the
//! table and no other.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::http::{Method, header};
use axum::response::IntoResponse;
use protocol::Problem;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, Paths,
};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{Object, Schema, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ComponentsBuilder, Info, OpenApi, OpenApiBuilder, Ref, RefOr, Required};
use utoipa::{PartialSchema as _, ToSchema};

use crate::access::Access;
use crate::http::describe::{Call, DescribeOutput};
use crate::route::{Description, Route};

/// The description as a response: JSON, made once.
pub struct OpenApiDocument(pub Bytes);

impl IntoResponse for OpenApiDocument {
    fn into_response(self) -> axum::response::Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

impl DescribeOutput for OpenApiDocument {
    fn describe(call: &mut Call) {
        call.json_response::<serde_json::Value>(200);
    }
}

/// `cookie` is the name of the session's cookie.
pub fn describe(routes: &[Route], cookie: &str) -> OpenApi {
    let (mut paths, mut schemas) = (Paths::new(), BTreeMap::<String, RefOr<Schema>>::new());
    schemas.insert(Problem::name().into_owned(), Problem::schema());
    let mut nested = Vec::new();
    Problem::schemas(&mut nested);
    for route in routes {
        let Some(Description { summary, describe }) = route.description else { continue };
        for path in route.paths() {
            let mut call = Call::default();
            describe(&mut call);
            nested.append(&mut call.schemas);
            let operation = operation(route, &path, summary, call);
            paths.add_path_operation(path, vec![http_method(&route.method)], operation);
        }
    }
    schemas.extend(nested);
    let session = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(cookie)));
    let key = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme("session", session)
        .security_scheme("key", key);
    OpenApiBuilder::new()
        .info(Info::new("Cial admin API", env!("CARGO_PKG_VERSION")))
        .paths(paths)
        .components(Some(components.build()))
        .build()
}

fn http_method(method: &Method) -> HttpMethod {
    match method.as_str() {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

fn operation(route: &Route, path: &str, summary: &str, call: Call) -> Operation {
    let access = route.access.to_string();
    let mut operation = OperationBuilder::new()
        .summary(Some(summary))
        .description(Some(format!("Access: {access}.")))
        .extensions(Some(ExtensionsBuilder::new().add("x-access", access).build()))
        .request_body(call.request_body)
        .securities(Some(securities(route.access)))
        .response("default", problem("An error"));
    for parameter in path_parameters(path).chain(call.parameters) {
        operation = operation.parameter(parameter);
    }
    for (status, response) in call.responses {
        operation = operation.response(status.to_string(), response);
    }
    if route.access != Access::Public {
        operation = operation.response("401", problem("No session, or no valid key"));
        operation = operation.response("403", problem("No access, or a role that is too low"));
    }
    if route.names_tenant() {
        operation = operation.response("404", problem("No such tenant, or nothing of that id"));
    }
    operation.build()
}

/// A person's session, an API key, or either.
fn securities(access: Access) -> Vec<SecurityRequirement> {
    let requirement = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
    match access {
        Access::Public | Access::Service => Vec::new(),
        Access::Person | Access::Member(_) => vec![requirement("session")],
        Access::SignedIn
        | Access::Account
        | Access::WholeAccount(_)
        | Access::Global
        | Access::Tenant(_)
        | Access::PlatformRead
        | Access::PlatformAdmin => vec![requirement("session"), requirement("key")],
    }
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name())));
    ResponseBuilder::new()
        .description(description)
        .content(protocol::problem::CONTENT_TYPE, content.build())
        .build()
}

fn path_parameters(path: &str) -> impl Iterator<Item = Parameter> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names.map(|name| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(Object::with_type(Type::String)))
            .build()
    })
}
