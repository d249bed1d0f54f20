//! Backups of tenants in a store: a folder, or a bucket that speaks the protocol of S3.
//!
//! The schedule makes every tenant due at its times: [`rules`]. A due tenant waits until it rests, and is copied then: `worker`.
//! A backup is the archive of an [export](crate::transfer) as one object; its row has the checksum.

mod copy;
pub mod rules;
pub mod settings;
pub mod store;
mod worker;

pub use worker::run;

use protocol::backups::{Backup, BackupList, BackupState, BackupStatus};
use protocol::problem::Code;
use protocol::{TenantId, Timestamp};
use serde_json::json;
use service::api_error::ApiError;
use uuid::Uuid;

use self::rules::Retention;
use self::settings::BackupSettings;
use self::store::{ReadError, Store, StoreError};
use crate::access::Principal;
use crate::access::layer::StillAdmitted;
use crate::app::App;
use crate::audit::chain::hex;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::backup::{self, BackupRow, NewBackup};
use crate::db::{Transaction as _, audit_log};
use crate::http::paging::Window;
use crate::tenant::Tenant;
use crate::transfer;
use crate::views::time;
use crate::work::triggers::schedule::Schedule;

/// The most backups of a tenant that persons requested: no rule removes them.
const MAX_REQUESTED: i64 = 5;
/// The most problems that a status shows.
const MAX_PROBLEMS: i64 = 100;

/// The store of this installation, the schedule and the retention.
pub struct Backups {
    pub store: Store,
    pub schedule: Schedule,
    pub retention: Retention,
}

impl Backups {
    /// Does not call the store: an unreachable one may be back when it is needed.
    ///
    /// # Errors
    /// The store's settings cannot be used.
    pub fn open(settings: BackupSettings) -> anyhow::Result<Self> {
        let BackupSettings { store, schedule, retention } = settings;
        Ok(Self { store: Store::open(&store)?, schedule, retention })
    }
}

fn of(app: &App) -> Result<&Backups, ApiError> {
    app.backups.as_ref().ok_or_else(|| {
        let detail = "This installation has no store for backups.";
        ApiError::new(Code::BackupsOff, detail)
    })
}

/// The backups of a tenant, or of all tenants, those that are deleted included.
///
/// # Errors
/// `database_unavailable`.
pub async fn list(
    app: &App,
    window: Window,
    tenant: Option<&Tenant>,
) -> Result<BackupList, ApiError> {
    let tenant = tenant.map(|tenant| tenant.id);
    let mut rows = backup::list(&mut *app.conn().await?, window, tenant).await?;
    let next = window.next(&mut rows, |row| row.id);
    let now = app.clock.now();
    Ok(BackupList { backups: rows.into_iter().map(|row| view(row, now)).collect(), next })
}

/// # Errors
/// `resource_not_found`.
pub async fn show(app: &App, id: Uuid) -> Result<Backup, ApiError> {
    Ok(view(find(app, id).await?, app.clock.now()))
}

/// # Errors
/// `database_unavailable`.
pub async fn status(app: &App) -> Result<BackupStatus, ApiError> {
    let now = app.clock.now();
    let overdue_before = now - rules::OVERDUE_AFTER;
    let rows = backup::problems(&mut *app.conn().await?, overdue_before, MAX_PROBLEMS).await?;
    let next = app.backups.as_ref().and_then(|backups| backups.schedule.next_after(now));
    Ok(BackupStatus {
        enabled: app.backups.is_some(),
        next_due_at: next.map(time),
        problems: rows.into_iter().map(|row| view(row, now)).collect(),
    })
}

/// Requests a backup of a tenant, which is made once the tenant rests.
///
/// # Errors
/// `backups_off`; `tenant_importing`; `backup_limit`.
pub async fn request(app: &App, caller: &Principal, tenant: &Tenant) -> Result<Backup, ApiError> {
    of(app)?;
    let (actor, now) = (Actor::from(caller), app.clock.now());
    let new = NewBackup {
        requested_by: Some(actor.name.clone()),
        ..new_backup(Uuid::now_v7(), (tenant.id, tenant.slug.as_str()), now)
    };
    let mut conn = app.conn().await?;
    transfer::refuse_while_importing(&mut conn, tenant).await?;
    let requested = conn.transaction(async |conn| -> Result<_, ApiError> {
        let row = backup::request(conn, &new).await?;
        if backup::count_requested(conn, tenant.id).await? > MAX_REQUESTED {
            let detail = format!(
                "The tenant has {MAX_REQUESTED} requested backups, the most that are kept. Nothing was requested."
            );
            return Err(ApiError::new(Code::BackupLimit, detail));
        }
        let entry = Entry::new(actor.clone(), Action::BackupRequest, resource(&row));
        audit_log::append(conn, &entry, now).await?;
        Ok(row)
    });
    Ok(view(requested.await?, now))
}

fn new_backup(id: Uuid, (tenant_id, slug): (Uuid, &str), due_at: Timestamp) -> NewBackup {
    NewBackup {
        id,
        tenant_id,
        slug: slug.to_owned(),
        state: BackupState::Waiting.as_str(),
        due_at,
        requested_by: None,
        not_before: due_at,
        object: format!("{slug}/{id}.tar.zst"),
    }
}

