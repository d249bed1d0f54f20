//! The lease protocol over HTTP, for routers.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use protocol::leases::{
    LeaseGrant, LeaseRequest, LeaseUsage, ReleaseRequest, RenewRequest, RenewResponse,
    WakeProgress, queue_position,
};
use protocol::problem::{Code, FieldCode};
use service::api_error::ApiError;

use super::input::{self, Parsed, TenantPath};
use crate::sleep::{LeaseError, SleepController};

/// Holds [`MAX_LEASES_PER_CALL`] leases with every field at its longest.
pub(super) const MAX_BODY_BYTES: usize = 256 << 10;

const MAX_LEASES_PER_CALL: usize = 1_000;
const MAX_WAIT_MS: u32 = 60_000;

pub(super) async fn request_lease(
    State(sleep): State<Arc<SleepController>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<LeaseGrant>, ApiError> {
    let request = parse_lease_request(body).map_err(|f| *f)?;
    Ok(Json(sleep.request_lease(request).await.map_err(lease_failure)?))
}

pub(super) async fn renew_leases(
    State(sleep): State<Arc<SleepController>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<RenewResponse>, ApiError> {
    let renew: RenewRequest = input::parse_json(body, MAX_BODY_BYTES).map_err(|f| *f)?;
    check_count(&renew.leases).map_err(|f| *f)?;
    Ok(Json(sleep.renew_leases(&renew).map_err(lease_failure)?))
}

pub(super) async fn release_leases(
    State(sleep): State<Arc<SleepController>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ApiError> {
    let release: ReleaseRequest = input::parse_json(body, MAX_BODY_BYTES).map_err(|f| *f)?;
    check_count(&release.leases).map_err(|f| *f)?;
    sleep.release_leases(&release);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn stream_progress(
    State(sleep): State<Arc<SleepController>>,
    TenantPath(id): TenantPath,
) -> Result<Response, ApiError> {
    let steps = sleep.wake_progress(id).map_err(super::driver_failure)?;
    let lines = steps.map(|step| to_line(&step));
    let mut response = Body::from_stream(lines).into_response();
    let content_type = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

fn to_line(step: &WakeProgress) -> Result<Bytes, serde_json::Error> {
    let mut text = serde_json::to_vec(step)?;
    text.push(b'\n');
    Ok(text.into())
}

fn parse_lease_request(body: Result<Bytes, BytesRejection>) -> Parsed<LeaseRequest> {
    let request: LeaseRequest = input::parse_json(body, super::MAX_BODY_BYTES)?;
    if request.wait_ms > MAX_WAIT_MS {
        return Err(field_error("wait_ms", "must be at most 60000; ask again for longer"));
    }
    Ok(request)
}

fn check_count(leases: &[LeaseUsage]) -> Parsed<()> {
    if leases.len() > MAX_LEASES_PER_CALL {
        return Err(field_error("leases", "must be at most 1000; send the rest in another call"));
    }
    Ok(())
}

fn field_error(field: &str, rule: &str) -> Box<ApiError> {
    let detail = format!("{field} {rule}.");
    let failure = ApiError::new(Code::InvalidLease, detail);
    Box::new(failure.with_field_error(field, FieldCode::Invalid, rule))
}

pub(super) fn lease_failure(error: LeaseError) -> ApiError {
    let mut failure = ApiError::new(error.code, error.detail);
    if let Some(position) = error.queue_position {
        failure = failure.with_field_error(
            queue_position::FIELD,
            queue_position::CODE,
            position.to_string(),
        );
    }
    match error.retry_after {
        Some(wait) => failure.with_retry_after(wait),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const TENANT: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

    fn parse(body: &serde_json::Value) -> String {
        let body = Bytes::from(body.to_string());
        parse_lease_request(Ok(body)).map_or_else(|f| f.to_string(), |_| "accepted".to_owned())
    }

    #[test]
    fn a_lease_request_is_parsed_strictly() {
        let good = serde_json::json!({
            "tenant": TENANT, "holder": Uuid::nil(), "number": 1, "intent": "visit", "wait_ms": 60_000,
        });
        let with = |key: &str, value: serde_json::Value| {
            let mut request = good.clone();
            request[key] = value;
            parse(&request)
        };
        let table = [
            parse(&good),
            with("wait_ms", 60_001.into()),
            with("intent", "maybe".into()),
            with("tenant", "acme".into()),
            with("priority", 1.into()),
        ];
        insta::assert_snapshot!(table.join("\n"), @r"
        accepted
        invalid_lease: wait_ms must be at most 60000; ask again for longer.
        invalid_body: unknown variant `maybe`, expected `visit` or `background` at line 1 column 124
        invalid_body: UUID parsing failed: invalid character: found `m` at 2 at line 1 column 16
        invalid_body: unknown field `priority`, expected one of `tenant`, `holder`, `number`, `intent`, `wait_ms` at line 1 column 151
        ");
    }

    #[test]
    fn a_queue_position_has_a_field_of_its_own() {
        let error = |queue_position| LeaseError {
            code: Code::Waking,
            detail: "It is being woken.".to_owned(),
            retry_after: None,
            queue_position,
        };
        for position in [None, Some(0), Some(7)] {
            let read = queue_position::from_problem(&lease_failure(error(position)).problem);
            assert_eq!(read, position.map(|position| u32::try_from(position).unwrap()));
        }
    }

    #[test]
    fn the_largest_allowed_batch_fits_into_a_body() {
        let used = LeaseUsage {
            tenant: TENANT.parse().unwrap(),
            number: u64::MAX,
            idle_ms: u32::MAX,
            requests: u32::MAX,
            streams: u32::MAX,
            first_byte_ms: Some(u32::MAX),
        };
        let mut renew =
            RenewRequest { holder: Uuid::nil(), leases: vec![used.clone(); MAX_LEASES_PER_CALL] };
        assert!(serde_json::to_vec(&renew).unwrap().len() <= MAX_BODY_BYTES);
        assert!(check_count(&renew.leases).is_ok());
        renew.leases.push(used);
        assert!(check_count(&renew.leases).is_err());
    }
}
