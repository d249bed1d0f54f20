//! The export of a tenant that rests, as a stream.

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
use tenant_archive::{Compressor, Exporter, FORMAT, Manifest, TenantFacts};

use super::refuse_while_importing;
use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::{Transaction as _, audit_log, tenant_database};
use crate::http::describe::{Call, DescribeOutput};
use crate::tenant::Tenant;
use crate::tenant_actions::being_deleted;
use crate::variables::{Kind, of_tenant};
use crate::work::packages;

/// How many times its disk limit the files of a tenant may be long, in sum. Sparse files are longer than what they take of a disk,
/// and are read in full.
const MAX_SPARSENESS: u64 = 4;

/// An archive as a response.
pub struct Archive(Response);

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

/// Streams the archive of a tenant. The tenant is not woken while its volumes are read.
///
/// # Errors
/// `tenant_schema_left_out`; `tenant_awake`; `tenant_not_running` for a tenant that never started; `tenant_importing`; `tenant_deleting`;
/// `orchestrator_unavailable`. A failure during the stream breaks it off before [`END_MARK`].
pub async fn export(
    app: &App,
    caller: &Principal,
    tenant: Tenant,
    database: DatabaseChoice,
) -> Result<Archive, ApiError> {
    if tenant.desired == Desired::Deleted {
        return Err(being_deleted());
    }
    let manifest = manifest(app, &tenant)?;
    refuse_while_importing(&mut *app.conn().await?, &tenant).await?;
    if database == DatabaseChoice::MustBeEmpty {
        refuse_lost(app, &tenant).await?;
    }
    // Written first: nothing leaves without an entry.
    let entry =
        Entry::new(Actor::from(caller), Action::TenantExport, Resource::tenant(&tenant.slug))
            .after(json!({ "id": tenant.id }));
    let now = app.clock.now();
    let mut conn = app.conn().await?;
    conn.transaction(async |conn| audit_log::append(conn, &entry, now).await).await?;
    drop(conn);
    let volumes = app.orchestrator.export_volumes(tenant.tenant_id()).await.map_err(unavailable)?;
    tracing::info!(tenant = %tenant.id, slug = %tenant.slug, %caller, "tenant export started");
    let mut exporter = Exporter::new(&manifest).map_err(ApiError::internal)?;
    exporter.limit(tenant.limits.disk_bytes.saturating_mul(MAX_SPARSENESS));
    let writing =
        Writing { exporter, compressor: Compressor::new()?, volumes: volumes.into_data_stream() };
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

fn manifest(app: &App, tenant: &Tenant) -> Result<Manifest, ApiError> {
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
    })
}

/// Whether a tenant is exported although its schema holds something, which no archive does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseChoice {
    MustBeEmpty,
    LeftOut,
}

/// The names that a refusal shows.
const MAX_NAMES: i64 = 10;

/// Holds no connection while it waits for one of the tenant's work places: others hold such a place and wait for a connection.
///
/// # Errors
/// `tenant_schema_left_out`, with names.
async fn refuse_lost(app: &App, tenant: &Tenant) -> Result<(), ApiError> {
    let Some(database) = &tenant.database else { return Ok(()) };
    let schema = database.names(&tenant.slug).schema;
    let own = tenant_database::own_objects(&mut *app.conn().await?, &schema, MAX_NAMES).await;
    let mut names = own?;
    let packages = packages::list(app, tenant).await?;
    names.extend(packages.iter().map(|package| format!("package {}", package.name)));
    if names.is_empty() {
        return Ok(());
    }
    names.truncate(usize::try_from(MAX_NAMES).unwrap_or_default());
    let detail = format!(
        "An export holds no database, and the tenant's schema holds {}. Save it by pg_dump, then export without the database.",
        names.join(", ")
    );
    Err(ApiError::new(Code::TenantSchemaLeftOut, detail))
}

/// An archive that is being written.
struct Writing {
    exporter: Exporter,
    compressor: Compressor,
    volumes: BodyDataStream,
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
    let Writing { mut exporter, mut compressor, .. } = writing;
    exporter.end_volumes()?;
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
