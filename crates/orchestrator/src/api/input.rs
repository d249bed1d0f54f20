//! Parses requests strictly: unknown fields are refused, and each error names its field and the rule.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use protocol::images::RegistryImage;
use protocol::orchestrator::ApplyRequest;
use protocol::problem::{Code, FieldCode};
use protocol::process::PrepareImage;
use protocol::spec::Spec;
use protocol::{TenantId, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use service::api_error::ApiError;

use crate::allowed_images::{self, AllowedImages};
use crate::driver::LogOptions;

/// The error is boxed: a parsed request must not pay for the size of an error.
pub(super) type Parsed<T> = Result<T, Box<ApiError>>;

/// The smallest limits that the container engine accepts.
const MIN_MEMORY_BYTES: u64 = 6 << 20;
const MIN_PIDS: u32 = 16;
/// A tenant's own databases do not fit into less.
const MIN_DISK_BYTES: u64 = 1 << 20;
const MIN_CPU_MILLIS: u32 = 10;

/// The tenant in the path. A path without a valid UUID gets the same 404 as an unknown tenant.
pub(super) struct TenantPath(pub(super) TenantId);

impl<S: Send + Sync> FromRequestParts<S> for TenantPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = Path::<String>::from_request_parts(parts, state).await.ok();
        text.and_then(|text| text.parse().ok())
            .map(Self)
            .ok_or_else(|| ApiError::new(Code::NoSuchTenant, "A tenant's id is a UUID."))
    }
}

/// Parses a JSON body of at most `max_bytes`, the limit of its route.
pub(super) fn parse_json<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    max_bytes: usize,
) -> Parsed<T> {
    let body = body.map_err(|rejection| {
        Box::new(match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
                Code::BodyTooLarge,
                format!("A body may have {} KiB at most.", max_bytes >> 10),
            ),
            _ => ApiError::new(Code::InvalidBody, "The body ended early."),
        })
    })?;
    service::json_object::from_slice(&body)
        .map_err(|error| Box::new(ApiError::new(Code::InvalidBody, error.to_string())))
}

pub(super) fn parse_apply(
    id: TenantId,
    body: Result<Bytes, BytesRejection>,
    images: &AllowedImages,
) -> Parsed<ApplyRequest> {
    let apply: ApplyRequest = parse_json(body, super::MAX_BODY_BYTES)?;
    check(id, &apply.spec, images).map(|()| apply)
}

pub(super) fn parse_spec(
    id: TenantId,
    body: Result<Bytes, BytesRejection>,
    images: &AllowedImages,
) -> Parsed<Spec> {
    let spec: Spec = parse_json(body, super::MAX_BODY_BYTES)?;
    check(id, &spec, images).map(|()| spec)
}

fn check(id: TenantId, spec: &Spec, images: &AllowedImages) -> Parsed<()> {
    let errors = validate(id, spec, images);
    if errors.is_empty() {
        return Ok(());
    }
    let failure = ApiError::new(Code::InvalidSpec, "The spec is not valid.");
    let add_field = |f: ApiError, e: FieldError| f.with_field_error(&e.field, e.code, e.rule);
    Err(errors.into_iter().fold(failure, add_field).into())
}

/// The name of an image reaches the engine as a part of a path.
pub(super) fn parse_prepare(body: Result<Bytes, BytesRejection>) -> Parsed<PrepareImage> {
    let request: PrepareImage = parse_json(body, super::MAX_BODY_BYTES)?;
    let fault = match RegistryImage::parse(&request.image) {
        Ok(Some(_)) => return Ok(request),
        Ok(None) if allowed_images::is_tag(&request.image) => return Ok(request),
        Ok(None) => "must be the name of an image".to_owned(),
        Err(error) => error.to_string(),
    };
    let failure = ApiError::new(Code::InvalidSpec, "The image's name is not valid.");
    Err(failure.with_field_error("image", FieldCode::Invalid, fault).into())
}

struct FieldError {
    field: String,
    code: FieldCode,
    rule: &'static str,
}

