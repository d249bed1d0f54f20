//! The export of a tenant that rests, as a stream.

use std::io;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};
use protocol::Slug;
use protocol::orchestrator::LastStart;
use protocol::problem::Code;
use protocol::spec::Desired;
use protocol::transfer::CONTENT_TYPE;
use serde_json::json;
use service::api_error::ApiError;
use service::client::CallError;
use tenant_archive::{DatabaseFacts, Exporter, FORMAT, Fault, Manifest, TenantFacts};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::dump::{Dump, DumpError};
use super::writing::{Database, Piece, Writing};
use super::{refuse_while_importing, refused};
use crate::access::Principal;
use crate::app::{App, database_unavailable};
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::{Transaction as _, audit_log};
use crate::http::describe::{Call, DescribeOutput};
use crate::tenant::Tenant;
use crate::tenant::database::{DatabaseNames, bounded_error};
use crate::tenant_actions::being_deleted;
use crate::tenant_databases::DumpRefused;
use crate::variables::{Kind, of_tenant};

/// The largest sum of the files' lengths, as a multiple of the tenant's disk limit. Sparse files are longer than the space that they
/// take, and are read in full.
const MAX_SPARSENESS: u64 = 4;

/// An archive as a response.
pub struct Archive {
    response: Response,
    left_out: Option<String>,
}

impl Archive {
    /// Returns the bytes of the archive. A whole archive ends with `END_MARK`.
    pub fn into_stream(self) -> BodyDataStream {
        self.response.into_body().into_data_stream()
    }

    /// Returns why the schema of the tenant's database is left out, for [`DatabaseChoice::IfReadable`].
    pub fn take_left_out(&mut self) -> Option<String> {
        self.left_out.take()
    }
}

impl IntoResponse for Archive {
    fn into_response(self) -> Response {
        self.response
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
    export_by(app, Some(&entry), tenant, database).await
}

/// Streams the archive of a tenant, after `entry` was written. The platform's own copies write their entry once they are whole. The
/// tenant is not woken while its volumes are read.
///
/// # Errors
/// `tenant_schema_unreadable`, `pg_dump_unusable`; `tenant_awake`; `tenant_not_running` for a tenant that never started; `tenant_importing`;
/// `tenant_deleting`; `orchestrator_unavailable`. A failure during the stream breaks it off before `END_MARK`.
pub async fn export_by(
    app: &App,
    entry: Option<&Entry>,
    tenant: Tenant,
    database: DatabaseChoice,
) -> Result<Archive, ApiError> {
    if tenant.desired == Desired::Deleted {
        return Err(being_deleted());
    }
    let names = match (database, &tenant.database) {
        (DatabaseChoice::LeftOut, _) | (_, None) => None,
        (_, Some(database)) => Some(database.names(&tenant.slug)),
    };
    let mut manifest = manifest(app, &tenant, names.as_ref())?;
    refuse_while_importing(&mut *app.conn().await?, &tenant).await?;
    if let Some(entry) = entry {
        // The entry comes first: no byte leaves without one.
        let (mut conn, now) = (app.conn().await?, app.clock.now());
        conn.transaction(async |conn| audit_log::append(conn, entry, now).await).await?;
    }
    let slot = app.exports.enter(tenant.tenant_id()).await?;
    let before = last_start(app, &tenant).await?;
    let volumes = app.orchestrator.export_volumes(tenant.tenant_id()).await.map_err(unavailable)?;
    let actor = entry.map(|entry| entry.actor.name.as_str());
    tracing::info!(tenant = %tenant.id, slug = %tenant.slug, actor, "tenant export started");
    let (database, left_out) = match names {
        Some(names) => dump_if(app, &tenant, names, database).await?,
        None => (None, None),
    };
    // The orchestrator keeps the tenant from waking only until all files are on their way, which may be before the dump begins.
    if database.is_some() && last_start(app, &tenant).await? != before {
        let detail = "The tenant ran before its schema could be read, so its files and its schema may not fit. Export it again.";
        return Err(ApiError::new(Code::TenantAwake, detail));
    }
    if left_out.is_some() {
        manifest.database = None;
    }
    let mut exporter = Exporter::new(&manifest).map_err(ApiError::internal)?;
    exporter.limit(tenant.limits.disk_bytes.saturating_mul(MAX_SPARSENESS));
    let writing = Writing {
        exporter,
        volumes: volumes.into_data_stream(),
        database,
        times: app.exports.times,
        slot,
    };
    let body = begin(writing, tenant.slug.clone()).await?;
    let mut response = app.until_stop(Response::new(body));
    set_headers(&mut response, &tenant)?;
    Ok(Archive { response, left_out })
}

fn set_headers(response: &mut Response, tenant: &Tenant) -> Result<(), ApiError> {
    let name = format!("attachment; filename=\"{}.tar.zst\"", tenant.slug);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::try_from(name).map_err(ApiError::internal)?,
    );
    Ok(())
}

