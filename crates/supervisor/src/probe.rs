//! The probe of an app: waits until the program answers on its port, reports to PID 1, and ends.
//!
//! A program that knows nothing of us cannot report its readiness, so somebody must try. The probe
//! is a process of the app's user: what the app can do to it, the app could report itself.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use protocol::inside::link;

/// The time between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(25);
/// Limits one connect, write or read.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Probes `arguments`: the port, and the path of the health endpoint where there is one. Standard
/// input is the readiness link.
pub fn run(arguments: &[String]) -> ExitCode {
    let port = arguments.first().and_then(|port| port.parse().ok());
    let Some(port) = port else { return ExitCode::FAILURE };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let path = arguments.get(1).map(String::as_str);
    while !is_ready(address, path) {
        std::thread::sleep(RETRY_DELAY);
    }
    match send(io::stdin().as_raw_fd(), link::READY, MsgFlags::empty()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn is_ready(address: SocketAddr, path: Option<&str>) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&address, ATTEMPT_TIMEOUT) else { return false };
    match path {
        None => true,
        Some(path) => fetch_status(stream, path).is_ok_and(|status| (200..400).contains(&status)),
    }
}

/// Requests the path and reads the status of the response.
fn fetch_status(mut stream: TcpStream, path: &str) -> io::Result<u16> {
    stream.set_read_timeout(Some(ATTEMPT_TIMEOUT))?;
    stream.set_write_timeout(Some(ATTEMPT_TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut line)?;
    let status = std::str::from_utf8(&line).ok().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::other("no response of HTTP"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection with `response`.
    fn server(response: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 256];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(response.as_bytes());
        });
        address
    }

    #[test]
    fn a_status_below_400_is_ready() {
        for (response, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.0 302 Found\r\n\r\n", true),
            ("HTTP/1.1 404 Not Found\r\n\r\n", false),
            ("HTTP/1.1 503 Starting\r\n\r\n", false),
            ("SSH-2.0-OpenSSH\r\n", false),
            ("", false),
        ] {
            assert_eq!(is_ready(server(response), Some("/up")), expected, "{response:?}");
        }
    }

    #[test]
    fn without_a_path_a_connection_is_enough() {
        let address = server("");
        assert!(is_ready(address, None));
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        assert!(!is_ready(closed, None));
    }
}