fn validate(id: TenantId, spec: &Spec, images: &AllowedImages) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // An app's image is wrapped before it becomes a tenant's, and is named by what it holds.
    let is_of_app = spec.app.is_some();
    if is_of_app && !spec.image.as_deref().is_some_and(is_image_id) {
        errors.push(FieldError {
            field: "spec.image".to_owned(),
            code: FieldCode::ImageRefused,
            rule: "must be the id of an image for a spec with an app",
        });
    }
    if !is_of_app && spec.image.as_deref().is_some_and(|tag| !images.allow(tag)) {
        errors.push(FieldError {
            field: "spec.image".to_owned(),
            code: FieldCode::ImageRefused,
            rule: "must be the image of CIAL_TENANT_IMAGE or one of CIAL_TENANT_IMAGES",
        });
    }
    let mut check = |holds: bool, field: &str, rule: &'static str| {
        if !holds {
            errors.push(FieldError { field: field.to_owned(), code: FieldCode::Invalid, rule });
        }
    };
    check(spec.id == id, "spec.id", "must be the id in the path");
    check(spec.generation >= 0, "spec.generation", "must not be negative");
    let limits = spec.limits;
    check(limits.cpu_millis >= MIN_CPU_MILLIS, "spec.limits.cpu_millis", "must be at least 10");
    check(
        (MIN_MEMORY_BYTES..=1 << 50).contains(&limits.memory_bytes),
        "spec.limits.memory_bytes",
        "must be at least 6 MiB, and no more than a machine can have",
    );
    check(limits.pids >= MIN_PIDS, "spec.limits.pids", "must be at least 16");
    check(limits.disk_bytes >= MIN_DISK_BYTES, "spec.limits.disk_bytes", "must be at least 1 MiB");
    for (name, value) in &spec.env {
        let field = format!("spec.env.{name}");
        check(is_variable_name(name), &field, "must be a name of letters, digits and _");
        check(
            !is_reserved(name, spec.app.is_some()),
            &field,
            "is a name that the platform uses itself",
        );
        check(!value.contains('\0'), &field, "must not contain NUL");
    }
    errors
}

fn is_image_id(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:");
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_variable_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// With an app, the variables reach its program alone; without, they are in the environment of PID 1, too.
fn is_reserved(name: &str, has_app: bool) -> bool {
    name == protocol::inside::TENANT_ID
        || ["CIAL_", "LISTEN_"].iter().any(|prefix| name.starts_with(prefix))
        || (!has_app && name.starts_with("LD_"))
}

/// `?tail=&since=&follow=&timestamps=`, all optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LogsQuery {
    tail: String,
    since: String,
    follow: String,
    timestamps: String,
}

pub(super) fn parse_logs_query(query: &LogsQuery) -> Parsed<LogOptions> {
    let error = |field: &str, rule: &str| {
        let detail = format!("{field} {rule}.");
        let failure =
            ApiError::with_status(Code::InvalidQuery, StatusCode::UNPROCESSABLE_ENTITY, detail);
        Box::new(failure.with_field_error(field, FieldCode::Invalid, rule))
    };
    let tail = match query.tail.as_str() {
        "" | "all" => None,
        text => Some(text.parse().map_err(|_| error("tail", "must be a number of lines, or all"))?),
    };
    let since = match query.since.as_str() {
        "" => None,
        text => Some(
            parse_seconds(text)
                .ok_or_else(|| error("since", "must be an RFC 3339 time or seconds since 1970"))?,
        ),
    };
    let switch = |field: &str, text: &str| match text {
        "" | "0" | "false" => Ok(false),
        "1" | "true" => Ok(true),
        _ => Err(error(field, "must be 0 or 1")),
    };
    let follow = switch("follow", &query.follow)?;
    let timestamps = switch("timestamps", &query.timestamps)?;
    Ok(LogOptions { tail, since, follow, timestamps })
}

