//! What a router asks: the right to send a tenant requests.

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
use service::failure::Failure;

use super::App;
use super::input::{self, Id, Read};
use crate::keeper::NoLease;

/// 1,000 leases a call, each with every field at its longest.
pub(super) const BODY_LIMIT: usize = 256 << 10;

const MOST_LEASES: usize = 1_000;
const LONGEST_WAIT_MS: u32 = 60_000;

pub(super) async fn ask(
    State(keeper): App,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<LeaseGrant>, Failure> {
    let ask = read_ask(body).map_err(|f| *f)?;
    Ok(Json(keeper.lease(ask).await.map_err(refused)?))
}

pub(super) async fn renew(
    State(keeper): App,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<RenewResponse>, Failure> {
    let renew: RenewRequest = input::json(body, BODY_LIMIT).map_err(|f| *f)?;
    bounded(&renew.leases).map_err(|f| *f)?;
    Ok(Json(keeper.renew(&renew).map_err(refused)?))
}

pub(super) async fn release(
    State(keeper): App,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Failure> {
    let release: ReleaseRequest = input::json(body, BODY_LIMIT).map_err(|f| *f)?;
    bounded(&release.leases).map_err(|f| *f)?;
    keeper.release(&release);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn progress(State(keeper): App, Id(id): Id) -> Result<Response, Failure> {
    let steps = keeper.progress(id).map_err(super::refused)?;
    let lines = steps.map(|step| line(&step));
    let mut answer = Body::from_stream(lines).into_response();
    let kind = HeaderValue::from_static("application/x-ndjson");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(answer)
}

fn line(step: &WakeProgress) -> Result<Bytes, serde_json::Error> {
    let mut text = serde_json::to_vec(step)?;
    text.push(b'\n');
    Ok(text.into())
}

fn read_ask(body: Result<Bytes, BytesRejection>) -> Read<LeaseRequest> {
    let ask: LeaseRequest = input::json(body, super::BODY_LIMIT)?;
    if ask.wait_ms > LONGEST_WAIT_MS {
        return Err(fault("wait_ms", "must be at most 60000; ask again for longer"));
    }
    Ok(ask)
}

fn bounded(leases: &[LeaseUsage]) -> Read<()> {
    if leases.len() > MOST_LEASES {
        return Err(fault("leases", "must be at most 1000; send the rest in another call"));
    }
    Ok(())
}

fn fault(field: &str, rule: &str) -> Box<Failure> {
    let detail = format!("{field} {rule}.");
    let failure = Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_lease", detail);
    Box::new(failure.field(field, "invalid", rule))
}

pub(super) fn refused(none: NoLease) -> Failure {
    let status = StatusCode::from_u16(none.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut failure = Failure::new(status, none.code, none.detail);
    if let Some(ahead) = none.ahead {
        failure = failure.field(queue_position::FIELD, queue_position::CODE, ahead.to_string());
    }
    match none.retry_after {
        Some(wait) => failure.retry_after(wait),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const TENANT: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

    fn told(body: &serde_json::Value) -> String {
        let body = Bytes::from(body.to_string());
        read_ask(Ok(body)).map_or_else(|f| f.to_string(), |_| "taken".to_owned())
    }

    #[test]
    fn an_ask_is_read_strictly() {
        let good = serde_json::json!({
            "tenant": TENANT, "holder": Uuid::nil(), "number": 1, "intent": "visit", "wait_ms": 60_000,
        });
        let with = |key: &str, value: serde_json::Value| {
            let mut ask = good.clone();
            ask[key] = value;
            told(&ask)
        };
        let table = [
            told(&good),
            with("wait_ms", 60_001.into()),
            with("intent", "maybe".into()),
            with("tenant", "acme".into()),
            with("priority", 1.into()),
        ];
        insta::assert_snapshot!(table.join("\n"), @r"
        taken
        invalid_lease: wait_ms must be at most 60000; ask again for longer.
        invalid_body: unknown variant `maybe`, expected `visit` or `background` at line 1 column 124
        invalid_body: UUID parsing failed: invalid character: found `m` at 2 at line 1 column 16
        invalid_body: unknown field `priority`, expected one of `tenant`, `holder`, `number`, `intent`, `wait_ms` at line 1 column 151
        ");
    }

    #[test]
    fn a_place_in_the_queue_is_told_in_a_field_of_its_own() {
        let none = |ahead| NoLease {
            status: 503,
            code: "waking",
            detail: "It is being woken.".to_owned(),
            retry_after: None,
            ahead,
        };
        for ahead in [None, Some(0), Some(7)] {
            let told = queue_position::told(&refused(none(ahead)).problem);
            assert_eq!(told, ahead.map(|ahead| u32::try_from(ahead).unwrap()));
        }
    }

    #[test]
    fn the_longest_batch_that_is_allowed_fits_into_a_body() {
        let used = LeaseUsage {
            tenant: TENANT.parse().unwrap(),
            number: u64::MAX,
            idle_ms: u32::MAX,
            requests: u32::MAX,
            streams: u32::MAX,
            first_byte_ms: Some(u32::MAX),
        };
        let mut renew =
            RenewRequest { holder: Uuid::nil(), leases: vec![used.clone(); MOST_LEASES] };
        assert!(serde_json::to_vec(&renew).unwrap().len() <= BODY_LIMIT);
        assert!(bounded(&renew.leases).is_ok());
        renew.leases.push(used);
        assert!(bounded(&renew.leases).is_err());
    }
}
