//! A followed log through broken connections, restarts and gaps.

use std::io::{BufRead as _, BufReader};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Cial, Server, no_tenant, problem};

/// The beginning of a stream in chunks, without its end.
fn chunks(lines: &[&str]) -> Vec<u8> {
    let mut bytes =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for line in lines {
        bytes.extend(format!("{:x}\r\n{line}\r\n", line.len()).bytes());
    }
    bytes
}

fn whole(lines: &[&str]) -> Vec<u8> {
    [chunks(lines), b"0\r\n\r\n".to_vec()].concat()
}

const A: &str = "2026-11-29T12:00:00.100000000Z [edge] a\n";
const B: &str = "2026-11-29T12:00:00.200000000Z [edge] b\n";
const B_AGAIN: &str = "2026-11-29T12:00:00.200000000Z [edge] b again\n";
const C: &str = "2026-11-29T12:00:01.000000001Z [back] c\n";
const D: &str = "2026-11-29T12:00:05.000000000Z [back] d\n";

#[test]
fn a_log_is_printed_without_the_times_that_order_it() {
    let server = Server::always(whole(&[A, B, C]));
    let cial = Cial::at(&server);
    insta::assert_snapshot!(cial.run(&["tenants", "logs", "acme", "--tail", "3"]));
    assert_eq!(server.requests(), ["GET /v1/tenants/acme/logs?timestamps=1&tail=3"]);
    assert!(cial.run(&["tenants", "logs", "acme", "--timestamps"]).contains(A));
}

#[test]
fn a_log_that_breaks_off_is_a_failure() {
    insta::assert_snapshot!(
        Cial::at(&Server::always(chunks(&[A]))).run(&["tenants", "logs", "acme"])
    );
}

/// Follows until `lines` were printed, then ends the command by Ctrl-C.
fn follow(server: &Server, lines: usize) -> (Vec<String>, String) {
    let cial = Cial::at(server);
    let mut child = cial.spawn(&["tenants", "logs", "acme", "--follow"]);
    let printed = BufReader::new(child.stdout.take().unwrap()).lines();
    let printed: Vec<_> = printed.take(lines).map(Result::unwrap).collect();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    (printed, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_followed_log_neither_loses_nor_repeats_a_line() {
    let server = Server::new(|number, _| match number {
        // In the middle of a line, and between two lines of one time.
        0 => chunks(&[A, B, &B_AGAIN[..20]]),
        1 => chunks(&[A, B, B_AGAIN]),
        2 => Vec::new(),
        3 => {
            problem("503 Service Unavailable", "", "orchestrator_unavailable", "Wait.", Value::Null)
        }
        // The tenant stopped: the end of its log is no end of the wish to follow.
        4 => whole(&[A, B, B_AGAIN, C]),
        _ => chunks(&[C, D]),
    });
    let (printed, notes) = follow(&server, 5);
    assert_eq!(
        printed,
        ["[edge] a", "[edge] b", "[edge] b again", "[back] c", "[back] d"],
        "{notes}"
    );
    let requests = server.requests();
    assert_eq!(requests[0], "GET /v1/tenants/acme/logs?timestamps=1&tail=100&follow=1");
    assert_eq!(
        requests[1],
        "GET /v1/tenants/acme/logs?timestamps=1&tail=50000&since=2026-11-29T12%3A00%3A00Z&follow=1"
    );
}

#[test]
fn a_log_that_moved_on_too_far_says_so() {
    let server = Server::new(|number, _| match number {
        0 => chunks(&[A]),
        _ => chunks(&[D]),
    });
    let (printed, notes) = follow(&server, 2);
    assert_eq!(printed, ["[edge] a", "[back] d"]);
    assert!(notes.contains("some lines may be missing here"), "{notes}");
}

#[test]
fn a_deleted_tenant_ends_its_log() {
    let server = Server::new(|number, _| match number {
        0 => whole(&[A]),
        _ => no_tenant(),
    });
    insta::assert_snapshot!(Cial::at(&server).run(&["tenants", "logs", "acme", "-f"]));
}
