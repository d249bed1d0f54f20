//! The connection to one server with one key.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::time::Duration;

use protocol::headers::RELEASE;
use ureq::http::header;
use ureq::{Agent, AsSendBody, Proxy, SendBody};

use super::failure::{transport_error, wrong_server};
use super::request::Request;
use super::response::Response;
use super::tls;
use crate::clock;
use crate::config::{Origin, ServerUrl};
use crate::error::CliError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the server takes for anything: it answers 503 or 504 itself before.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Until the next bytes of a response's body.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const REPEAT_DELAY: Duration = Duration::from_millis(200);
pub(super) const USER_AGENT: &str = concat!("cial/", env!("CARGO_PKG_VERSION"));

/// A server and where its address comes from, for errors.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) url: ServerUrl,
    pub(crate) origin: Origin,
}

/// Makes calls, one at a time.
pub(crate) struct Client {
    pub(crate) server: Server,
    key: Option<String>,
    agent: Agent,
    server_version: OnceCell<String>,
    clock_skew: Cell<Option<i64>>,
}

impl Client {
    pub(crate) fn new(server: Server, key: Option<String>) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // The API redirects nowhere: a redirect comes from something else, which must not get the key.
            .max_redirects(0)
            .user_agent(USER_AGENT)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(RESPONSE_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT));
        config =
            config.proxy(if server.url.is_this_machine() { None } else { Proxy::try_from_env() });
        if server.url.is_https() {
            config = config.tls_config(tls::config());
        }
        let agent = config.build().new_agent();
        Self { server, key, agent, server_version: OnceCell::new(), clock_skew: Cell::new(None) }
    }

    pub(crate) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// The release of the server, once it responded.
    pub(crate) fn server_version(&self) -> Option<&str> {
        self.server_version.get().map(String::as_str)
    }

    /// By how many seconds this machine's clock is ahead of the server's, once it responded.
    pub(crate) fn clock_skew(&self) -> Option<i64> {
        self.clock_skew.get()
    }

    /// Makes a call and reads the whole response. An error response is an error.
    ///
    /// # Errors
    /// There is no response, it is not the API's, or it is an error.
    pub(crate) fn call(&self, request: &Request) -> Result<Response, CliError> {
        self.exchange(request)?.success(request, self)
    }

    /// Turns an error response into an error.
    ///
    /// # Errors
    /// The response is not a success.
    pub(crate) fn check(
        &self,
        request: &Request,
        response: Response,
    ) -> Result<Response, CliError> {
        response.success(request, self)
    }

    /// Makes a call and reads the whole response, whatever its status and content.
    ///
    /// # Errors
    /// There is no whole response.
    pub(crate) fn exchange(&self, request: &Request) -> Result<Response, CliError> {
        let attempt = || self.send(request).and_then(Response::read);
        let outcome = match attempt() {
            Err(error) if request.can_repeat() && is_broken(&error) => {
                std::thread::sleep(REPEAT_DELAY);
                attempt()
            }
            outcome => outcome,
        };
        outcome.map_err(|error| transport_error(request, &self.server, &error))
    }

    /// Makes a call and leaves the body to the caller, who reads it as it arrives.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(crate) fn stream(&self, request: &Request) -> Result<ureq::BodyReader<'static>, CliError> {
        let failed = |error: &ureq::Error| transport_error(request, &self.server, error);
        let response = self.send(request).map_err(|error| failed(&error))?;
        let is_html = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/html"));
        if response.status().is_success() && !is_html {
            return Ok(response.into_body().into_reader());
        }
        let response = Response::read(response).map_err(|error| failed(&error))?;
        match response.clone().success(request, self) {
            Ok(_) => Err(wrong_server(request, &self.server, &response)),
            Err(error) => Err(error),
        }
    }

    fn send(&self, request: &Request) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut head = ureq::http::Request::builder()
            .method(request.method.clone())
            .uri(self.server.url.join(&request.path))
            .header(header::ACCEPT, "application/json, application/problem+json, */*;q=0.5");
        if let Some(key) = &self.key {
            head = head.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        if let Some(key) = &request.idempotency_key {
            head = head.header("idempotency-key", key);
        }
        if let Some(part) = &request.part {
            let head = head.header(header::CONTENT_TYPE, "application/octet-stream");
            let response = self.run(request, head.body(part.as_slice())?)?;
            self.note_facts(response.headers());
            return Ok(response);
        }
        let response = match (&request.body, &request.form, &request.upload) {
            (_, _, Some(file)) => {
                let head = head.header(header::CONTENT_TYPE, protocol::transfer::CONTENT_TYPE);
                if file.as_os_str() == "-" {
                    self.run(
                        request,
                        head.body(SendBody::from_reader(&mut std::io::stdin().lock()))?,
                    )
                } else {
                    self.run(request, head.body(&File::open(file)?)?)
                }
            }
            (_, Some(form), None) => {
                let kind = format!("multipart/form-data; boundary={}", form.boundary);
                self.run(
                    request,
                    head.header(header::CONTENT_TYPE, kind).body(form.bytes.as_slice())?,
                )
            }
            (Some(body), None, None) => {
                let head = head.header(header::CONTENT_TYPE, "application/json");
                self.run(request, head.body(body.to_string())?)
            }
            (None, None, None) => self.run(request, head.body(())?),
        }?;
        self.note_facts(response.headers());
        Ok(response)
    }

    fn run(
        &self,
        wanted: &Request,
        request: ureq::http::Request<impl AsSendBody>,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        // `cial api DELETE … --data` has a body where HTTP rarely has one.
        let mut config = self.agent.configure_request(request).allow_non_standard_methods(true);
        if let Some(patience) = wanted.patience {
            config = config.timeout_recv_response(Some(patience)).timeout_per_read(Some(patience));
        }
        self.agent.run(config.build())
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    pub(super) fn note_facts(&self, headers: &ureq::http::HeaderMap) {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(version) = text(RELEASE) {
            let _ = self.server_version.set(version.to_owned());
        }
        let date = text("date").and_then(|date| chrono::DateTime::parse_from_rfc2822(date).ok());
        let skew = date.map(|date| (clock::now() - date.to_utc()).num_seconds());
        self.clock_skew.set(skew.or(self.clock_skew.get()));
    }
}

/// Whether the connection ended in the middle of an exchange, so that a repeated request may succeed.
fn is_broken(error: &ureq::Error) -> bool {
    use std::io::ErrorKind as Kind;
    matches!(error, ureq::Error::Io(error) if matches!(
        error.kind(),
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof
    )) || matches!(error, ureq::Error::Protocol(_))
}
