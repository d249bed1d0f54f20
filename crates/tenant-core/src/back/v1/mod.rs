//! The API of the tenant's history, `/.cial/api/v1`: one table of calls, each for a session with at least a role.

mod activity;
pub(super) mod chat;
pub(super) mod files;
mod query;
mod registry;
mod workspaces;

use hyper::header::RETRY_AFTER;
use hyper::{Method, StatusCode};
use protocol::Problem;
use protocol::people::MemberRole;
use protocol::problem::{Code, FieldCode};
use protocol::site::Site;
use tenant_service::body::{BodyError, read_json};
use tenant_service::{Request, RequestBody, RequestContext, Response, response, site_of};

use super::{Back, is_read, same_origin};
use crate::history::{HistoryError, Millis};
use crate::session_table::Session;
use query::Query;

pub(super) const ROOT: &str = "/v1";

const MAX_BODY_BYTES: usize = 64 << 10;

/// The effect of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    GetDescription,
    ListWorkspaces,
    CreateWorkspace,
    Register,
    RecordHeartbeat,
    GetRegistration,
    ListPeers,
    ListActivity,
    AppendActivity,
    MakeEnvelope,
    SendMessage,
    ListConversations,
    ListMessages,
    ListFiles,
    DeleteFile,
    DownloadFile,
    MakeFolder,
    MoveFile,
    BeginUpload,
    ShowUpload,
    AddPart,
    DeleteUpload,
    FinishUpload,
}

/// One call of the API.
pub(super) struct Route {
    pub(super) method: Method,
    /// Below [`ROOT`]. `{id}` stands for one segment.
    pub(super) path: &'static str,
    /// The lowest role that may call it.
    pub(super) role: MemberRole,
    pub(super) operation: Operation,
}

const fn route(
    method: Method,
    path: &'static str,
    role: MemberRole,
    operation: Operation,
) -> Route {
    Route { method, path, role, operation }
}

/// All calls. A call that is not here does not exist.
pub(super) const ROUTES: &[Route] = {
    use MemberRole::{Member, Viewer};
    use Operation::*;
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PUT: Method = Method::PUT;
    const DELETE: Method = Method::DELETE;
    &[
        route(GET, "/openapi.json", Viewer, GetDescription),
        route(GET, "/workspaces", Viewer, ListWorkspaces),
        route(POST, "/workspaces", Member, CreateWorkspace),
        route(POST, "/registry/register", Member, Register),
        route(POST, "/registry/heartbeat", Member, RecordHeartbeat),
        route(GET, "/registry/{id}", Viewer, GetRegistration),
        route(GET, "/registry/{id}/peers", Viewer, ListPeers),
        route(GET, "/activity", Viewer, ListActivity),
        route(POST, "/activity", Member, AppendActivity),
        route(POST, "/channel/envelope", Viewer, MakeEnvelope),
        route(POST, "/chat", Member, SendMessage),
        route(GET, "/conversations", Viewer, ListConversations),
        route(GET, "/conversations/{id}/messages", Viewer, ListMessages),
        route(GET, "/files", Viewer, ListFiles),
        route(DELETE, "/files", Member, DeleteFile),
        route(GET, "/files/content", Viewer, DownloadFile),
        route(POST, "/files/folders", Member, MakeFolder),
        route(POST, "/files/move", Member, MoveFile),
        route(POST, "/files/uploads", Member, BeginUpload),
        route(GET, "/files/uploads/{id}", Member, ShowUpload),
        route(PUT, "/files/uploads/{id}", Member, AddPart),
        route(DELETE, "/files/uploads/{id}", Member, DeleteUpload),
        route(POST, "/files/uploads/{id}/finish", Member, FinishUpload),
    ]
};

/// Made from the table by a test.
const DESCRIPTION: &str = include_str!("openapi.json");

/// Why a call has no other response.
enum CallError {
    Problem(Box<Problem>),
    Body(BodyError),
    History(HistoryError),
}

impl From<Box<Problem>> for CallError {
    fn from(problem: Box<Problem>) -> Self {
        Self::Problem(problem)
    }
}

impl From<BodyError> for CallError {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl From<HistoryError> for CallError {
    fn from(error: HistoryError) -> Self {
        Self::History(error)
    }
}

impl Back {
    pub(super) async fn handle_v1(&self, context: &RequestContext, request: Request) -> Response {
        // `/chat` is the same without the version.
        let path = request.uri().path();
        let path = path.strip_prefix(ROOT).unwrap_or(path).to_owned();
        let routes: Vec<_> =
            ROUTES.iter().filter_map(|route| Some((route, captured(route.path, &path)?))).collect();
        // A literal segment comes before a captured one.
        let Some((first, id)) = routes.first() else { return context.not_found() };
        let mut routes = routes.iter().map(|(route, _)| route).filter(|r| r.path == first.path);
        let is_called = |route: &&&Route| match route.method {
            Method::GET => is_read(request.method()),
            ref method => request.method() == method,
        };
        let Some(route) = routes.find(is_called) else {
            return context.method_not_allowed(allowed(first.path));
        };
        let session = match self.check_access(context, &request, route).await {
            Ok(session) => session,
            Err(refusal) => return *refusal,
        };
        match self.perform(context, &session, (route.operation, *id), request).await {
            Ok(response) => response,
            Err(error) => respond_to_error(context, error),
        }
    }

