//! The decision about a request: check the route token, classify the path, look up the session user.

use std::rc::Rc;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use protocol::headers::{REQUEST_ID, REQUIRE_SIGN_IN};
use protocol::problem::Code;
use protocol::sign_in::{START_PATH, is_return_path};
use protocol::site::Site;
use proxy::{
    Action, Decision, ErrorContext, Peer, Policy, ProxyError, RequestHead, Response, Upstream,
};
use tenant_service::{RequestContext, same_origin};

use crate::exchange::{Client, EdgeExchange};
use crate::headers::{Zone, cookie_values};
use crate::isolation;
use crate::public_paths::PublicPaths;
use crate::responses;
use crate::route_token::{self, Admission, RouteToken};
use crate::routes::{self, Class};
use crate::session_user::{SessionCookie, SessionEnds, SessionLookupError, fetch_session_user};
use crate::settings::Settings;

pub(crate) struct EdgePolicy {
    route_token: Option<RouteToken>,
    proof: Option<Rc<str>>,
    core_back: Rc<Upstream>,
    core_front: Rc<Upstream>,
    platform_front: Rc<Upstream>,
    public_paths: PublicPaths,
    session_ends: Rc<SessionEnds>,
}

impl EdgePolicy {
    pub(crate) fn new(settings: Settings) -> Self {
        let upstreams = settings.upstreams;
        let core_back = Rc::new(Upstream::unix(upstreams.core_back));
        Self {
            proof: settings
                .route_token
                .as_ref()
                .map(|route_token| route_token.proof.as_str().into()),
            route_token: settings.route_token,
            public_paths: settings.public_paths,
            session_ends: Rc::new(SessionEnds::new(core_back.clone())),
            core_back,
            core_front: Rc::new(Upstream::unix(upstreams.core_front)),
            platform_front: Rc::new(Upstream::tcp(upstreams.platform_front)),
        }
    }

    fn admit(&self, head: &RequestHead<'_>) -> Option<Admission> {
        route_token::check(self.route_token.as_ref(), path_of(head.target()), head.headers())
    }

    fn upstream(&self, class: Class) -> Rc<Upstream> {
        match class {
            Class::CoreApi | Class::SignIn => self.core_back.clone(),
            Class::CoreFront => self.core_front.clone(),
            Class::Platform => self.platform_front.clone(),
        }
    }

    fn proof(&self, admission: Admission) -> Option<Rc<str>> {
        self.proof.clone().filter(|_| admission.is_trusted())
    }

    /// Forwards the request, after a session lookup where the request carries a session.
    fn forward(
        &self,
        head: &RequestHead<'_>,
        exchange: EdgeExchange,
        admission: Admission,
    ) -> Decision<EdgeExchange> {
        let is_websocket = head.is_websocket();
        let session = match session_cookie(head, exchange.site, scheme(head, admission)) {
            Ok(session) => session,
            // A sign-in would add a third cookie, and lead back here.
            Err(SeveralSessions { name }) if exchange.sign_in_path.is_some() => {
                return Decision::Ready(Action::Respond(several_sessions(&exchange, name)));
            }
            Err(SeveralSessions { .. }) => None,
        };
        let session = session.filter(|_| match exchange.class {
            Class::CoreFront | Class::Platform => true,
            // core-back identifies the user itself.
            Class::CoreApi | Class::SignIn => is_websocket,
        });
        let Some(session) = session else {
            let refusal = sign_in_first(&exchange);
            return Decision::Ready(refusal.map_or(Action::Forward(exchange), Action::Respond));
        };
        let (core_back, ends) = (self.core_back.clone(), self.session_ends.clone());
        let mut exchange = exchange;
        Decision::Pending(Box::pin(async move {
            match fetch_session_user(&core_back, &session).await {
                Ok(user) => {
                    if let (None, Some(refusal)) = (&user, sign_in_first(&exchange)) {
                        return Action::Respond(refusal);
                    }
                    if is_websocket && user.is_some() {
                        exchange.session_end = Some(Box::pin(ends.of(session)));
                    }
                    exchange.user = user;
                    Action::Forward(exchange)
                }
                Err(error) => Action::Respond(core_unreachable(&exchange, &error)),
            }
        }))
    }
}

