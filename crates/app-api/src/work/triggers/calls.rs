//! Calls of a trigger's webhook, whose address is the only credential. The address holds a secret that is derived from the id of
//! the trigger, so that a guess is refused without a query.

use std::net::IpAddr;

use axum::body::Bytes;
use protocol::TenantId;
use protocol::problem::Code;
use protocol::spec::Desired;
use protocol::triggers::TriggerKind;
use serde_json::Value;
use service::api_error::ApiError;
use service::keys;
use service::secret::constant_time_eq;
use uuid::Uuid;

use super::{actor_of, fire_now};
use crate::app::App;
use crate::auth::throttle::Attempt;
use crate::db::tenant;
use crate::db::tenant_executions::ExecutionRow;
use crate::db::trigger::{self, TriggerRow};
use crate::tenant::Tenant;

/// A call whose address is that of a trigger.
#[derive(Debug)]
pub struct Call {
    tenant: Tenant,
    row: TriggerRow,
}

/// The address of a trigger's webhook.
pub fn url(app: &App, trigger: Uuid) -> String {
    let token = keys::trigger_token(&app.device_key, trigger);
    format!("{}/v1/triggers/{trigger}/{token}", app.addresses.admin_origin())
}

/// Checks the address of a call. A wrong secret and a trigger that is gone get the same response.
///
/// # Errors
/// `not_found`; `rate_limited`.
pub async fn check(
    app: &App,
    client: IpAddr,
    (trigger, token): (Option<&str>, Option<&str>),
) -> Result<Call, ApiError> {
    let now = app.clock.now();
    let count = |attempt| {
        app.throttle.attempt(attempt, now).map_err(|wait: std::time::Duration| {
            let detail =
                format!("Too many calls in a short time. Try again in {} s.", wait.as_secs());
            ApiError::new(Code::RateLimited, detail).with_retry_after(wait)
        })
    };
    if let Some(id) = addressed(app, trigger, token) {
        // Before any query: calls above the limit cost the database nothing, also those of a trigger that is gone.
        count(Attempt::TriggerCall(id))?;
        if let Some(call) = find(app, id).await? {
            return Ok(call);
        }
    }
    count(Attempt::StrayCall(client))?;
    Err(ApiError::new(Code::NotFound, "There is nothing here."))
}

/// The trigger that an address names, if its secret is right.
fn addressed(app: &App, trigger: Option<&str>, token: Option<&str>) -> Option<Uuid> {
    let id = trigger?.parse::<Uuid>().ok()?;
    constant_time_eq(keys::trigger_token(&app.device_key, id), token?).then_some(id)
}

async fn find(app: &App, id: Uuid) -> Result<Option<Call>, ApiError> {
    let mut conn = app.conn().await?;
    let row = trigger::by_id(&mut conn, id).await?;
    let Some(row) = row.filter(|row| row.kind == TriggerKind::Webhook) else { return Ok(None) };
    let tenant = tenant::by_id(&mut conn, TenantId::new(row.tenant_id)).await?;
    let tenant = tenant.filter(|tenant| tenant.desired != Desired::Deleted);
    Ok(tenant.map(|tenant| Call { tenant, row }))
}

/// Fires the trigger. The body is JSON, or else a text; an empty one is null.
///
/// # Errors
/// `trigger_paused`; those of a run of its workflow.
pub async fn fire(app: &App, call: Call, body: &Bytes) -> Result<ExecutionRow, ApiError> {
    let Call { tenant, row } = call;
    let actor = actor_of(&row);
    Ok(fire_now(app, &tenant, &row, actor, value_of(body)).await?)
}

fn value_of(body: &[u8]) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    let text = || String::from_utf8_lossy(body).into_owned();
    serde_json::from_slice(body).unwrap_or_else(|_| Value::String(text()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_is_json_or_a_text() {
        for (body, expected) in [
            (&b""[..], Value::Null),
            (b"{\"a\": [1]}", json!({ "a": [1] })),
            (b"a=1&b=2", json!("a=1&b=2")),
            (b"\"quoted\"", json!("quoted")),
            (b"a\xff", json!("a\u{fffd}")),
            (b"1e999999", json!("1e999999")),
        ] {
            assert_eq!(value_of(body), expected, "{body:?}");
        }
    }
}
