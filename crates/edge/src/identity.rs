//! Who is signed in, in core-back's word.

use std::time::Duration;

use proxy::{FetchRequest, Upstream, fetch};
use serde::Deserialize;

const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST: usize = 16 << 10;

/// The user of a session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct User {
    pub(crate) sub: String,
    pub(crate) email: String,
}

/// core-back gave no usable answer: nobody may be taken for signed in, nor for signed out.
#[derive(Debug)]
pub(crate) struct Unknown(pub(crate) String);

/// Asks core-back whose cookies these are. `None`: nobody's.
pub(crate) async fn ask_core(
    core_back: &Upstream,
    cookie: &str,
    scheme: &str,
) -> Result<Option<User>, Unknown> {
    let headers = [("cookie", cookie), ("x-forwarded-proto", scheme)];
    let question = FetchRequest { method: "GET", target: "/session", headers: &headers };
    let reply = fetch(core_back, &question, LONGEST, PATIENCE)
        .await
        .map_err(|fault| Unknown(format!("{fault:?}")))?;
    match reply.status {
        200 => {
            let user = serde_json::from_slice(&reply.body);
            user.map(Some).map_err(|error| Unknown(error.to_string()))
        }
        401 => Ok(None),
        status => Err(Unknown(format!("status {status}"))),
    }
}
