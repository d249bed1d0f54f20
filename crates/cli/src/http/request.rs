//! A request before it has a server.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
pub(crate) use ureq::http::Method;

/// A file as a form of type `multipart/form-data`.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// Ends the file. Random, so no file holds it.
    pub(crate) boundary: String,
    pub(crate) bytes: Vec<u8>,
}

/// A request of the API. Its title completes "cannot …" when the request fails.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) title: String,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
    /// Instead of the JSON.
    pub(crate) form: Option<Form>,
    /// Instead of the others: a part of a file.
    pub(crate) part: Option<Vec<u8>>,
    /// Instead of both: a file that is sent as it is, or the standard input for `-`.
    pub(crate) upload: Option<PathBuf>,
    /// With a key the server performs a repeated request once.
    pub(crate) idempotency_key: Option<String>,
    /// How long the response may take, where that is not the usual time.
    pub(crate) patience: Option<Duration>,
}

impl Request {
    pub(crate) fn new(method: Method, path: impl Into<String>, title: impl Into<String>) -> Self {
        let (path, title) = (path.into(), title.into());
        Self {
            title,
            method,
            path,
            body: None,
            form: None,
            part: None,
            upload: None,
            idempotency_key: None,
            patience: None,
        }
    }

    pub(crate) fn get(path: impl Into<String>, title: impl Into<String>) -> Self {
        Self::new(Method::GET, path, title)
    }

    #[must_use]
    pub(crate) fn json(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// Sends a file of any size as it is; `-` is the standard input.
    #[must_use]
    pub(crate) fn upload(mut self, file: &Path) -> Self {
        self.upload = Some(file.to_owned());
        self
    }

    /// Sends these bytes as they are.
    #[must_use]
    pub(crate) fn part(mut self, bytes: Vec<u8>) -> Self {
        self.part = Some(bytes);
        self
    }

    /// Sends a file as the field `file` of a form, and a text as its field `signature`.
    #[must_use]
    pub(crate) fn file(mut self, bytes: &[u8], signature: Option<&str>) -> Self {
        let boundary = uuid::Uuid::new_v4().simple().to_string();
        let signature = signature.map(|text| {
            format!("--{boundary}\r\ncontent-disposition: form-data; name=\"signature\"\r\n\r\n{text}\r\n")
        });
        let begin = format!(
            "{}--{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"file\"\r\n\
             content-type: application/octet-stream\r\n\r\n",
            signature.unwrap_or_default()
        );
        let end = format!("\r\n--{boundary}--\r\n");
        let bytes = [begin.as_bytes(), bytes, end.as_bytes()].concat();
        self.form = Some(Form { boundary, bytes });
        self
    }

    /// Waits longer than usual for the response.
    #[must_use]
    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Lets the request be repeated after a broken connection.
    #[must_use]
    pub(crate) fn idempotent(mut self) -> Self {
        self.idempotency_key = Some(uuid::Uuid::new_v4().to_string());
        self
    }

    /// Adds a parameter to the query; `None` adds nothing.
    #[must_use]
    pub(crate) fn query(mut self, name: &str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            let mark = if self.path.contains('?') { '&' } else { '?' };
            let _ = write!(self.path, "{mark}{name}={}", segment(value));
        }
        self
    }

    /// Whether a second attempt has the effect of one.
    pub(crate) fn can_repeat(&self) -> bool {
        self.method == Method::GET || self.idempotency_key.is_some()
    }
}

/// Encodes a text as one segment of a path or one value of a query (RFC 3986 §2.3: unreserved characters stay).
pub(crate) fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    // A segment of dots alone would climb.
    if encoded.bytes().all(|byte| byte == b'.') { encoded.replace('.', "%2E") } else { encoded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_cannot_leave_their_place() {
        for (text, encoded) in [
            ("acme", "acme"),
            ("a/b", "a%2Fb"),
            ("..", "%2E%2E"),
            ("a b?c#d&e=f", "a%20b%3Fc%23d%26e%3Df"),
            ("é\n", "%C3%A9%0A"),
        ] {
            assert_eq!(segment(text), encoded);
        }
        let request = Request::get("/v1/x", "")
            .query("a", Some("1&2"))
            .query("b", None)
            .query("c", Some("3"));
        assert_eq!(request.path, "/v1/x?a=1%262&c=3");
    }
}
