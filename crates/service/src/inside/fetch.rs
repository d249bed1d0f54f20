//! One GET to a neighbour in the tenant: bounded in time and in size, on a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_BODY: usize = 64 << 10;

#[derive(Debug, Error)]
pub enum Unfetched {
    #[error("no answer in {} s", PATIENCE.as_secs())]
    TooSlow,
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("the exchange broke: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be written: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the body broke or is over {LONGEST_BODY} bytes")]
    Body,
}

/// Asks for `path` over the connection that `connecting` makes.
pub async fn get<S>(
    connecting: impl Future<Output = std::io::Result<S>>,
    path: &str,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
) -> Result<(StatusCode, Bytes), Unfetched>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut request = Request::get(path).header(header::HOST, "localhost").body(Empty::new())?;
    request.headers_mut().extend(headers);
    let fetching = async {
        let io = TokioIo::new(connecting.await?);
        let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(io).await?;
        // It ends with the sender, or with the peer.
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, LONGEST_BODY).collect().await.map_err(|_| Unfetched::Body)?;
        Ok((head.status, body.to_bytes()))
    };
    tokio::time::timeout(PATIENCE, fetching).await.unwrap_or(Err(Unfetched::TooSlow))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    /// A neighbour that says this, whatever it is asked, and then keeps the connection open.
    fn neighbour(says: String) -> impl Future<Output = std::io::Result<DuplexStream>> {
        let (near, mut far) = duplex(1 << 20);
        tokio::spawn(async move {
            let _ = far.read(&mut [0; 512]).await;
            let _ = far.write_all(says.as_bytes()).await;
            let _ = tokio::io::copy(&mut far, &mut tokio::io::sink()).await;
        });
        std::future::ready(Ok(near))
    }

    fn of_length(length: usize) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length))
    }

    #[tokio::test]
    async fn what_fits_arrives_and_what_does_not_is_told() {
        let (status, body) = get(neighbour(of_length(LONGEST_BODY)), "/", []).await.unwrap();
        assert_eq!((status, body.len()), (StatusCode::OK, LONGEST_BODY));
        let over = get(neighbour(of_length(LONGEST_BODY + 1)), "/", []).await;
        assert!(matches!(over, Err(Unfetched::Body)), "{over:?}");
        let noise = get(neighbour("noise\r\n\r\n".to_owned()), "/", []).await;
        assert!(matches!(noise, Err(Unfetched::Http(_))), "{noise:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_neighbour_is_given_up() {
        let silent = get(neighbour(String::new()), "/", []).await;
        assert!(matches!(silent, Err(Unfetched::TooSlow)), "{silent:?}");
    }
}
