//! An HTTP client that sends the given requests, keeps the session's cookie and follows no redirects.

use std::net::SocketAddr;

use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

pub(crate) const EVENT_STREAM: &str = "text/event-stream";

#[derive(Clone, Debug)]
pub(crate) struct TestClient {
    address: SocketAddr,
    pub(crate) cookie: Option<String>,
    key: Option<String>,
}

pub(crate) struct TestResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl TestResponse {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {} {}", self.status, self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// Status and code of a problem, like `409 slug_taken`.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        format!("{} {}", self.status.as_u16(), problem["code"].as_str().unwrap())
    }
}

impl TestClient {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, cookie: None, key: None }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client of the same server without a cookie.
    pub(crate) fn new_client(&self) -> Self {
        Self::new(self.address)
    }

    /// A client of the same server that authenticates with this API key.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self.new_client() }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> TestResponse {
        let response = self.send_streaming(method, path, headers, body).await;
        let (head, body) = response.into_parts();
        // A stream of events has no end.
        let is_endless = head.headers.get("content-type").is_some_and(|kind| kind == EVENT_STREAM);
        let body = if is_endless { Bytes::new() } else { body.collect().await.unwrap().to_bytes() };
        TestResponse { status: head.status, headers: head.headers, body }
    }

    /// Returns the head of the response; the caller reads the body.
    pub(crate) async fn send_streaming(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> axum::http::Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut to, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", self.address.to_string());
        }
        if let Some(cookie) = &self.cookie {
            let cookie = HeaderValue::from_bytes(cookie.as_bytes()).unwrap();
            request = request.header("cookie", cookie);
        }
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        to.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> TestResponse {
        self.send(Method::GET, path, &[], "").await
    }

    /// Navigates like a browser: accepts HTML.
    pub(crate) async fn visit(&self, path: &str) -> TestResponse {
        self.send(Method::GET, path, &[("accept", "text/html")], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> TestResponse {
        self.json(Method::POST, path, &[], body).await
    }

    pub(crate) async fn json(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> TestResponse {
        let all: Vec<_> =
            [("content-type", "application/json")].iter().chain(headers).copied().collect();
        self.send(method, path, &all, body.to_string()).await
    }

    /// Submits a form like a browser on a page of this site.
    pub(crate) async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> TestResponse {
        let body: String =
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let origin = format!("http://{}", self.address);
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("accept", "text/html"),
            ("origin", origin.as_str()),
            ("sec-fetch-site", "same-origin"),
        ];
        self.send(Method::POST, path, &headers, body).await
    }

    /// Stores the cookie that a response sets.
    pub(crate) fn store_cookie(&mut self, response: &TestResponse) {
        let set = response.header("set-cookie");
        self.cookie = set.split(';').next().filter(|c| !c.is_empty()).map(str::to_owned);
    }
}
