//! `/v1/sessions`: the sessions of the caller's account: list, end one, end all others.

use axum::extract::State;
use protocol::people::{SessionInfo, SessionList};
use protocol::problem::Code;
use service::api_error::ApiError;
use uuid::Uuid;

use crate::access::{Account, Caller};
use crate::app::App;
use crate::db::session::Session;
use crate::http::extract::IdPath;
use crate::http::reply::NoContent;
use crate::sessions::user_agent::summarize;
use crate::{sessions, views};

pub async fn list_sessions(
    State(app): State<App>,
    Caller(caller): Caller,
    Account(user): Account,
) -> Result<axum::Json<SessionList>, ApiError> {
    let rows = sessions::list(&app, user.id).await?;
    let sessions = rows.iter().map(|row| session_info(row, caller.credential_id())).collect();
    Ok(axum::Json(SessionList { sessions }))
}

pub async fn revoke_session(
    State(app): State<App>,
    Caller(caller): Caller,
    Account(user): Account,
    IdPath(id): IdPath,
) -> Result<NoContent, ApiError> {
    if sessions::revoke(&app, &caller, &user, id).await? {
        Ok(NoContent::default())
    } else {
        Err(no_such_session())
    }
}

pub async fn revoke_other_sessions(
    State(app): State<App>,
    Caller(caller): Caller,
    Account(user): Account,
) -> Result<NoContent, ApiError> {
    sessions::revoke_others(&app, &caller, &user).await?;
    Ok(NoContent::default())
}

fn session_info(row: &Session, current: Uuid) -> SessionInfo {
    SessionInfo {
        id: row.id,
        device: summarize(&row.user_agent),
        address: row.address.clone(),
        created_at: views::time(row.created_at),
        last_seen_at: views::time(row.last_seen_at),
        expires_at: views::time(row.expires_at),
        is_current: row.id == current,
    }
}

/// The refusal for a session that has ended or belongs to somebody else.
pub fn no_such_session() -> ApiError {
    ApiError::new(Code::NotFound, "You have no such session. It may have ended by itself.")
}
