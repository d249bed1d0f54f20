//! Deletes tenants whose import ended without success, also when the process that imported them died.

use std::time::Duration;

use protocol::spec::Desired;
use protocol::{TenantId, Timestamp};
use serde_json::json;
use tokio::time::MissedTickBehavior;

use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::tenant::{self, OwnerRequest};
use crate::db::{QueryError, QueryResult, Transaction as _, audit_log, tenant_import};
use crate::tenant::status::OwnerAction;
use crate::tenant_actions::MAX_WRITE_ATTEMPTS;

const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long a failed import waits until nothing of its tenant is left, so that the slug is free for the next attempt.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);
const GONE_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Finds imports that no process continues, and deletes their tenants.
pub async fn run(app: &App) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = sweep(app).await {
            tracing::warn!(error = format!("{error:#}"), "sweep of imports failed");
        }
    }
}

async fn sweep(app: &App) -> anyhow::Result<()> {
    let now = app.clock.now();
    let overdue = tenant_import::overdue(&mut *app.database.conn().await?, now).await?;
    for id in overdue {
        delete(app, TenantId::new(id), Some(now)).await?;
    }
    Ok(())
}

/// Deletes the tenant of a failed import, and waits up to [`GONE_TIMEOUT`] for the end of the deletion. [`run`] repeats what fails here.
pub(super) async fn abandon(app: &App, id: TenantId) {
    if let Err(error) = delete(app, id, None).await {
        tracing::warn!(tenant = %id, error = format!("{error:#}"), "failed import not deleted yet");
        return;
    }
    let gone = async {
        loop {
            let Ok(mut conn) = app.database.conn().await else { return };
            if !matches!(tenant::by_id(&mut conn, id).await, Ok(Some(_))) {
                return;
            }
            drop(conn);
            tokio::time::sleep(GONE_CHECK_INTERVAL).await;
        }
    };
    let _ = tokio::time::timeout(GONE_TIMEOUT, gone).await;
}

/// Deletes the tenant unless its import was finished or continued meanwhile.
async fn delete(app: &App, id: TenantId, overdue_at: Option<Timestamp>) -> anyhow::Result<()> {
    for _ in 0..MAX_WRITE_ATTEMPTS {
        let mut conn = app.database.conn().await?;
        let Some(read) = tenant::by_id(&mut conn, id).await? else { return Ok(()) };
        if read.desired == Desired::Deleted {
            return Ok(());
        }
        let at = app.clock.now();
        let request = OwnerRequest { desired: Desired::Deleted, restart: false, wake: false, at };
        let status = read.status().after_action(OwnerAction::Delete, at);
        let entry = Entry::new(
            Actor::command("import"),
            Action::TenantDelete,
            Resource::tenant(&read.slug),
        )
        .changed(json!({ "desired": read.desired }), json!({ "desired": request.desired }));
        let recorded = conn.transaction(async |conn| {
            let recorded = tenant::record_request(conn, &read, request, &status).await?;
            if recorded.is_some() {
                // After the write, which waits for the end of the import that holds the row.
                if !tenant_import::may_be_abandoned(conn, read.id, overdue_at).await? {
                    return Err(QueryError::RollbackTransaction);
                }
                audit_log::append(conn, &entry, at).await?;
            }
            QueryResult::Ok(recorded.is_some())
        });
        let recorded = match recorded.await {
            Err(QueryError::RollbackTransaction) => return Ok(()),
            recorded => recorded?,
        };
        if recorded {
            tracing::info!(tenant = %id, slug = %read.slug, "tenant of a failed import deleted");
            app.reconcile.notify(id);
            return Ok(());
        }
    }
    anyhow::bail!("the tenant changes faster than this could be written")
}
