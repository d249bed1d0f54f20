//! The server's side of a WebSocket's opening handshake (RFC 6455 §4.2), for handlers that own the connection afterwards.

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use protocol::problem::Code;

use crate::api_error::ApiError;

/// A connection after its upgrade.
pub type UpgradedStream = TokioIo<Upgraded>;

/// The request to become a WebSocket. Extracting it refuses every other request with `upgrade_required`.
pub struct WebSocketUpgrade {
    /// The value of `Sec-WebSocket-Key`.
    pub key: HeaderValue,
    on_upgrade: OnUpgrade,
}

impl WebSocketUpgrade {
    /// Waits for the connection, which is free once the response [`switching_protocols`] was sent. Never called inside the
    /// handler, whose response comes first.
    ///
    /// # Errors
    /// The connection broke before.
    pub async fn stream(self) -> hyper::Result<UpgradedStream> {
        self.on_upgrade.await.map(TokioIo::new)
    }
}

impl<S: Sync> FromRequestParts<S> for WebSocketUpgrade {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let headers = &parts.headers;
        let key = headers.get(header::SEC_WEBSOCKET_KEY).cloned();
        if parts.method != Method::GET
            || !has_token(headers, header::CONNECTION, "upgrade")
            || !has_token(headers, header::UPGRADE, "websocket")
        {
            return Err(ApiError::new(Code::UpgradeRequired, "Connect as a WebSocket."));
        }
        if !has_token(headers, header::SEC_WEBSOCKET_VERSION, "13") {
            let detail = "WebSockets are served in version 13.";
            return Err(ApiError::new(Code::UpgradeVersion, detail));
        }
        let on_upgrade = parts.extensions.remove::<OnUpgrade>();
        match (key, on_upgrade) {
            (Some(key), Some(on_upgrade)) => Ok(Self { key, on_upgrade }),
            (Some(_) | None, Some(_) | None) => {
                Err(ApiError::new(Code::UpgradeRequired, "Connect as a WebSocket, by HTTP/1.1."))
            }
        }
    }
}

/// The response that makes a connection a WebSocket. `accept`: the value of `Sec-WebSocket-Accept`.
pub fn switching_protocols(accept: HeaderValue) -> Response {
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}

/// Whether a header, a list with commas, has a token in any case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(token))
}