    async fn check_access(
        &self,
        context: &RequestContext,
        request: &Request,
        route: &Route,
    ) -> Result<Session, Box<Response>> {
        let (headers, role) = (request.headers(), route.role);
        let is_allowed = match (is_read(request.method()), route.operation) {
            (true, Operation::DownloadFile) => same_origin::may_read(headers),
            (true, _) => true,
            (false, _) => same_origin::is_allowed(headers),
        };
        if !is_allowed {
            let detail = "This request came from another site.";
            return Err(Box::new(context.problem(Code::CrossSite, detail)));
        }
        let session = match site_of(headers) {
            Site::Core => self.sessions.find(headers).await,
            // The request may come from code of the tenant's app, which runs there in its visitors' browsers.
            Site::Tenant => None,
        };
        match session {
            None => {
                let detail =
                    "401: sign in at the core's own address first, which begins with core--.";
                Err(Box::new(context.problem(Code::NotSignedIn, detail)))
            }
            Some(session) if session.role < role => {
                let own = session.role;
                let detail = format!("403: this call needs the role {role}, and you are {own}.");
                Err(Box::new(context.problem(Code::InsufficientRole, &detail)))
            }
            Some(session) => Ok(session),
        }
    }

    async fn perform(
        &self,
        context: &RequestContext,
        session: &Session,
        (operation, id): (Operation, &str),
        request: Request,
    ) -> Result<Response, CallError> {
        let (head, body) = request.into_parts();
        let query = head.uri.query();
        match operation {
            Operation::GetDescription => {
                Query::parse(query, &[])?;
                Ok(response::json_text(DESCRIPTION))
            }
            Operation::ListWorkspaces => self.list_workspaces(query).await,
            Operation::CreateWorkspace => self.create_workspace(body).await,
            Operation::Register => self.register(body).await,
            Operation::RecordHeartbeat => self.record_heartbeat(body).await,
            Operation::GetRegistration => self.get_registration(id).await,
            Operation::ListPeers => self.list_peers(id).await,
            Operation::ListActivity => self.list_activity(query).await,
            Operation::AppendActivity => self.append_activity(body).await,
            Operation::MakeEnvelope => self.make_envelope(body).await,
            Operation::SendMessage => {
                self.send_message(context, session, &head.headers, body).await
            }
            Operation::ListConversations => self.list_conversations(query).await,
            Operation::ListMessages => self.list_messages(id, query).await,
            Operation::ListFiles => self.list_files(query).await,
            Operation::DeleteFile => self.delete_file(query).await,
            Operation::DownloadFile => self.download_file(context, session, &head).await,
            Operation::MakeFolder => self.make_folder(body).await,
            Operation::MoveFile => self.move_file(body).await,
            Operation::BeginUpload => self.begin_upload().await,
            Operation::ShowUpload => self.show_upload(id).await,
            Operation::AddPart => self.add_part(session, id, query, body).await,
            Operation::DeleteUpload => self.delete_upload(id).await,
            Operation::FinishUpload => self.finish_upload(session, id, body).await,
        }
    }
}

fn respond_to_error(context: &RequestContext, error: CallError) -> Response {
    let problem = match error {
        CallError::Problem(problem) => *problem,
        CallError::Body(error) => return context.body_error(&error),
        CallError::History(error) => history_problem(&error, &context.request_id),
    };
    let mut response = context.problem_response(problem);
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, 1.into());
    }
    response
}

/// Writes the cause of a 500 to the log.
fn history_problem(error: &HistoryError, request_id: &str) -> Problem {
    match error {
        HistoryError::DiskFull => Problem::new(
            Code::DiskFull,
            "507: the tenant's disk takes no more data, so nothing was stored. Delete files or raise the limit.",
        ),
        HistoryError::Busy => {
            let detail = "503: too many requests wait for the history. Try again in a second.";
            Problem::new(Code::HistoryBusy, detail)
        }
        HistoryError::Corrupt(_) | HistoryError::NewerSchema { .. } | HistoryError::Other(_) => {
            eprintln!("request failed: request_id={request_id} error=history: {error}");
            let detail =
                "The history cannot be used now. The request id finds the cause in the log.";
            Problem::new(Code::Internal, detail)
        }
    }
}

/// The methods of a path, for `Allow`.
fn allowed(path: &str) -> &'static str {
    let has = |method| ROUTES.iter().any(|route| route.path == path && route.method == method);
    match (has(Method::GET), has(Method::POST), has(Method::PUT), has(Method::DELETE)) {
        (true, true, ..) => "GET, POST",
        (false, true, ..) => "POST",
        (_, _, true, _) => "GET, PUT, DELETE",
        (_, _, false, true) => "GET, DELETE",
        (_, _, false, false) => "GET",
    }
}

/// The segment that stands for `{id}`, or nothing when the template has none. `None` when the path does not fit.
fn captured<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    let mut found = "";
    let (mut wanted, mut segments) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), segments.next()) {
            (None, None) => return Some(found),
            (Some("{id}"), Some(segment)) if !segment.is_empty() => found = segment,
            (Some(wanted), Some(segment)) if wanted == segment => {}
            _ => return None,
        }
    }
}

fn now() -> Millis {
    crate::wall_clock().timestamp_millis()
}

async fn read<T: serde::de::DeserializeOwned>(body: RequestBody) -> Result<T, BodyError> {
    read_json(body, MAX_BODY_BYTES).await
}

fn respond(status: StatusCode, value: &impl serde::Serialize) -> Result<Response, CallError> {
    Ok(response::json(status, value))
}

/// A problem of one field of the body.
fn invalid_field(field: &str, code: FieldCode, message: &str) -> Box<Problem> {
    let problem = Problem::new(Code::InvalidFields, format!("{field} {message}."));
    Box::new(problem.field(field, code, message))
}

#[cfg(test)]
mod description;
