//! The middleware in front of every route that is not public, and the extractors of what it found out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::RequestExt as _;
use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::header::UPGRADE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use protocol::problem::Code;
use service::api_error::ApiError;

use super::authority::{
    self, Authenticated, AuthorizedTenant, PathTenant, refused, unauthenticated,
};
use super::principal::{Access, AccessError, Person, Principal};
use crate::app::App;
use crate::auth::throttle::Attempt;
use crate::db::user::User;
use crate::http::extract::path_part;
use crate::http::request_body::{self, Bounds};
use crate::route::Surface;
use crate::sessions;

/// The name of the path parameter that holds a tenant's slug.
pub const SLUG: &str = "slug";
/// How often the caller of a streaming response is checked again: a revocation ends the stream within a second.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);
/// An upload of at most this size may lie in memory beside any number of others.
const SMALL_UPLOAD_BYTES: u64 = 1 << 20;
const UPLOAD_RETRY_DELAY: Duration = Duration::from_secs(5);
const _: () =
    assert!(RECHECK_INTERVAL.as_millis() * 2 <= 1_000, "docs/api-keys.md: within a second");

/// The access of one route.
#[derive(Clone)]
pub struct Rule {
    pub app: App,
    pub access: Access,
    pub surface: Surface,
    pub names_tenant: bool,
    pub is_revocation: bool,
}

/// The admitted caller. Only [`check`] creates this value.
#[derive(Clone, Debug)]
pub struct Caller(pub Principal);

/// The work of a connection that is upgraded: an extension of the response. The work ends when the caller loses the access,
/// and when the process stops.
#[derive(Clone)]
pub struct Tunnel(Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl Tunnel {
    pub fn new(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(work)))))
    }

    fn take(self) -> Option<BoxFuture<'static, ()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The account of an admitted caller: that of a session, or the one that a key belongs to.
#[derive(Clone, Debug)]
pub struct Account(pub User);

/// For a handler that takes long: whether the caller is still admitted, which must be asked after its last step.
#[derive(Clone)]
pub struct StillAdmitted {
    rule: Rule,
    principal: Principal,
    headers: HeaderMap,
}

impl StillAdmitted {
    /// # Errors
    /// The refusal of a caller who lost the access meanwhile.
    pub async fn check(&self) -> Result<(), ApiError> {
        let Rule { app, access, surface, .. } = &self.rule;
        let reloaded = match authority::reload_principal(app, &self.principal).await? {
            Some(reloaded) => Some(reloaded),
            // Another request may have given the session a new id meanwhile.
            None => authority::identify(app, *surface, &self.headers).await?,
        };
        let reloaded = reloaded.ok_or_else(unauthenticated)?;
        authority::admit(app, *access, &reloaded, None).await.map(drop)
    }
}

/// Middleware: lets admitted callers pass. A response that streams, and a connection that is upgraded, end when their caller
/// loses the access.
pub async fn check(State(rule): State<Rule>, mut request: Request, next: Next) -> Response {
    let Rule { app, surface, .. } = &rule;
    let tenant = if rule.names_tenant { Some(path_tenant(&mut request).await) } else { None };
    let authenticated = authority::authenticate(app, *surface, request.headers()).await;
    let Authenticated { principal, cookie } = match authenticated {
        Ok(Some(authenticated)) => authenticated,
        Ok(None) => return unauthenticated_response(*surface, request.method(), request.uri()),
        Err(error) => return error.into_response(),
    };
    let mut response = match admit(&rule, request, principal.clone(), tenant.as_ref()).await {
        // The work before an upgrade may wait for a tenant that wakes: nothing begins for a caller who lost the access meanwhile.
        Ok(request) if is_websocket(request.headers()) => tokio::select! {
            response = next.run(request) => response,
            error = access_lost(rule.clone(), principal.clone(), tenant.clone()) => error.into_response(),
        },
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal,
    };
    sessions::add_renewed_cookie(&app.addresses, &mut response, cookie);
    if let Some(tunnel) = response.extensions_mut().remove::<Tunnel>().and_then(Tunnel::take) {
        let stop = app.stop.clone();
        let lost = access_lost(rule.clone(), principal, tenant);
        tokio::spawn(async move {
            tokio::select! {
                () = tunnel => {}
                _ = lost => {}
                () = stop.cancelled() => {}
            }
        });
        return response;
    }
    let is_complete = response.body().size_hint().exact().is_some();
    if is_complete || matches!(principal, Principal::Service) {
        return response;
    }
    let lost = Box::pin(access_lost(rule, principal, tenant));
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(lost)))
}

