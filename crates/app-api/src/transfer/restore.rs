//! Restores the schema of an archive, as the role of the new tenant.

use std::time::Duration;

use protocol::problem::Code;
use service::api_error::ApiError;
use tenant_archive::{DatabaseFacts, Part, Renaming, ScriptReader};
use tokio::time::timeout;

use super::import::Archive;
use super::refused;
use crate::app::{App, database_disk_full, database_unavailable};
use crate::db::tenant;
use crate::db::tenant_database::latest_version;
use crate::db::tenant_restore::{RestoreError, SchemaWriter};
use crate::tenant::Tenant;
use crate::tenant::database::bounded_error;
use crate::tenant_actions::being_deleted;

/// Bounds a whole restore. Each statement has a bound of its own, and there may be many.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(2 * 3_600);

/// Reads the rest of an archive, from the first piece of its schema on.
///
/// # Errors
/// `archive_schema` for what Postgres refuses; `archive_format`; those of the archive; `database_unavailable`, `disk_full`.
pub(super) async fn restore(
    app: &App,
    tenant: &Tenant,
    facts: &DatabaseFacts,
    first: Vec<u8>,
    archive: &mut Archive,
) -> Result<(), ApiError> {
    let tenant = provisioned(app, tenant).await?;
    let restored =
        timeout(RESTORE_TIMEOUT, write_schema(app, &tenant, facts, first, archive)).await;
    restored.unwrap_or_else(|_| Err(unrestorable("it takes more than two hours")))
}

/// Creates the schema, which the reconcile loop would create as well.
async fn provisioned(app: &App, tenant: &Tenant) -> Result<Tenant, ApiError> {
    let created = app.tenant_databases.create(tenant, app.clock.now()).await;
    created.map_err(|error| database_unavailable().with_cause(error))?;
    let read = tenant::by_id(&mut *app.conn().await?, tenant.tenant_id()).await?;
    read.ok_or_else(being_deleted)
}

async fn write_schema(
    app: &App,
    tenant: &Tenant,
    facts: &DatabaseFacts,
    first: Vec<u8>,
    archive: &mut Archive,
) -> Result<(), ApiError> {
    let Some(database) = &tenant.database else { return Err(being_deleted()) };
    let names = database.names(&tenant.slug);
    let to = DatabaseFacts { schema: names.schema, user: names.user };
    let mut reader = ScriptReader::new(Renaming { from: facts.clone(), to });
    let mut writer = app.tenant_databases.begin_restore(tenant).await.map_err(failed)?;
    let mut sql = first;
    loop {
        write_piece(&mut reader, &mut writer, &sql).await?;
        sql = match archive.next().await? {
            Some(Part::Sql(next)) => next,
            Some(Part::Manifest(_) | Part::Volumes(_)) | None => break,
        };
    }
    reader.finish().map_err(|fault| refused(&fault))?;
    let version = writer.version().await.map_err(failed)?;
    drop(writer);
    if version.is_some_and(|version| latest_version().is_ok_and(|latest| version > latest)) {
        let detail = "A later version of the product made the tables cial_… of the schema. Upgrade the server.";
        return Err(ApiError::new(Code::ArchiveFormat, detail));
    }
    app.tenant_databases.end_restore(tenant).await.map_err(|why| unrestorable(&why))
}

async fn write_piece(
    reader: &mut ScriptReader,
    writer: &mut SchemaWriter,
    sql: &[u8],
) -> Result<(), ApiError> {
    reader.push(sql);
    while let Some(item) = reader.next_item().map_err(|fault| refused(&fault))? {
        writer.write(item).await.map_err(failed)?;
    }
    Ok(())
}

fn failed(error: RestoreError) -> ApiError {
    match error {
        RestoreError::Refused(text) => unrestorable(&bounded_error(&anyhow::anyhow!(text))),
        RestoreError::DiskFull => database_disk_full(),
        RestoreError::Unavailable(error) => database_unavailable().with_cause(error),
    }
}

fn unrestorable(why: &str) -> ApiError {
    let detail =
        format!("The schema in the archive cannot be restored as the tenant's role: {why}");
    ApiError::new(Code::ArchiveSchema, detail)
}
