//! Reads the body of a request, within bounds of size and time.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::Method;
use protocol::problem::Code;
use service::api_error::ApiError;
use tokio::time::timeout;

/// The most bytes of a request body.
pub const BODY_LIMIT: usize = 64 << 10;
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// The most bytes of a request that uploads a package: the largest package and the form around it.
pub const UPLOAD_LIMIT: usize = package::MAX_BYTES + BODY_LIMIT;
/// About one megabyte each second.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// The bounds of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    Small,
    Upload,
}

/// Whether the handler of this request reads the body itself, piece by piece, and bounds it. No such path names a tenant.
pub fn is_streamed(method: &Method, path: &str) -> bool {
    let Some(rest) = below_api(path) else { return false };
    (method == Method::POST && rest.starts_with("/imports/"))
        || (method == Method::PUT && rest.starts_with("/image-uploads/"))
}

/// Whether the handler of this request works for so long that it checks its caller again.
pub fn takes_long(method: &Method, path: &str) -> bool {
    let is_restore = |rest: &str| rest.starts_with("/backups/") && rest.ends_with("/restore");
    is_streamed(method, path) || below_api(path).is_some_and(is_restore)
}

fn below_api(path: &str) -> Option<&str> {
    crate::route::API_PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix))
}

impl Bounds {
    /// The bounds of a request with this path, whichever route it has.
    pub fn of_path(path: &str) -> Self {
        if path.ends_with("/packages") { Self::Upload } else { Self::Small }
    }

    pub const fn limit(self) -> usize {
        match self {
            Self::Small => BODY_LIMIT,
            Self::Upload => UPLOAD_LIMIT,
        }
    }

    const fn timeout(self) -> Duration {
        match self {
            Self::Small => BODY_TIMEOUT,
            Self::Upload => UPLOAD_TIMEOUT,
        }
    }
}

/// # Errors
/// `body_too_large`; `request_timed_out`.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    read_within(body, Bounds::Small).await
}

/// # Errors
/// As for [`read`].
pub async fn read_within(body: Body, bounds: Bounds) -> Result<Bytes, ApiError> {
    let read = timeout(bounds.timeout(), to_bytes(body, bounds.limit())).await;
    read.map_err(|_| too_slow(bounds))?.map_err(|_| too_large(bounds.limit()))
}

fn too_slow(bounds: Bounds) -> ApiError {
    let detail = format!("The body did not arrive within {:?}.", bounds.timeout());
    ApiError::new(Code::RequestTimedOut, detail)
}

pub fn too_large(limit: usize) -> ApiError {
    let detail = format!("The body is larger than {limit} bytes.");
    ApiError::new(Code::BodyTooLarge, detail)
}
