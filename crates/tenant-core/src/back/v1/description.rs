//! Makes `openapi.json` and the table of `docs/history.md` from the route table. To rewrite both:
//! `UPDATE_REFERENCE=1 cargo test -p tenant-core description`.

use protocol::files::{FileList, FinishUpload, MakeFolder, MoveFile, Upload};
use protocol::history::*;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, Paths,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{Object, Schema, Type};
use utoipa::openapi::{ComponentsBuilder, Info, OpenApiBuilder, Ref, RefOr, Required};
use utoipa::{PartialSchema, ToSchema};

use super::*;

const BYTES: &str = "application/octet-stream";

type Schemas = Vec<(String, RefOr<Schema>)>;

/// The parameters and the responses of a call.
struct Call {
    summary: &'static str,
    parameters: &'static [&'static str],
    body: Option<Ref>,
    status: StatusCode,
    response: Option<Ref>,
}

fn schema<T: ToSchema + PartialSchema>(schemas: &mut Schemas) -> Option<Ref> {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
    Some(Ref::from_schema_name(T::name()))
}

fn call(operation: Operation, schemas: &mut Schemas) -> Call {
    const PAGE: &[&str] = &["limit", "cursor"];
    const ACTIVITY: &[&str] = &super::activity::PARAMETERS;
    let (ok, created, empty) = (StatusCode::OK, StatusCode::CREATED, StatusCode::NO_CONTENT);
    let of = |summary, parameters, body, status, response| Call {
        summary,
        parameters,
        body,
        status,
        response,
    };
    match operation {
        Operation::GetDescription => of("The description of this API", &[], None, ok, None),
        Operation::ListWorkspaces => {
            of("Lists the workspaces", PAGE, None, ok, schema::<Page<Workspace>>(schemas))
        }
        Operation::CreateWorkspace => {
            let body = schema::<CreateWorkspace>(schemas);
            of("Makes a workspace", &[], body, created, schema::<Workspace>(schemas))
        }
        Operation::Register => {
            let body = schema::<Register>(schemas);
            of("Registers a workspace", &[], body, ok, schema::<Registration>(schemas))
        }
        Operation::RecordHeartbeat => {
            of("Records that a workspace is alive", &[], schema::<Heartbeat>(schemas), empty, None)
        }
        Operation::GetRegistration => {
            let read = schema::<Registration>(schemas);
            of("Reads the registration of a workspace", &[], None, ok, read)
        }
        Operation::ListPeers => {
            of("Lists the peers of a workspace", &[], None, ok, schema::<Peers>(schemas))
        }
        Operation::ListActivity => {
            of("Lists the activity", ACTIVITY, None, ok, schema::<Page<Activity>>(schemas))
        }
        Operation::AppendActivity => {
            let body = schema::<AppendActivity>(schemas);
            of("Adds an entry to the activity", &[], body, created, schema::<Activity>(schemas))
        }
        Operation::MakeEnvelope => {
            let body = schema::<ChannelMessage>(schemas);
            let made = schema::<ChannelEnvelope>(schemas);
            of("Makes the envelope of a channel's message", &[], body, ok, made)
        }
        Operation::SendMessage => {
            let body = schema::<SendMessage>(schemas);
            of("Sends a message to the app", &[], body, ok, schema::<ChatReply>(schemas))
        }
        Operation::ListConversations => {
            let listed = schema::<Page<Conversation>>(schemas);
            of("Lists the conversations", PAGE, None, ok, listed)
        }
        Operation::ListFiles => {
            let listed = schema::<FileList>(schemas);
            of(
                "Lists a folder of the tenant's files",
                &["path", "after", "limit"],
                None,
                ok,
                listed,
            )
        }
        Operation::DeleteFile => {
            of("Deletes a file or an empty folder", &["path"], None, empty, None)
        }
        Operation::DownloadFile => {
            of("The content of a file, or a range", &["path"], None, ok, None)
        }
        Operation::MakeFolder => {
            of("Makes a folder", &[], schema::<MakeFolder>(schemas), empty, None)
        }
        Operation::MoveFile => {
            of("Moves a file or a folder", &[], schema::<MoveFile>(schemas), empty, None)
        }
        Operation::BeginUpload => {
            of("Begins an upload", &[], None, created, schema::<Upload>(schemas))
        }
        Operation::ShowUpload => {
            of("How much of an upload arrived", &[], None, ok, schema::<Upload>(schemas))
        }
        Operation::AddPart => {
            let arrived = schema::<Upload>(schemas);
            of("Adds the body as the part at this offset", &["offset"], None, ok, arrived)
        }
        Operation::DeleteUpload => of("Gives an upload up", &[], None, empty, None),
        Operation::FinishUpload => {
            let body = schema::<FinishUpload>(schemas);
            of("Puts an upload in its place", &[], body, empty, None)
        }
        Operation::ListMessages => {
            let listed = schema::<Page<Message>>(schemas);
            of("Lists the messages of a conversation", PAGE, None, ok, listed)
        }
    }
}

