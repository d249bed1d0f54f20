//! Sign-in: an SSO token of the control plane opens one session of this tenant.

use hyper::Method;
use hyper::header::{CACHE_CONTROL, REFERRER_POLICY};
use tenant_service::response::{insert_header, see_other};
use tenant_service::{Request, RequestContext, Response};

use super::sessions::SignInError;
use super::{Back, cookie};
use crate::now;
use protocol::problem::Code;

pub(super) const PATH: &str = "/.cial/sso";

impl Back {
    /// Responds 303 to `/` with a cookie, or 401. The token reaches no log and no referrer.
    pub(super) async fn sign_in(&self, context: &RequestContext, request: &Request) -> Response {
        let mut response = match request.method() {
            // HEAD is refused as well: a preview must not use up the token.
            &Method::GET => self.use_token(context, request).await,
            _ => context.method_not_allowed("GET"),
        };
        insert_header(&mut response, REFERRER_POLICY, "no-referrer");
        insert_header(&mut response, CACHE_CONTROL, "no-store");
        response
    }

    async fn use_token(&self, context: &RequestContext, request: &Request) -> Response {
        let Some(token) = only_token(request.uri().query().unwrap_or_default()) else {
            return refuse(context, &"there is not one token in the address");
        };
        let Some(verifier) = &self.verifier else {
            return refuse(context, &"this tenant was given no key for tokens");
        };
        let verified = match verifier.verify(token, now()) {
            Ok(verified) => verified,
            Err(error) => return refuse(context, &error),
        };
        let headers = request.headers();
        match self.sessions.sign_in(verified, headers).await {
            Ok(secret) => {
                let mut response = see_other("/");
                cookie::write(&mut response, cookie::Scheme::from_headers(headers), &secret);
                response
            }
            Err(SignInError::Token(error)) => refuse(context, &error),
            Err(SignInError::Write(error)) => context.internal(&error),
        }
    }
}

/// One constant response for every reason; the log holds the reason.
fn refuse(context: &RequestContext, why: &dyn std::fmt::Display) -> Response {
    eprintln!("sso token refused: request_id={} reason={why}", context.request_id);
    context.problem(
        Code::InvalidToken,
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
    fn two_tokens_count_as_none() {
        assert_eq!(only_token("token=a.b.c"), Some("a.b.c"));
        assert_eq!(only_token("x=1&token=a"), Some("a"));
        assert_eq!(only_token("token=a&token=a"), None);
        assert_eq!(only_token("xtoken=a"), None);
        assert_eq!(only_token(""), None);
    }
}