/// Returns the last start of the tenant's container; `None` without a container.
async fn last_start(app: &App, tenant: &Tenant) -> Result<Option<LastStart>, ApiError> {
    match app.orchestrator.last_start(tenant.tenant_id()).await {
        Ok(start) => Ok(Some(start)),
        Err(error) if error.has_code(Code::NoSuchTenant) => Ok(None),
        Err(error) => Err(unreadable(error)),
    }
}

/// Returns the body when its first bytes are there.
async fn begin(writing: Writing, slug: Slug) -> Result<Body, ApiError> {
    let mut pieces = writing.start(slug);
    // A failure before the first bytes becomes a response with a reason; a later failure can only break the connection off.
    let first = pieces.recv().await;
    let first = first.ok_or_else(|| anyhow::anyhow!("an export ended without a reason"))??;
    let rest = stream::unfold(Some(pieces), async |pieces| {
        let mut pieces: mpsc::Receiver<Piece> = pieces?;
        match pieces.recv().await {
            Some(Ok(piece)) if piece.is_empty() => None,
            Some(Ok(piece)) => Some((Ok(piece), Some(pieces))),
            Some(Err(error)) => {
                let error = error.into_error();
                tracing::warn!(error = format!("{error:#}"), "tenant export failed");
                Some((Err(io::Error::other(error)), None))
            }
            None => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
        }
    });
    Ok(Body::from_stream(stream::iter([Ok(first)]).chain(rest)))
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
    /// A schema that cannot be dumped is left out, and the archive says why.
    IfReadable,
    LeftOut,
}

/// Returns the dump that has begun, or why the schema is left out.
async fn dump_if(
    app: &App,
    tenant: &Tenant,
    names: DatabaseNames,
    choice: DatabaseChoice,
) -> Result<(Option<Database>, Option<String>), ApiError> {
    const OF_SCHEMA: [Code; 4] = [
        Code::TenantSchemaUnreadable,
        Code::TenantDatabaseFull,
        Code::PgDumpUnusable,
        Code::ArchiveTooLarge,
    ];
    match begin_dump(app, tenant, names).await {
        Ok(database) => Ok((Some(database), None)),
        Err(error) => {
            let is_of_schema = OF_SCHEMA.into_iter().any(|code| error.has_code(code));
            if choice != DatabaseChoice::IfReadable || !is_of_schema {
                return Err(error);
            }
            let reason = format!("The tenant's schema is left out. {}", error.problem.detail);
            tracing::warn!(slug = %tenant.slug, error = format!("{:#}", error.into_error()), "schema left out");
            Ok((None, Some(reason)))
        }
    }
}