impl Policy for EdgePolicy {
    type Exchange = EdgeExchange;

    fn decide(&self, head: &RequestHead<'_>, peer: &Peer) -> Decision<EdgeExchange> {
        let Some(admission) = self.admit(head) else {
            return Decision::Ready(Action::Respond(responses::unknown_site()));
        };
        let (request_context, proof) = (request_context(head, admission), self.proof(admission));
        let (site, target) = (site_of(head), head.target());
        let respond = |response| {
            let response = responses::complete(response, site, proof.as_deref());
            Decision::Ready(Action::Respond(response))
        };
        if target == "*" {
            // The engine accepts this target for OPTIONS only (RFC 9110 §9.3.7).
            return respond(responses::options(&request_context));
        }
        let class = match routes::classify(path_of(target)) {
            Ok(class) => class,
            Err(routes::Ambiguous) => {
                let detail = "This path can be read in more than one way. Write it plainly.";
                return respond(responses::problem(&request_context, Code::AmbiguousPath, detail));
            }
        };
        if let Some(response) =
            refuse_on_core_site(head, (site, class), admission, &request_context)
        {
            return respond(response);
        }
        if head.is_websocket() && Zone::of(class) == Zone::Core && !is_same_origin(head, admission)
        {
            let detail = "A page elsewhere cannot open a WebSocket of this tenant's core.";
            return respond(responses::problem(&request_context, Code::CrossSite, detail));
        }
        let client = if admission.is_trusted() {
            Client::DescribedByRouter
        } else {
            let address = peer.address.map(|address| address.ip().to_string());
            Client::Direct { address, host: head.text("host").map(str::to_owned) }
        };
        // Only the pages of the core half require it: sign-in and health serve clients without a session, and the API decides itself.
        let requires_user = matches!(class, Class::Platform | Class::CoreFront)
            && admission.is_trusted()
            && head.text(REQUIRE_SIGN_IN).is_some()
            && !(class == Class::Platform && self.public_paths.contains(path_of(target)));
        let (upstream, target) = (self.upstream(class), routes::rewritten(class, target));
        let exchange = EdgeExchange {
            request_context,
            class,
            site,
            upstream,
            target,
            client,
            sign_in_path: requires_user.then(|| sign_in_path(head)),
            user: None,
            session_end: None,
            proof,
        };
        self.forward(head, exchange, admission)
    }

    fn error_response(
        &self,
        error: &ProxyError,
        context: ErrorContext<'_, EdgeExchange>,
    ) -> Response {
        match context {
            // An unparsed request proves nothing, so the response must not reveal that a tenant exists.
            ErrorContext::Unparsed if self.route_token.is_some() => responses::without_body(error),
            ErrorContext::Unparsed => {
                responses::proxy_error(&RequestContext::from_lookup(|_| None), error, "client")
            }
            ErrorContext::Head(head) => match self.admit(head) {
                Some(admission) => {
                    let response =
                        responses::proxy_error(&request_context(head, admission), error, "client");
                    responses::complete(response, site_of(head), self.proof(admission).as_deref())
                }
                None => responses::unknown_site(),
            },
            ErrorContext::Exchange(exchange) => {
                let response = responses::proxy_error(
                    &exchange.request_context,
                    error,
                    &format!("{:?}", exchange.class),
                );
                exchange.complete(response)
            }
        }
    }
}

/// The response to a request that the core's site does not serve.
fn refuse_on_core_site(
    head: &RequestHead<'_>,
    (site, class): (Site, Class),
    admission: Admission,
    request_context: &RequestContext,
) -> Option<Response> {
    if site == Site::Tenant {
        return None;
    }
    let is_same_origin = is_same_origin(head, admission);
    if !isolation::admits(class, head.method(), |name| head.text(name), is_same_origin) {
        let detail = "A page of another site cannot use the core of this tenant.";
        return Some(responses::problem(request_context, Code::CrossSite, detail));
    }
    match class {
        Class::CoreApi | Class::SignIn | Class::CoreFront => None,
        Class::Platform if path_of(head.target()) == "/" => {
            Some(responses::see_other(request_context, "/.cial"))
        }
        Class::Platform => {
            let detail = "There is nothing at this address.";
            Some(responses::problem(request_context, Code::NotFound, detail))
        }
    }
}

