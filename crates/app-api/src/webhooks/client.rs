//! Sends one request to a webhook. Redirects are not followed.

use std::time::Duration;

use anyhow::Context as _;
use axum::body::Bytes;
use axum::http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use url::Url;

use super::signature;
use crate::outbound::target::Targets;
use crate::outbound::{self, PermittedClient};

/// Bounds one attempt, from the look-up of the name to the head of the response.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Clones share one configuration; connections are not kept.
#[derive(Clone)]
pub struct WebhookClient {
    targets: Targets,
    timeout: Duration,
    client: PermittedClient,
}

impl WebhookClient {
    /// `timeout` bounds one attempt.
    ///
    /// # Errors
    /// When the provider of TLS does not support the protocol versions.
    pub fn new(targets: Targets, timeout: Duration) -> anyhow::Result<Self> {
        let connector = outbound::connector(targets, CONNECT_TIMEOUT)?;
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { targets, timeout, client })
    }

    /// Posts `body` with its signature and returns the status of the response, whatever it is.
    ///
    /// # Errors
    /// When no response arrives in time, or the target is not permitted.
    pub async fn post(
        &self,
        url: &str,
        (id, event): (uuid::Uuid, &str),
        signed: String,
        body: Bytes,
    ) -> anyhow::Result<StatusCode> {
        let parsed: Url = url.parse()?;
        if !self.targets.permits_url(&parsed) {
            anyhow::bail!("the address is not public");
        }
        let request = Request::post(parsed.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("cial/", env!("CARGO_PKG_VERSION")))
            .header("x-cial-event", event)
            .header("x-cial-delivery", id.to_string())
            .header(signature::HEADER, signed)
            .body(Full::new(body))?;
        let response = tokio::time::timeout(self.timeout, self.client.request(request)).await;
        Ok(response.context("no response in time")??.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_literal_private_address_is_not_connected_to() {
        let client = WebhookClient::new(Targets::Public, ATTEMPT_TIMEOUT).unwrap();
        let sent = client
            .post("http://127.0.0.1:9/", (uuid::Uuid::nil(), "test"), String::new(), Bytes::new())
            .await;
        assert_eq!(sent.unwrap_err().to_string(), "the address is not public");
    }
}
