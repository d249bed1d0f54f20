//! The probe of an app: waits until the program answers on its port, reports to PID 1, and ends.
//!
//! A program that knows nothing of us cannot report its readiness, so somebody must try. The probe
//! is a process of the app's user: what the app can do to it, the app could report itself.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::getuid;
use protocol::inside::link;

/// The time between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(25);
/// The number of failed attempts before each look at the listening ports: about every three seconds.
const ATTEMPTS_PER_REPORT: u32 = 120;
/// Limits one connect, write or read.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Probes `arguments`: the port, and the path of the health endpoint where there is one. Standard
/// input is the readiness link.
pub fn run(arguments: &[String]) -> ExitCode {
    let port = arguments.first().and_then(|port| port.parse().ok());
    let Some(port) = port else { return ExitCode::FAILURE };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let path = arguments.get(1).map(String::as_str);
    let (mut attempts, mut reported) = (0_u32, None::<BTreeSet<u16>>);
    // Outside of a container, the end of PID 1 ends no other process.
    if set_pdeathsig(Signal::SIGKILL).is_err() {
        return ExitCode::FAILURE;
    }
    while !is_ready(address, path) {
        std::thread::sleep(RETRY_DELAY);
        attempts = attempts.wrapping_add(1);
        if attempts.is_multiple_of(ATTEMPTS_PER_REPORT) {
            let ports = listening_ports();
            if reported.as_ref() != Some(&ports) {
                report(&ports);
                reported = Some(ports);
            }
        }
    }
    match send(io::stdin().as_raw_fd(), link::READY, MsgFlags::empty()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Sends PID 1 the ports.
fn report(ports: &BTreeSet<u16>) {
    let message = report_message(ports);
    // An error means that PID 1 has ended: nobody needs the report.
    let _ = send(io::stdin().as_raw_fd(), message.as_bytes(), MsgFlags::empty());
}

/// Lists as many ports as a message takes, the lowest first. A port that was cut off would read as another port.
fn report_message(ports: &BTreeSet<u16>) -> String {
    let words: Vec<_> = ports.iter().map(u16::to_string).collect();
    let mut message = format!("{}{}", link::LISTENS, words.join(","));
    // One byte more than the bound: a comma there follows a whole port.
    if let Some(head) = message.get(..=link::MAX_BYTES) {
        let end = head.rfind(',').unwrap_or(link::LISTENS.len());
        message.truncate(end);
    }
    message
}

/// The ports on which processes of this user listen.
fn listening_ports() -> BTreeSet<u16> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    let tables = tables.iter().filter_map(|table| table.as_ref().ok());
    tables.flat_map(|table| listening_ports_of(table, getuid().as_raw())).collect()
}

/// Reads a table of `/proc/net`, as proc_net(5) describes it.
fn listening_ports_of(table: &str, user: u32) -> BTreeSet<u16> {
    const LISTEN: &str = "0A";
    let port = |line: &str| {
        let columns: Vec<_> = line.split_ascii_whitespace().collect();
        let (local, state, uid) = (columns.get(1)?, columns.get(3)?, columns.get(7)?);
        let is_ours = *state == LISTEN && uid.parse() == Ok(user);
        let (_, port) = local.rsplit_once(':').filter(|_| is_ours)?;
        u16::from_str_radix(port, 16).ok()
    };
    table.lines().skip(1).filter_map(port).collect()
}

/// The log line for a report of the probe; `None` for a message that is none.
pub fn describe_report(message: &[u8], port: u16) -> Option<String> {
    let listed = std::str::from_utf8(message).ok()?.strip_prefix(link::LISTENS)?;
    let ports: Vec<u16> = listed.split(',').filter_map(|port| port.parse().ok()).collect();
    let fix = format!("It must listen on the port in the variable PORT, {port}.");
    let found = if ports.contains(&port) {
        return Some(format!("the app listens on port {port} and is not ready yet"));
    } else if ports.is_empty() {
        "no port".to_owned()
    } else {
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        format!("port {}", ports.join(", "))
    };
    Some(format!("the app is not ready yet: it listens on {found}. {fix}"))
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
    fn the_ports_of_one_user_that_listen() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 1 1
   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 2 1
   2: 0100007F:1F40 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1001        0 3 1
   3: 00000000000000000000000000000000:0BB8 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1001 0 4 1
";
        assert_eq!(listening_ports_of(table, 1001), BTreeSet::from([8000, 3000]));
        assert_eq!(listening_ports_of("", 1001), BTreeSet::new());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(listening_ports().contains(&listener.local_addr().unwrap().port()));
    }

    #[test]
    fn a_report_lists_whole_ports_only() {
        assert_eq!(report_message(&BTreeSet::new()), "listens ");
        assert_eq!(report_message(&BTreeSet::from([8080, 80])), "listens 80,8080");
        for first in [1, 90, 1000, 9990, 10_000] {
            let ports: BTreeSet<u16> = (first..first + 100).collect();
            let message = report_message(&ports);
            let listed = message.strip_prefix(link::LISTENS).unwrap();
            let listed: Vec<u16> = listed.split(',').map(|port| port.parse().unwrap()).collect();
            assert!(listed.iter().eq(ports.iter().take(listed.len())), "{message}");
            let unused = link::MAX_BYTES.checked_sub(message.len()).unwrap();
            assert!(unused < ",65535".len(), "{message}");
        }
    }

    #[test]
    fn a_report_becomes_one_line_whatever_it_holds() {
        let fix = "It must listen on the port in the variable PORT, 3000.";
        for (message, expected) in [
            (
                "listens 8000,5000",
                format!("the app is not ready yet: it listens on port 8000, 5000. {fix}"),
            ),
            ("listens ", format!("the app is not ready yet: it listens on no port. {fix}")),
            ("listens 3000,1", "the app listens on port 3000 and is not ready yet".to_owned()),
            (
                "listens \n[edge] forged",
                format!("the app is not ready yet: it listens on no port. {fix}"),
            ),
        ] {
            assert_eq!(describe_report(message.as_bytes(), 3000).as_ref(), Some(&expected));
        }
        assert_eq!(describe_report(b"hello", 3000), None);
    }

    #[test]
    fn without_a_path_a_connection_is_enough() {
        let address = server("");
        assert!(is_ready(address, None));
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        assert!(!is_ready(closed, None));
    }
}
