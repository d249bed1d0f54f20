//! Packages: upload, list, delete.

use std::collections::HashMap;

use axum::body::Bytes;
use package::{Fault, Package};
use protocol::packages::{PackageSignature, to_hex};
use protocol::problem::{Code, FieldCode};
use serde_json::json;
use service::api_error::ApiError;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{RETRY_DELAY, WorkError, open, signatures};
use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::package_signature::{self, PackagePin, PinnedKey};
use crate::db::tenant_packages::{self, PIECE_BYTES, PackageRow};
use crate::db::{Transaction as _, audit_log, tenant_workflows, trigger};
use crate::http::upload::UploadedFile;
use crate::tenant::Tenant;

/// The most packages of a tenant.
const MAX_PACKAGES: i64 = 100;
/// The most bytes of all archives of a tenant.
const MAX_TOTAL_BYTES: i64 = 1 << 30;

/// Bounds the archives that are unpacked at the same time, because a small archive may unpack to much.
static READING: Semaphore = Semaphore::const_new(4);

/// Stores an archive. Nothing is written unless the whole archive is a package, and its signature is one of a trusted key.
///
/// # Errors
/// `package_unsigned`, `package_key_unknown`, `package_signature_invalid`; `package_corrupt`, `package_invalid`, `package_too_large`, `package_unsafe`; `package_exists`; `too_many_packages`; `busy`;
/// `tenant_schema_damaged`.
pub async fn upload(
    app: &App,
    caller: &Principal,
    tenant: &Tenant,
    UploadedFile { bytes: archive, signature }: UploadedFile,
) -> Result<PackageRow, WorkError> {
    let signature = signatures::read(app.package_signatures, signature.as_deref())?;
    if let Some(signature) = &signature {
        signatures::check_key(app, signature).await?;
    }
    let (package, digest) = read(archive.clone(), signature).await?;
    let (actor, now) = (Actor::from(caller), app.clock.now());
    let row = row_of(&package, &archive, &digest, &actor, now);
    let workflows = definitions(&package)?;
    let pin = signature.map(|signature| PackagePin {
        package_id: row.id,
        tenant_id: tenant.id,
        public_key: signature.public_key,
        sha256: digest,
        signature: signature.signature,
        pinned_at: now,
    });
    let resource = Resource::new("package", format!("{}/{}", tenant.slug, package.folder()));
    let signed_by = signature.map(|signature| to_hex(&signature.public_key));
    let entry = Entry::new(actor, Action::PackageUpload, resource).after(
        json!({ "id": row.id, "bytes": row.bytes, "sha256": row.sha256, "signed_by": signed_by }),
    );
    let mut conn = open(app, tenant).await?;
    conn.transaction(async |conn| -> Result<_, WorkError> {
        // Two uploads at once must not both fit below the limit: the second waits here, and counts the first.
        tenant_packages::lock(conn).await?;
        let usage = tenant_packages::usage(conn).await?;
        if usage.packages >= MAX_PACKAGES || usage.bytes.saturating_add(row.bytes) > MAX_TOTAL_BYTES
        {
            let detail = "A tenant may have 100 packages and 1 GiB of them. Delete one first.";
            return Err(ApiError::new(Code::TooManyPackages, detail).into());
        }
        if !tenant_packages::insert(conn, &row, &workflows).await? {
            let detail = format!("The tenant has a package {} already.", package.folder());
            return Err(ApiError::new(Code::PackageExists, detail).into());
        }
        for (number, piece) in (0..).zip(archive.chunks(PIECE_BYTES)) {
            tenant_packages::insert_piece(conn, row.id, number, piece).await?;
        }
        // Before the commit, and on another connection: no change lacks its entry, and the tenant's own triggers hold up
        // nobody else's. The pin of an upload that does not commit stays. The tenant may give its id to rows of its
        // own, as it may change the rows of every package that it has.
        let mut central = app.conn().await?;
        let recorded = central.transaction(async |central| -> Result<_, ApiError> {
            if let (Some(pin), Some(signature)) = (&pin, &signature)
                && !package_signature::insert(central, pin).await?
            {
                return Err(signatures::unknown_key(signature));
            }
            audit_log::append(central, &entry, now).await?;
            Ok(())
        });
        Ok(recorded.await?)
    })
    .await?;
    tracing::info!(tenant = %tenant.id, slug = %tenant.slug, package = package.folder(), %caller, "package uploaded");
    Ok(row)
}

