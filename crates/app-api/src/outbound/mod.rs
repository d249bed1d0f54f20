//! Requests to addresses that somebody with access to the API chose. A name is resolved here and only permitted addresses are
//! connected to, so that the name cannot change between the check and the use.

pub mod target;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use tower::Service;

use self::target::Targets;

/// Connects by http or https to permitted addresses of names. It does not check a URL whose host is an address:
/// [`Targets::permits_url`].
pub type PermittedConnector = HttpsConnector<HttpConnector<PermittedResolver>>;
/// Follows no redirect.
pub type PermittedClient = Client<PermittedConnector, Full<Bytes>>;

/// # Errors
/// When the provider of TLS does not support the protocol versions.
pub fn connector(
    targets: Targets,
    connect_timeout: Duration,
) -> anyhow::Result<PermittedConnector> {
    let mut connector = HttpConnector::new_with_resolver(PermittedResolver { targets });
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(connect_timeout));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Ok(HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(provider)?
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector))
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
}
