//! Summaries of the conversations in tenants: collected from tenants that run, or sent with a key of the tenant.
//!
//! A tenant has no way to the control plane, so the control plane fetches. What a tenant reports is not trusted: numbers,
//! ids of people that exist, and nothing about another tenant.

use std::time::Duration;

use futures_util::StreamExt as _;
use protocol::orchestrator::Phase;
use protocol::problem::{Code, FieldCode};
use protocol::summaries::{
    ConversationSummary, MAX_COUNT, MAX_SUMMARIES, SummaryList, SummaryReport,
};
use protocol::{TenantId, Timestamp};
use service::api_error::ApiError;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::app::App;
use crate::db::{self, Transaction as _, summary};
use crate::reconcile::plan::Observation;
use crate::tenant::Tenant;
use crate::validation::refused_field;

/// The time between two collections.
pub const COLLECTION_INTERVAL: Duration = Duration::from_secs(15);
/// The most summaries that the database keeps of one tenant.
pub const MAX_SUMMARIES_OF_TENANT: i64 = 100_000;
const MAX_CONCURRENT_CALLS: usize = 8;
/// The reports that one collection takes from one tenant.
const MAX_REPORTS: usize = 20;

/// Stores a summary of this tenant, in the place of an earlier one of the same person and conversation.
///
/// # Errors
/// `invalid_fields`; `database_unavailable`.
pub async fn ingest(
    app: &App,
    tenant: &Tenant,
    summary: &ConversationSummary,
) -> Result<(), ApiError> {
    for (field, count) in [("messages", summary.messages), ("tokens", summary.tokens)] {
        if count > MAX_COUNT {
            return Err(invalid(field, &format!("must be at most {MAX_COUNT}")));
        }
    }
    if !(Timestamp::UNIX_EPOCH..=app.clock.now()).contains(&summary.last_activity_at) {
        return Err(invalid("last_activity_at", "must be between 1970 and now"));
    }
    let mut conn = app.conn().await?;
    let tenant = tenant.tenant_id();
    let is_full = summary::is_full(&mut conn, tenant, MAX_SUMMARIES_OF_TENANT).await?;
    let stored = match is_full {
        true => summary::update(&mut conn, tenant, summary).await,
        false => summary::upsert(&mut conn, tenant, summary).await,
    };
    match stored {
        Ok(false) => {
            let detail = format!("A tenant has at most {MAX_SUMMARIES_OF_TENANT} summaries.");
            Err(ApiError::new(Code::InvalidFields, detail))
        }
        Err(error) if db::is_foreign_key_violation(&error) => {
            Err(invalid("user_id", "must be the id of a person"))
        }
        stored => Ok(stored.map(drop)?),
    }
}

fn invalid(field: &str, rule: &str) -> ApiError {
    refused_field(Code::InvalidFields, field, FieldCode::Invalid, format!("{field} {rule}."))
}

/// The summaries of a tenant.
///
/// # Errors
/// `database_unavailable`.
pub async fn list(app: &App, tenant: &Tenant) -> Result<SummaryList, ApiError> {
    let mut conn = app.conn().await?;
    let total = summary::total(&mut conn, tenant.tenant_id()).await?;
    let summaries = summary::latest(&mut conn, tenant.tenant_id(), MAX_SUMMARIES.into()).await?;
    Ok(SummaryList { total, summaries })
}

/// Collects from all tenants that run, again and again. Never ends.
pub async fn run(app: &App, interval: Duration) {
    let mut collections = tokio::time::interval(interval);
    collections.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        collections.tick().await;
        if let Err(error) = collect_all(app).await {
            tracing::debug!(%error, "summaries not collected");
        }
    }
}

async fn collect_all(app: &App) -> anyhow::Result<()> {
    let is_ready = |id: &TenantId| matches!(app.observed.get(*id), Observation::Present(tenant) if tenant.phase == Phase::Ready);
    let running: Vec<_> = app.observed.ids().into_iter().filter(is_ready).collect();
    if running.is_empty() {
        return Ok(());
    }
    let positions = summary::positions(&mut *app.database.conn().await?).await?;
    let collections = running.into_iter().map(|id| {
        let position = positions.get(&id).copied().unwrap_or_default();
        async move {
            if let Err(error) = collect(app, id, position).await {
                tracing::debug!(tenant = %id, %error, "summaries of a tenant not collected");
            }
        }
    });
    let collections = futures_util::stream::iter(collections);
    collections.for_each_concurrent(MAX_CONCURRENT_CALLS, |collection| collection).await;
    Ok(())
}

/// Asks until the tenant has nothing new: only then does its core close the matter.
async fn collect(app: &App, tenant: TenantId, mut position: i64) -> anyhow::Result<()> {
    for _ in 0..MAX_REPORTS {
        let report = app.orchestrator.summaries(tenant, position).await?;
        // A lower position is that of a new history in the place of a damaged one.
        if report.position == position {
            break;
        }
        store(app, tenant, &report).await?;
        position = report.position;
    }
    Ok(())
}

/// Stores a report with its position. Summaries that break a rule are left out, because the tenant would repeat them.
async fn store(app: &App, tenant: TenantId, report: &SummaryReport) -> anyhow::Result<()> {
    let (mut conn, now) = (app.database.conn().await?, app.clock.now());
    let people: Vec<Uuid> = report.summaries.iter().map(|summary| summary.user_id).collect();
    conn.transaction(async |conn| -> anyhow::Result<()> {
        let people = summary::people_among(conn, &people).await?;
        let is_full = summary::is_full(conn, tenant, MAX_SUMMARIES_OF_TENANT).await?;
        let is_kept = |summary: &&ConversationSummary| {
            people.contains(&summary.user_id) && summary.messages.max(summary.tokens) <= MAX_COUNT
        };
        let max = usize::try_from(MAX_SUMMARIES).unwrap_or(usize::MAX);
        for summary in report.summaries.iter().take(max).filter(is_kept) {
            let last_activity_at = summary.last_activity_at.clamp(Timestamp::UNIX_EPOCH, now);
            let summary = ConversationSummary { last_activity_at, ..summary.clone() };
            match is_full {
                true => summary::update(conn, tenant, &summary).await?,
                false => summary::upsert(conn, tenant, &summary).await?,
            };
        }
        Ok(summary::set_position(conn, tenant, report.position).await?)
    })
    .await
}
