//! A server that plays a script: the same bytes to every connection, over TCP or a unix socket.

use std::io::{Read, Write};
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
    async fn a_scripted_peer_answers_every_connection() {
        let peer = scripted_tcp(http_response("200 OK", r#"{"ok":true}"#)).unwrap();
        let mut client = Client::new("localhost", peer.port());
        for _ in 0..2 {
            let response = client.get("/").await.unwrap();
            assert_eq!((response.status, response.json()["ok"].as_bool()), (200, Some(true)));
        }
    }
}
