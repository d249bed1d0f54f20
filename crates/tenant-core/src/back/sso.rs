//! The way in: a token of the control plane is spent once for a session of this tenant.

use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, REFERRER_POLICY};
use hyper::{Method, Request, StatusCode};
use service::inside::answer::{see_other, set};
use service::inside::{Answer, Asker};

use super::sessions::Ungranted;
use super::{Back, cookie};
use crate::now;

pub(super) const PATH: &str = "/.cial/sso";

impl Back {
    /// 303 to `/` with a cookie, or 401 without. The token is in no log and in no referrer.
    pub(super) async fn sign_in(&self, asker: &Asker, request: &Request<Incoming>) -> Answer {
        let mut answer = match request.method() {
            // HEAD too is refused: whoever looks ahead must not spend the token.
            &Method::GET => self.spend(asker, request).await,
            _ => asker.method_not_allowed("GET"),
        };
        set(&mut answer, REFERRER_POLICY, "no-referrer");
        set(&mut answer, CACHE_CONTROL, "no-store");
        answer
    }

    async fn spend(&self, asker: &Asker, request: &Request<Incoming>) -> Answer {
        let Some(token) = only_token(request.uri().query().unwrap_or_default()) else {
            return refuse(asker, &"there is not one token in the address");
        };
        let Some(verifier) = &self.verifier else {
            return refuse(asker, &"this tenant was given no key for tokens");
        };
        let granted = match verifier.verify(token, now()) {
            Ok(granted) => granted,
            Err(refused) => return refuse(asker, &refused),
        };
        let headers = request.headers();
        match self.sessions.grant(granted, headers).await {
            Ok(secret) => {
                let mut answer = see_other("/");
                cookie::write(&mut answer, cookie::Scheme::of(headers), &secret);
                answer
            }
            Err(Ungranted::Spent(spent)) => refuse(asker, &spent),
            Err(Ungranted::Unrecorded(error)) => asker.internal(&error),
        }
    }
}

/// One constant answer for every reason; the log has the reason.
fn refuse(asker: &Asker, why: &dyn std::fmt::Display) -> Answer {
    eprintln!("request {}: token refused: {why}", asker.request_id);
    asker.problem(
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
