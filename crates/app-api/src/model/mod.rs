//! The model of the installation: an endpoint of the OpenAI API that replies in the chat of tenants whose apps say so.
//!
//! The operator sets it here. Tenants' cores call [`gateway`], which holds the endpoint's key, enforces quotas and counts tokens.
//! [`endpoint`], [`quota`], [`completion`] and [`sse`] are pure.

pub mod completion;
pub mod endpoint;
pub mod gateway;
pub mod quota;
pub mod sse;
pub mod upstream;

use protocol::model::{ModelEndpoint, ModelUsage, ModelUsageDay, SetModel};
use protocol::problem::{Code, FieldCode};
use serde_json::{Value, json};
use service::api_error::ApiError;
use service::sealing_keys::Purpose;
use url::Url;

use self::endpoint::{CheckedModel, KeyChange, is_same_server};
use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::model::{self, Endpoint};
use crate::db::{Transaction as _, audit_log};
use crate::tenant::Tenant;
use crate::validation::{FieldError, invalid_fields};
use crate::views;

/// The most days that a list of usage shows.
const MAX_LISTED_DAYS: i64 = 30;

/// # Errors
/// `resource_not_found` where none is set.
pub async fn show(app: &App) -> Result<ModelEndpoint, ApiError> {
    let found = model::endpoint(&mut *app.conn().await?).await?;
    found.map(view).ok_or_else(nothing)
}

/// Sets the endpoint, in the place of one that is set. Applies to the next reply of every tenant.
///
/// # Errors
/// `invalid_fields`.
pub async fn set(
    app: &App,
    caller: &Principal,
    wanted: &SetModel,
) -> Result<ModelEndpoint, ApiError> {
    let checked = endpoint::check(wanted, app.model.targets()).map_err(|faults| {
        let faults: Vec<_> =
            faults.into_iter().map(|(field, fault)| (field, Some(fault))).collect();
        invalid_fields(&faults)
    })?;
    let (actor, now) = (Actor::from(caller), app.clock.now());
    let mut conn = app.conn().await?;
    let set = conn
        .transaction(async |conn| -> Result<_, ApiError> {
            let before = model::endpoint(conn).await?;
            let has_new_key = matches!(checked.key, KeyChange::Replace(_));
            let after = Endpoint {
                sealed_key: seal_key(app, &checked, before.as_ref())?,
                base_url: checked.base_url,
                model: checked.model,
                system_prompt: checked.system_prompt,
                max_tokens: checked.max_tokens,
                requests_per_minute: checked.requests_per_minute,
                tokens_per_day: checked.tokens_per_day,
                updated_by: actor.name.clone(),
                updated_at: now,
            };
            let mut entry =
                Entry::new(actor, Action::ModelSet, Resource::new("model", &after.model));
            if let Some(before) = &before {
                entry = entry.before(facts(before));
            }
            let mut shown = facts(&after);
            shown["has_new_key"] = has_new_key.into();
            // The entry comes first: its lock orders changes of the endpoint.
            audit_log::append(conn, &entry.after(shown), now).await?;
            model::set_endpoint(conn, &after).await?;
            Ok(after)
        })
        .await?;
    tracing::info!(model = set.model, %caller, "model set");
    Ok(view(set))
}

/// Ends the replies of the model. Those under way go on.
///
/// # Errors
/// `resource_not_found` where none is set.
pub async fn unset(app: &App, caller: &Principal) -> Result<(), ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let found = model::endpoint(conn).await?.ok_or_else(nothing)?;
        let resource = Resource::new("model", &found.model);
        let entry = Entry::new(Actor::from(caller), Action::ModelUnset, resource);
        audit_log::append(conn, &entry.before(facts(&found)), now).await?;
        if model::delete_endpoint(conn).await? == 0 { Err(nothing()) } else { Ok(()) }
    })
    .await
}

/// A tenant's use of the model.
///
/// # Errors
/// `database_unavailable`.
pub async fn usage(app: &App, tenant: &Tenant) -> Result<ModelUsage, ApiError> {
    let mut conn = app.conn().await?;
    let endpoint = model::endpoint(&mut conn).await?;
    let days = model::usage(&mut conn, tenant.tenant_id(), MAX_LISTED_DAYS).await?;
    let today = app.clock.now().date_naive();
    let today = days.iter().find(|used| used.day == today).map(|used| used.charged_tokens);
    let day = |used: model::Usage| ModelUsageDay {
        day: used.day.to_string(),
        requests: count(used.requests),
        prompt_tokens: count(used.prompt_tokens),
        completion_tokens: count(used.completion_tokens),
    };
    Ok(ModelUsage {
        requests_per_minute: endpoint.as_ref().map(requests_per_minute),
        tokens_per_day: endpoint.as_ref().map(|endpoint| count(endpoint.tokens_per_day)),
        tokens_today: count(today.unwrap_or_default()),
        days: days.into_iter().map(day).collect(),
    })
}

/// The key of the endpoint after the change. A stored key stays at its server: whoever may set the endpoint cannot read the key,
/// and must not have it sent elsewhere.
fn seal_key(
    app: &App,
    checked: &CheckedModel,
    before: Option<&Endpoint>,
) -> Result<Option<String>, ApiError> {
    match &checked.key {
        KeyChange::Remove => Ok(None),
        KeyChange::Replace(key) => {
            Ok(Some(app.sealing.seal(&Purpose::Model, key.reveal().as_bytes())?))
        }
        KeyChange::Keep => {
            let Some((sealed, before)) = before.and_then(|b| Some((b.sealed_key.clone()?, b)))
            else {
                return Ok(None);
            };
            if is_same_server(&before.base_url, &checked.base_url) {
                return Ok(Some(sealed));
            }
            let message = "Enter the key of this server: the one that is set belongs to another. Empty: no key.";
            let error = FieldError { code: FieldCode::Required, message };
            Err(invalid_fields(&[("key", Some(error))]))
        }
    }
}

fn view(row: Endpoint) -> ModelEndpoint {
    ModelEndpoint {
        requests_per_minute: requests_per_minute(&row),
        tokens_per_day: count(row.tokens_per_day),
        base_url: row.base_url,
        model: row.model,
        has_key: row.sealed_key.is_some(),
        system_prompt: row.system_prompt,
        max_tokens: row.max_tokens.and_then(|tokens| u32::try_from(tokens).ok()),
        updated_by: row.updated_by,
        updated_at: views::time(row.updated_at),
    }
}

/// The endpoint as the audit log shows it. A path can hold a secret, and a field that is named after tokens would be masked.
fn facts(row: &Endpoint) -> Value {
    let server = Url::parse(&row.base_url).map(|url| url.origin().ascii_serialization());
    json!({
        "server": server.unwrap_or_default(),
        "model": row.model,
        "has_key": row.sealed_key.is_some(),
        "has_system_prompt": row.system_prompt.is_some(),
        "longest_reply": row.max_tokens,
        "per_minute": row.requests_per_minute,
        "per_day": row.tokens_per_day,
    })
}

fn requests_per_minute(row: &Endpoint) -> u32 {
    row.requests_per_minute.try_into().unwrap_or_default()
}

/// Postgres has signed numbers only.
fn count(stored: i64) -> u64 {
    stored.try_into().unwrap_or_default()
}

fn nothing() -> ApiError {
    ApiError::new(Code::ResourceNotFound, "No model is set.")
}
