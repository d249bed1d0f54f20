//! Secure connections, and what is wrong with a certificate.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, date_time_ymd};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use testkit::peer::{http_response, scripted_tcp};

use crate::support::{Cial, json};

/// An authority, and a server with a certificate of it.
struct SecureServer {
    url: String,
    authority: String,
}

impl SecureServer {
    fn new(name: &str, years: (i32, i32)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        Self { url: serve(Arc::new(config)), authority: issuer.pem() }
    }
}

fn serve(config: Arc<ServerConfig>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, socket);
            // A client that does not trust the certificate leaves during the handshake.
            if stream.read(&mut [0; 4_096]).is_ok() {
                let _ = stream.write_all(&json("200 OK", &serde_json::json!({ "tenants": [] })));
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    format!("https://localhost:{port}")
}

fn run(server: &SecureServer) -> String {
    let cial = Cial::new().server(&server.url).variable("CIAL_API_KEY", "cial_x");
    let cial = cial.file("authority.pem", &server.authority);
    let path = cial.home().join("authority.pem").display().to_string();
    cial.variable("SSL_CERT_FILE", &path).run(&["tenants"])
}

#[test]
fn a_certificate_of_a_trusted_authority_is_accepted() {
    let text = run(&SecureServer::new("localhost", (2020, 2090)));
    assert!(text.contains("exit code 0"), "{text}");
}

#[test]
fn what_is_wrong_with_a_certificate_is_named() {
    insta::assert_snapshot!("expired", run(&SecureServer::new("localhost", (2000, 2001))));
    insta::assert_snapshot!("not_valid_yet", run(&SecureServer::new("localhost", (2080, 2090))));
    insta::assert_snapshot!("another_name", run(&SecureServer::new("example.com", (2020, 2090))));
}

#[test]
fn an_unknown_authority_is_named() {
    let server = SecureServer::new("localhost", (2020, 2090));
    let cial = Cial::new().server(&server.url).variable("CIAL_API_KEY", "cial_x");
    insta::assert_snapshot!(cial.run(&["tenants"]));
}

#[test]
fn a_server_without_tls_is_named() {
    let server = scripted_tcp(http_response("400 Bad Request", "")).unwrap();
    let cial = Cial::new().server(&format!("https://{server}"));
    insta::assert_snapshot!(cial.variable("CIAL_API_KEY", "cial_x").run(&["tenants"]));
}
