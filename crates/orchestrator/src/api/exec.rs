//! Commands in tenants, over a WebSocket: see [`protocol::exec`].

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use protocol::exec::{ExecCommand, ExecQuery};
use protocol::problem::{Code, FieldCode};
use service::api_error::ApiError;
use service::websocket::{WebSocketUpgrade, switching_protocols};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::input::{Parsed, TenantPath};
use super::{driver_failure, leases};
use crate::commands::{CommandKind, Commands, MAX_MESSAGE_BYTES};
use crate::operations::Operations;
use crate::sleep::SleepController;

/// Wakes a tenant that rests, and keeps it awake while the command runs.
pub(super) async fn exec(
    State(sleep): State<Arc<SleepController>>,
    State(operations): State<Arc<Operations>>,
    State(commands): State<Arc<Commands>>,
    TenantPath(id): TenantPath,
    query: Result<Query<ExecQuery>, QueryRejection>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, ApiError> {
    let command = parse(query).map_err(|failure| *failure)?;
    let kind = CommandKind::Person;
    let slot = commands.begin(kind, id).ok_or_else(|| too_many(kind))?;
    let hold = sleep.hold_awake(id).await.map_err(leases::lease_failure)?;
    let running = operations.exec(id, &command).await.map_err(driver_failure)?;
    let accept = derive_accept_key(upgrade.key.as_bytes());
    let accept = HeaderValue::try_from(accept).map_err(ApiError::internal)?;
    commands.spawn(async move {
        let Ok(stream) = upgrade.stream().await else { return };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        slot.relay(socket, running).await;
        drop(hold);
    });
    Ok(switching_protocols(accept))
}

fn parse(query: Result<Query<ExecQuery>, QueryRejection>) -> Parsed<ExecCommand> {
    let invalid = |detail: String| {
        ApiError::with_status(Code::InvalidQuery, StatusCode::UNPROCESSABLE_ENTITY, detail)
    };
    let Query(query) = query.map_err(|rejection| Box::new(invalid(rejection.body_text())))?;
    let argv = query.command.as_deref().map_or(Ok(Vec::new()), serde_json::from_str);
    let argv = argv.map_err(|error| Box::new(invalid(format!("command: {error}."))))?;
    ExecCommand::new(&query, argv).map_err(|fault| {
        let failure = invalid(format!("{} {}.", fault.field, fault.rule));
        Box::new(failure.with_field_error(fault.field, FieldCode::Invalid, fault.rule))
    })
}

pub(super) fn too_many(kind: CommandKind) -> ApiError {
    let what = match kind {
        CommandKind::Person => "commands run",
        CommandKind::Task => "tasks of workflows run",
    };
    let detail = format!(
        "At most {} {what} at once in one tenant, {} in all. Wait for one, or end one.",
        kind.limit_per_tenant(),
        kind.limit()
    );
    ApiError::new(Code::TooManyCommands, detail)
}
