//! The style sheet, the script and the icon, embedded in the binary. The style sheet and the script are cached until they change.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("../../templates/admin.css");
const PASSKEY_SCRIPT: &str = include_str!("../../templates/passkey.js");
const ICON: &str = include_str!("../../templates/icon.svg");
const FOREVER: &str = "public, max-age=31536000, immutable";

/// The path contains a hash of the content, so that a new style sheet has a new address.
pub fn style_path() -> &'static str {
    static PATH: LazyLock<String> = LazyLock::new(|| versioned("/assets/admin.css", STYLE));
    &PATH
}

/// Like [`style_path`].
pub fn passkey_script_path() -> &'static str {
    static PATH: LazyLock<String> =
        LazyLock::new(|| versioned("/assets/passkey.js", PASSKEY_SCRIPT));
    &PATH
}

fn versioned(path: &str, content: &str) -> String {
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(content));
    format!("{path}?v={}", &hash[..12])
}

pub async fn style() -> Response {
    let head =
        [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, FOREVER)];
    (head, STYLE).into_response()
}

pub async fn passkey_script() -> Response {
    let head = [
        (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (header::CACHE_CONTROL, FOREVER),
    ];
    (head, PASSKEY_SCRIPT).into_response()
}

pub async fn icon() -> Response {
    let head = [(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "max-age=86400")];
    (head, ICON).into_response()
}
