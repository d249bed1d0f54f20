//! The import of an archive as a new tenant, which stays stopped until somebody starts it.

use std::io;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use futures_util::{StreamExt as _, stream};
use protocol::problem::Code;
use protocol::{Slug, TenantId};
use serde_json::json;
use service::api_error::ApiError;
use service::client::CallError;
use tenant_archive::{Decompressor, Importer, Manifest, Part};
use tokio::sync::mpsc;
use tokio::time::timeout;
use uuid::Uuid;

use super::{refused, restore, sweep};
use crate::access::Principal;
use crate::access::layer::StillAdmitted;
use crate::app::App;
use crate::apps;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::tenant::{Imported, NewTenant};
use crate::db::{QueryResult, Transaction as _, audit_log, tenant, tenant_import};
use crate::tenant::Tenant;
use crate::tenant::change::{Change, Changeable};
use crate::tenant_actions::{self, being_deleted, slug_taken};
use crate::validation;

/// How long the client may send nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the rest of a refused archive is read, so that the client receives the refusal.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The bytes that are sent to the orchestrator at once.
const PIECE_BYTES: usize = 64 << 10;

/// Imports an archive as the tenant `slug`. A failure leaves nothing.
///
/// # Errors
/// `archive_corrupt`, `archive_format`, `archive_schema`, `archive_too_large`, `archive_unsafe`; `invalid_slug`, `slug_taken`; `invalid_fields` for an
/// app or a release that this installation lacks; `orchestrator_unavailable`.
pub async fn import(
    app: &App,
    caller: &Principal,
    admitted: &StillAdmitted,
    slug: &str,
    body: Body,
) -> Result<Tenant, ApiError> {
    let mut archive = Archive::new(body)?;
    let imported = match Slug::choose(slug) {
        Ok(slug) => import_archive(app, caller, admitted, &slug, &mut archive).await,
        Err(why) => Err(validation::invalid_slug(why)),
    };
    if imported.is_err() {
        archive.drain().await;
        // A caller who lost the access meanwhile learns nothing else.
        admitted.check().await?;
    }
    imported
}

async fn import_archive(
    app: &App,
    caller: &Principal,
    admitted: &StillAdmitted,
    slug: &Slug,
    archive: &mut Archive,
) -> Result<Tenant, ApiError> {
    let Some(Part::Manifest(manifest)) = archive.next().await? else {
        return Err(ApiError::new(Code::ArchiveCorrupt, "The archive has no manifest."));
    };
    admitted.check().await?;
    let tenant = create(app, caller, slug, &manifest).await?;
    // The caller may leave at any moment.
    let guard = AbandonOnDrop { app, id: Some(tenant.tenant_id()) };
    archive.importer.limit(tenant.limits.disk_bytes);
    let filled = tokio::select! {
        filled = fill(app, &tenant, &manifest, archive) => filled,
        error = keep_alive(app, &tenant) => Err(error),
    };
    let finished = match filled {
        Ok(()) => finish(app, admitted, &tenant).await,
        Err(error) => Err(error),
    };
    guard.disarm();
    if finished.is_err() {
        sweep::abandon(app, tenant.tenant_id()).await;
    }
    finished
}

/// Deletes the tenant of an import that is dropped.
struct AbandonOnDrop<'a> {
    app: &'a App,
    id: Option<TenantId>,
}

impl AbandonOnDrop<'_> {
    fn disarm(mut self) {
        self.id = None;
    }
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current()) {
            let app = self.app.clone();
            runtime.spawn(async move { sweep::abandon(&app, id).await });
        }
    }
}

/// Inserts the tenant, stopped, with the row of its import.
async fn create(
    app: &App,
    caller: &Principal,
    slug: &Slug,
    manifest: &Manifest,
) -> Result<Tenant, ApiError> {
    let facts = &manifest.tenant;
    let fields = changeable(manifest)?;
    let mut conn = app.conn().await?;
    let followed = match facts.app.as_deref() {
        None => None,
        Some(name) => Some(apps::followed(&mut conn, name, facts.release.as_deref()).await?),
    };
    let now = app.clock.now();
    let new = NewTenant {
        id: Uuid::now_v7(),
        slug,
        name: &fields.name,
        owner_id: caller.user_id(),
        followed,
        imported: Some(Imported { limits: fields.limits, policy: fields.policy }),
        now,
    };
    let entry = Entry::new(Actor::from(caller), Action::TenantImport, Resource::tenant(slug)).after(
        json!({ "id": new.id, "from": facts.slug, "of": facts.id, "app": facts.app, "release": facts.release }),
    );
    let alive_until = now + tenant_import::LIFETIME;
    let created = conn.transaction(async |conn| {
        let Some(tenant) = tenant::insert(conn, &new).await? else { return Ok(None) };
        tenant_import::begin(conn, tenant.id, alive_until).await?;
        audit_log::append(conn, &entry, now).await?;
        QueryResult::Ok(Some(tenant))
    });
    let tenant = created.await?.ok_or_else(|| slug_taken(slug))?;
    tracing::info!(tenant = %tenant.id, %slug, %caller, from = %facts.slug, "tenant import started");
    app.reconcile.notify(tenant.tenant_id());
    Ok(tenant)
}

/// The fields of a tenant that an owner could set, checked as a change of them is.
fn changeable(manifest: &Manifest) -> Result<Changeable, ApiError> {
    let facts = &manifest.tenant;
    let change = json!({ "name": facts.name, "limits": facts.limits, "policy": facts.policy });
    let change: Change = serde_json::from_value(change)?;
    let before = Changeable {
        name: String::new(),
        limits: facts.limits,
        policy: facts.policy,
        pinned: false,
    };
    change.apply_to(&before).map_err(|errors| tenant_actions::refused(&errors))
}