/// Not whatever asks for an upgrade: some clients offer HTTP/2 with every request.
fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Admits the caller, and passes what was found on with the request. The rights that count are those after the last
/// byte of the body: a caller who loses them while a slow body arrives changes nothing. Who is refused already sends no
/// body.
async fn admit(
    rule: &Rule,
    request: Request,
    principal: Principal,
    tenant: Option<&PathTenant>,
) -> Result<Request, Response> {
    let Rule { app, access, surface, .. } = rule;
    let refuse = ApiError::into_response;
    count_change(rule, request.method(), &principal).map_err(refuse)?;
    let found = authority::admit(app, *access, &principal, tenant).await.map_err(refuse)?;
    let is_read_by_handler = request_body::is_streamed(request.method(), request.uri().path());
    if is_read_by_handler || request.method().is_safe() || request.body().is_end_stream() {
        return Ok(with_caller(rule, request, principal, found));
    }
    let (mut parts, body) = request.into_parts();
    let bounds = Bounds::of_path(parts.uri.path());
    let is_small = body.size_hint().exact().is_some_and(|bytes| bytes <= SMALL_UPLOAD_BYTES);
    if bounds == Bounds::Upload && !is_small {
        // Held until the request is handled: the body lies in memory so long.
        let slot =
            app.uploads.clone().try_acquire_owned().map_err(|_| refuse(too_many_uploads()))?;
        parts.extensions.insert(Arc::new(slot));
    }
    let body = request_body::read_within(body, bounds).await.map_err(refuse)?;
    let reloaded = match authority::reload_principal(app, &principal).await.map_err(refuse)? {
        Some(reloaded) => Some(reloaded),
        // Another request may have given the session a new id meanwhile.
        None => authority::identify(app, *surface, &parts.headers).await.map_err(refuse)?,
    };
    let Some(reloaded) = reloaded else {
        return Err(unauthenticated_response(*surface, &parts.method, &parts.uri));
    };
    let found = authority::admit(app, *access, &reloaded, tenant).await.map_err(refuse)?;
    Ok(with_caller(rule, Request::from_parts(parts, Body::from(body)), reloaded, found))
}

fn too_many_uploads() -> ApiError {
    let detail = "Other packages are being uploaded. Try again in some seconds.";
    ApiError::new(Code::Busy, detail).with_retry_after(UPLOAD_RETRY_DELAY)
}

fn with_caller(
    rule: &Rule,
    mut request: Request,
    principal: Principal,
    found: Option<AuthorizedTenant>,
) -> Request {
    if request_body::takes_long(request.method(), request.uri().path()) {
        let (headers, principal) = (request.headers().clone(), principal.clone());
        request.extensions_mut().insert(StillAdmitted { rule: rule.clone(), principal, headers });
    }
    request.extensions_mut().insert(Caller(principal));
    if let Some(found) = found {
        request.extensions_mut().insert(found);
    }
    request
}

/// Counts a request that changes something against its session or key, also one that is refused later.
fn count_change(rule: &Rule, method: &Method, principal: &Principal) -> Result<(), ApiError> {
    if method.is_safe() {
        return Ok(());
    }
    let credential = principal.credential_id();
    let attempt = match rule.is_revocation {
        true => Attempt::Revocation(credential),
        false => Attempt::Change(credential),
    };
    rule.app.throttle.attempt(attempt, rule.app.clock.now()).map_err(|wait| {
        let detail =
            format!("Too many changes in a short time. Try again in {} s.", wait.as_secs());
        ApiError::new(Code::RateLimited, detail).with_retry_after(wait)
    })
}

