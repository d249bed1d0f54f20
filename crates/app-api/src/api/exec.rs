//! A command in a tenant's platform half, over a WebSocket: see [`protocol::exec`]. The orchestrator runs the command; this
//! process checks the caller, writes the audit entry, and passes the frames on.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use protocol::exec::{ExecCommand, ExecQuery};
use protocol::problem::Code;
use protocol::spec::Desired;
use serde_json::json;
use service::api_error::ApiError;
use service::client::CallError;
use service::websocket::{WebSocketUpgrade, switching_protocols};
use tokio::io::copy_bidirectional;

use crate::access::layer::Tunnel;
use crate::access::{AuthorizedTenant, Caller};
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::{Transaction as _, audit_log};
use crate::http::describe::{Call, DescribeOutput};
use crate::http::extract::{Query, invalid_query};
use crate::orchestrator::CommandStream;
use crate::tenant_actions::being_deleted;

/// A connection that becomes a WebSocket.
pub struct WebSocket(Response);

impl IntoResponse for WebSocket {
    fn into_response(self) -> Response {
        self.0
    }
}

impl DescribeOutput for WebSocket {
    fn describe(call: &mut Call) {
        call.empty_response(101);
    }
}

pub async fn run_command(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    Query(query): Query<ExecQuery>,
    upgrade: WebSocketUpgrade,
) -> Result<WebSocket, ApiError> {
    let tenant = found.tenant;
    let command = parse(&query)?;
    if tenant.desired == Desired::Deleted {
        return Err(being_deleted());
    }
    // Written first: no command runs without an entry.
    let after = json!({ "command": command.argv, "terminal": command.terminal.is_some() });
    let entry =
        Entry::new(Actor::from(&caller), Action::TenantExec, Resource::tenant(&tenant.slug));
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let entry = entry.after(after);
    conn.transaction(async |conn| audit_log::append(conn, &entry, now).await).await?;
    drop(conn);
    let called = app.orchestrator.exec(tenant.tenant_id(), &to_query(&query), &upgrade.key).await;
    let CommandStream { accept, mut frames } = called.map_err(refused)?;
    tracing::info!(tenant = %tenant.id, slug = %tenant.slug, %caller, "command started");
    let tunnel = Tunnel::new(async move {
        let Ok(mut stream) = upgrade.stream().await else { return };
        // An end of either side, in order or not, ends the command or is its end.
        let _ = copy_bidirectional(&mut stream, &mut frames).await;
    });
    let mut response = switching_protocols(accept);
    response.extensions_mut().insert(tunnel);
    Ok(WebSocket(response))
}

fn parse(query: &ExecQuery) -> Result<ExecCommand, ApiError> {
    let argv = query.command.as_deref().map_or(Ok(Vec::new()), serde_json::from_str);
    let argv = argv.map_err(|_| {
        invalid_query("command", "must be a JSON array of texts, like [\"ls\",\"-l\"]")
    })?;
    ExecCommand::new(query, argv).map_err(|fault| invalid_query(fault.field, fault.rule))
}

/// The query string for the orchestrator.
fn to_query(query: &ExecQuery) -> String {
    let command = query.command.as_deref();
    let command = command.map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string());
    let number = |value: Option<u16>| value.map(|value| value.to_string());
    let parts =
        [("command", command), ("columns", number(query.columns)), ("rows", number(query.rows))];
    let parts = parts.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    parts.collect::<Vec<_>>().join("&")
}

/// The orchestrator's refusals of a command tell the caller what is wrong with the tenant; all else is no fault of the
/// caller's.
fn refused(error: CallError) -> ApiError {
    if let CallError::Refused(problem) = &error {
        let known = [
            Code::TenantStopped,
            Code::TenantNotRunning,
            Code::TooManyCommands,
            Code::WakeFailed,
            Code::WakeQueueFull,
            Code::Waking,
        ];
        if let Some(code) = known.into_iter().find(|code| code.as_str() == problem.code) {
            return ApiError::new(code, &problem.detail);
        }
        if problem.code == Code::NoSuchTenant.as_str() {
            let detail = "The tenant has no container yet. Wait until it runs.";
            return ApiError::new(Code::TenantNotRunning, detail);
        }
    }
    let detail = "The orchestrator cannot run the command at the moment.";
    ApiError::new(Code::OrchestratorUnavailable, detail).with_cause(error)
}
