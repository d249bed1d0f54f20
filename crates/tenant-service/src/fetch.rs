//! Requests to another process of the tenant, each on a new connection.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BODY_BYTES: usize = 64 << 10;

#[derive(Debug, Error)]
pub enum FetchError {
    #[error("no response in {} s", REQUEST_TIMEOUT.as_secs())]
    TimedOut,
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("the exchange broke: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be written: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the body broke or is over {MAX_BODY_BYTES} bytes")]
    Body,
}

/// Requests `path` on the connection that `connecting` makes.
///
/// # Errors
/// [`FetchError`]; a response with an error status is not one.
pub async fn get<S>(
    connecting: impl Future<Output = std::io::Result<S>>,
    path: &str,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
) -> Result<(StatusCode, Bytes), FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut request = Request::get(path).header(header::HOST, "localhost").body(Empty::new())?;
    request.headers_mut().extend(headers);
    let exchange = async {
        let io = TokioIo::new(connecting.await?);
        let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(io).await?;
        // The task ends with the sender or with the peer.
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body =
            Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|_| FetchError::Body)?;
        Ok((head.status, body.to_bytes()))
    };
    tokio::time::timeout(REQUEST_TIMEOUT, exchange).await.unwrap_or(Err(FetchError::TimedOut))
}

/// Posts JSON to `path` on the connection that `connecting` makes, and returns the response, whose body arrives part by
/// part. The caller bounds time and size.
///
/// # Errors
/// [`FetchError`]; a response with an error status is not one.
pub async fn post<S>(
    connecting: impl Future<Output = std::io::Result<S>>,
    path: &str,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    json: String,
) -> Result<hyper::Response<Parts>, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut request = Request::post(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::<Bytes>::from(json))?;
    request.headers_mut().extend(headers);
    let (mut sender, connection) = http1::handshake(TokioIo::new(connecting.await?)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // The body reports what breaks.
        let _ = connection.await;
    }));
    let response = sender.send_request(request).await?;
    Ok(response.map(|body| Parts { body, trailers: None, _connection: connection }))
}

/// The body of a response that is under way. The connection ends with this value.
pub struct Parts {
    body: Incoming,
    trailers: Option<HeaderMap>,
    _connection: AbortOnDropHandle<()>,
}

impl Parts {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, FetchError>> {
        loop {
            match self.body.frame().await?.map(Frame::into_data) {
                Ok(Ok(data)) => return Some(Ok(data)),
                Ok(Err(frame)) => self.trailers = frame.into_trailers().ok(),
                Err(error) => return Some(Err(error.into())),
            }
        }
    }

    /// The trailers, after the end.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    /// A peer that answers any request with `text` and keeps the connection open.
    fn peer(text: String) -> impl Future<Output = std::io::Result<DuplexStream>> {
        let (near, mut far) = duplex(1 << 20);
        tokio::spawn(async move {
            let _ = far.read(&mut [0; 512]).await;
            let _ = far.write_all(text.as_bytes()).await;
            let _ = tokio::io::copy(&mut far, &mut tokio::io::sink()).await;
        });
        std::future::ready(Ok(near))
    }

    fn response_of_length(length: usize) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length))
    }

    #[tokio::test]
    async fn a_body_within_the_limit_arrives_and_a_larger_body_is_an_error() {
        let (status, body) = get(peer(response_of_length(MAX_BODY_BYTES)), "/", []).await.unwrap();
        assert_eq!((status, body.len()), (StatusCode::OK, MAX_BODY_BYTES));
        let over = get(peer(response_of_length(MAX_BODY_BYTES + 1)), "/", []).await;
        assert!(matches!(over, Err(FetchError::Body)), "{over:?}");
        let noise = get(peer("noise\r\n\r\n".to_owned()), "/", []).await;
        assert!(matches!(noise, Err(FetchError::Http(_))), "{noise:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_nothing_times_out() {
        let silent = get(peer(String::new()), "/", []).await;
        assert!(matches!(silent, Err(FetchError::TimedOut)), "{silent:?}");
    }
}
