//! Sign-in: the beginning binds it to one browser, and an SSO token of the control plane ends it with one session.

use hyper::Method;
use hyper::header::{CACHE_CONTROL, HeaderValue, REFERRER_POLICY};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use protocol::headers::SIGN_IN_URL;
use protocol::sign_in::is_return_path;
use tenant_service::response::{insert_header, see_other};
use tenant_service::{Request, RequestContext, Response, site_of};

use super::sessions::{SignInError, fresh_secret};
use super::{Back, cookie};
use crate::now;
use crate::session_table::SecretHash;
use protocol::problem::Code;

/// The characters that a path is percent-encoded for, as the value of a query parameter.
const QUERY_VALUE: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'&').add(b'+');

impl Back {
    /// Responds 303 to the admin, with a cookie whose nonce the token will be bound to.
    pub(super) fn start_sign_in(&self, context: &RequestContext, request: &Request) -> Response {
        if request.method() != Method::GET {
            return context.method_not_allowed("GET");
        }
        let headers = request.headers();
        let url = headers.get(SIGN_IN_URL).map(HeaderValue::to_str);
        let (Some(Ok(url)), Some(_)) = (url, &self.verifier) else {
            let detail = "Nobody can sign in here: no admin belongs to this address.";
            return context.problem(Code::NotFound, detail);
        };
        let nonce = match fresh_secret() {
            Ok(nonce) => nonce,
            Err(error) => return context.internal(&error),
        };
        let hash = SecretHash::of(&nonce);
        let query = request.uri().query().unwrap_or_default();
        let to = only_value(query, "to").and_then(|to| percent_decode_str(to).decode_utf8().ok());
        let to = to.filter(|to| is_return_path(to)).unwrap_or("/".into());
        let to = utf8_percent_encode(&to, QUERY_VALUE);
        let (hash, site) = (hash.as_str(), site_of(headers).as_str());
        let mut response = see_other(&format!("{url}?nonce={hash}&site={site}&to={to}"));
        cookie::write_nonce(&mut response, headers, &nonce);
        response
    }

    /// Responds 303 to the path where the sign-in began, with a cookie, or 401. The token reaches no log and no
    /// referrer.
    pub(super) async fn end_sign_in(
        &self,
        context: &RequestContext,
        request: &Request,
    ) -> Response {
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
        let Some(token) = only_value(request.uri().query().unwrap_or_default(), "token") else {
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
        // Before the token is used up: who brings a stolen token must not take it from its browser.
        if !cookie::holds_nonce(headers, &verified.nonce) {
            return refuse(context, &"this browser did not begin the sign-in");
        }
        if verified.site != site_of(headers) {
            return refuse(context, &"it is for the other site of this tenant");
        }
        let nonce = verified.nonce.clone();
        let mut response = see_other(verified.to.as_deref().unwrap_or("/"));
        match self.sessions.sign_in(verified, headers).await {
            Ok(secret) => {
                cookie::write_session(&mut response, headers, &secret);
                cookie::clear_nonce(&mut response, headers, &nonce);
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
        "This link is not valid, or no longer: it works once, for one minute, and in the browser that began to sign in.",
    )
}

/// The value of a parameter that occurs once.
fn only_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut values = query.split('&').filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::only_value;

    #[test]
    fn two_values_count_as_none() {
        let token = |query| only_value(query, "token");
        assert_eq!(token("token=a.b.c"), Some("a.b.c"));
        assert_eq!(token("x=1&token=a"), Some("a"));
        assert_eq!(token("token=a&token=a"), None);
        assert_eq!(token("xtoken=a"), None);
        assert_eq!(token("tokens=a"), None);
        assert_eq!(token(""), None);
    }
}
