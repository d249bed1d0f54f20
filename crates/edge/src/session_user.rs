//! Looks up the signed-in user at core-back, and follows sessions that hold a WebSocket open until they end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared, WeakShared};

use protocol::headers::SITE;
use protocol::people::MemberRole;
use protocol::site::Site;
use proxy::{FetchRequest, Upstream, fetch};
use serde::Deserialize;
use tenant_service::user::{SESSION_END_PATH, SESSION_PATH};

const SESSION_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than core-back holds a request for the end of a session.
const SESSION_END_TIMEOUT: Duration = Duration::from_secs(90);
const LOOKUP_RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_SESSION_BYTES: usize = 16 << 10;

/// The session that a request carries: equal for all requests of one session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionCookie {
    /// The value of a `Cookie` header, with the one cookie that counts for this scheme and site.
    pub(crate) cookie: String,
    pub(crate) scheme: &'static str,
    pub(crate) site: Site,
}

/// The user of a session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct User {
    pub(crate) sub: String,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) role: MemberRole,
    /// Signed by the core, for the tenant's own app.
    #[serde(default)]
    pub(crate) assertion: Option<String>,
}

/// core-back gave no usable response, so the client counts neither as signed in nor as signed out.
#[derive(Debug)]
pub(crate) struct SessionLookupError(pub(crate) String);

/// Looks up the user of a session at core-back. `None`: the cookie belongs to no session.
pub(crate) async fn fetch_session_user(
    core_back: &Upstream,
    session: &SessionCookie,
) -> Result<Option<User>, SessionLookupError> {
    fetch_user(core_back, session, SESSION_PATH, SESSION_TIMEOUT).await
}

async fn fetch_user(
    core_back: &Upstream,
    session: &SessionCookie,
    target: &str,
    timeout: Duration,
) -> Result<Option<User>, SessionLookupError> {
    let headers = [
        ("cookie", &*session.cookie),
        ("x-forwarded-proto", session.scheme),
        (SITE, session.site.as_str()),
    ];
    let request = FetchRequest { method: "GET", target, headers: &headers };
    let response = fetch(core_back, &request, MAX_SESSION_BYTES, timeout)
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

type End = LocalBoxFuture<'static, ()>;

/// The ends of the sessions that hold WebSockets open. All tunnels of a session share one request to core-back.
pub(crate) struct SessionEnds {
    core_back: Rc<Upstream>,
    followed: RefCell<HashMap<SessionCookie, WeakShared<End>>>,
}

impl SessionEnds {
    pub(crate) fn new(core_back: Rc<Upstream>) -> Self {
        Self { core_back, followed: RefCell::default() }
    }

    /// Resolves when the session has ended.
    pub(crate) fn of(&self, session: SessionCookie) -> Shared<End> {
        let mut followed = self.followed.borrow_mut();
        followed.retain(|_, end| end.upgrade().is_some());
        if let Some(end) = followed.get(&session).and_then(WeakShared::upgrade) {
            return end;
        }
        let end = wait_for_end(self.core_back.clone(), session.clone()).boxed_local().shared();
        if let Some(weak) = end.downgrade() {
            followed.insert(session, weak);
        }
        end
    }
}

/// Asks core-back again and again, since each of its responses comes within a bounded time.
async fn wait_for_end(core_back: Rc<Upstream>, session: SessionCookie) {
    loop {
        match fetch_user(&core_back, &session, SESSION_END_PATH, SESSION_END_TIMEOUT).await {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => {
                eprintln!("session not followed, retrying: error={}", error.0);
                tokio::time::sleep(LOOKUP_RETRY_DELAY).await;
            }
        }
    }
}
