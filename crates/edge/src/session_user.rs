//! Looks up the signed-in user at core-back.

use std::time::Duration;

use protocol::people::MemberRole;
use proxy::{FetchRequest, Upstream, fetch};
use serde::Deserialize;

const SESSION_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_SESSION_BYTES: usize = 16 << 10;

/// The user of a session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct User {
    pub(crate) sub: String,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) role: MemberRole,
}

/// core-back gave no usable response, so the client counts neither as signed in nor as signed out.
#[derive(Debug)]
pub(crate) struct SessionLookupError(pub(crate) String);

/// Looks up the user of a session at core-back. `None`: the cookies belong to no session.
pub(crate) async fn fetch_session_user(
    core_back: &Upstream,
    cookie: &str,
    scheme: &str,
) -> Result<Option<User>, SessionLookupError> {
    let headers = [("cookie", cookie), ("x-forwarded-proto", scheme)];
    let request = FetchRequest { method: "GET", target: "/session", headers: &headers };
    let response = fetch(core_back, &request, MAX_SESSION_BYTES, SESSION_TIMEOUT)
        .await
        .map_err(|error| SessionLookupError(format!("{error:?}")))?;
    match response.status {
        200 => {
            let user = serde_json::from_slice(&response.body);
            user.map(Some).map_err(|error| SessionLookupError(error.to_string()))
        }
        401 => Ok(None),
        status => Err(SessionLookupError(format!("status {status}"))),
    }
}
