//! The decision about a request: check the route token, classify the path, look up the session user.

use std::rc::Rc;

use protocol::headers::REQUEST_ID;
use protocol::problem::Code;
use proxy::{
    Action, Decision, ErrorContext, Peer, Policy, ProxyError, RequestHead, Response, Upstream,
};
use tenant_service::{RequestContext, same_origin};

use crate::exchange::{Client, EdgeExchange};
use crate::headers::{Zone, session_pairs};
use crate::responses;
use crate::route_token::{self, Admission, RouteToken};
use crate::routes::{self, Class};
use crate::session_user::{SessionCookies, SessionEnds, SessionLookupError, fetch_session_user};
use crate::settings::Settings;

pub(crate) struct EdgePolicy {
    route_token: Option<RouteToken>,
    proof: Option<Rc<str>>,
    core_back: Rc<Upstream>,
    core_front: Rc<Upstream>,
    platform_front: Rc<Upstream>,
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
        let cookies = match exchange.class {
            Class::CoreFront | Class::Platform => session_cookies(head),
            // core-back identifies the user itself.
            Class::CoreApi | Class::SignIn => session_cookies(head).filter(|_| is_websocket),
        };
        let Some(cookie) = cookies else { return Decision::Ready(Action::Forward(exchange)) };
        let session = SessionCookies { cookie, scheme: scheme(head, admission) };
        let (core_back, ends) = (self.core_back.clone(), self.session_ends.clone());
        let mut exchange = exchange;
        Decision::Pending(Box::pin(async move {
            match fetch_session_user(&core_back, &session).await {
                Ok(user) => {
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
        let respond = |response| Decision::Ready(Action::Respond(response));
        let Some(admission) = self.admit(head) else { return respond(responses::unknown_site()) };
        let (request_context, proof) = (request_context(head, admission), self.proof(admission));
        let target = head.target();
        if target == "*" {
            // The engine accepts this target for OPTIONS only (RFC 9110 §9.3.7).
            return respond(responses::with_proof(
                responses::options(&request_context),
                proof.as_deref(),
            ));
        }
        let class = match routes::classify(path_of(target)) {
            Ok(class) => class,
            Err(routes::Ambiguous) => {
                let detail = "This path can be read in more than one way. Write it plainly.";
                let response = responses::problem(&request_context, Code::AmbiguousPath, detail);
                return respond(responses::with_proof(response, proof.as_deref()));
            }
        };
        if head.is_websocket() && Zone::of(class) == Zone::Core && !is_same_origin(head, admission)
        {
            let detail = "A page elsewhere cannot open a WebSocket of this tenant's core.";
            let response = responses::problem(&request_context, Code::CrossSite, detail);
            return respond(responses::with_proof(response, proof.as_deref()));
        }
        let client = if admission.is_trusted() {
            Client::DescribedByRouter
        } else {
            let address = peer.address.map(|address| address.ip().to_string());
            Client::Direct { address, host: head.text("host").map(str::to_owned) }
        };
        let (upstream, target) = (self.upstream(class), routes::rewritten(class, target));
        let exchange = EdgeExchange {
            request_context,
            class,
            upstream,
            target,
            client,
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
                    responses::with_proof(response, self.proof(admission).as_deref())
                }
                None => responses::unknown_site(),
            },
            ErrorContext::Exchange(exchange) => {
                let response = responses::proxy_error(
                    &exchange.request_context,
                    error,
                    &format!("{:?}", exchange.class),
                );
                responses::with_proof(response, exchange.proof.as_deref())
            }
        }
    }
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

/// The cookies for a session lookup, if the request carries a session.
fn session_cookies(head: &RequestHead<'_>) -> Option<String> {
    let lines = head.headers().filter(|header| header.is("cookie"));
    let pairs: Vec<&str> = lines.flat_map(|line| session_pairs(line.value)).collect();
    (!pairs.is_empty()).then(|| pairs.join("; "))
}

fn core_unreachable(exchange: &EdgeExchange, error: &SessionLookupError) -> Response {
    eprintln!(
        "session lookup failed: request_id={} error={}",
        exchange.request_context.request_id, error.0
    );
    let detail = "The core of this tenant did not say who is signed in.";
    let response = responses::problem(&exchange.request_context, Code::CoreUnreachable, detail);
    responses::with_proof(response, exchange.proof.as_deref())
}
