//! The way in: a token of the control plane is spent once for a session of this tenant.

use hyper::header::{CACHE_CONTROL, REFERRER_POLICY};
use hyper::{Method, StatusCode};
use tenant_service::response::{insert_header, see_other};
use tenant_service::{Request, RequestContext, Response};

use super::sessions::Ungranted;
use super::{Back, cookie};
use crate::now;

pub(super) const PATH: &str = "/.cial/sso";

impl Back {
    /// 303 to `/` with a cookie, or 401 without. The token is in no log and in no referrer.
    pub(super) async fn sign_in(&self, context: &RequestContext, request: &Request) -> Response {
        let mut answer = match request.method() {
            // HEAD too is refused: whoever looks ahead must not spend the token.
            &Method::GET => self.spend(context, request).await,
            _ => context.method_not_allowed("GET"),
        };
        insert_header(&mut answer, REFERRER_POLICY, "no-referrer");
        insert_header(&mut answer, CACHE_CONTROL, "no-store");
        answer
    }

    async fn spend(&self, context: &RequestContext, request: &Request) -> Response {
        let Some(token) = only_token(request.uri().query().unwrap_or_default()) else {
            return refuse(context, &"there is not one token in the address");
        };
        let Some(verifier) = &self.verifier else {
            return refuse(context, &"this tenant was given no key for tokens");
        };
        let granted = match verifier.verify(token, now()) {
            Ok(granted) => granted,
            Err(refused) => return refuse(context, &refused),
        };
        let headers = request.headers();
        match self.sessions.grant(granted, headers).await {
            Ok(secret) => {
                let mut answer = see_other("/");
                cookie::write(&mut answer, cookie::Scheme::of(headers), &secret);
                answer
            }
            Err(Ungranted::Spent(spent)) => refuse(context, &spent),
            Err(Ungranted::Unrecorded(error)) => context.internal(&error),
        }
    }
}

/// One constant answer for every reason; the log has the reason.
fn refuse(context: &RequestContext, why: &dyn std::fmt::Display) -> Response {
    eprintln!("request {}: token refused: {why}", context.request_id);
    context.problem(
        StatusCode::UNAUTHORIZED,
        "invalid_token",
        "This link is not valid, or no longer: it works once and for one minute. \
         Open the tenant from the admin again.",
    )
}

fn only_token(query: &str) -> Option<&str> {
    let mut tokens = query.split('&').filter_map(|pair| pair.strip_prefix("token="));
    let first = tokens.next()?;
    tokens.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::only_token;

    #[test]
    fn two_tokens_are_none() {
        assert_eq!(only_token("token=a.b.c"), Some("a.b.c"));
        assert_eq!(only_token("x=1&token=a"), Some("a"));
        assert_eq!(only_token("token=a&token=a"), None);
        assert_eq!(only_token("xtoken=a"), None);
        assert_eq!(only_token(""), None);
    }
}
