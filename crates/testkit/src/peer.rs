//! A server that plays a script: the same bytes to every connection, over TCP or a unix socket.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Listens on a free port of loopback and sends `script` to every connection after its first read.
///
/// # Errors
/// No port is free.
pub fn scripted_tcp(script: impl Into<Vec<u8>>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (address, script) = (listener.local_addr()?, script.into());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            play(stream, &script);
        }
    });
    Ok(address)
}

/// Like [`scripted_tcp`], on a unix socket.
///
/// # Errors
/// The socket cannot be created.
pub fn scripted_unix(path: &Path, script: impl Into<Vec<u8>>) -> std::io::Result<()> {
    let (listener, script) = (UnixListener::bind(path)?, script.into());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            play(stream, &script);
        }
    });
    Ok(())
}

/// Listens on a free port of loopback, reads one request from every connection, and sends what `respond` makes of its text:
/// head and body, as they came. The connection ends after the response.
///
/// # Errors
/// No port is free.
pub fn answering_tcp(
    mut respond: impl FnMut(&str) -> Vec<u8> + Send + 'static,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A peer that leaves early is visible to the test on its own side.
            if let Ok(request) = read_request(&mut stream) {
                let _ = stream.write_all(&respond(&request));
            }
        }
    });
    Ok(address)
}

/// Like [`answering_tcp`], on a unix socket.
///
/// # Errors
/// The socket cannot be created.
pub fn answering_unix(
    path: &Path,
    mut respond: impl FnMut(&str) -> Vec<u8> + Send + 'static,
) -> std::io::Result<()> {
    let listener = UnixListener::bind(path)?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            if let Ok(request) = read_request(&mut stream) {
                let _ = stream.write_all(&respond(&request));
            }
        }
    });
    Ok(())
}

/// Reads the head of a request, and a body of `content-length` bytes.
pub(crate) fn read_request(stream: impl Read) -> std::io::Result<String> {
    let (mut reader, mut request, mut length) = (BufReader::new(stream), String::new(), 0);
    loop {
        let start = request.len();
        if reader.read_line(&mut request)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = request[start..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or_default();
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(request + &String::from_utf8_lossy(&body))
}

fn play(mut stream: impl Read + Write, script: &[u8]) {
    // A peer that closes early misses its script; the test sees that on its own side.
    let _ = stream.read(&mut [0; 4_096]);
    let _ = stream.write_all(script);
}

/// A whole HTTP/1.1 response that closes its connection.
pub fn http_response(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;

    #[tokio::test]
    async fn an_answering_peer_gets_each_whole_request() {
        let echo = |request: &str| {
            http_response("200 OK", request.rsplit("\r\n").next().unwrap_or_default())
        };
        let peer = answering_tcp(move |request| echo(request).into_bytes()).unwrap();
        let mut client = Client::new("localhost", peer.port());
        for body in [serde_json::json!({ "a": 1 }), serde_json::json!({ "b": [] })] {
            assert_eq!(client.post("/", &body).await.unwrap().json(), body);
        }
    }

    #[tokio::test]
    async fn a_scripted_peer_answers_every_connection() {
        let peer = scripted_tcp(http_response("200 OK", r#"{"ok":true}"#)).unwrap();
        let mut client = Client::new("localhost", peer.port());
        for _ in 0..2 {
            let response = client.get("/").await.unwrap();
            assert_eq!((response.status, response.json()["ok"].as_bool()), (200, Some(true)));
        }
    }
}
