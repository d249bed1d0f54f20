//! Signing in by the browser: a person confirms there, and the server gives this command a key.
//!
//! Beside a browser, the confirmation comes back as a one-time code at a loopback address (RFC 8252); without one, the
//! person types a code in, and the command asks until then (RFC 8628). In both, only the holder of the verifier gets
//! the key (RFC 7636).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::api_keys::CreatedKey;
use protocol::cli_login::{CliLogin, CliLoginProof, NewCliLogin};
use protocol::problem::Code;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::browser;
use crate::clock;
use crate::config::ServerUrl;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::http::{Client, Method, Request, Server, segment};

/// How the confirmation comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginFlow {
    /// By a browser on this machine.
    Browser,
    /// By a code that the person types in, on any machine.
    UserCode,
}

/// A browser connects ahead of its requests, and such a connection may stay silent.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// More than the request line of a redirect needs.
const MAX_REQUEST_BYTES: u64 = 8 << 10;

const PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>cial</title>\
    <p>The terminal goes on. You can close this page.</p></html>";

/// Returns a key that a person confirms.
pub(super) fn fetch_key(
    flow: LoginFlow,
    context: &Context<'_>,
    server: &Server,
) -> Result<String, CliError> {
    let login =
        Login { client: context.connect(server.clone(), None), verifier: random_text()?, context };
    match flow {
        LoginFlow::UserCode => login.by_user_code(),
        LoginFlow::Browser => login.by_browser(),
    }
}

struct Login<'a> {
    client: Client,
    verifier: String,
    context: &'a Context<'a>,
}

impl Login<'_> {
    fn by_browser(&self) -> Result<String, CliError> {
        let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) else {
            return self.by_user_code();
        };
        let port = listener.local_addr().map_err(no_listener)?.port();
        // Other pages in the browser do not know the path, so what they send is no outcome.
        let path = format!("/{}", random_text()?);
        let begun = self.begin(Some(format!("http://127.0.0.1:{port}{path}")))?;
        let outcomes = listen(listener, path);
        self.context.output.note(&format!("compare the code in the browser: {}", begun.user_code));
        if let Err(error) = browser::open(self.context, &begun.url) {
            self.context.output.note(&error.into_parts().0);
            return self.by_user_code();
        }
        match outcomes.recv_timeout(lifetime(&begun)) {
            Ok(Outcome::Code(code)) => self.key(&begun, Some(code)),
            Ok(Outcome::Refused) => Err(CliError::new(Exit::Cancelled, "the sign-in was refused")),
            Err(_) => Err(timed_out()),
        }
    }

    fn by_user_code(&self) -> Result<String, CliError> {
        let begun = self.begin(None)?;
        let note =
            format!("open {} in any browser, and enter the code {}", begun.url, begun.user_code);
        self.context.output.note(&note);
        let begin = clock::instant();
        let pause = Duration::from_secs(u64::from(begun.poll_seconds.max(1)));
        while begin.elapsed() < lifetime(&begun) {
            std::thread::sleep(pause);
            match self.key(&begun, None) {
                Err(error) if error.code() == Code::LoginPending.as_str() => {}
                Err(error) if error.is_transient() => {}
                outcome => return outcome,
            }
        }
        Err(timed_out())
    }

    fn begin(&self, redirect: Option<String>) -> Result<CliLogin, CliError> {
        let new = NewCliLogin {
            device: device(),
            challenge: URL_SAFE_NO_PAD.encode(Sha256::digest(self.verifier.as_bytes())),
            redirect,
        };
        let begun: CliLogin = self.post("/v1/auth/cli-logins".to_owned(), "sign in", &new)?;
        // Another server could have begun a sign-in at this one, to get the key that the person confirms there.
        let server = &self.client.server.url;
        if server.is_origin_of(&begun.url) {
            return Ok(begun);
        }
        let origin = ServerUrl::of_page(&begun.url).map(|origin| origin.to_string());
        let origin = origin.unwrap_or_else(|| "an address that is none".to_owned());
        Err(CliError::failed(format!("{server} sends to another server to sign in"))
            .because(format!("the page is at {origin}"))
            .next(format!("if that is the server you mean: cial login --server {origin}")))
    }

    fn key(&self, begun: &CliLogin, code: Option<String>) -> Result<String, CliError> {
        let path = format!("/v1/auth/cli-logins/{}/key", segment(&begun.id.to_string()));
        let proof = CliLoginProof { verifier: self.verifier.clone(), code };
        let created: CreatedKey = self.post(path, "fetch the key", &proof)?;
        Ok(created.key)
    }

    fn post<T: DeserializeOwned>(
        &self,
        path: String,
        title: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_value(body).unwrap_or(Value::Null);
        let request = Request::new(Method::POST, path, title).json(body);
        let response = self.client.call(&request)?.json(&request, &self.client)?;
        serde_json::from_value(response).map_err(|error| {
            CliError::failed(format!("cannot {title}"))
                .because(format!("the server's response is not as expected: {error}"))
                .next("compare the versions: cial version")
        })
    }
}

