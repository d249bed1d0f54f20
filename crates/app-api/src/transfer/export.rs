//! The export of a tenant that rests, as a stream.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};
use protocol::problem::Code;
use protocol::spec::Desired;
use protocol::transfer::{CONTENT_TYPE, END_MARK};
use serde_json::json;
use service::api_error::ApiError;
use service::client::CallError;
use tenant_archive::{Compressor, DatabaseFacts, Exporter, FORMAT, Fault, Manifest, TenantFacts};
use tokio::time::timeout;

use super::dump::{Dump, DumpError, Spool};
use super::{refuse_while_importing, refused};
use crate::access::Principal;
use crate::app::{App, database_disk_full, database_unavailable};
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::{Transaction as _, audit_log};
use crate::http::describe::{Call, DescribeOutput};
use crate::tenant::Tenant;
use crate::tenant::database::{DatabaseNames, bounded_error};
use crate::tenant_actions::being_deleted;
use crate::tenant_databases::DumpRefused;
use crate::variables::{Kind, of_tenant};

/// How many times its disk limit the files of a tenant may be long, in sum. Sparse files are longer than what they take of a disk,
/// and are read in full.
const MAX_SPARSENESS: u64 = 4;

/// An archive as a response.
pub struct Archive(Response);

impl Archive {
    /// The bytes of the archive. Those of a whole one end with [`END_MARK`].
    pub fn into_stream(self) -> BodyDataStream {
        self.0.into_body().into_data_stream()
    }
}

impl IntoResponse for Archive {
    fn into_response(self) -> Response {
        self.0
    }
}

impl DescribeOutput for Archive {
    fn describe(call: &mut Call) {
        call.binary_response(CONTENT_TYPE);
    }
}

/// Streams the archive of a tenant to a person or a program.
///
/// # Errors
/// As for [`export_by`].
pub async fn export(
    app: &App,
    caller: &Principal,
    tenant: Tenant,
    database: DatabaseChoice,
) -> Result<Archive, ApiError> {
    let entry =
        Entry::new(Actor::from(caller), Action::TenantExport, Resource::tenant(&tenant.slug))
            .after(json!({ "id": tenant.id }));
    export_by(app, &entry, tenant, database).await
}

/// Streams the archive of a tenant, after `entry` was written. The tenant is not woken while its volumes are read.
///
/// # Errors
/// `tenant_schema_unreadable`, `pg_dump_unusable`; `tenant_awake`; `tenant_not_running` for a tenant that never started; `tenant_importing`;
/// `tenant_deleting`; `orchestrator_unavailable`. A failure during the stream breaks it off before [`END_MARK`].
pub async fn export_by(
    app: &App,
    entry: &Entry,
    tenant: Tenant,
    database: DatabaseChoice,
) -> Result<Archive, ApiError> {
    if tenant.desired == Desired::Deleted {
        return Err(being_deleted());
    }
    let names = match (database, &tenant.database) {
        (DatabaseChoice::Included, Some(database)) => Some(database.names(&tenant.slug)),
        (DatabaseChoice::Included, None) | (DatabaseChoice::LeftOut, _) => None,
    };
    let manifest = manifest(app, &tenant, names.as_ref())?;
    refuse_while_importing(&mut *app.conn().await?, &tenant).await?;
    // Written first: nothing leaves without an entry.
    let now = app.clock.now();
    let mut conn = app.conn().await?;
    conn.transaction(async |conn| audit_log::append(conn, entry, now).await).await?;
    drop(conn);
    let volumes = app.orchestrator.export_volumes(tenant.tenant_id()).await.map_err(unavailable)?;
    let (action, actor) = (entry.action, &entry.actor.name);
    tracing::info!(tenant = %tenant.id, slug = %tenant.slug, %action, actor, "tenant export started");
    // From here on the tenant rests, so the dump is of the same moment as the files, whenever it begins.
    let database = match names {
        Some(names) => Some(begin_dump(app, &tenant, names).await?),
        None => None,
    };
    let mut exporter = Exporter::new(&manifest).map_err(ApiError::internal)?;
    exporter.limit(tenant.limits.disk_bytes.saturating_mul(MAX_SPARSENESS));
    let writing = Writing {
        exporter,
        compressor: Compressor::new()?,
        volumes: volumes.into_data_stream(),
        database,
    };
    // A failure before the first bytes becomes a response with a reason; a later failure can only break the connection off.
    let first = next_piece(Some(writing)).await.map_err(unreadable)?;
    let rest = |(bytes, writing)| {
        let rest = stream::try_unfold(writing, next_piece);
        stream::once(async move { Ok(bytes) }).chain(rest)
    };
    let slug = tenant.slug.clone();
    let pieces = stream::iter(first).flat_map(rest).inspect(move |piece| {
        if let Err(error) = piece {
            tracing::warn!(%slug, error = format!("{error:#}"), "tenant export failed");
        }
    });
    let mut response = app.until_stop(Response::new(Body::from_stream(pieces)));
    let name = format!("attachment; filename=\"{}.tar.zst\"", tenant.slug);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::try_from(name).map_err(ApiError::internal)?,
    );
    Ok(Archive(response))
}

