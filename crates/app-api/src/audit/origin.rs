//! The client's address of the request that a task handles, like its request id: the audit log names both.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use tokio::task::JoinHandle;

use crate::http::extract::ClientAddress;

tokio::task_local! {
    static ADDRESS: String;
}

/// Where a change came from. Empty texts outside a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pub address: String,
    pub request_id: String,
}

pub fn current() -> Origin {
    let address = ADDRESS.try_with(Clone::clone).unwrap_or_default();
    Origin { address, request_id: service::request_id::current() }
}

/// Middleware: makes the client's address known to the handlers of a request.
pub async fn layer(ClientAddress(client): ClientAddress, request: Request, next: Next) -> Response {
    ADDRESS.scope(client.to_string(), next.run(request)).await
}

/// Spawns a task whose changes have the origin of this one. The task goes on when the request ends early.
pub fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let Origin { address, request_id } = current();
    tokio::spawn(service::request_id::scope(request_id, ADDRESS.scope(address, work)))
}
