//! TLS with the trusted authorities of the system, loaded for https alone: reading them costs more than a whole call.

use std::sync::Arc;

use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's authorities.
pub(super) fn config() -> TlsConfig {
    let found = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<_> = found.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
    TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .build()
}
