//! The connection to the engine: negotiates the version, limits every call in time, and translates
//! errors.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, BollardRequest, ClientVersion, Docker};
use bytes::Bytes;
use connect::is_local_shortage;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Either};
use hyper::header::HeaderValue;
use serde_json::Value;

use crate::driver::{DriverError, DriverErrorCode};

/// Limits calls that only read.
pub(super) const INSPECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Limits calls that create or end something, which are slow on a loaded engine.
pub(super) const ACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// The header with the credentials for a pull.
const REGISTRY_LOGIN: &str = "x-registry-auth";

const MIN_API_VERSION: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

pub(super) struct Engine {
    socket: PathBuf,
    client: Mutex<Option<Docker>>,
}

impl Engine {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, client: Mutex::new(None) }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns a client that speaks the engine's version. Connects again after [`Engine::forget`].
    pub(super) async fn client(&self) -> Result<Docker, DriverError> {
        if let Some(client) = self.cached_client() {
            return Ok(client);
        }
        let socket = self.socket.display().to_string();
        let client =
            Docker::connect_with_unix(&socket, ACTION_TIMEOUT.as_secs(), API_DEFAULT_VERSION)
                .map_err(|e| driver_error(&e))?
                .with_request_modifier(amend_request);
        let client = with_timeout(INSPECT_TIMEOUT, client.negotiate_version()).await?;
        let version = client.client_version();
        if version < MIN_API_VERSION {
            return Err(DriverError::new(
                DriverErrorCode::EngineTooOld,
                format!(
                    "The container engine speaks API {version}; Cial needs {MIN_API_VERSION} (Docker Engine 20.10) or newer. Upgrade the engine."
                ),
            ));
        }
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    /// Makes the next caller negotiate again: another version may have replaced the engine.
    pub(super) fn forget(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn cached_client(&self) -> Option<Docker> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs `call` for at most `timeout` and translates its error.
pub(super) async fn with_timeout<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, DriverError> {
    match tokio::time::timeout(timeout, call).await {
        Ok(response) => response.map_err(|e| driver_error(&e)),
        Err(_) => Err(timed_out(timeout)),
    }
}

/// Like `with_timeout`, but returns `None` when the object does not exist.
pub(super) async fn optional<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<Option<T>, DriverError> {
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(response)) => Ok(Some(response)),
        Ok(Err(error)) if status(&error) == Some(404) => Ok(None),
        Ok(Err(error)) => Err(driver_error(&error)),
        Err(_) => Err(timed_out(timeout)),
    }
}

pub(super) fn status(error: &Error) -> Option<u16> {
    if let Error::DockerResponseServerError { status_code, .. } = error {
        Some(*status_code)
    } else {
        None
    }
}

fn timed_out(timeout: Duration) -> DriverError {
    let detail = format!(
        "The container engine did not answer within {} s. Look at its log and at the machine's load.",
        timeout.as_secs()
    );
    DriverError::new(DriverErrorCode::EngineTimeout, detail)
}

pub(super) fn driver_error(error: &Error) -> DriverError {
    if let Error::DockerResponseServerError { status_code, message } = error {
        return classify_engine_message(*status_code, message.trim());
    }
    if matches!(error, Error::RequestTimeoutError) {
        return timed_out(ACTION_TIMEOUT);
    }
    // A transparent variant hides its own error from `source`.
    let is_local_io = matches!(error, Error::IOError { err } if is_local_shortage(err));
    if is_local_io || is_local_shortage(error) {
        let detail = format!(
            "The orchestrator is out of resources: {}. Raise its limit of open files, or free memory.",
            innermost(error)
        );
        return DriverError::new(DriverErrorCode::OutOfResources, detail);
    }
    if is_unreadable(error) {
        let detail = format!(
            "The container engine gave an answer that cannot be read: {error}. Is it Docker with API {MIN_API_VERSION} or newer?"
        );
        return DriverError::new(DriverErrorCode::EngineRefused, detail);
    }
    let detail =
        format!("The container engine is not reachable: {}. Is it running?", innermost(error));
    DriverError::new(DriverErrorCode::EngineUnreachable, detail)
}

/// The engine responded, but the response is unreadable.
fn is_unreadable(error: &Error) -> bool {
    matches!(
        error,
        Error::JsonDataError { .. }
            | Error::JsonSerdeError { .. }
            | Error::APIVersionParseError {}
            | Error::StrParseError { .. }
            | Error::HttpHeaderNotFoundError(_)
            | Error::HttpHeaderToStrError { .. }
            | Error::Base64DecodeError { .. }
    )
}

