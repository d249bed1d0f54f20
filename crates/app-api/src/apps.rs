//! Apps and releases: create, list, delete; and the release that a tenant follows.

use std::collections::BTreeMap;
use std::time::Duration;

use manifest::Manifest;
use protocol::apps::{BUILT_IN_APP, NewApp, NewRelease};
use protocol::images::{MAX_RELEASE_SECONDS, PullPolicy, PullStatus, RegistryImage, SealedLogin};
use protocol::problem::{Code, FieldCode};
use protocol::process::{AppSpec, Hooks, PrepareImage, PreparedImage};
use protocol::variables::SecretNames;
use protocol::{Slug, Timestamp};
use serde_json::json;
use service::api_error::ApiError;
use service::client::CallError;
use uuid::Uuid;

use crate::access::Principal;
use crate::app::App as Service;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::app::{self, App, Release};
use crate::db::{Conn, Transaction as _, audit_log, is_foreign_key_violation, rollout};
use crate::image_uploads::{self, Loaded};
use crate::tenant::TenantApp;
use crate::validation::{self, refused_field};
use crate::{registries, variables};

/// The most releases of one app.
const MAX_RELEASES: i32 = 10_000;

/// A release with its app: what a tenant follows.
#[derive(Clone, Debug)]
pub struct Followed {
    pub app_id: Uuid,
    pub release: Release,
    pub tenant_app: TenantApp,
}

/// Creates an app without releases.
///
/// # Errors
/// `invalid_slug`, `invalid_fields`, `app_taken`.
pub async fn create(service: &Service, caller: &Principal, new: &NewApp) -> Result<App, ApiError> {
    let slug = Slug::choose(&new.slug).map_err(validation::invalid_slug)?;
    let name = validation::name(&new.name)
        .map_err(|error| validation::invalid_fields(&[("name", Some(error))]))?;
    let now = service.clock.now();
    let row = App { id: Uuid::now_v7(), slug, name, created_at: now, sealed_env: None };
    let entry = Entry::new(Actor::from(caller), Action::AppCreate, resource(&row))
        .after(json!({ "id": row.id, "name": row.name }));
    let mut conn = service.conn().await?;
    conn.transaction(async |conn| -> Result<_, ApiError> {
        if row.slug.as_str() == BUILT_IN_APP || !app::insert(conn, &row).await? {
            let detail =
                format!("An app with the slug {} exists already. Choose another.", row.slug);
            return Err(refused_field(Code::AppTaken, "slug", Code::AppTaken, detail));
        }
        audit_log::append(conn, &entry, now).await?;
        Ok(())
    })
    .await?;
    Ok(row)
}

/// All apps, each with the number of its latest release.
pub async fn list(service: &Service) -> Result<Vec<(App, Option<i32>)>, ApiError> {
    Ok(app::all(&mut *service.conn().await?).await?)
}

/// # Errors
/// `resource_not_found`.
pub async fn find(service: &Service, slug: &str) -> Result<App, ApiError> {
    find_in(&mut *service.conn().await?, slug).await
}

/// # Errors
/// `resource_not_found`.
pub async fn find_in(conn: &mut Conn, slug: &str) -> Result<App, ApiError> {
    // Postgres refuses a NUL, and no slug has one.
    let found = if slug.contains('\0') { None } else { app::by_slug(conn, slug).await? };
    found.ok_or_else(|| {
        let detail = if slug == BUILT_IN_APP {
            format!("{BUILT_IN_APP} is the built-in app: it has no releases and stays.")
        } else {
            "There is no app of this name.".to_owned()
        };
        ApiError::new(Code::ResourceNotFound, detail)
    })
}

