//! Sends one request to a webhook. A name is resolved here and only permitted addresses are connected to, so that a
//! name cannot change between the check and the use. Redirects are not followed.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Bytes;
use axum::http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use tower::Service;
use url::Url;

use super::signature;
use super::target::{Targets, literal_address};

/// Bounds one attempt, from the look-up of the name to the head of the response.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Clones share one configuration; connections are not kept.
#[derive(Clone)]
pub struct WebhookClient {
    targets: Targets,
    timeout: Duration,
    client: Client<HttpsConnector<HttpConnector<PermittedResolver>>, Full<Bytes>>,
}

impl WebhookClient {
    /// `timeout` bounds one attempt.
    ///
    /// # Errors
    /// When the provider of TLS does not support the protocol versions.
    pub fn new(targets: Targets, timeout: Duration) -> anyhow::Result<Self> {
        let mut connector = HttpConnector::new_with_resolver(PermittedResolver { targets });
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(provider)?
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
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
        if literal_address(&parsed).is_some_and(|address| !self.targets.permits(address)) {
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

/// Resolves a name to its permitted addresses.
#[derive(Clone)]
pub struct PermittedResolver {
    pub targets: Targets,
}

impl Service<Name> for PermittedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let targets = self.targets;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let permitted: Vec<_> = found.filter(|found| targets.permits(found.ip())).collect();
            if permitted.is_empty() {
                return Err(io::Error::other("the name has no public address"));
            }
            Ok(permitted.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_of_a_private_address_is_refused_when_it_is_resolved() {
        let name = || "localhost".parse::<Name>().unwrap();
        let error = PermittedResolver { targets: Targets::Public }.call(name()).await.unwrap_err();
        assert_eq!(error.to_string(), "the name has no public address");
        let found = PermittedResolver { targets: Targets::Any }.call(name()).await.unwrap();
        assert!(found.count() > 0);
    }

    #[tokio::test]
    async fn a_literal_private_address_is_not_connected_to() {
        let client = WebhookClient::new(Targets::Public, ATTEMPT_TIMEOUT).unwrap();
        let sent = client
            .post("http://127.0.0.1:9/", (uuid::Uuid::nil(), "test"), String::new(), Bytes::new())
            .await;
        assert_eq!(sent.unwrap_err().to_string(), "the address is not public");
    }
}
