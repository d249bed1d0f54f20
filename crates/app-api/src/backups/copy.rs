//! Copies one tenant into the store.

use std::pin::pin;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{StreamExt as _, stream};
use protocol::orchestrator::LastStart;
use protocol::problem::Code;
use protocol::spec::Desired;
use protocol::transfer::END_MARK;
use protocol::{TenantId, Timestamp};
use service::api_error::ApiError;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Backups;
use super::store::WriteError;
use crate::app::App;
use crate::audit::Action;
use crate::db::backup::{self, BackupRow, CopiedArchive};
use crate::db::tenant;
use crate::tenant::Tenant;
use crate::transfer::{self, DatabaseChoice};

/// How long a process that is gone keeps its claim.
pub(super) const CLAIM_LIFETIME: Duration = Duration::from_secs(60);
const RENEWAL_INTERVAL: Duration = Duration::from_secs(15);
/// The longest copy for the schedule: a visitor may wait for its end.
const COPY_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The longest copy that somebody requested.
const REQUESTED_COPY_TIMEOUT: Duration = Duration::from_secs(3 * 3_600);
/// Two replicas have two clocks, and an entry of the audit log waits for its turn: an earlier entry may be of a later change.
const CLOCK_SKEW: Duration = Duration::from_secs(30);
const BROKE_OFF: &str = "The tenant's data could not be read to their end.";
/// After so many copies in a row that broke off, the next one is made without the schema.
const MAX_WHOLE_ATTEMPTS: i32 = 3;
const SCHEMA_BROKE_OFF: &str =
    "The tenant's schema is left out: copies with it broke off three times.";
/// The actor of what happens without a person.
pub(super) const ACTOR: &str = "backup";
/// Actions that change nothing that a backup holds.
const IGNORED: &[&str] = &[
    Action::BackupRequest.as_str(),
    Action::BackupCreate.as_str(),
    Action::BackupRestore.as_str(),
    Action::BackupDelete.as_str(),
    Action::TenantExport.as_str(),
];

/// The result of an attempt to copy a tenant.
#[derive(Debug)]
pub(super) enum Outcome {
    Copied(CopiedArchive),
    /// Nothing had changed since this backup at this time.
    Unchanged(Uuid, Timestamp),
    /// The tenant has no data, or is being deleted.
    NoData,
    /// The tenant woke up before it could be copied.
    Awake,
    /// The backup was deleted meanwhile, or another process took it over.
    Lost,
}

/// Copies the tenant of a claimed backup, unless it has not changed. `row` keeps its claim.
///
/// # Errors
/// With the reason for the tenant's owner. Nothing of the archive is left in the store.
pub(super) async fn copy(
    app: &App,
    backups: &Backups,
    row: &mut BackupRow,
) -> Result<Outcome, ApiError> {
    // An earlier attempt may have left an object. An attempt that still runs cannot harm: each has a name of its own.
    backups.store.remove(&row.object).await.map_err(super::unavailable)?;
    // Before anything is read: what changes in between makes the next backup a copy again.
    let taken_at = app.clock.now();
    let found = tenant::by_id(&mut *app.conn().await?, TenantId::new(row.tenant_id)).await?;
    let Some(tenant) = found.filter(|tenant| tenant.desired != Desired::Deleted) else {
        return Ok(Outcome::NoData);
    };
    let last_start = app.orchestrator.last_start(tenant.tenant_id()).await.ok();
    let last_start = last_start.as_ref().and_then(describe_start);
    if row.requested_by.is_none()
        && let Some(earlier) =
            unchanged_since(app, &tenant, last_start.as_deref(), taken_at).await?
        && backups.store.size(&earlier.object).await.map_err(super::unavailable)?.is_some()
    {
        return Ok(Outcome::Unchanged(earlier.id, taken_at));
    }
    let object = attempt_object(row);
    let Some(begun) = backup::begin(&mut *app.conn().await?, row, &object).await? else {
        return Ok(Outcome::Lost);
    };
    *row = begun;
    write_in_time(app, backups, row, Source { tenant, last_start, taken_at }).await
}

/// A tenant as it was before its copy began.
struct Source {
    tenant: Tenant,
    last_start: Option<String>,
    taken_at: Timestamp,
}

/// Writes the archive as long as the claim holds and time is left.
async fn write_in_time(
    app: &App,
    backups: &Backups,
    row: &mut BackupRow,
    source: Source,
) -> Result<Outcome, ApiError> {
    let bound = if row.requested_by.is_some() { REQUESTED_COPY_TIMEOUT } else { COPY_TIMEOUT };
    let (ended, current) = (CancellationToken::new(), row.clone());
    let mut writing = pin!(write(app, backups, &current, source, &ended));
    let mut late = pin!(tokio::time::sleep(bound));
    let (mut is_lost, mut is_late) = (false, false);
    let copied = loop {
        tokio::select! {
            copied = &mut writing => break copied,
            () = tokio::time::sleep(RENEWAL_INTERVAL) => is_lost |= !renew(app, row).await,
            () = &mut late, if !is_late => is_late = true,
        }
        if is_lost || is_late {
            ended.cancel();
        }
    };
    if is_lost {
        // The end of the archive may have been written before the loss showed. No row names it from now on.
        if let Err(error) = backups.store.remove(&current.object).await {
            let object = &current.object;
            tracing::warn!(object, %error, "an archive without a backup is left in the store");
        }
        return Ok(Outcome::Lost);
    }
    match copied {
        Err(_) if is_late => {
            let minutes = bound.as_secs() / 60;
            let detail = format!("The copy took more than {minutes} minutes.");
            Err(ApiError::new(Code::BackupStoreUnavailable, detail))
        }
        copied => copied,
    }
}