/// Deletes an app with its releases.
///
/// # Errors
/// `resource_not_found`; `app_in_use` while tenants follow it.
pub async fn delete(service: &Service, caller: &Principal, slug: &str) -> Result<(), ApiError> {
    let (mut conn, now) = (service.conn().await?, service.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let found = find_in(conn, slug).await?;
        // The lock keeps new releases of the app from being created.
        app::lock(conn, found.id).await?;
        let followers = app::followers(conn, found.id).await?;
        if !followers.is_empty() {
            let detail = format!(
                "{} tenants follow this app, such as {}. Delete them first.",
                followers.len(),
                followers[0]
            );
            return Err(ApiError::new(Code::AppInUse, detail));
        }
        // The lock order is rollouts, then audit log, as when a rollout ends. The rows of rollouts go with the app.
        rollout::lock_of_app(conn, found.id).await?;
        let entry = Entry::new(Actor::from(caller), Action::AppDelete, resource(&found))
            .before(json!({ "id": found.id, "name": found.name }));
        audit_log::append(conn, &entry, now).await?;
        match app::delete(conn, found.id).await {
            Ok(_) => Ok(()),
            // A tenant was created after the followers were read.
            Err(error) if is_foreign_key_violation(&error) => {
                let detail =
                    "A tenant that follows this app was created just now. Delete it first.";
                Err(ApiError::new(Code::AppInUse, detail))
            }
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    service.releases_deleted.notify_one();
    Ok(())
}

/// The latest release first.
///
/// # Errors
/// `resource_not_found`.
pub async fn list_releases(service: &Service, slug: &str) -> Result<(App, Vec<Release>), ApiError> {
    let mut conn = service.conn().await?;
    let found = find_in(&mut conn, slug).await?;
    let releases = app::releases(&mut conn, found.id).await?;
    Ok((found, releases))
}

/// A release that was created just now.
#[derive(Debug)]
pub struct CreatedRelease {
    pub app: App,
    pub release: Release,
    /// The reason why the program was not tried; `None` when it was, or when the caller waived the trial.
    pub untried_because: Option<String>,
}

/// Makes a release of an image that the engine has, or that is pulled. The image is checked and wrapped first, and its program
/// is tried with the variables of the app.
///
/// # Errors
/// `resource_not_found`; `invalid_fields` with every fault of the manifest; `image_missing`,
/// `image_invalid`, `registry_refused`, `registry_unreachable`, `program_failed`.
pub async fn create_release(
    service: &Service,
    caller: &Principal,
    slug: &str,
    new: &NewRelease,
) -> Result<CreatedRelease, ApiError> {
    let found = find(service, slug).await?;
    let manifest = manifest::parse(new.manifest.as_deref().unwrap_or_default())
        .map_err(|faults| manifest_faults(&faults))?;
    let (wanted, env) = app_spec(manifest);
    let source = find_image(service, caller, new).await?;
    let obstacle = trial_obstacle(service, &found, &wanted)?;
    let is_tried = new.smoke_start && obstacle.is_none();
    let request = PrepareImage {
        image: source.image.clone(),
        pull: source.pull,
        login: source.login,
        app: wanted.clone(),
        smoke_start: is_tried.then(|| env.clone()),
        app_env: found.app_env().filter(|_| is_tried),
    };
    let prepared = service.orchestrator.prepare_image(&request).await.map_err(|e| refused(&e))?;
    let prepared_at = service.clock.now();
    let PreparedImage { image_id, repository_digest, command, port } = prepared;
    let process = AppSpec { command: Some(command), port: Some(port), ..wanted };
    let (mut conn, now) = (service.conn().await?, service.clock.now());
    let created = conn.transaction(async |conn| -> Result<_, ApiError> {
        let nothing = || ApiError::new(Code::ResourceNotFound, "The app was deleted meanwhile.");
        app::lock(conn, found.id).await?.ok_or_else(nothing)?;
        let latest = app::release(conn, found.id, None).await?.map_or(0, |release| release.number);
        if latest >= MAX_RELEASES {
            let detail = format!("An app has at most {MAX_RELEASES} releases.");
            return Err(ApiError::new(Code::InvalidFields, detail));
        }
        let release = Release {
            id: Uuid::now_v7(),
            number: latest + 1,
            image: source.image,
            image_id,
            process,
            env,
            created_at: now,
            repository_digest,
        };
        let name = format!("{}/{}", found.slug, release_name(release.number));
        let entry =
            Entry::new(Actor::from(caller), Action::ReleaseCreate, Resource::new("release", name))
                .after(json!({ "image": release.image, "digest": release.image_id, "repository_digest": release.repository_digest }));
        app::insert_release(conn, found.id, &release).await?;
        audit_log::append(conn, &entry, now).await?;
        check_time(prepared_at, service.clock.now())?;
        let untried_because = obstacle.filter(|_| new.smoke_start);
        Ok(CreatedRelease { app: found, release, untried_because })
    })
    .await?;
    if let Some(upload) = source.upload {
        upload.delete(service).await;
    }
    Ok(created)
}

/// The process that a manifest describes, and its variables.
fn app_spec(manifest: Manifest) -> (AppSpec, BTreeMap<String, String>) {
    let spec = AppSpec {
        command: manifest.command,
        port: manifest.port,
        health_path: manifest.health_path,
        public_paths: manifest.public_paths,
        database: manifest.database,
        chat: manifest.chat,
        hooks: Hooks {
            before_first_start: manifest.before_first_start,
            migrate: manifest.migrate,
            timeout_seconds: manifest.hook_timeout,
        },
        secrets: SecretNames {
            required: manifest.required_secrets,
            optional: manifest.optional_secrets,
        },
    };
    (spec, manifest.env)
}

/// The source of a release's image.
struct ImageSource {
    image: String,
    pull: PullPolicy,
    login: Option<SealedLogin>,
    /// Kept until the release is written: a release that is refused can be tried again without another upload.
    upload: Option<Loaded>,
}

/// Finds what a new release names: an image, with the credentials of its registry, or an upload, which is loaded.
///
/// # Errors
/// `invalid_fields` for both or none; those of [`image_uploads::load`].
async fn find_image(
    service: &Service,
    caller: &Principal,
    new: &NewRelease,
) -> Result<ImageSource, ApiError> {
    let Some(upload) = new.upload else {
        if new.image.is_empty() {
            let detail = "Name an image, or an upload.".to_owned();
            return Err(refused_field(Code::InvalidFields, "image", FieldCode::Required, detail));
        }
        let login = find_login(service, new).await?;
        return Ok(ImageSource { image: new.image.clone(), pull: new.pull, login, upload: None });
    };
    if !new.image.is_empty() {
        let detail = "A release has an image or an upload, not both.".to_owned();
        return Err(refused_field(Code::InvalidFields, "upload", FieldCode::Invalid, detail));
    }
    let loaded = image_uploads::load(service, caller, upload).await?;
    Ok(ImageSource {
        image: loaded.image.to_string(),
        pull: PullPolicy::Never,
        login: None,
        upload: Some(loaded),
    })
}

/// The progress of the pull of an image for a new release.
///
/// # Errors
/// `orchestrator_unavailable`.
pub async fn pull_status(service: &Service, image: &str) -> Result<PullStatus, ApiError> {
    service.orchestrator.pull_status(image).await.map_err(|error| {
        tracing::debug!(%error, "progress of a pull not read");
        ApiError::new(Code::OrchestratorUnavailable, "The progress is not known at the moment.")
    })
}

/// # Errors
/// `database_unavailable` when the hold on the image ends soon: without a release the image would be removed.
fn check_time(prepared_at: Timestamp, now: Timestamp) -> Result<(), ApiError> {
    let taken = (now - prepared_at).to_std().unwrap_or_default();
    if taken < Duration::from_secs(MAX_RELEASE_SECONDS) {
        return Ok(());
    }
    let detail = "The release was not written in time after its image was prepared. Try again.";
    Err(ApiError::new(Code::DatabaseUnavailable, detail))
}

/// The stored credentials of the registry in the image's name.
///
/// # Errors
/// `invalid_fields` for a name that breaks the engine's rules.
async fn find_login(service: &Service, new: &NewRelease) -> Result<Option<SealedLogin>, ApiError> {
    let image = RegistryImage::parse(&new.image).map_err(|error| {
        let detail = format!("The name of the image {error}.");
        refused_field(Code::InvalidFields, "image", FieldCode::InvalidImage, detail)
    })?;
    match image {
        Some(image) if new.pull != PullPolicy::Never => {
            registries::sealed_login(&mut *service.conn().await?, image.host()).await
        }
        Some(_) | None => Ok(None),
    }
}

/// Returns why a throw-away tenant cannot show whether the program of a release runs.
fn trial_obstacle(
    service: &Service,
    app: &App,
    wanted: &AppSpec,
) -> Result<Option<String>, ApiError> {
    if wanted.database {
        let why = "The program was not tried: it wants a database, which only tenants have.";
        return Ok(Some(why.to_owned()));
    }
    let missing = missing_secrets(service, app, &wanted.secrets)?;
    Ok(missing.first().map(|first| {
        format!(
            "The program was not tried: the app has no value for {}. `cial apps secrets set {} {first}` sets one for all \
             its tenants, and the next release is tried with it.",
            missing.join(", "),
            app.slug,
        )
    }))
}

/// The required secrets for which the app has no value.
///
/// # Errors
/// When the variables of the app were encrypted for another installation.
pub fn missing_secrets(
    service: &Service,
    app: &App,
    secrets: &SecretNames,
) -> Result<Vec<String>, ApiError> {
    if secrets.required.is_empty() {
        return Ok(Vec::new());
    }
    Ok(secrets.missing(&variables::of_app::open(service, app)?))
}

/// The release of an app that a tenant is to follow: the named one, or the latest.
///
/// # Errors
/// `invalid_fields` at the field `app` or `release`.
pub async fn followed(
    conn: &mut Conn,
    slug: &str,
    release: Option<&str>,
) -> Result<Followed, ApiError> {
    let invalid = |field: &str, code: FieldCode, detail: String| {
        refused_field(Code::InvalidFields, field, code, detail)
    };
    let number = release.map(|name| release_number(name).unwrap_or(0));
    let found = find_in(conn, slug).await.map_err(|error| {
        if error.problem.status == 404 {
            invalid("app", FieldCode::UnknownApp, error.problem.detail)
        } else {
            error
        }
    })?;
    let release = app::release(conn, found.id, number).await?.ok_or_else(|| match release {
        Some(name) => {
            invalid("release", FieldCode::UnknownRelease, format!("The app has no release {name}."))
        }
        None => invalid(
            "app",
            FieldCode::NoRelease,
            "The app has no release yet. Create one first.".to_owned(),
        ),
    })?;
    let tenant_app = TenantApp {
        slug: found.slug,
        release: release_name(release.number),
        spec: release.process.clone(),
        pinned: false,
        sealed_env: None,
        // The write of the row adds the variables.
        app_env: None,
        untried_since: None,
    };
    Ok(Followed { app_id: found.id, release, tenant_app })
}

pub fn release_name(number: i32) -> String {
    format!("v{number}")
}

/// The number of a release like `v2`.
pub fn release_number(name: &str) -> Option<i32> {
    name.strip_prefix('v')?.parse().ok()
}

fn resource(app: &App) -> Resource {
    Resource::new("app", &app.slug)
}

fn manifest_faults(faults: &[manifest::ManifestError]) -> ApiError {
    let error = ApiError::new(Code::InvalidFields, "The manifest has faults.");
    faults.iter().fold(error, |error, fault| {
        error.with_field_error("manifest", FieldCode::InvalidManifest, fault.to_string())
    })
}

/// Converts the orchestrator's error. The caller can mend a refused image, and nothing else.
pub(crate) fn refused(error: &CallError) -> ApiError {
    if let CallError::Refused(problem) = error {
        if problem.code == Code::ProgramFailed.as_str() {
            return ApiError::new(Code::ProgramFailed, &problem.detail);
        }
        let known = [
            Code::ImageMissing,
            Code::ImageInvalid,
            Code::RegistryRefused,
            Code::RegistryUnreachable,
            Code::DiskFull,
        ];
        if let Some(code) = known.into_iter().find(|code| code.as_str() == problem.code) {
            return refused_field(code, "image", code, &problem.detail);
        }
        if problem.status == 422 {
            let detail = "The image's name is not one that the engine can know.";
            return refused_field(Code::InvalidFields, "image", FieldCode::InvalidImage, detail);
        }
    }
    tracing::warn!(%error, "image preparation failed");
    let detail = "The image cannot be checked at the moment. Try again.";
    ApiError::new(Code::OrchestratorUnavailable, detail)
}