fn parameter(name: &str, place: ParameterIn, is_required: bool) -> Parameter {
    let kind = if matches!(name, "limit" | "offset") { Type::Integer } else { Type::String };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(if is_required { Required::True } else { Required::False })
        .schema(Some(Object::with_type(kind)))
        .build()
}

fn response(status: StatusCode, kind: &str, schema: Option<Ref>) -> Response {
    let response =
        ResponseBuilder::new().description(status.canonical_reason().unwrap_or("An error"));
    match schema {
        Some(schema) => {
            response.content(kind, ContentBuilder::new().schema(Some(schema)).build()).build()
        }
        None if kind == BYTES => response.content(kind, ContentBuilder::new().build()).build(),
        None => response.build(),
    }
}

fn description() -> String {
    let (mut paths, mut schemas) = (Paths::new(), Schemas::new());
    let problem = schema::<Problem>(&mut schemas);
    for route in ROUTES {
        let call = call(route.operation, &mut schemas);
        let is_file = matches!(route.operation, Operation::DownloadFile);
        let kind = if is_file { BYTES } else { "application/json" };
        let mut operation = OperationBuilder::new()
            .operation_id(Some(format!("{:?}", route.operation)))
            .summary(Some(call.summary))
            .description(Some(format!("Role: {}.", route.role)))
            .response(call.status.as_str(), response(call.status, kind, call.response))
            .response(
                "default",
                response(StatusCode::IM_A_TEAPOT, protocol::problem::CONTENT_TYPE, problem.clone()),
            );
        if route.operation == Operation::DownloadFile {
            let part = response(StatusCode::PARTIAL_CONTENT, BYTES, None);
            operation = operation.response("206", part);
        }
        if route.operation == Operation::AddPart {
            let body = RequestBodyBuilder::new().required(Some(Required::True));
            let bytes = ContentBuilder::new().build();
            operation = operation.request_body(Some(body.content(BYTES, bytes).build()));
        }
        if let Some(body) = call.body {
            let content = ContentBuilder::new().schema(Some(body)).build();
            let body = RequestBodyBuilder::new().required(Some(Required::True));
            operation =
                operation.request_body(Some(body.content("application/json", content).build()));
        }
        if route.path.contains("{id}") {
            operation = operation.parameter(parameter("id", ParameterIn::Path, true));
        }
        for name in call.parameters {
            let is_required = matches!(
                (*name, route.operation),
                ("path", Operation::DeleteFile | Operation::DownloadFile) | ("offset", _)
            );
            operation = operation.parameter(parameter(name, ParameterIn::Query, is_required));
        }
        let method = match route.method {
            Method::GET => HttpMethod::Get,
            Method::PUT => HttpMethod::Put,
            Method::DELETE => HttpMethod::Delete,
            _ => HttpMethod::Post,
        };
        let path = format!("/.cial/api{ROOT}{}", route.path);
        paths.add_path_operation(path, vec![method], operation.build());
    }
    schemas.sort_by(|(a, _), (b, _)| a.cmp(b));
    let document = OpenApiBuilder::new()
        .info(Info::new("Cial tenant API", "1"))
        .paths(paths)
        .components(Some(ComponentsBuilder::new().schemas_from_iter(schemas).build()))
        .build();
    document.to_pretty_json().unwrap() + "\n"
}

#[test]
fn the_description_is_made_from_the_table() {
    let made = description();
    if option_env!("UPDATE_REFERENCE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/back/v1/openapi.json");
        std::fs::write(path, &made).unwrap();
    }
    assert!(made == DESCRIPTION, "openapi.json is outdated: set UPDATE_REFERENCE=1 and run again");
}

#[test]
fn the_page_lists_the_calls_of_the_table() {
    let row = |route: &Route| {
        let summary = call(route.operation, &mut Schemas::new()).summary;
        format!("| `{} {}` | {} | {summary} |", route.method, route.path, route.role)
    };
    let rows: Vec<_> = ROUTES.iter().map(row).collect();
    let table = format!("| call | role | |\n|---|---|---|\n{}", rows.join("\n"));
    testkit::reference::check_table("docs/history.md", "## Calls", &table);
}

#[test]
fn a_literal_segment_stands_before_a_captured_one() {
    for (index, route) in ROUTES.iter().enumerate() {
        let first = ROUTES.iter().position(|other| captured(other.path, route.path).is_some());
        let first = &ROUTES[first.unwrap()];
        assert_eq!(first.path, route.path, "{index} is hidden by {}", first.path);
    }
    assert_eq!(captured("/registry/{id}/peers", "/registry//peers"), None);
    assert_eq!(captured("/registry/{id}", "/registry/a/b"), None);
    assert_eq!(captured("/registry/{id}/peers", "/registry/a/peers"), Some("a"));
}
