//! The style sheet and the icon, embedded in the binary. The style sheet is cached until its content changes.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("../../templates/admin.css");
const ICON: &str = include_str!("../../templates/icon.svg");
const FOREVER: &str = "public, max-age=31536000, immutable";

/// The path contains a hash of the content, so that a new style sheet has a new address.
pub fn style_path() -> &'static str {
    static PATH: LazyLock<String> = LazyLock::new(|| {
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(STYLE));
        format!("/assets/admin.css?v={}", &hash[..12])
    });
    &PATH
}

pub async fn style() -> Response {
    let head =
        [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, FOREVER)];
    (head, STYLE).into_response()
}

pub async fn icon() -> Response {
    let head = [(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "max-age=86400")];
    (head, ICON).into_response()
}