/// Resolves with the refusal when the caller is not admitted any more, or when the database cannot be read.
async fn access_lost(rule: Rule, principal: Principal, tenant: Option<PathTenant>) -> ApiError {
    let Rule { app, access, .. } = rule;
    loop {
        tokio::time::sleep(RECHECK_INTERVAL).await;
        let again = match authority::reload_principal(&app, &principal).await {
            Ok(Some(again)) => authority::admit(&app, access, &again, tenant.as_ref()).await,
            Ok(None) => Err(unauthenticated()),
            Err(error) => Err(error),
        };
        if let Err(error) = again {
            tracing::info!(caller = %principal, code = error.problem.code, "stream ended: access lost");
            return error;
        }
    }
}

async fn path_tenant(request: &mut Request) -> PathTenant {
    let params = request.extract_parts::<RawPathParams>().await;
    PathTenant(params.ok().and_then(|params| path_part(&params, SLUG).map(str::to_owned)))
}

/// The characters that end a query parameter or mean something else in it. Encoding no others keeps a long path short
/// enough for the proxies in front.
const QUERY_VALUE: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'&').add(b'+').add(b'<').add(b'>');

/// The response to an unauthenticated caller: 401 in the API, the sign-in page elsewhere.
pub fn unauthenticated_response(surface: Surface, method: &Method, uri: &Uri) -> Response {
    if surface != Surface::Page {
        return unauthenticated().into_response();
    }
    // A form sent after the end of a session is lost; the visitor continues at the list of tenants.
    let next = if method == Method::GET { uri.to_string() } else { "/admin".to_owned() };
    let next = utf8_percent_encode(&next, QUERY_VALUE);
    Redirect::to(&format!("/admin/login?next={next}")).into_response()
}

/// The surface to which a path belongs although no route matches it; `None` for a public path.
pub fn private_surface(path: &str) -> Option<Surface> {
    let is_below = |root: &str| {
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if is_below("/admin") {
        Some(Surface::Page)
    } else if crate::route::API_PREFIXES.iter().any(|prefix| is_below(prefix)) {
        Some(Surface::Api)
    } else {
        None
    }
}

/// Refuses, on a path that no route matches, a caller who must not find out that no route matches.
///
/// # Errors
/// `invalid_key`; `forbidden` for a key of another tenant than the path names.
pub async fn deny_unknown_path(
    app: &App,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Option<Response>, ApiError> {
    let Some(surface) = private_surface(uri.path()) else { return Ok(None) };
    let Some(caller) = authority::identify(app, surface, headers).await? else {
        return Ok(Some(unauthenticated_response(surface, method, uri)));
    };
    let mut segments = uri.path().split('/').skip_while(|segment| *segment != "tenants").skip(1);
    match segments.next() {
        Some(slug) if caller.scope().excludes(slug) => Err(refused(AccessError::Forbidden)),
        Some(_) | None => Ok(None),
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(unauthenticated)
    }
}

impl<S: Sync> FromRequestParts<S> for Person {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Caller::from_request_parts(parts, state).await?.0 {
            Principal::Session(person) => Ok(person),
            Principal::Key(_) | Principal::Service => Err(refused(AccessError::Forbidden)),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Account {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?.0;
        caller.user().cloned().map(Self).ok_or_else(|| refused(AccessError::Forbidden))
    }
}

impl<S: Sync> FromRequestParts<S> for StillAdmitted {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let found = parts.extensions.get::<Self>().cloned();
        found.ok_or_else(|| ApiError::internal(anyhow::anyhow!("the route does not take long")))
    }
}

impl<S: Sync> FromRequestParts<S> for AuthorizedTenant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let found = parts.extensions.get::<Self>().cloned();
        found.ok_or_else(|| ApiError::internal(anyhow::anyhow!("the route names no tenant")))
    }
}