async fn fill(
    app: &App,
    tenant: &Tenant,
    manifest: &Manifest,
    archive: &mut Archive,
) -> Result<(), ApiError> {
    match (fill_volumes(app, tenant, archive).await?, &manifest.database) {
        (Some(sql), Some(facts)) => restore::restore(app, tenant, facts, sql, archive).await,
        (None, _) | (Some(_), None) => Ok(()),
    }
}

/// Sends the volumes to the orchestrator, and returns the first piece of the schema behind them. The orchestrator takes back what it wrote
/// when its body breaks off. Without a schema, the end of the body is the end of the whole archive, checksum included.
async fn fill_volumes(
    app: &App,
    tenant: &Tenant,
    archive: &mut Archive,
) -> Result<Option<Vec<u8>>, ApiError> {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(4);
    let pieces =
        stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    let body = Body::from_stream(pieces);
    let limit = tenant.limits.disk_bytes;
    let sent = app.orchestrator.import_volumes(tenant.tenant_id(), limit, body);
    let read = async {
        let read = send_volumes(archive, &sender).await;
        if read.is_err() {
            let _ = sender.send(Err(io::ErrorKind::InvalidData.into())).await;
        }
        drop(sender);
        read
    };
    let (read, sent) = tokio::join!(read, sent);
    let sql = read?;
    sent.map_err(unavailable)?;
    Ok(sql)
}

async fn send_volumes(
    archive: &mut Archive,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<Option<Vec<u8>>, ApiError> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let mut sql = None;
    while let Some(part) = archive.next().await? {
        let bytes = match part {
            Part::Volumes(bytes) => bytes,
            Part::Sql(first) => {
                sql = Some(first);
                break;
            }
            Part::Manifest(_) => continue,
        };
        piece.extend_from_slice(&bytes);
        if piece.len() >= PIECE_BYTES
            && sender.send(Ok(std::mem::take(&mut piece).into())).await.is_err()
        {
            // The orchestrator ended the transfer, and its response says why.
            return Ok(None);
        }
    }
    let _ = sender.send(Ok(piece.into())).await;
    Ok(sql)
}

/// Resolves when the import cannot go on.
async fn keep_alive(app: &App, tenant: &Tenant) -> ApiError {
    loop {
        tokio::time::sleep(tenant_import::RENEWAL_INTERVAL).await;
        let until = app.clock.now() + tenant_import::LIFETIME;
        let renewed =
            async { Ok(tenant_import::renew(&mut *app.conn().await?, tenant.id, until).await?) };
        match renewed.await {
            Ok(true) => {}
            Ok(false) => return being_deleted(),
            Err(error) => return error,
        }
    }
}

/// Ends the import: the tenant is like any other from here on. Refuses a caller who lost the access while the archive arrived.
async fn finish(app: &App, admitted: &StillAdmitted, tenant: &Tenant) -> Result<Tenant, ApiError> {
    admitted.check().await?;
    let mut conn = app.conn().await?;
    if !tenant_import::finish(&mut conn, tenant.id).await? {
        return Err(being_deleted());
    }
    drop(conn);
    tracing::info!(tenant = %tenant.id, slug = %tenant.slug, "tenant import finished");
    tenant_actions::read_again(app, tenant).await
}

fn unavailable(error: CallError) -> ApiError {
    if let CallError::Refused(problem) = &error
        && let Some(code @ (Code::DiskFull | Code::TenantDeleted)) = Code::parse(&problem.code)
    {
        return ApiError::new(code, &problem.detail);
    }
    let detail = "The orchestrator cannot write the tenant's data at the moment.";
    ApiError::new(Code::OrchestratorUnavailable, detail).with_cause(error)
}

/// An archive that arrives.
pub(super) struct Archive {
    body: BodyDataStream,
    decompressor: Decompressor,
    importer: Importer,
}

impl Archive {
    fn new(body: Body) -> Result<Self, ApiError> {
        let decompressor = Decompressor::new().map_err(|fault| refused(&fault))?;
        Ok(Self { body: body.into_data_stream(), decompressor, importer: Importer::new() })
    }

    /// Returns the next part; `None` is the end of a whole archive.
    pub(super) async fn next(&mut self) -> Result<Option<Part>, ApiError> {
        loop {
            if let Some(part) = self.importer.next_part().map_err(|fault| refused(&fault))? {
                return Ok(Some(part));
            }
            if let Some(piece) = self.decompressor.next_piece().map_err(|fault| refused(&fault))? {
                self.importer.push(&piece);
                continue;
            }
            let Ok(bytes) = timeout(READ_TIMEOUT, self.body.next()).await else {
                let detail = format!("Nothing arrived for {} s.", READ_TIMEOUT.as_secs());
                return Err(ApiError::new(Code::RequestTimedOut, detail));
            };
            match bytes {
                None => {
                    self.importer.finish().map_err(|fault| refused(&fault))?;
                    return Ok(None);
                }
                Some(Ok(bytes)) => self.decompressor.push(bytes),
                Some(Err(_)) => {
                    return Err(ApiError::new(Code::InvalidBody, "The body ended early."));
                }
            }
        }
    }

    /// Reads on for [`DRAIN_TIMEOUT`]: a connection that is closed while the client sends loses the response.
    async fn drain(&mut self) {
        let rest = async { while let Some(Ok(_)) = self.body.next().await {} };
        let _ = timeout(DRAIN_TIMEOUT, rest).await;
    }
}