fn manifest(
    app: &App,
    tenant: &Tenant,
    database: Option<&DatabaseNames>,
) -> Result<Manifest, ApiError> {
    let names = |kind| -> Result<Vec<String>, ApiError> {
        Ok(of_tenant::list(app, tenant, kind)?.into_keys().collect())
    };
    Ok(Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        exported_at: app.clock.now(),
        tenant: TenantFacts {
            id: tenant.tenant_id(),
            slug: tenant.slug.clone(),
            name: tenant.name.clone(),
            limits: tenant.limits,
            policy: tenant.policy,
            app: tenant.app.as_ref().map(|app| app.slug.to_string()),
            release: tenant.app.as_ref().map(|app| app.release.clone()),
            variables: names(Kind::Env)?,
            secrets: names(Kind::Secret)?,
        },
        database: database.map(|DatabaseNames { schema, user }| DatabaseFacts {
            schema: schema.clone(),
            user: user.clone(),
        }),
    })
}

/// Whether the archive holds the tenant's schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseChoice {
    Included,
    LeftOut,
}

/// How long an export waits for the dump before its first bytes: a failure until then becomes a response with a reason. The orchestrator
/// ends an export that nobody reads for a minute.
const DUMP_HEAD_START: Duration = Duration::from_secs(30);

/// Begins the dump of a tenant that rests, and returns when it has its snapshot.
///
/// # Errors
/// `tenant_schema_unreadable`, `pg_dump_unusable`, `archive_too_large`, `database_unavailable`, `disk_full`.
async fn begin_dump(
    app: &App,
    tenant: &Tenant,
    names: DatabaseNames,
) -> Result<Database, ApiError> {
    let source = app.tenant_databases.dump_source(tenant.tenant_id(), names).await;
    let source = source.map_err(|refused| match refused {
        DumpRefused::Unreachable(error) => database_unavailable().with_cause(error),
        DumpRefused::TooManyRelations(count) => unreadable_schema(&format!(
            "it has {count} tables, views and sequences, more than may be locked at once"
        )),
    })?;
    let mut dump = Dump::start(&app.dumps, &source).map_err(dump_failed)?;
    match timeout(DUMP_HEAD_START, dump.end()).await {
        Ok(ended) => Ok(Database::Dumped(ended.map_err(dump_failed)?)),
        Err(_) if dump.has_begun() => Ok(Database::Dumping(Box::new(dump))),
        Err(_) => {
            let cause = anyhow::anyhow!("pg_dump wrote nothing for {DUMP_HEAD_START:?}");
            Err(database_unavailable().with_cause(cause))
        }
    }
}

