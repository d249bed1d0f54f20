//! Checks that no client gets a second request past a front: runs the table against a real front
//! and compares the input of its upstream.
//!
//! Router and edge run the same table; they include this file by its path.

mod record;
mod table;

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use record::ReceivedRequest;
pub(crate) use record::Recorder;
use table::{Means, cases};

/// No step takes this long; a longer wait never ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends each case to the front at `address`, with a request right behind it that an attacker wants
/// to smuggle. Compares the requests that arrive with the expected ones. `host` is a host that the
/// front serves from `upstream`.
pub(crate) fn run(address: SocketAddr, host: &str, upstream: &Recorder) {
    let cases = cases();
    assert!(cases.len() >= 200, "{} cases", cases.len());
    let mut partials = 0;
    for case in &cases {
        let text = case.text.replace("HOST", host);
        let hidden = format!("GET /hidden HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let responses =
            converse(address, &[text.as_bytes(), hidden.as_bytes()].concat(), &case.means);
        let mut meant: VecDeque<ReceivedRequest> = VecDeque::new();
        match &case.means {
            Means::Refused(status) => {
                // A front may also respond 404, for a request without a host or with another host.
                let refused = [[*status], [404]].map(Vec::from);
                assert!(refused.contains(&statuses(&responses)), "{text:?}: {responses}");
            }
            Means::Breaks => {
                partials += 1;
                assert_eq!(statuses(&responses), [400], "{text:?}: {responses}");
            }
            Means::Short => {
                partials += 1;
                assert!(!responses.contains(" 200 "), "{text:?}: {responses}");
            }
            Means::Requests(requests, goes_on) => {
                meant.extend(requests.iter().map(|request| ReceivedRequest::new(*request)));
                if *goes_on {
                    meant.push_back(ReceivedRequest::new(("GET", "/hidden", "")));
                }
                assert_eq!(statuses(&responses), vec![200; meant.len()], "{text:?}: {responses}");
            }
        }
        let seen =
            upstream.take().unwrap_or_else(|why| panic!("{text:?}: the upstream read {why}"));
        assert_eq!(VecDeque::from(seen), meant, "{text:?}");
    }
    // A broken request may arrive late. No other request ends early, and no broken request contains
    // a whole one.
    assert!(upstream.partials() <= partials, "{} broke off", upstream.partials());
}

fn converse(address: SocketAddr, bytes: &[u8], means: &Means) -> String {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // A front that refuses a request need not read all of it.
    let _ = client.write_all(bytes);
    if let Means::Short = means {
        client.shutdown(Shutdown::Write).unwrap();
    }
    let mut responses = Vec::new();
    match client.read_to_end(&mut responses) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("{:?}: neither answered nor closed", String::from_utf8_lossy(bytes))
        }
        // The connection may end with an abort.
        Ok(_) | Err(_) => {}
    }
    String::from_utf8_lossy(&responses).into_owned()
}

/// Returns the statuses of all final responses.
fn statuses(responses: &str) -> Vec<u16> {
    let lines =
        responses.match_indices("HTTP/1.1 ").map(|(at, start)| &responses[at + start.len()..]);
    let statuses = lines.filter_map(|rest| rest.get(..3)?.parse().ok());
    statuses.filter(|status| *status >= 200).collect()
}