/// Deletes a backup with its archive. A backup that waits is never made.
///
/// # Errors
/// `resource_not_found`; `backup_store_unavailable`, which leaves the backup.
pub async fn delete(app: &App, caller: &Principal, id: Uuid) -> Result<(), ApiError> {
    let backups = of(app)?;
    let row = find(app, id).await?;
    delete_with_archive(app, backups, row, Actor::from(caller)).await
}

/// Deletes the object before its row: the check of the store finds a row without an object, and nothing finds an object
/// without a row.
async fn delete_with_archive(
    app: &App,
    backups: &Backups,
    mut row: BackupRow,
    actor: Actor,
) -> Result<(), ApiError> {
    loop {
        backups.store.remove(&row.object).await.map_err(unavailable)?;
        let entry = Entry::new(actor.clone(), Action::BackupDelete, resource(&row))
            .before(json!({ "taken_at": row.taken_at.map(time), "bytes": row.bytes }));
        let now = app.clock.now();
        let mut conn = app.conn().await?;
        let deleted = conn.transaction(async |conn| -> Result<_, ApiError> {
            let is_deleted = backup::delete(conn, &row).await?;
            if is_deleted {
                audit_log::append(conn, &entry, now).await?;
            }
            Ok(is_deleted)
        });
        if deleted.await? {
            return Ok(());
        }
        // A copy began or ended meanwhile, and there may be an object again.
        match backup::by_id(&mut conn, row.id).await? {
            Some(changed) => row = changed,
            None => return Ok(()),
        }
    }
}

/// Makes a new tenant of a backup. It stays stopped, as one that was imported.
///
/// # Errors
/// `backups_off`; `resource_not_found`; `backup_incomplete`, `backup_missing`, `backup_corrupt`; `backup_store_unavailable`; those of an
/// import.
pub async fn restore(
    app: &App,
    caller: &Principal,
    admitted: &StillAdmitted,
    id: Uuid,
    slug: &str,
) -> Result<Tenant, ApiError> {
    let backups = of(app)?;
    let row = find(app, id).await?;
    let (Some(bytes), Some(sha256)) = (row.bytes, &row.sha256) else {
        let detail = "The tenant has not been copied yet.";
        return Err(ApiError::new(Code::BackupIncomplete, detail));
    };
    let Some(found) = backups.store.size(&row.object).await.map_err(unavailable)? else {
        let states = (BackupState::Complete, BackupState::Missing);
        backup::set_state(&mut *app.conn().await?, &[row.id], states).await?;
        let detail = format!("The store does not hold {}.", row.object);
        return Err(ApiError::new(Code::BackupMissing, detail));
    };
    if i64::try_from(found).ok() != Some(bytes) {
        let detail = format!("{} has {found} bytes in the store, and had {bytes}.", row.object);
        return Err(ApiError::new(Code::BackupCorrupt, detail));
    }
    let entry = Entry::new(Actor::from(caller), Action::BackupRestore, resource(&row))
        .after(json!({ "as": slug }));
    let now = app.clock.now();
    let mut conn = app.conn().await?;
    conn.transaction(async |conn| audit_log::append(conn, &entry, now).await).await?;
    drop(conn);
    let (body, failed) = backups.store.read(&row.object, sha256).await.map_err(unavailable)?;
    let imported = transfer::import(app, caller, admitted, slug, body).await;
    imported.map_err(|error| {
        let is_corrupt = error.has_code(Code::ArchiveCorrupt);
        // The import sees a body that broke off; why it did is known here.
        match failed.take() {
            Some(ReadError::Store(error)) => unavailable(error),
            Some(ReadError::WrongChecksum) => corrupt(&row),
            None if is_corrupt => corrupt(&row),
            // The import waits for the store, not for the client.
            None if error.has_code(Code::RequestTimedOut) => {
                let detail = "The store of backups sent nothing for a minute.";
                ApiError::new(Code::BackupStoreUnavailable, detail)
            }
            None => error,
        }
    })
}

fn corrupt(row: &BackupRow) -> ApiError {
    let detail = format!("{} is not what was written there.", row.object);
    ApiError::new(Code::BackupCorrupt, detail)
}

async fn find(app: &App, id: Uuid) -> Result<BackupRow, ApiError> {
    let row = backup::by_id(&mut *app.conn().await?, id).await?;
    row.ok_or_else(|| ApiError::new(Code::ResourceNotFound, "There is no such backup."))
}

fn resource(row: &BackupRow) -> Resource {
    Resource::new("backup", format!("{}/{}", row.slug, row.id))
}

fn unavailable(error: StoreError) -> ApiError {
    let detail = "The store of backups cannot be used at the moment.";
    ApiError::new(Code::BackupStoreUnavailable, detail).with_cause(error)
}

fn view(row: BackupRow, now: Timestamp) -> Backup {
    let is_open = matches!(row.state, BackupState::Waiting | BackupState::Running);
    Backup {
        id: row.id,
        tenant: row.slug,
        tenant_id: TenantId::new(row.tenant_id),
        state: row.state,
        due_at: time(row.due_at),
        requested_by: row.requested_by,
        overdue: is_open && rules::is_overdue(row.due_at, now),
        taken_at: row.taken_at.map(time),
        current_at: row.current_at.map(time),
        bytes: row.bytes,
        sha256: row.sha256.as_deref().map(hex),
        object: row.object,
        failure: row.failure,
    }
}