fn attempt_object(row: &BackupRow) -> String {
    let attempt = &Uuid::new_v4().simple().to_string()[..8];
    format!("{}/{}-{}-{attempt}.tar.zst", row.slug, row.due_at.format("%Y-%m-%dT%H-%M-%SZ"), row.id)
}

/// Prolongs the claim. Returns `false` when another process holds it. While the database is unreachable this is unknown, so
/// the last write of the copy checks the claim once more.
async fn renew(app: &App, row: &mut BackupRow) -> bool {
    let until = app.clock.now() + CLAIM_LIFETIME;
    let renewed =
        async { anyhow::Ok(backup::renew(&mut *app.database.conn().await?, row, until).await?) };
    match renewed.await {
        Ok(Some(not_before)) => row.not_before = not_before,
        Ok(None) => return false,
        Err(error) => {
            tracing::warn!(backup = %row.id, error = format!("{error:#}"), "renewing a claim failed");
        }
    }
    true
}

/// `None` while the container may run on without another start.
fn describe_start(start: &LastStart) -> Option<String> {
    let at = start.at.filter(|_| start.has_ended)?;
    Some(format!("{} {}", start.container_id, at.to_rfc3339()))
}

/// Returns the latest backup, if it is whole, and neither a process of the tenant ran since nor anybody changed the tenant in the
/// control plane.
async fn unchanged_since(
    app: &App,
    tenant: &Tenant,
    last_start: Option<&str>,
    now: Timestamp,
) -> Result<Option<BackupRow>, ApiError> {
    let mut conn = app.conn().await?;
    let latest = backup::latest(&mut conn, tenant.id, now).await?;
    // A backup without the schema does not stand for a whole one.
    let Some(latest) = latest.filter(|latest| latest.failure.is_none()) else { return Ok(None) };
    let Some(taken_at) = latest.taken_at else { return Ok(None) };
    if last_start.is_none() || latest.last_start.as_deref() != last_start {
        return Ok(None);
    }
    let since = latest.current_at.map_or(taken_at, |current| current.max(taken_at)) - CLOCK_SKEW;
    let is_changed = backup::is_changed_since(&mut conn, &tenant.slug, since, IGNORED).await?;
    Ok((!is_changed).then_some(latest))
}

async fn write(
    app: &App,
    backups: &Backups,
    row: &BackupRow,
    source: Source,
    ended: &CancellationToken,
) -> Result<Outcome, ApiError> {
    let Source { tenant, last_start, taken_at } = source;
    let broke_off = row.failure.as_deref() == Some(BROKE_OFF);
    let (choice, without) = if broke_off && row.failures >= MAX_WHOLE_ATTEMPTS {
        (DatabaseChoice::LeftOut, tenant.database.as_ref().map(|_| SCHEMA_BROKE_OFF.to_owned()))
    } else {
        (DatabaseChoice::IfReadable, None)
    };
    let archive = transfer::export_by(app, None, tenant, choice);
    let Some(archive) = ended.run_until_cancelled(archive).await else {
        return Err(ApiError::new(Code::OrchestratorUnavailable, BROKE_OFF));
    };
    let mut archive = match archive {
        Ok(archive) => archive,
        Err(error) if error.has_code(Code::TenantAwake) => return Ok(Outcome::Awake),
        Err(error)
            if error.has_code(Code::TenantNotRunning) || error.has_code(Code::TenantDeleting) =>
        {
            return Ok(Outcome::NoData);
        }
        Err(error) => return Err(error),
    };
    let without = without.or(archive.take_left_out());
    let pieces = archive.into_stream().map(|piece| piece.map_err(anyhow::Error::from));
    // An archive that is given up ends with an error, so that the store deletes its parts.
    let pieces = whole(pieces.take_until(ended.cancelled()));
    let written = match backups.store.write(&row.object, pieces).await {
        Ok(written) => written,
        Err(WriteError::Store(error)) => return Err(super::unavailable(error)),
        Err(WriteError::NoRoom) => {
            let detail = "The disk of the folder of backups has less than 1 GiB left.";
            return Err(ApiError::new(Code::DiskFull, detail));
        }
        Err(WriteError::Source(error)) => {
            return Err(ApiError::new(Code::OrchestratorUnavailable, BROKE_OFF).with_cause(error));
        }
    };
    Ok(Outcome::Copied(CopiedArchive {
        taken_at,
        bytes: i64::try_from(written.bytes).map_err(ApiError::internal)?,
        sha256: written.sha256,
        last_start,
        without,
    }))
}

/// Ends with an error unless the last bytes are those of a whole archive: a stop of this process ends it in what looks like good order.
fn whole(
    pieces: impl stream::Stream<Item = anyhow::Result<Bytes>> + Send,
) -> impl stream::Stream<Item = anyhow::Result<Bytes>> + Send {
    let begin = (Box::pin(pieces), Vec::new());
    stream::try_unfold(begin, async |(mut pieces, mut end): (_, Vec<u8>)| {
        match pieces.next().await.transpose()? {
            Some(piece) => {
                end.extend_from_slice(&piece);
                let surplus = end.len().saturating_sub(END_MARK.len());
                end.drain(..surplus);
                Ok(Some((piece, (pieces, end))))
            }
            None if end == END_MARK => Ok(None),
            None => Err(anyhow::anyhow!("the archive broke off")),
        }
    })
}