/// The decision of the person, which the browser carries to the loopback address.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Code(String),
    Refused,
}

/// Answers each connection in a thread of its own, so that a silent one delays no other.
fn listen(listener: TcpListener, path: String) -> Receiver<Outcome> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (path, sender) = (path.clone(), sender.clone());
            std::thread::spawn(move || respond(stream, &path, &sender));
        }
    });
    receiver
}

/// Answers one request. An error of the connection is the browser's matter: it can hand the outcome over again.
fn respond(mut stream: TcpStream, path: &str, outcomes: &Sender<Outcome>) {
    let mut line = String::new();
    let read = stream
        .set_read_timeout(Some(READ_TIMEOUT))
        .and_then(|()| BufReader::new((&stream).take(MAX_REQUEST_BYTES)).read_line(&mut line));
    let outcome = read.ok().and_then(|_| outcome(&line, path));
    let (status, page) = match &outcome {
        Some(_) => ("200 OK", PAGE),
        None => ("404 Not Found", ""),
    };
    let length = page.len();
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {length}\r\ncache-control: no-store\r\n\
         content-security-policy: default-src 'none'\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n{page}"
    );
    let _ = stream.write_all(response.as_bytes());
    if let Some(outcome) = outcome {
        let _ = outcomes.send(outcome);
    }
}

/// Reads the outcome from a request line for `path`; `None` for any other request.
fn outcome(line: &str, path: &str) -> Option<Outcome> {
    let target = line.strip_prefix("GET ")?.split(' ').next()?;
    let query = target.strip_prefix(path)?.strip_prefix('?')?;
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    // Codes are base64url, which needs no encoding.
    match (value("code"), value("error")) {
        (Some(code), None) => Some(Outcome::Code(code.to_owned())),
        (None, Some(_)) => Some(Outcome::Refused),
        _ => None,
    }
}

/// The name of this machine.
fn device() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.trim().is_empty() { "unnamed machine".to_owned() } else { name }
}

fn lifetime(begun: &CliLogin) -> Duration {
    Duration::from_secs(u64::from(begun.expires_in_seconds))
}

/// 256 random bits as base64url.
fn random_text() -> Result<String, CliError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| CliError::failed("the system gives no random bytes").because(error))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn no_listener(error: std::io::Error) -> CliError {
    CliError::failed("cannot listen on this machine").because(error).next("cial login --no-browser")
}

fn timed_out() -> CliError {
    CliError::new(Exit::Cancelled, "nobody confirmed the sign-in in time")
        .next("run cial login again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_for_the_path_is_an_outcome() {
        let code = |text: &str| Some(Outcome::Code(text.to_owned()));
        for (line, expected) in [
            ("GET /x?code=a-b_c HTTP/1.1\r\n", code("a-b_c")),
            ("GET /x?error=access_denied HTTP/1.1\r\n", Some(Outcome::Refused)),
            ("GET /y?code=a HTTP/1.1\r\n", None),
            ("GET /xy?code=a HTTP/1.1\r\n", None),
            ("GET /x HTTP/1.1\r\n", None),
            ("GET /x?code=a&error=b HTTP/1.1\r\n", None),
            ("POST /x?code=a HTTP/1.1\r\n", None),
            ("GET /favicon.ico HTTP/1.1\r\n", None),
            ("", None),
        ] {
            assert_eq!(outcome(line, "/x"), expected, "{line:?}");
        }
    }
}