/// Begins the dump of a tenant that rests, and returns when it has its snapshot.
///
/// # Errors
/// `tenant_schema_unreadable`, `tenant_database_full`, `pg_dump_unusable`, `archive_too_large`, `database_unavailable`, `disk_full`.
async fn begin_dump(
    app: &App,
    tenant: &Tenant,
    names: DatabaseNames,
) -> Result<Database, ApiError> {
    if let Some(excess) = tenant.database.as_ref().and_then(|database| database.excess) {
        return Err(ApiError::new(Code::TenantDatabaseFull, excess.describe()));
    }
    let source = app.tenant_databases.dump_source(tenant.tenant_id(), names).await;
    let source = source.map_err(|refused| match refused {
        DumpRefused::Unreachable(error) => database_unavailable().with_cause(error),
        DumpRefused::TooManyRelations(count) => unreadable_schema(&format!(
            "it has {count} tables, views and sequences, more than may be locked at once"
        )),
    })?;
    let mut dump = Dump::start(&app.exports.dumps, &source).map_err(dump_failed)?;
    let head_start = app.exports.times.head_start;
    match timeout(head_start, dump.end()).await {
        Ok(ended) => Ok(Database::Dumped(ended.map_err(dump_failed)?)),
        Err(_) if dump.has_begun() => Ok(Database::Dumping(Box::new(dump))),
        Err(_) => {
            let seconds = head_start.as_secs();
            let detail = format!(
                "pg_dump has read nothing of the schema within {seconds} s: the database server is slow, or has very many objects. \
                 Without its schema the tenant can be exported: --without-database."
            );
            Err(ApiError::new(Code::DatabaseUnavailable, detail))
        }
    }
}

/// The beginnings of those errors of pg_dump that are not about the schema. Text after them may be the tenant's.
const VERSION_MISMATCH: &str = "pg_dump: error: aborting because of server version mismatch";
const NO_CONNECTION: &str = "pg_dump: error: connection to server";

pub(super) fn dump_failed(error: DumpError) -> ApiError {
    match error {
        DumpError::NoProgram(error) => {
            let detail = format!(
                "The program pg_dump, which reads the tenant's schema, cannot be started: {error}. CIAL_PG_DUMP names it."
            );
            ApiError::new(Code::PgDumpUnusable, detail)
        }
        DumpError::Ended(text) if text.starts_with(VERSION_MISMATCH) => {
            let text = bounded_error(&anyhow::anyhow!(text));
            let detail = format!("The program pg_dump does not fit the database server: {text}");
            ApiError::new(Code::PgDumpUnusable, detail)
        }
        // The text is about the installation, not the tenant.
        DumpError::Ended(text) if text.starts_with(NO_CONNECTION) => {
            database_unavailable().with_cause(anyhow::anyhow!(text))
        }
        DumpError::Ended(text) => unreadable_schema(&bounded_error(&anyhow::anyhow!(text))),
        DumpError::TimedOut => unreadable_schema("pg_dump took more than nine minutes"),
        DumpError::TooLarge => refused(&Fault::DatabaseTooLarge),
        DumpError::Killed => {
            let cause = anyhow::anyhow!("a signal ended pg_dump: memory may be short");
            database_unavailable().with_cause(cause)
        }
        DumpError::DiskFull => {
            let detail = "The disk of CIAL_STATE_DIR of app-api, on which the tenant's schema lies until it is sent, has less than 1 GiB left.";
            ApiError::new(Code::DiskFull, detail)
        }
        DumpError::Internal(error) => ApiError::internal(error),
    }
}

fn unreadable_schema(why: &str) -> ApiError {
    let detail = format!("pg_dump, as the tenant's role, cannot read the tenant's schema: {why}");
    ApiError::new(Code::TenantSchemaUnreadable, detail)
}

fn unavailable(error: CallError) -> ApiError {
    if error.has_code(Code::TenantAwake)
        && let CallError::Refused(problem) = &error
    {
        return ApiError::new(Code::TenantAwake, &problem.detail);
    }
    if error.has_code(Code::NoSuchTenant) {
        let detail = "The tenant has no data yet: it never started.";
        return ApiError::new(Code::TenantNotRunning, detail);
    }
    unreadable(error)
}

pub(super) fn unreadable(error: impl Into<anyhow::Error>) -> ApiError {
    let detail = "The orchestrator cannot read the tenant's data at the moment.";
    ApiError::new(Code::OrchestratorUnavailable, detail).with_cause(error)
}
