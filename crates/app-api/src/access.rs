//! Authorisation. A handler that needs an owner takes [`Owner`]; the route table enforces the access of every route,
//! also when a handler forgets.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use service::api_error::ApiError;

use crate::app::App;
use crate::db::session::Session;
use crate::db::user::User;
use crate::sessions::{self, Authenticated};

/// The access that a route requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Anyone,
    /// A live session of an owner.
    Owner,
}

/// The signed-in owner. Only [`require_owner`] creates this value.
#[derive(Clone, Debug)]
pub struct Owner {
    pub user: User,
    pub session: Session,
}

/// Middleware: lets owners pass. Other callers get 401 in the API and the sign-in page elsewhere.
pub async fn require_owner(State(app): State<App>, mut request: Request, next: Next) -> Response {
    match sessions::authenticate(&app, request.headers()).await {
        Ok(Some(Authenticated { session, user, cookie })) => {
            request.extensions_mut().insert(Owner { user, session });
            let mut response = next.run(request).await;
            sessions::add_renewed_cookie(&app.addresses, &mut response, cookie);
            response
        }
        Ok(None) => unauthenticated_response(request.method(), request.uri()),
        Err(failure) => failure.into_response(),
    }
}

/// The response to a caller without a session.
pub fn unauthenticated_response(method: &Method, uri: &Uri) -> Response {
    if !is_page(uri.path()) {
        return unauthenticated().into_response();
    }
    // A form sent after the end of a session is lost; the visitor continues at the list of tenants.
    let next = if method == Method::GET { uri.to_string() } else { "/admin".to_owned() };
    let next = utf8_percent_encode(&next, NON_ALPHANUMERIC);
    Redirect::to(&format!("/admin/login?next={next}")).into_response()
}

/// Whether a path belongs to owners, also when no route matches.
pub fn requires_owner(path: &str) -> bool {
    is_page(path) || path == "/api/admin" || path.starts_with("/api/admin/")
}

fn is_page(path: &str) -> bool {
    path == "/admin" || path.starts_with("/admin/")
}

/// The refusal of a request without a live session.
pub fn unauthenticated() -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthenticated", "Sign in first.")
}

impl<S: Sync> FromRequestParts<S> for Owner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(unauthenticated)
    }
}

/// Returns `next` when it is a path of this site, and the list of tenants otherwise.
pub fn safe_next(next: Option<&str>) -> &str {
    let same_site = |path: &&str| {
        path.starts_with('/')
            && !path.starts_with("//")
            // Browsers read a backslash as a slash and skip tabs and line breaks (WHATWG URL).
            && !path.contains(['\\', '\t', '\r', '\n'])
            && path.bytes().all(|b| b.is_ascii_graphic())
    };
    next.filter(same_site).unwrap_or("/admin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_stays_on_this_site() {
        for good in ["/admin", "/admin/tenants/acme?x=1#y", "/"] {
            assert_eq!(safe_next(Some(good)), good);
        }
        for bad in [
            "",
            "admin",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil",
            "https://evil.example",
            "/\t/evil.example",
            "javascript:alert(1)",
            "/a b",
            "/ü",
        ] {
            assert_eq!(safe_next(Some(bad)), "/admin", "{bad:?}");
        }
        assert_eq!(safe_next(None), "/admin");
    }
}
