//! From a head to a decision: pass the gate, find the class, learn who is signed in.

use std::rc::Rc;

use protocol::headers::REQUEST_ID;
use proxy::{
    Action, Decision, ErrorContext, Peer, Policy, ProxyError, RequestHead, Response, Upstream,
};
use service::inside::{Asker, origin};

use crate::answers;
use crate::exchange::{Client, Way};
use crate::gate::{self, Guard, Pass};
use crate::headers::{Zone, session_pairs};
use crate::identity::{Unknown, ask_core};
use crate::routes::{self, Class};
use crate::settings::Settings;

pub(crate) struct EdgePolicy {
    guard: Option<Guard>,
    proof: Option<Rc<str>>,
    core_back: Rc<Upstream>,
    core_front: Rc<Upstream>,
    platform_front: Rc<Upstream>,
}

impl EdgePolicy {
    pub(crate) fn new(settings: Settings) -> Self {
        let insides = settings.insides;
        Self {
            proof: settings.guard.as_ref().map(|guard| guard.proof.as_str().into()),
            guard: settings.guard,
            core_back: Rc::new(Upstream::unix(insides.core_back)),
            core_front: Rc::new(Upstream::unix(insides.core_front)),
            platform_front: Rc::new(Upstream::tcp(insides.platform_front)),
        }
    }

    fn pass(&self, head: &RequestHead<'_>) -> Option<Pass> {
        gate::judge(self.guard.as_ref(), path_of(head.target()), head.headers())
    }

    fn upstream(&self, class: Class) -> Rc<Upstream> {
        match class {
            Class::CoreApi | Class::Sso => self.core_back.clone(),
            Class::CoreFront => self.core_front.clone(),
            Class::Platform => self.platform_front.clone(),
        }
    }

    fn proof(&self, pass: Pass) -> Option<Rc<str>> {
        self.proof.clone().filter(|_| pass.is_trusted())
    }

    /// Sends the request on its way, after core-back was asked whose session it carries.
    fn forward(&self, head: &RequestHead<'_>, way: Way, pass: Pass) -> Decision<Way> {
        let asks = match way.class {
            Class::CoreFront | Class::Platform => session_cookies(head),
            Class::CoreApi | Class::Sso => None,
        };
        let Some(cookie) = asks else { return Decision::Ready(Action::Forward(way)) };
        let scheme = scheme(head, pass);
        let (core_back, mut way) = (self.core_back.clone(), way);
        Decision::Pending(Box::pin(async move {
            match ask_core(&core_back, &cookie, scheme).await {
                Ok(user) => {
                    way.user = user;
                    Action::Forward(way)
                }
                Err(unknown) => Action::Respond(no_word_of_core(&way, &unknown)),
            }
        }))
    }
}

impl Policy for EdgePolicy {
    type Exchange = Way;

    fn decide(&self, head: &RequestHead<'_>, peer: &Peer) -> Decision<Way> {
        let answer = |answer| Decision::Ready(Action::Respond(answer));
        let Some(pass) = self.pass(head) else { return answer(answers::nothing_here()) };
        let (asker, proof) = (asker(head, pass), self.proof(pass));
        let target = head.target();
        let class = match classify(head) {
            Ok(class) => class,
            Err((code, detail)) => {
                let refusal = answers::problem(&asker, 400, code, detail);
                return answer(answers::proven(refusal, proof.as_deref()));
            }
        };
        if head.is_websocket() && Zone::of(class) == Zone::Core && !is_own(head, pass) {
            let detail = "A page elsewhere cannot open a WebSocket of this tenant's core.";
            let refusal = answers::problem(&asker, 403, "cross_site", detail);
            return answer(answers::proven(refusal, proof.as_deref()));
        }
        let client = if pass.is_trusted() {
            Client::Told
        } else {
            let address = peer.address.map(|address| address.ip().to_string());
            Client::Seen { address, host: head.text("host").map(str::to_owned) }
        };
        let (upstream, target) = (self.upstream(class), routes::rewritten(class, target));
        let way = Way { asker, class, upstream, target, client, user: None, proof };
        self.forward(head, way, pass)
    }

    fn error_response(&self, error: &ProxyError, context: ErrorContext<'_, Way>) -> Response {
        match context {
            // Nothing tells that whoever sent this may know that there is a tenant.
            ErrorContext::Unparsed if self.guard.is_some() => answers::bare(error),
            ErrorContext::Unparsed => answers::fault(&Asker::told_by(|_| None), error, "client"),
            ErrorContext::Head(head) => match self.pass(head) {
                Some(pass) => {
                    let answer = answers::fault(&asker(head, pass), error, "client");
                    answers::proven(answer, self.proof(pass).as_deref())
                }
                None => answers::nothing_here(),
            },
            ErrorContext::Exchange(way) => {
                let answer = answers::fault(&way.asker, error, &format!("{:?}", way.class));
                answers::proven(answer, way.proof.as_deref())
            }
        }
    }
}

fn classify(head: &RequestHead<'_>) -> Result<Class, (&'static str, &'static str)> {
    if !head.target().starts_with('/') {
        return Err(("malformed_target", "The address must be a path that begins with /."));
    }
    routes::classify(path_of(head.target())).map_err(|routes::Ambiguous| {
        ("ambiguous_path", "This path can be read in more than one way. Write it plainly.")
    })
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// A browser sends cookies with a WebSocket that any page opens; only the `Origin` tells whose page that is.
fn is_own(head: &RequestHead<'_>, pass: Pass) -> bool {
    let origins = head.headers().filter(|header| header.is("origin")).map(|header| header.value);
    origin::is_own(origins, head.text("host"), scheme(head, pass))
}

/// How the browser reached the tenant.
fn scheme(head: &RequestHead<'_>, pass: Pass) -> &'static str {
    match head.text("x-forwarded-proto").filter(|_| pass.is_trusted()) {
        Some("https") => "https",
        Some(_) | None => "http",
    }
}

/// Only the router's request ids are taken over.
fn asker(head: &RequestHead<'_>, pass: Pass) -> Asker {
    Asker::told_by(|name| head.text(name).filter(|_| name != REQUEST_ID || pass.is_trusted()))
}

/// What core-back is asked with, where there is a session to ask about.
fn session_cookies(head: &RequestHead<'_>) -> Option<String> {
    let lines = head.headers().filter(|header| header.is("cookie"));
    let pairs: Vec<&str> = lines.flat_map(|line| session_pairs(line.value)).collect();
    (!pairs.is_empty()).then(|| pairs.join("; "))
}

fn no_word_of_core(way: &Way, unknown: &Unknown) -> Response {
    eprintln!("request {}: who is signed in: {}", way.asker.request_id, unknown.0);
    let detail = "The core of this tenant did not say who is signed in.";
    let answer = answers::problem(&way.asker, 502, "core_unreachable", detail);
    answers::proven(answer, way.proof.as_deref())
}
