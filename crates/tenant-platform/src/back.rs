//! platform-back serves facts over loopback, and repeats messages of the chat. No public route leads here.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use service::{Env, ServiceError};
use tenant_service::body::read_json;
use tenant_service::{BoundedListener, Drain, Request, RequestContext, Response, response, serve};
use tokio::net::TcpListener;

/// Facts that the front shows as proof of its request.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub fact: String,
}

/// A message of the chat, as the core hands it over.
#[derive(Deserialize)]
struct ChatMessage {
    message: String,
}

/// More than a message of the chat can have.
const MAX_BODY_BYTES: usize = 512 << 10;

/// Starts under PID 1 with one TCP listener on loopback and the link.
pub fn start(env: &Env) -> Result<(), ServiceError> {
    tenant_service::start(env, crate::runtime(), run)
}

/// Serves until the drain is requested and complete.
pub async fn run(listener: BoundedListener<TcpListener>, tenant: String, drain: Drain) {
    let tenant: Arc<str> = tenant.into();
    serve(listener, drain, move |context, request| {
        let tenant = tenant.clone();
        async move { respond(&context, request, &tenant).await }
    })
    .await;
}

async fn respond(context: &RequestContext, request: Request, tenant: &str) -> Response {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/health") => {
            response::json(StatusCode::OK, &json!({ "status": "ok" }))
        }
        (&Method::GET | &Method::HEAD, "/facts") => {
            let process = std::process::id();
            let fact = format!("platform-back of {tenant} answers as process {process}");
            response::json(StatusCode::OK, &Facts { fact })
        }
        (&Method::POST, "/chat") => {
            match read_json::<ChatMessage>(request.into_body(), MAX_BODY_BYTES).await {
                Ok(ChatMessage { message }) => response::text(StatusCode::OK, message),
                Err(error) => context.body_error(&error),
            }
        }
        (_, "/chat") => context.method_not_allowed("POST"),
        (_, "/health" | "/facts") => context.method_not_allowed("GET"),
        _ => context.not_found(),
    }
}
