//! The `healthcheck` subcommand of each binary: images need no curl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// Bounds the connect, each write and each read.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);

/// Returns 0 when `GET path` on `address` answers 200, and 1 otherwise.
pub fn healthcheck(address: SocketAddr, path: &str) -> ExitCode {
    match read_status_line(address, path) {
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

fn read_status_line(address: SocketAddr, path: &str) -> std::io::Result<[u8; 12]> {
    let mut stream = TcpStream::connect_timeout(&address, STEP_TIMEOUT)?;
    stream.set_read_timeout(Some(STEP_TIMEOUT))?;
    stream.set_write_timeout(Some(STEP_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut line = [0; 12];
    stream.read_exact(&mut line)?;
    Ok(line)
}