/// Classifies the engine's error by the remedy.
fn classify_engine_message(status: u16, message: &str) -> DriverError {
    let has = |needle: &str| message.contains(needle);
    if has("No such image") {
        let detail = format!("{message}. Build or load the image, or name another one.");
        return DriverError::new(DriverErrorCode::ImageMissing, detail);
    }
    if has("no space left on device") {
        let detail = format!("The engine's disk is full: {message}. Free some space there.");
        return DriverError::new(DriverErrorCode::DiskFull, detail);
    }
    if has("port is already allocated") || has("address already in use") {
        return DriverError::new(DriverErrorCode::PortConflict, format!("{message}. Try again."));
    }
    let about_the_command =
        ["executable file not found", "exec format error", "No command specified"];
    let about_the_process = has("starting container process") || has("OCI runtime create failed");
    if about_the_command.iter().any(|n| has(n))
        || about_the_process
            && (has("no such file or directory") || has("permission denied"))
            && has("exec")
    {
        let detail = format!(
            "The image cannot be started: {message}. Its entry point must be the supervisor."
        );
        return DriverError::new(DriverErrorCode::ImageInvalid, detail);
    }
    DriverError::new(
        DriverErrorCode::EngineRefused,
        format!("The container engine refused ({status}): {message}."),
    )
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

fn amend_request(request: BollardRequest) -> BollardRequest {
    refuse_duplicate_network(with_readable_login(request))
}

/// Writes the credentials of a registry in the alphabet that the engine reads (RFC 4648, section 5), and keeps them out of
/// logs of requests. bollard writes them in the usual alphabet: where a `+` or a `/` occurs, the engine silently pulls without
/// credentials.
fn with_readable_login(mut request: BollardRequest) -> BollardRequest {
    if let Some(login) = request.headers_mut().get_mut(REGISTRY_LOGIN) {
        let text = login.to_str().unwrap_or_default().replace('+', "-").replace('/', "_");
        if let Ok(mut readable) = HeaderValue::from_str(&text) {
            readable.set_sensitive(true);
            *login = readable;
        }
    }
    request
}

/// Makes the engine refuse a duplicate network name. By default, engines before 25 create two
/// networks of one name and then refuse both. The models of newer APIs lack the field.
fn refuse_duplicate_network(request: BollardRequest) -> BollardRequest {
    if !request.uri().path().ends_with("/networks/create") {
        return request;
    }
    let (parts, body) = request.into_parts();
    let body = match body {
        Either::Left(full) => {
            let bytes = full.collect().now_or_never().and_then(Result::ok);
            let bytes = bytes.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            Either::Left(with_duplicate_check(&bytes).unwrap_or(bytes).into())
        }
        Either::Right(stream) => Either::Right(stream),
    };
    BollardRequest::from_parts(parts, body)
}

fn with_duplicate_check(body: &[u8]) -> Option<Bytes> {
    let mut body: Value = serde_json::from_slice(body).ok()?;
    body.as_object_mut()?.insert("CheckDuplicate".to_owned(), Value::Bool(true));
    Some(body.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_says_is_sorted_by_what_one_would_do() {
        let table = [
            (404, "No such image: cial-tenant:dev", DriverErrorCode::ImageMissing),
            (
                400,
                r#"OCI runtime create failed: container_linux.go:380: starting container process caused: exec: "nope": executable file not found in $PATH: unknown"#,
                DriverErrorCode::ImageInvalid,
            ),
            (
                400,
                r#"failed to create task for container: OCI runtime create failed: runc create failed: unable to start container process: exec: "/x": stat /x: no such file or directory: unknown"#,
                DriverErrorCode::ImageInvalid,
            ),
            (
                400,
                "standard_init_linux.go:228: exec user process caused: exec format error",
                DriverErrorCode::ImageInvalid,
            ),
            (400, "No command specified", DriverErrorCode::ImageInvalid),
            (
                500,
                "driver failed programming external connectivity: Bind for 127.0.0.1:1 failed: port is already allocated",
                DriverErrorCode::PortConflict,
            ),
            (500, "write /var/lib/docker/x: no space left on device", DriverErrorCode::DiskFull),
            (
                400,
                "invalid mount config for type \"bind\": bind source path does not exist: /x",
                DriverErrorCode::EngineRefused,
            ),
        ];
        for (status, message, code) in table {
            assert_eq!(classify_engine_message(status, message).code, code, "{message}");
        }
    }

    #[test]
    fn a_lack_of_descriptors_is_no_error_of_the_engine() {
        let error = Error::IOError { err: std::io::Error::from_raw_os_error(nix::libc::EMFILE) };
        assert_eq!(driver_error(&error).code, DriverErrorCode::OutOfResources);
        let refused = std::io::Error::from_raw_os_error(nix::libc::ECONNREFUSED);
        let error = Error::IOError { err: refused };
        assert_eq!(driver_error(&error).code, DriverErrorCode::EngineUnreachable);
    }

    #[test]
    fn an_engine_that_is_away_is_told_apart_from_one_that_refuses() {
        let unreachable =
            driver_error(&Error::SocketNotFoundError("/var/run/docker.sock".to_owned()));
        assert_eq!(unreachable.code, DriverErrorCode::EngineUnreachable);
        assert!(unreachable.detail.contains("/var/run/docker.sock"), "{unreachable}");
        let serde = serde_json::from_str::<Value>("<html>").unwrap_err();
        let json = Error::JsonDataError { message: "invalid type".to_owned(), column: 7 };
        for error in [Error::from(serde), json, Error::APIVersionParseError {}] {
            let unread = driver_error(&error);
            assert_eq!(unread.code, DriverErrorCode::EngineRefused, "{unread}");
            assert!(unread.detail.contains("cannot be read"), "{unread}");
        }
    }

    #[test]
    fn the_engine_can_read_every_password_and_no_log_shows_it() {
        let body = || Either::Left(Bytes::new().into());
        let request = hyper::Request::builder().header(REGISTRY_LOGIN, "a+b/c==").body(body());
        let amended = amend_request(request.unwrap());
        let login = &amended.headers()[REGISTRY_LOGIN];
        assert_eq!(login, "a-b_c==");
        assert!(!format!("{:?}", amended.headers()).contains("a-b"), "{:?}", amended.headers());
    }

    #[test]
    fn networks_are_made_with_a_check_for_the_same_name() {
        let body = with_duplicate_check(br#"{"Name":"n"}"#).unwrap();
        assert_eq!(body, r#"{"Name":"n","CheckDuplicate":true}"#);
        assert_eq!(with_duplicate_check(b"[]"), None);
    }
}
