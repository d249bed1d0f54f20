//! The `healthcheck` subcommand of each binary: images need no curl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(3);

/// 0 when `GET path` on `address` answers 200, 1 otherwise.
pub fn healthcheck(address: SocketAddr, path: &str) -> ExitCode {
    match status_line(address, path) {
        Ok(line) if line.starts_with(b"HTTP/1.1 200") => ExitCode::SUCCESS,
        Ok(line) => {
            eprintln!("{address}{path}: {}", String::from_utf8_lossy(&line));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{address}{path}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn status_line(address: SocketAddr, path: &str) -> std::io::Result<[u8; 12]> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut line = [0; 12];
    stream.read_exact(&mut line)?;
    Ok(line)
}