/// Parses seconds since 1970, or an RFC 3339 time.
fn parse_seconds(text: &str) -> Option<i64> {
    let at = || text.parse::<Timestamp>().ok().map(|at| at.timestamp());
    text.parse().ok().or_else(at).filter(|seconds| *seconds >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

    fn read(body: &str) -> Result<ApplyRequest, String> {
        let describe = |f: Box<ApiError>| {
            let fields: Vec<_> =
                f.problem.errors.iter().map(|e| format!("{} {}", e.field, e.message)).collect();
            if fields.is_empty() { f.to_string() } else { fields.join("; ") }
        };
        let images = AllowedImages::new("cial-tenant:dev", "a/b:c".parse().unwrap());
        parse_apply(ID.parse().unwrap(), Ok(Bytes::copy_from_slice(body.as_bytes())), &images)
            .map_err(describe)
    }

    fn spec(more: &str) -> String {
        format!(r#"{{"run":true,"spec":{{"id":"{ID}","slug":"acme","generation":1{more}}}}}"#)
    }

    #[test]
    fn a_valid_spec_is_accepted() {
        assert!(read(&spec("")).is_ok());
        assert!(
            read(&spec(r#","env":{"A_1":"x y"},"image":"a/b:c","limits":{"pids":64}"#)).is_ok()
        );
    }

    #[test]
    fn each_error_names_its_field_and_the_rule() {
        let table = [
            spec(r#","generation":-1"#).replacen(r#""generation":1,"#, "", 1),
            spec(r#","image":"postgres:16""#),
            spec(r#","limits":{"cpu_millis":0,"memory_bytes":1,"pids":0}"#),
            spec(r#","env":{"1A":"","A=B":""}"#),
            spec(r#","env":{"TENANT_ID":"x","CIAL_INSTALL":"x","LD_PRELOAD":"x"}"#),
            spec(r#","volume":"/""#),
            spec("").replacen("89ab", "89ac", 1),
            "{".to_owned(),
        ];
        let errors: Vec<_> = table.iter().map(|body| read(body).unwrap_err()).collect();
        insta::assert_snapshot!(errors.join("\n"), @r"
        spec.generation must not be negative
        spec.image must be the image of CIAL_TENANT_IMAGE or one of CIAL_TENANT_IMAGES
        spec.limits.cpu_millis must be at least 10; spec.limits.memory_bytes must be at least 6 MiB, and no more than a machine can have; spec.limits.pids must be at least 16
        spec.env.1A must be a name of letters, digits and _; spec.env.A=B must be a name of letters, digits and _
        spec.env.CIAL_INSTALL is a name that the platform uses itself; spec.env.LD_PRELOAD is a name that the platform uses itself; spec.env.TENANT_ID is a name that the platform uses itself
        invalid_body: unknown field `volume`, expected one of `id`, `slug`, `generation`, `image`, `env`, `sealed_env`, `app_env`, `database_user`, `app`, `limits`, `policy` at line 1 column 101
        spec.id must be the id in the path
        invalid_body: EOF while parsing an object at line 1 column 1
        ");
    }

    #[test]
    fn a_logs_query_takes_a_number_of_lines_a_time_and_switches() {
        let parse = |tail: &str, since: &str, follow: &str| {
            let query = LogsQuery {
                tail: tail.to_owned(),
                since: since.to_owned(),
                follow: follow.to_owned(),
                timestamps: follow.to_owned(),
            };
            parse_logs_query(&query).map_err(|f| f.to_string())
        };
        let since = Some(1_700_000_000);
        let wanted = LogOptions { tail: Some(100), since, follow: true, timestamps: true };
        assert_eq!(parse("100", "1700000000", "1"), Ok(wanted));
        assert_eq!(parse("100", "2023-11-14T22:13:20Z", "true"), Ok(wanted));
        assert_eq!(parse("all", "", "0"), Ok(LogOptions::default()));
        for (tail, since, follow) in
            [("-1", "", ""), ("", "yesterday", ""), ("", "", "yes"), ("", "-5", "")]
        {
            assert!(parse(tail, since, follow).is_err());
        }
    }
}
