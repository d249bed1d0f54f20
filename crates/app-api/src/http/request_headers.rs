//! Request headers that change the meaning of a call.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use protocol::problem::Code;
use service::api_error::ApiError;

/// `Idempotency-Key`, not validated.
pub struct IdempotencyKey(pub Option<String>);

/// The revisions of `If-Match`; `None` when any revision matches.
pub struct IfMatch(pub Option<Vec<i64>>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let key = parts.headers.get("idempotency-key");
        Ok(Self(key.map(|value| value.to_str().unwrap_or_default().to_owned())))
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        expected_revisions(&parts.headers).map(Self)
    }
}

/// Parses `If-Match` by RFC 9110 §13.1.1: `None` when any revision matches. A bare number counts as a strong tag.
///
/// The comparison is strong, so a weak tag and a tag that is no revision match nothing.
fn expected_revisions(headers: &HeaderMap) -> Result<Option<Vec<i64>>, ApiError> {
    let mut revisions = Vec::new();
    let lines = headers.get_all(header::IF_MATCH);
    if lines.iter().next().is_none() {
        return Ok(None);
    }
    for line in lines {
        let text = line.to_str().map_err(|_| invalid_if_match())?;
        for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            if tag == "*" {
                return Ok(None);
            }
            let (is_weak, tag) = tag.strip_prefix("W/").map_or((false, tag), |tag| (true, tag));
            let opaque = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            match opaque {
                Some(opaque) if !is_weak => revisions.extend(opaque.parse::<i64>().ok()),
                Some(_) => {}
                None if !is_weak => revisions.push(tag.parse().map_err(|_| invalid_if_match())?),
                None => return Err(invalid_if_match()),
            }
        }
    }
    Ok(Some(revisions))
}

fn invalid_if_match() -> ApiError {
    let detail = "If-Match must be the tenant's revision, like \"7\".";
    ApiError::new(Code::InvalidIfMatch, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_is_compared_strongly() {
        let parse = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::IF_MATCH, line.parse().unwrap());
            }
            expected_revisions(&headers).map_err(|failure| failure.problem.code)
        };
        for (lines, expected) in [
            (&[][..], None),
            (&["*"], None),
            (&["\"3\""], Some(vec![3])),
            (&["3"], Some(vec![3])),
            (&["\"3\", \"4\"", "\"5\""], Some(vec![3, 4, 5])),
            (&["W/\"3\""], Some(vec![])),
            (&["W/\"3\", \"4\""], Some(vec![4])),
            (&["\"abc\""], Some(vec![])),
        ] {
            assert_eq!(parse(lines), Ok(expected), "{lines:?}");
        }
        for bad in ["x", "\"3", "W/3"] {
            assert_eq!(parse(&[bad]), Err("invalid_if_match".to_owned()), "{bad}");
        }
    }
}