fn site_of(head: &RequestHead<'_>) -> Site {
    Site::of_host(head.text("host").unwrap_or_default())
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// Any page may open a WebSocket with the user's cookies; only `Origin` identifies the page.
fn is_same_origin(head: &RequestHead<'_>, admission: Admission) -> bool {
    let origins = head.headers().filter(|header| header.is("origin")).map(|header| header.value);
    same_origin::is_same_origin(origins, head.text("host"), scheme(head, admission))
}

/// The scheme by which the browser reached the tenant.
fn scheme(head: &RequestHead<'_>, admission: Admission) -> &'static str {
    match head.text("x-forwarded-proto").filter(|_| admission.is_trusted()) {
        Some("https") => "https",
        Some(_) | None => "http",
    }
}

/// Identifies the request. Only the router may choose the request id.
fn request_context(head: &RequestHead<'_>, admission: Admission) -> RequestContext {
    RequestContext::from_lookup(|name| {
        head.text(name).filter(|_| name != REQUEST_ID || admission.is_trusted())
    })
}

/// A request carries two different values of the session cookie `name`: one of them was planted.
struct SeveralSessions {
    name: &'static str,
}

/// The session that a request carries.
fn session_cookie(
    head: &RequestHead<'_>,
    site: Site,
    scheme: &'static str,
) -> Result<Option<SessionCookie>, SeveralSessions> {
    let name = site.session_cookie(scheme);
    let lines = head.headers().filter(|header| header.is("cookie"));
    let mut values = lines.flat_map(|line| cookie_values(line.value, name));
    let Some(secret) = values.next() else { return Ok(None) };
    if values.any(|other| other != secret) {
        return Err(SeveralSessions { name });
    }
    Ok(Some(SessionCookie { cookie: format!("{name}={secret}"), scheme, site }))
}

/// Where a visitor signs in who then continues at this address, or at `/` where a sign-in cannot keep it.
fn sign_in_path(head: &RequestHead<'_>) -> String {
    let to = Some(head.target()).filter(|to| head.method() == "GET" && is_return_path(to));
    let to = to.unwrap_or("/");
    format!("{START_PATH}?to={}", utf8_percent_encode(to, NON_ALPHANUMERIC))
}

/// The response to a client without a session where only members are served: browsers go to sign in, and programs get 401.
fn sign_in_first(exchange: &EdgeExchange) -> Option<Response> {
    let (path, context) = (exchange.sign_in_path.as_ref()?, &exchange.request_context);
    let response = if context.is_navigation {
        responses::see_other(context, path)
    } else {
        let detail = "This tenant serves its members only. Sign in first.";
        responses::problem(context, Code::NotSignedIn, detail)
            .header("www-authenticate", format!("Cial-Session sign-in=\"{START_PATH}\""))
    };
    Some(exchange.complete(response))
}

fn several_sessions(exchange: &EdgeExchange, name: &str) -> Response {
    let detail = format!(
        "The browser sent several cookies {name}, and another site of this domain may have set one of them. \
         Delete the cookies of this address, then sign in again."
    );
    let response = responses::problem(&exchange.request_context, Code::MalformedRequest, &detail);
    exchange.complete(response)
}

fn core_unreachable(exchange: &EdgeExchange, error: &SessionLookupError) -> Response {
    eprintln!(
        "session lookup failed: request_id={} error={}",
        exchange.request_context.request_id, error.0
    );
    let detail = "The core of this tenant did not say who is signed in.";
    let response = responses::problem(&exchange.request_context, Code::CoreUnreachable, detail);
    exchange.complete(response)
}
