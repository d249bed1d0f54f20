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

/// The id in `Last-Event-ID`; `None` without one.
pub struct LastEventId(pub Option<i64>);

impl<S: Sync> FromRequestParts<S> for LastEventId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        last_event_id(&parts.headers).map(Self)
    }
}

/// Parses `Last-Event-ID`; an empty one counts as absent.
fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let text = value.to_str().unwrap_or("?").trim();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().ok().filter(|id| *id >= 0).map(Some).ok_or_else(|| {
        let detail = "Last-Event-ID must be the id of an event, like 7.";
        ApiError::new(Code::InvalidLastEventId, detail)
    })
}

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
    fn the_last_event_is_a_number_or_absent() {
        let parse = |value: &'static [u8]| {
            let value = axum::http::HeaderValue::from_bytes(value).unwrap();
            let headers = HeaderMap::from_iter([("last-event-id".parse().unwrap(), value)]);
            last_event_id(&headers).map_err(|error| error.problem.code)
        };
        assert_eq!(last_event_id(&HeaderMap::new()).map_err(drop), Ok(None));
        for (value, expected) in
            [(&b""[..], None), (b" ", None), (b"0", Some(0)), (b"17", Some(17))]
        {
            assert_eq!(parse(value), Ok(expected), "{value:?}");
        }
        for value in [&b"-1"[..], b"x", b"1 2", b"9223372036854775808", b"\xff"] {
            assert_eq!(parse(value), Err("invalid_last_event_id".to_owned()), "{value:?}");
        }
    }

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