/// The package in an archive, and the digest of the archive. An archive that its key did not sign is not unpacked.
async fn read(
    archive: Bytes,
    signature: Option<PackageSignature>,
) -> Result<(Package, Vec<u8>), ApiError> {
    let place = READING.try_acquire().map_err(|_| {
        let detail = "Other packages are being read. Try again in some seconds.";
        ApiError::new(Code::Busy, detail).with_retry_after(RETRY_DELAY)
    })?;
    let read = tokio::task::spawn_blocking(move || {
        let _place = place;
        let digest = Sha256::digest(&archive).to_vec();
        if signature.is_some_and(|signature| !signatures::is_genuine(&signature, &digest)) {
            return Err(signatures::not_genuine());
        }
        Ok((package::read(&archive).map_err(refused)?, digest))
    });
    read.await.map_err(ApiError::internal)?
}

fn row_of(
    package: &Package,
    archive: &Bytes,
    digest: &[u8],
    actor: &Actor,
    now: protocol::Timestamp,
) -> PackageRow {
    PackageRow {
        id: Uuid::now_v7(),
        name: package.name.clone(),
        version: package.version.clone(),
        about: package.about.clone(),
        bytes: i64::try_from(archive.len()).unwrap_or(i64::MAX),
        sha256: to_hex(digest),
        created_by: actor.name.clone(),
        created_at: now,
        workflows: package.workflows.iter().map(|workflow| workflow.name.clone()).collect(),
    }
}

fn definitions(package: &Package) -> Result<Vec<(String, serde_json::Value)>, ApiError> {
    let definition = |workflow: &package::Workflow| -> Result<_, ApiError> {
        Ok((workflow.name.clone(), serde_json::to_value(workflow)?))
    };
    package.workflows.iter().map(definition).collect()
}

fn refused(fault: Fault) -> ApiError {
    let detail = fault.to_string();
    match fault {
        Fault::Empty | Fault::NotCompressed | Fault::Corrupt(_) => {
            ApiError::new(Code::PackageCorrupt, detail)
        }
        Fault::TooLarge(_) => ApiError::new(Code::PackageTooLarge, detail),
        Fault::Unsafe { .. } => ApiError::new(Code::PackageUnsafe, detail),
        Fault::Invalid(fields) => {
            let failure = ApiError::new(Code::PackageInvalid, detail);
            fields.into_iter().fold(failure, |failure, fault| {
                failure.with_field_error(&fault.field, FieldCode::Invalid, fault.rule)
            })
        }
    }
}

/// The packages of a tenant, the latest first, and the signatures of those that have one.
pub async fn list(
    app: &App,
    tenant: &Tenant,
) -> Result<Vec<(PackageRow, Option<PinnedKey>)>, WorkError> {
    let pins = package_signature::of_tenant(&mut *app.conn().await?, tenant.id).await;
    let pins = pins.map_err(ApiError::from)?.into_iter().map(|pin| (pin.package_id, pin));
    let mut pins: HashMap<_, _> = pins.collect();
    let rows = tenant_packages::list(&mut *open(app, tenant).await?, MAX_PACKAGES).await?;
    Ok(rows
        .into_iter()
        .map(|row| (pins.remove(&row.id), row))
        .map(|(pin, row)| (row, pin))
        .collect())
}

/// Deletes a package with its workflows.
///
/// # Errors
/// `resource_not_found`; `workflow_in_use`.
pub async fn delete(
    app: &App,
    caller: &Principal,
    tenant: &Tenant,
    (name, version): (&str, &str),
) -> Result<(), WorkError> {
    let resource = Resource::new("package", format!("{}/{name}-{version}", tenant.slug));
    let entry = Entry::new(Actor::from(caller), Action::PackageDelete, resource);
    let now = app.clock.now();
    let mut conn = open(app, tenant).await?;
    conn.transaction(async |conn| -> Result<_, WorkError> {
        let workflows = tenant_workflows::names_of_package(conn, name, version).await?;
        let deleted = tenant_packages::delete(conn, name, version).await?;
        let Some(id) = deleted else {
            let detail = "The tenant has no package of this name and version.";
            return Err(ApiError::new(Code::ResourceNotFound, detail).into());
        };
        let used = trigger::used_workflows(&mut *app.conn().await?, tenant.id, &workflows).await;
        for workflow in used.map_err(ApiError::from)? {
            // Another package may have the same workflow.
            if tenant_workflows::by_name(conn, &workflow).await?.is_none() {
                let detail = format!(
                    "A trigger runs workflow {workflow}, which no other package has. Upload one with it, or delete the trigger, first."
                );
                return Err(ApiError::new(Code::WorkflowInUse, detail).into());
            }
        }
        let entry = entry.clone().before(json!({ "id": id }));
        let mut central = app.conn().await?;
        let recorded = central.transaction(async |central| -> Result<_, ApiError> {
            package_signature::delete(central, tenant.id, id).await?;
            audit_log::append(central, &entry, now).await?;
            Ok(())
        });
        Ok(recorded.await?)
    })
    .await?;
    tracing::info!(tenant = %tenant.id, slug = %tenant.slug, package = format!("{name}-{version}"), %caller, "package deleted");
    Ok(())
}
