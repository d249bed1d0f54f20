//! platform-back serves facts over loopback. No public route leads here.

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use service::{Env, ServiceError};
use tenant_service::{BoundedListener, Drain, Request, RequestContext, Response, response, serve};
use tokio::net::TcpListener;

/// Facts that the front shows as proof of its request.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub fact: String,
}

/// Starts under PID 1 with one TCP listener on loopback and the link.
pub fn start(env: &Env) -> Result<(), ServiceError> {
    tenant_service::start(env, crate::runtime(), run)
}

/// Serves until the drain is requested and complete.
pub async fn run(listener: BoundedListener<TcpListener>, tenant: String, drain: Drain) {
    serve(listener, drain, move |context, request| {
        let answer = respond(&context, &request, &tenant);
        async move { answer }
    })
    .await;
}

fn respond(context: &RequestContext, request: &Request, tenant: &str) -> Response {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/health") => {
            response::json(StatusCode::OK, &json!({ "status": "ok" }))
        }
        (&Method::GET | &Method::HEAD, "/facts") => {
            let process = std::process::id();
            let fact = format!("platform-back of {tenant} answers as process {process}");
            response::json(StatusCode::OK, &Facts { fact })
        }
        (_, "/health" | "/facts") => context.method_not_allowed("GET"),
        _ => context.not_found(),
    }
}
