//! Errors of the connection in words: what was tried, what the cause is, what to do.

use std::io::ErrorKind;

use rustls::CertificateError;

use super::client::Server;
use super::request::Request;
use super::response::Response;
use crate::error::CliError;

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
pub(super) fn transport_error(request: &Request, server: &Server, error: &ureq::Error) -> CliError {
    let (url, origin) = (&server.url, &server.origin);
    let failed = CliError::failed(format!("cannot {}", request.title));
    if let Some(error) = tls_error(error) {
        let (why, next) = explain_tls(error, server);
        return failed.because(why).next(next);
    }
    let failed = failed.of_connection();
    match error {
        ureq::Error::HostNotFound => unknown_host(failed, server),
        ureq::Error::Io(error) if error.to_string().starts_with(LOOKUP_FAILED) => {
            unknown_host(failed, server)
        }
        ureq::Error::Timeout(timeout) => failed
            .because(format!("{url} did not answer in time ({timeout})"))
            .next("try again; then check the server and the network: cial doctor"),
        ureq::Error::ConnectionFailed => failed
            .because(format!("{url} cannot be reached"))
            .next("check the server and the network: cial doctor"),
        ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => failed
            .because(format!("nothing listens at {url}"))
            .next(format!("start the server, or correct the address, which comes from {origin}")),
        ureq::Error::Io(error)
            if matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ) =>
        {
            failed
                .because(format!("the connection to {url} broke before the response was complete"))
                .next(repeat_advice(request))
        }
        ureq::Error::Io(error) => failed
            .because(format!("the connection to {url} failed: {error}"))
            .next("check the server and the network: cial doctor"),
        ureq::Error::Protocol(error) => failed
            .because(format!("{url} does not answer in HTTP as expected: {error}"))
            .next(format!("correct the address, which comes from {origin}")),
        other => failed
            .because(format!("the request to {url} failed: {other}"))
            .next("check the server and the network: cial doctor"),
    }
}

/// How std begins the error of a name that is not found.
const LOOKUP_FAILED: &str = "failed to lookup address information";

fn unknown_host(failed: CliError, server: &Server) -> CliError {
    let (url, origin) = (&server.url, &server.origin);
    failed
        .because(format!("the host of {url} is not known"))
        .next(format!("correct the address, which comes from {origin}, or check the network"))
}

fn repeat_advice(request: &Request) -> &'static str {
    if request.can_repeat() {
        "try again"
    } else {
        "the server may have done it: look before you try again"
    }
}

/// A response that the API does not give: a page, a redirect, something else's error.
pub(super) fn wrong_server(request: &Request, server: &Server, response: &Response) -> CliError {
    let (url, origin, status) = (&server.url, &server.origin, response.status);
    let kind = response.header("content-type").unwrap_or("no content type");
    if response.status.is_server_error() {
        return CliError::failed(format!("cannot {}", request.title))
            .of_connection()
            .because(format!("what stands before {url} answers {status}: the server is not there"))
            .next("try again; if it stays, tell the operator of the server");
    }
    let mut error = CliError::failed(format!("cannot {}", request.title))
        .because(format!("{url} does not answer like Cial's API: {status}, {kind}"));
    if let Some(location) = response.header("location") {
        error = error.because(format!("it redirects to {}", location.escape_debug()));
    }
    error.next(format!("correct the address, which comes from {origin}: it is the admin's, like http://localhost:3100"))
}

fn tls_error(error: &ureq::Error) -> Option<&rustls::Error> {
    if let ureq::Error::Rustls(error) = error {
        return Some(error);
    }
    let ureq::Error::Io(error) = error else { return None };
    error.get_ref()?.downcast_ref()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
fn explain_tls(error: &rustls::Error, server: &Server) -> (String, String) {
    let (url, origin) = (&server.url, &server.origin);
    let clock = "compare this machine's clock with another; then tell the operator of the server";
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => (
            format!("the certificate of {url} has expired by this machine's clock"),
            clock.to_owned(),
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => (
            format!("the certificate of {url} is not valid yet by this machine's clock"),
            clock.to_owned(),
        ),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => (
            format!(
                "the certificate of {url} is from an authority that this machine does not trust"
            ),
            "name a file with the authority's certificate in SSL_CERT_FILE".to_owned(),
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (
            format!("the certificate of {url} is for another name"),
            format!("correct the address, which comes from {origin}"),
        ),
        rustls::Error::InvalidMessage(_) => (
            format!("{url} does not speak TLS"),
            format!("write http:// instead of https:// in the address, which comes from {origin}"),
        ),
        other => (
            format!("no secure connection to {url}: {other}"),
            format!(
                "correct the address, which comes from {origin}, or tell the operator of the server"
            ),
        ),
    }
}