fn dump_failed(error: DumpError) -> ApiError {
    match error {
        DumpError::NoProgram(error) => {
            let detail = format!(
                "The program pg_dump, which reads the tenant's schema, cannot be started: {error}. CIAL_PG_DUMP names it."
            );
            ApiError::new(Code::PgDumpUnusable, detail)
        }
        DumpError::Ended(text) if text.contains("server version mismatch") => {
            let text = bounded_error(&anyhow::anyhow!(text));
            let detail = format!("The program pg_dump does not fit the database server: {text}");
            ApiError::new(Code::PgDumpUnusable, detail)
        }
        // Its text is about the installation.
        DumpError::Ended(text) if text.contains("connection to server") => {
            database_unavailable().with_cause(anyhow::anyhow!(text))
        }
        DumpError::Ended(text) => unreadable_schema(&bounded_error(&anyhow::anyhow!(text))),
        DumpError::TimedOut => unreadable_schema("pg_dump took more than nine minutes"),
        DumpError::TooLarge => refused(&Fault::DatabaseTooLarge),
        DumpError::DiskFull => database_disk_full(),
        DumpError::Internal(error) => ApiError::internal(error),
    }
}

fn unreadable_schema(why: &str) -> ApiError {
    let detail = format!("pg_dump, as the tenant's role, cannot read the tenant's schema: {why}");
    ApiError::new(Code::TenantSchemaUnreadable, detail)
}

/// An archive that is being written.
struct Writing {
    exporter: Exporter,
    compressor: Compressor,
    volumes: BodyDataStream,
    /// Is taken piece by piece after the volumes.
    database: Option<Database>,
}

/// The schema of a tenant that is exported.
enum Database {
    /// pg_dump still writes: an export does not wait for it before the first bytes.
    Dumping(Box<Dump>),
    Dumped(Spool),
}

/// Returns the next bytes; `None` in the place of the state is the end.
async fn next_piece(writing: Option<Writing>) -> anyhow::Result<Option<(Bytes, Option<Writing>)>> {
    let Some(mut writing) = writing else { return Ok(None) };
    while let Some(bytes) = writing.volumes.next().await {
        writing.exporter.push_volumes(&bytes?)?;
        let piece = writing.compressor.compress(&writing.exporter.take())?;
        if !piece.is_empty() {
            return Ok(Some((piece.into(), Some(writing))));
        }
    }
    writing.exporter.end_volumes()?;
    while let Some(database) = writing.database.take() {
        let spool = match database {
            Database::Dumped(spool) => spool,
            Database::Dumping(mut dump) => {
                dump.end().await.map_err(|error| dump_failed(error).into_error())?
            }
        };
        let Some((sql, rest)) = spool.next_piece().await? else { break };
        writing.database = Some(Database::Dumped(rest));
        writing.exporter.push_sql(&sql)?;
        let piece = writing.compressor.compress(&writing.exporter.take())?;
        if !piece.is_empty() {
            return Ok(Some((piece.into(), Some(writing))));
        }
    }
    let Writing { mut exporter, mut compressor, .. } = writing;
    exporter.finish()?;
    let mut last = compressor.compress(&exporter.take())?;
    last.extend(compressor.finish()?);
    last.extend_from_slice(&END_MARK);
    Ok(Some((last.into(), None)))
}

fn unavailable(error: CallError) -> ApiError {
    if error.code() == Some(Code::TenantAwake.as_str())
        && let CallError::Refused(problem) = &error
    {
        return ApiError::new(Code::TenantAwake, &problem.detail);
    }
    if error.code() == Some(Code::NoSuchTenant.as_str()) {
        let detail = "The tenant has no data yet: it never started.";
        return ApiError::new(Code::TenantNotRunning, detail);
    }
    unreadable(error)
}

fn unreadable(error: impl Into<anyhow::Error>) -> ApiError {
    let detail = "The orchestrator cannot read the tenant's data at the moment.";
    ApiError::new(Code::OrchestratorUnavailable, detail).with_cause(error)
}
